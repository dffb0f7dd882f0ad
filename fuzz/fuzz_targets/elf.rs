//! Any bytes as a program, and as a library opened by it: everything that the loader model asks of a file.
#![no_main]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use mldoctor::image::Rootfs;
use mldoctor::image::elf::Machine;
use mldoctor::loader::{DynamicLoader, Environment, Loader, Mode, Process};

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

fuzz_target!(|data: &[u8]| {
    thread_local! {
        static DIR: tempfile::TempDir = {
            let dir = tempfile::tempdir().expect("a temporary directory");
            fs::create_dir(dir.path().join("lib64")).expect("a directory in it");
            fs::copy(LOADER, dir.path().join("lib64/ld-linux-x86-64.so.2")).expect("this machine's loader");
            fs::copy("/bin/true", dir.path().join("true")).expect("a program");
            dir
        };
    }
    DIR.with(|dir| {
        fs::write(dir.path().join("file"), data).expect("the file can be written");
        let rootfs = Rootfs::open_root(dir.path()).expect("the root opens");
        let dl = DynamicLoader::read(&rootfs, Path::new(LOADER), Machine::host()).expect("the loader is one");
        let loader = Loader::new(&rootfs, dl, Environment::default(), PathBuf::from("/"), None);
        let _ = Process::start(&loader, Path::new("/file"));
        if let (Some(mut process), _) = Process::start(&loader, Path::new("/true")) {
            let (caller, _) = process.objects().next().expect("the program itself");
            let _ = process.dlopen(OsStr::new("/file"), caller, Mode::NOW);
        }
    });
});
