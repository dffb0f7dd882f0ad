use mldoctor::{image::*,loader::*};
use std::path::*;
fn main(){
  let root=Rootfs::open_root(Path::new("/")).unwrap();
  let st=ElfStore::new(root,elf::Machine::host(),None);
  for a in std::env::args().skip(1){
    let Opened::Elf(f)=st.open(Path::new(&a)) else {continue};
    let t=std::time::Instant::now();
    let r=f.elf.unhashed_symbols(); let n=r.len();
    let (mut b,mut u)=(0,0);
    for i in r { let Some(s)=f.elf.symbol(i) else {break}; if s.is_undefined()&&!s.is_weak() {u+=1; b+=f.elf.symbol_name(&s).map_or(0,|n|n.len());}}
    println!("{n} {u} {b} {:?} {}",t.elapsed(),Path::new(&a).file_name().unwrap().display());
  }
}
