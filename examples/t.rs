use mldoctor::{image::*,loader::*};
use std::path::*;
fn main(){
  let a:Vec<String>=std::env::args().collect();
  let root=Rootfs::open_root(Path::new("/")).unwrap();
  let t=std::time::Instant::now();
  let m=elf::Machine::host();
  let dl=DynamicLoader::read(&root,Path::new("/lib64/ld-linux-x86-64.so.2"),m).unwrap();
  eprintln!("{:?} {:?} {:?} {}",dl.libc(),dl.system_dirs(),dl.subdirs(),dl.lib());
  let l=Loader::new(&root,dl,std::env::vars_os().collect(),std::env::current_dir().unwrap(),None);
  let (p,e)=Process::start(&l,Path::new(&a[1]));
  eprintln!("start {:?}",t.elapsed());
  for e in &e { println!("{}",e.message()); }
  let Some(mut p)=p else{return};
  for n in &a[2..] { let t=std::time::Instant::now(); let r=p.dlopen(n.as_ref(),ObjectId(0),Mode::NOW); eprintln!("{:?} {}", t.elapsed(), match r {Ok(_)=>"ok".into(),Err(e)=>format!("{} errors, {}",e.errors.len(),e.message())}); }
  for (_,o) in p.objects(){ println!("{} {}",o.path.display(),o.via.as_str()); }
  eprintln!("all {:?}",t.elapsed());
}
