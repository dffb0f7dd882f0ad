//! Levels of x86-64 that a library needs, on processors that have less.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mldoctor::image::Rootfs;
use mldoctor::image::elf::Machine;
use mldoctor::loader::{DynamicLoader, Environment, Loader, Process};

use crate::support::elf::ElfFile;
use crate::support::skip;
use crate::world::loader_path;

const EMULATOR: &str = "qemu-x86_64-static";
/// Processors as the emulator calls them, and the levels that they have.
const PROCESSORS: &[(&str, u32)] = &[("qemu64", 0b1), ("Nehalem", 0b11), ("Haswell", 0b111)];

/// What a program says that is made to load `library` first, and ends at once.
fn model(library: &Path, levels: u32) -> String {
    let rootfs = Rootfs::open_root(Path::new("/")).unwrap();
    let dl = DynamicLoader::read(&rootfs, Path::new(loader_path()), Machine::host()).unwrap();
    let env: Environment = [("LD_PRELOAD".into(), library.into())].into_iter().collect();
    let loader = Loader::new(&rootfs, dl, env, PathBuf::from("/"), None).on_processor(Some(levels));
    let (_, errors) = Process::start(&loader, Path::new("/bin/true"));
    errors.iter().map(|error| error.message()).collect()
}

#[test]
fn too_low_a_level_is_refused_as_the_loader_does() {
    if Machine::host() != Machine::X86_64 || Command::new(EMULATOR).arg("--version").output().is_err() {
        return skip("no emulator of x86 processors");
    }
    let dir = tempfile::tempdir().unwrap();
    for isa in [0b1, 0b10, 0b100, 0b1000] {
        let library = dir.path().join(format!("libx{isa}.so"));
        fs::write(&library, ElfFile { isa, ..ElfFile::library("libx.so") }.build()).unwrap();
        for (processor, levels) in PROCESSORS {
            let preload = format!("LD_PRELOAD={}", library.display());
            let output =
                Command::new(EMULATOR).args(["-cpu", processor, "-E", &preload, "/bin/true"]).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let said: String = said.lines().filter(|line| !line.contains("qemu")).collect();
            assert_eq!(model(&library, *levels), said, "{isa:b} on {processor}");
        }
    }
}
