//! Where Triton finds the driver that it links its launchers with: `libcuda_dirs` of `triton/backends/nvidia/driver.py` and
//! `_build` of `triton/runtime/build.py`. The loader has no part in it, so it may fail where CUDA itself works.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::live::DriverPaths;
use super::{Examination, places};
use crate::facts::{Absence, How, Scope, Step, StepOutcome, Weight};
use crate::image::elf::Machine;
use crate::loader::Process;

/// Largest source of Triton read, in bytes.
const MAX_SOURCE: u64 = 1 << 20;

/// Looks for it; nothing to look for in an image alone, without Triton, and where CUDA has no driver either.
pub fn find(examination: &Examination, process: &Process<'_>) -> Option<Step> {
    if examination.request.scope != Scope::Container {
        return None;
    }
    let of_cuda = DriverPaths::in_process(process).libcuda.ok()?;
    let links = linked_name(examination)?;
    let (dirs, told) = match examination.request.env.non_empty("TRITON_LIBCUDA_PATH") {
        Some(dir) => (vec![PathBuf::from(dir)], true),
        // Without ldconfig, that is what is missing.
        None if !examination.rootfs.is_file(Path::new("/sbin/ldconfig")) => return None,
        None => (cached(examination), false),
    };
    let has = |dir: &PathBuf, name: &str| examination.rootfs.exists(&examination.request.cwd.join(dir).join(name));
    let notes = vec![("CUDA's own".to_owned(), of_cuda)];
    let shown = |dirs: &[PathBuf]| dirs.iter().map(|dir| dir.display().to_string()).collect();
    if !told && !dirs.iter().any(|dir| has(dir, "libcuda.so.1")) {
        let searched = vec!["/etc/ld.so.cache".to_owned(), "LD_LIBRARY_PATH".to_owned()];
        let absence = Absence { kind: "libcuda-dirs".into(), name: "libcuda.so.1".into(), searched, notes };
        return Some(step(StepOutcome::NotFound(absence), "AssertionError: libcuda.so cannot found!"));
    }
    let searched: Vec<PathBuf> = dirs.into_iter().chain(of_linker(examination)).collect();
    Some(match searched.iter().find(|dir| has(dir, links.file)) {
        Some(dir) => step(StepOutcome::Ok(dir.join(links.file).to_string_lossy().into_owned()), ""),
        None => {
            let (kind, name) = ("libcuda-link".to_owned(), links.file.to_owned());
            let absence = Absence { kind, name, searched: shown(&searched), notes };
            step(StepOutcome::NotFound(absence), &format!("/usr/bin/ld: cannot find {}", links.option))
        }
    })
}

/// What the linker is asked for.
struct Linked {
    option: &'static str,
    file: &'static str,
}

/// Releases up to the one of PyTorch 2.9 ask for the link of developers; later ones for what a container has.
fn linked_name(examination: &Examination) -> Option<Linked> {
    let of = |entry: &PathBuf| entry.join("triton/backends/nvidia/driver.py");
    let here = examination.sys_path.entries.iter().find(|e| examination.rootfs.is_dir(&e.join("triton")))?;
    let source = examination.rootfs.read_text(&of(here), MAX_SOURCE).ok()?;
    let asks = |libraries: &str| source.lines().any(|line| line == format!("libraries = ['{libraries}']"));
    if asks("cuda") {
        Some(Linked { option: "-lcuda", file: "libcuda.so" })
    } else if asks("libcuda.so.1") {
        Some(Linked { option: "-l:libcuda.so.1", file: "libcuda.so.1" })
    } else {
        None
    }
}

/// What `ldconfig -p` lists, and where that is nothing, `LD_LIBRARY_PATH`.
fn cached(examination: &Examination) -> Vec<PathBuf> {
    // Where ldconfig fails, so does Triton.
    let Some(files) = places::ldconfig(examination, "libcuda.so.1") else { return Vec::new() };
    let dirs: Vec<PathBuf> = files.iter().filter_map(|file| Some(file.parent()?.to_owned())).collect();
    match examination.request.env.non_empty("LD_LIBRARY_PATH") {
        Some(path) if dirs.is_empty() => split(path.as_bytes()).collect(),
        _ => dirs,
    }
}

/// Directories that the linker searches beside those that it is given: `LIBRARY_PATH` (GCC), and its own on Debian and
/// Fedora (`gcc -print-search-dirs`, `ld --verbose`).
fn of_linker(examination: &Examination) -> Vec<PathBuf> {
    let arch = Machine::host().name();
    let mut dirs: Vec<PathBuf> = Vec::new();
    if let Some(path) = examination.request.env.non_empty("LIBRARY_PATH") {
        dirs.extend(split(path.as_bytes()));
    }
    for prefix in ["/usr/lib", "/lib", "/usr/local/lib"] {
        dirs.push(PathBuf::from(format!("{prefix}/{arch}-linux-gnu")));
        dirs.push(PathBuf::from(prefix));
        dirs.push(PathBuf::from(format!("{prefix}64")));
    }
    dirs
}

fn split(path: &[u8]) -> impl Iterator<Item = PathBuf> {
    path.split(|b| *b == b':').map(|dir| PathBuf::from(bytes(dir)))
}

fn bytes(bytes: &[u8]) -> &std::ffi::OsStr {
    std::ffi::OsStr::from_bytes(bytes)
}

fn step(outcome: StepOutcome, user_sees: &str) -> Step {
    Step {
        what: "find libcuda to link with".to_owned(),
        how: How::File,
        file: "libcuda.so".to_owned(),
        because: Vec::new(),
        weight: Weight::Required,
        user_sees: matches!(outcome, StepOutcome::NotFound(_)).then(|| user_sees.to_owned()),
        outcome,
    }
}
