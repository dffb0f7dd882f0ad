//! A look at the directories that hold libraries: driver files that do not belong into an image, second copies of
//! CUDA, links that lead nowhere. Bounded: no tree walk, only directories that a loader or a framework could search.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::facts::{BrokenLink, DriverFile, DriverFileKind, Libraries, LibraryCopy};
use crate::image::elf::{Elf, Machine};
use crate::image::sections::compatible_branches;
use crate::image::{EntryKind, Rootfs};
use crate::loader::Environment;
use crate::node::mount_points;

/// Directories looked at before the rest is left out.
const MAX_DIRS: usize = 2_000;
/// Links beside one another that are followed.
const MAX_LINKS: usize = 8;
/// Stubs are small; a real driver library has tens of megabytes.
const STUB_SIZE: u64 = 1024 * 1024;

/// Names that the driver brings and an image must not.
const DRIVER: &[&str] =
    &["libcuda.so", "libnvidia-ml.so", "libnvidia-ptxjitcompiler.so", "libcudadebugger.so", "libnvidia-nvvm.so"];
/// Names of NVIDIA's user-space libraries, of which two copies are worth knowing about.
const CUDA: &[&str] = &[
    "libcublas",
    "libcublasLt",
    "libcudart",
    "libcudnn",
    "libcufft",
    "libcurand",
    "libcusolver",
    "libcusparse",
    "libcusparseLt",
    "libnccl",
    "libnvJitLink",
    "libnvrtc",
    "libcupti",
    "libcufile",
    "libnvshmem_host",
];

/// Looks at every such directory once; `mounts` is the text of `/proc/PID/mountinfo`.
pub fn scan(rootfs: &Rootfs, mounts: &str, env: &Environment, sys_path: &[PathBuf]) -> Libraries {
    let mut found = Libraries::default();
    let mut seen = BTreeSet::new();
    for (count, dir) in directories(rootfs, env, sys_path).into_iter().enumerate() {
        if count >= MAX_DIRS {
            found.scan_cut = Some(format!("more than {MAX_DIRS} directories"));
            break;
        }
        let Ok(real) = rootfs.canonicalize(&dir) else { continue };
        if !seen.insert(real.clone()) {
            continue;
        }
        let entries = rootfs.read_dir(&real).unwrap_or_default();
        let entries: Vec<_> = entries.iter().filter(|e| e.name.to_str().is_some_and(|n| n.contains(".so"))).collect();
        let files: FxHashSet<_> = entries.iter().filter(|e| e.kind == EntryKind::File).map(|e| &*e.name).collect();
        let links = entries.iter().filter(|e| e.kind == EntryKind::Link && e.name.as_bytes().starts_with(b"lib"));
        let links = links.filter_map(|e| Some((&*e.name, rootfs.read_link(&real.join(&e.name)).ok()?)));
        let links: FxHashMap<&OsStr, PathBuf> = links.collect();
        for entry in &entries {
            let Some(name) = entry.name.to_str() else { continue };
            let path = real.join(name);
            match entry.kind {
                EntryKind::Link if name.starts_with("lib") => {
                    let next = |to: &OsStr| links.get(to).map(|next| next.as_os_str());
                    let mut steps = std::iter::successors(next(&entry.name), |to| next(to)).take(MAX_LINKS);
                    // Most lead to a file beside them, which takes no look to know.
                    if !steps.any(|to| files.contains(to)) && !rootfs.exists(&path) {
                        let to = links.get(&*entry.name).cloned().unwrap_or_default();
                        let [path, to] = [path, to].map(|p| p.to_string_lossy().into_owned());
                        found.broken_links.push(BrokenLink { path, to });
                    }
                }
                EntryKind::File if is_driver(name) => found.driver_files.push(driver_file(rootfs, mounts, &path)),
                EntryKind::File if is_cuda(name) => {
                    found.cuda_copies.extend(copy(rootfs, &path));
                }
                _ => {}
            }
        }
    }
    found
}

/// A library that the driver brings.
pub fn is_driver(name: &str) -> bool {
    DRIVER.iter().any(|driver| name.starts_with(driver))
}

