use mldoctor::{image::*,loader::*,python::{*,imports::*}};
use std::path::*;
fn main(){
  let a:Vec<String>=std::env::args().collect();
  let root=Rootfs::open_root(Path::new("/")).unwrap();
  let env:Environment=std::env::vars_os().collect();
  let py=Interpreter::find(&root,&env,Some(Path::new(&a[1]))).unwrap();
  let sp=site::sys_path(&root,&py,&env,Path::new("/"));
  if a[2]=="path" { println!("{py:#?}\n{sp:#?}"); return; }
  let t=std::time::Instant::now();
  let mut src=Sources::default();
  let mut exts=vec![];
  let mut f=|e:&Extension<'_>| { exts.push(format!("{} {}",e.module,e.chain.iter().map(|s|format!("{}:{}",s.file.file_name().unwrap().display(),s.line)).collect::<Vec<_>>().join(" > "))); Ok(()) };
  let bi=|_:&str| false;
  let mut im=Importer::new(&root,&py,&sp.entries,&mut src,&bi,&mut f);
  let r=im.import(&a[2]);
  let tr=im.finish();
  println!("{r:?} {} modules, {:?} cut {}",tr.modules,t.elapsed(),tr.cut);
  for m in &tr.missing { println!("missing {} {}",m.module,m.chain.iter().map(|s|format!("{}:{}",s.file.display(),s.line)).collect::<Vec<_>>().join(" > ")); }
  for e in exts { println!("{e}"); }
}
