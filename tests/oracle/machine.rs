//! Every ELF file of the machine: each path, each missing name, each undefined symbol and each version must be the
//! same as `ldd -r` says.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use mldoctor::image::Rootfs;
use mldoctor::image::elf::{Elf, Machine};
use mldoctor::loader::{DynamicLoader, Environment, LoadError, Loader, Process, Via};

/// What either side says of one file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    /// Name asked for → path, or nothing if it was not found.
    libraries: BTreeMap<String, Option<String>>,
    /// Undefined symbols, without version.
    undefined: BTreeSet<(String, String)>,
    /// Versions that are not defined: file, version, file that wants it.
    versions: BTreeSet<(String, String, String)>,
}

fn loader_path() -> &'static str {
    match Machine::host() {
        Machine::AARCH64 => "/lib/ld-linux-aarch64.so.1",
        _ => "/lib64/ld-linux-x86-64.so.2",
    }
}

/// `ldd -r FILE`, which is the loader with these variables.
fn real(file: &Path) -> Option<Answer> {
    let output = Command::new(loader_path())
        .arg(file)
        .env_clear()
        .env("LD_TRACE_LOADED_OBJECTS", "1")
        .env("LD_WARN", "yes")
        .env("LD_BIND_NOW", "yes")
        .output()
        .ok()?;
    let mut answer = Answer::default();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    for line in text.lines() {
        if line.contains("error while loading shared libraries") || line.contains("cannot execute") {
            return None;
        }
        if let Some(rest) = line.strip_prefix("undefined symbol: ") {
            let (symbol, object) = rest.split_once('\t')?;
            let symbol = symbol.split(", version").next()?.to_owned();
            let object = object.trim().trim_start_matches('(').trim_end_matches(')').to_owned();
            answer.undefined.insert((object, symbol));
        } else if let Some((before, after)) = line.split_once(": version `") {
            let from = before.rsplit(": ").next()?.to_owned();
            let (version, by) = after.split_once("' not found (required by ")?;
            answer.versions.insert((from, version.to_owned(), by.trim_end_matches(')').to_owned()));
        } else if let Some((name, path)) = line.trim().split_once(" => ") {
            let path = path.split(" (0x").next()?.to_owned();
            answer.libraries.insert(name.to_owned(), (path != "not found").then_some(path));
        }
    }
    Some(answer)
}

fn model(loader: &Loader, file: &Path) -> Answer {
    let (process, errors) = Process::start(loader, file);
    let mut answer = Answer::default();
    for error in errors {
        match error {
            LoadError::Missing { name, .. } => {
                answer.libraries.insert(name, None);
            }
            LoadError::Undefined { object, symbol, .. } => {
                answer.undefined.insert((object, symbol));
            }
            LoadError::Version { object, version, from, .. } => {
                answer.versions.insert((from, version, object));
            }
            LoadError::Rejected { .. } => {}
        }
    }
    if let Some(process) = process {
        for (_, object) in process.objects() {
            let name = object.first_name().to_string_lossy();
            // ldd does not say how the loader itself was found, and of a path it tells no name.
            if !matches!(object.via, Via::Interpreter | Via::Program) && !name.contains('/') {
                answer.libraries.insert(name.into_owned(), Some(object.display()));
            }
        }
    }
    answer
}

fn elf_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> =
        ["/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec", "/usr/local"].map(PathBuf::from).to_vec();
    if let Some(more) = std::env::var_os("MLDOCTOR_TEST_TREES") {
        open.extend(std::env::split_paths(&more));
    }
    while let Some(dir) = open.pop() {
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn every_elf_file_of_the_machine() {
    let rootfs = Rootfs::open_root(Path::new("/")).unwrap();
    let dl = DynamicLoader::read(&rootfs, Path::new(loader_path()), Machine::host()).unwrap();
    let env: Environment = [(OsString::from("LD_BIND_NOW"), OsString::from("yes"))].into_iter().collect();
    let loader = Loader::new(&rootfs, dl, env, PathBuf::from("/"), None);
    let files: Vec<PathBuf> = elf_files()
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
                    let Some(mut real) = real(file) else { continue };
                    let mut model = model(&loader, file);
                    // The loader names itself by the path in PT_INTERP.
                    for answer in [&mut real, &mut model] {
                        answer.libraries.retain(|name, _| !name.contains("ld-linux") && !name.contains("linux-vdso"));
                    }
                    compared.fetch_add(1, Ordering::Relaxed);
                    if real != model {
                        differences
                            .lock()
                            .unwrap()
                            .push(format!("{}\n  ldd -r: {real:?}\n  model:  {model:?}", file.display()));
                    }
                }
            });
        }
    });
    let differences = differences.into_inner().unwrap();
    println!("{} files compared", compared.load(Ordering::Relaxed));
    assert!(compared.load(Ordering::Relaxed) > 50, "hardly any file was compared");
    assert!(
        differences.is_empty(),
        "{} of {} files differ:\n{}",
        differences.len(),
        compared.load(Ordering::Relaxed),
        differences.iter().take(12).cloned().collect::<Vec<_>>().join("\n")
    );
}
