//! Every ELF file of the machine, and of Debian releases with an older and a newer glibc: each path, each missing name,
//! each undefined symbol and each version must be the same as `ldd -r` says.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use mldoctor::image::Rootfs;
use mldoctor::image::elf::{Elf, Machine};
use mldoctor::loader::{DynamicLoader, Environment, Loader, Process};

use crate::answer::Answer;
use crate::support::debian::root;
use crate::support::skip;
use crate::world::{in_root, loader_path};

/// `ldd -r FILE`, which is the loader with these variables. Nothing where it refuses the file.
fn real(root: &Path, file: &Path) -> Option<Answer> {
    let mut command = Command::new(loader_path());
    if root != Path::new("/") {
        in_root(&mut command, root.to_owned());
    }
    let output = command.arg(file).env_clear().envs(Answer::TRACE).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let answer = Answer::told(&text);
    (answer.fatal.is_none() && !text.contains("cannot execute")).then_some(answer)
}

/// Regular files below `dirs` of a root, as paths inside of it.
fn files(root: &Path, dirs: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = dirs.to_vec();
    while let Some(dir) = open.pop() {
        let outside = root.join(dir.strip_prefix("/").unwrap());
        for entry in std::fs::read_dir(outside).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let path = dir.join(entry.file_name());
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn compare(root: &Path, files: Vec<PathBuf>) {
    let rootfs = Rootfs::open_root(root).unwrap();
    let dl = DynamicLoader::read(&rootfs, Path::new(loader_path()), Machine::host()).unwrap();
    let env: Environment = [(OsString::from("LD_BIND_NOW"), OsString::from("yes"))].into_iter().collect();
    let loader = Loader::new(&rootfs, dl, env, PathBuf::from("/"), None);
    let files: Vec<PathBuf> = files
        .into_iter()
        .filter(|path| {
            rootfs.map(path).ok().and_then(|(map, _)| Elf::parse(map, Machine::host()).ok()).is_some_and(|elf| {
                // A static program has nothing to resolve, and one with another loader is not for this one.
                elf.is_dynamic()
                    && elf.segments().is_ok()
                    && elf.interpreter().is_none_or(|i| i == loader_path())
                    && path.file_name() != Path::new(loader_path()).file_name()
                    && elf.needed().next().is_some()
            })
        })
        .collect();
    let next = AtomicUsize::new(0);
    let differences = Mutex::new(Vec::new());
    let compared = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some(real) = real(root, file) else { continue };
                    let (process, errors) = Process::start(&loader, file);
                    let model = Answer { fatal: None, ..Answer::modelled(process.as_ref(), &errors) };
                    compared.fetch_add(1, Ordering::Relaxed);
                    if real != model {
                        let difference = format!("{}\n  ldd -r: {real:?}\n  model:  {model:?}", file.display());
                        differences.lock().unwrap().push(difference);
                    }
                }
            });
        }
    });
    let (differences, compared) = (differences.into_inner().unwrap(), compared.into_inner());
    println!("{compared} files of {} compared", root.display());
    assert!(compared > 50, "hardly any file was compared");
    let shown: Vec<String> = differences.iter().take(12).cloned().collect();
    assert!(differences.is_empty(), "{} of {compared} files differ:\n{}", differences.len(), shown.join("\n"));
}

#[test]
fn every_elf_file_of_the_machine() {
    let mut dirs = ["/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec", "/usr/local"].map(PathBuf::from).to_vec();
    if let Some(more) = std::env::var_os("MLDOCTOR_TEST_TREES") {
        dirs.extend(std::env::split_paths(&more));
    }
    compare(Path::new("/"), files(Path::new("/"), &dirs));
}

#[test]
fn every_elf_file_of_other_releases() {
    for release in ["bullseye", "trixie"] {
        match root(release) {
            Ok(root) => compare(&root, files(&root, &["/usr".into()])),
            Err(why) => skip(&why),
        }
    }
}