/// One of NVIDIA's user-space libraries.
pub fn is_cuda(name: &str) -> bool {
    let Some((stem, _)) = name.split_once(".so") else { return false };
    CUDA.contains(&stem) || stem.starts_with("libnpp") || stem.starts_with("libcudnn_")
}

fn directories(rootfs: &Rootfs, env: &Environment, sys_path: &[PathBuf]) -> Vec<PathBuf> {
    let arch = Machine::host().name();
    let mut dirs: Vec<PathBuf> = Vec::new();
    if let Some(path) = env.non_empty("LD_LIBRARY_PATH") {
        dirs.extend(
            path.as_bytes()
                .split(|b| b":;".contains(b))
                .filter(|d| d.starts_with(b"/"))
                .map(|d| PathBuf::from(std::ffi::OsStr::from_bytes(d))),
        );
    }
    dirs.extend(["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64"].map(PathBuf::from));
    dirs.push(PathBuf::from(format!("/usr/lib/{arch}-linux-gnu")));
    dirs.push(PathBuf::from(format!("/usr/lib/{arch}-linux-gnu/stubs")));
    // Where platforms mount the driver: Kubernetes of Google, WSL, Jetson.
    dirs.extend(["/usr/local/nvidia/lib", "/usr/local/nvidia/lib64", "/usr/lib/wsl/lib"].map(PathBuf::from));
    dirs.extend(["nvidia", "tegra"].map(|sub| PathBuf::from(format!("/usr/lib/{arch}-linux-gnu/{sub}"))));
    let local = Path::new("/usr/local");
    for entry in rootfs.read_dir(local).unwrap_or_default() {
        if entry.name.as_bytes().starts_with(b"cuda") {
            let cuda = local.join(&entry.name);
            for sub in ["lib64", "lib64/stubs", "lib", "lib/stubs", "compat", "extras/CUPTI/lib64"] {
                dirs.push(cuda.join(sub));
            }
        }
    }
    for entry in sys_path {
        let nvidia = entry.join("nvidia");
        for component in rootfs.read_dir(&nvidia).unwrap_or_default() {
            dirs.push(nvidia.join(component.name).join("lib"));
        }
        for package in ["cusparselt/lib", "torch/lib"] {
            dirs.push(entry.join(package));
        }
    }
    dirs
}

fn driver_file(rootfs: &Rootfs, mounts: &str, path: &Path) -> DriverFile {
    let shown = path.to_string_lossy().into_owned();
    let size = rootfs.stat(path).map_or(0, |s| s.size);
    let kind = if size == 0 {
        DriverFileKind::Empty
    } else if path.components().any(|c| c.as_os_str() == "compat") {
        DriverFileKind::Compat
    } else if path.starts_with("/usr/lib/wsl") {
        // That of Windows is small too: it opens the rest in the driver store.
        DriverFileKind::Driver
    } else if path.components().any(|c| c.as_os_str() == "stubs") || (size < STUB_SIZE && !has_release(&shown)) {
        DriverFileKind::Stub
    } else {
        DriverFileKind::Driver
    };
    let is_compat = kind == DriverFileKind::Compat;
    let branches =
        if is_compat { rootfs.open(path).ok().and_then(|f| compatible_branches(&mut f.into())) } else { None };
    DriverFile { mounted: is_mounted(mounts, &shown), used: false, path: shown, kind, size, branches }
}

/// Driver libraries carry the driver's release in their name: `libcuda.so.535.104.05`.
fn has_release(path: &str) -> bool {
    path.rsplit_once(".so.").is_some_and(|(_, v)| v.split('.').next().is_some_and(|major| major.len() == 3))
}

/// Whether the file was mounted here, by itself or with a directory above it. The root, which holds everything, is the
/// image.
fn is_mounted(mounts: &str, path: &str) -> bool {
    mount_points(mounts).any(|point| point != "/" && Path::new(path).starts_with(point))
}

fn copy(rootfs: &Rootfs, path: &Path) -> Option<LibraryCopy> {
    let (map, stat) = rootfs.map(path).ok()?;
    let elf = Elf::parse(map, Machine::host()).ok()?;
    let soname = elf.soname()?.to_string_lossy().into_owned();
    Some(LibraryCopy { soname, path: path.to_string_lossy().into_owned(), size: stat.size, used: false })
}
