//! What is compiled into a dynamic loader: its libc and version, its default directories, its cache.
//!
//! Distributions differ here (Debian adds multiarch directories, Nix and conda have their own), so the facts are read
//! from the loader's own file instead of being assumed: glibc keeps `system_dirs` (`elf/dl-load.c`) as consecutive
//! strings, and the cache's path, `$LIB` and the release as strings.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use memchr::memmem;

use crate::image::elf::Machine;
use crate::image::{FileError, Rootfs};

/// Which C library, and which of its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Libc {
    /// GNU, with its release (major, minor).
    Glibc(u32, u32),
    /// musl.
    Musl,
}

/// A dynamic loader found in the image.
#[derive(Debug, Clone)]
pub struct DynamicLoader {
    path: PathBuf,
    machine: Machine,
    libc: Libc,
    /// Default directories, without trailing slash.
    system_dirs: Vec<PathBuf>,
    cache_path: Option<PathBuf>,
    /// Expansion of `$LIB`.
    lib: String,
    /// Subdirectories tried in every directory, best first, without the directory itself.
    subdirs: Vec<String>,
    /// Names among them that `glibc-hwcaps` entries of the cache may carry.
    hwcaps: Vec<String>,
}

/// A loader is a few hundred kilobytes; musl's is its whole libc.
const MAX_LOADER: u64 = 16 * 1024 * 1024;

impl DynamicLoader {
    /// Reads the loader at `path`, as a program's `PT_INTERP` names it.
    ///
    /// # Errors
    /// When it is not there or cannot be read: then no program that names it starts.
    pub fn read(rootfs: &Rootfs, path: &Path, machine: Machine) -> Result<Self, FileError> {
        let data = rootfs.read(path, MAX_LOADER)?;
        let is_musl = path.file_name().is_some_and(|n| n.as_bytes().starts_with(b"ld-musl"))
            || memmem::find(&data, b"musl libc").is_some();
        if is_musl {
            return Ok(Self {
                path: path.to_owned(),
                machine,
                libc: Libc::Musl,
                system_dirs: musl_path(rootfs, path, machine),
                cache_path: None,
                lib: String::new(),
                subdirs: Vec::new(),
                hwcaps: Vec::new(),
            });
        }
        let release = release(&data).or_else(|| release_of_libc(rootfs, path)).unwrap_or((2, 36));
        let cache_path = strings(&data)
            .find(|s| s.ends_with(b"/ld.so.cache") && s.starts_with(b"/"))
            .map_or_else(|| PathBuf::from("/etc/ld.so.cache"), path_of);
        let system_dirs = system_dirs(&data)
            .unwrap_or_else(|| ["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(PathBuf::from).to_vec());
        let triplet = format!("lib/{}-linux-gnu", machine.name());
        let lib = if strings(&data).any(|s| s == triplet.as_bytes()) {
            triplet
        } else if system_dirs.iter().any(|d| d.ends_with("lib64")) {
            "lib64".into()
        } else {
            "lib".into()
        };
        let hwcaps = if release >= (2, 33) { active_hwcaps(machine) } else { Vec::new() };
        let mut subdirs: Vec<String> = hwcaps.iter().map(|h| format!("glibc-hwcaps/{h}")).collect();
        if release < (2, 37) {
            subdirs.extend(legacy_subdirs(machine));
        }
        Ok(Self {
            path: path.to_owned(),
            machine,
            libc: Libc::Glibc(release.0, release.1),
            system_dirs,
            cache_path: Some(cache_path),
            lib,
            subdirs,
            hwcaps,
        })
    }

    /// Path as `PT_INTERP` gives it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Processor.
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// C library and release.
    pub fn libc(&self) -> Libc {
        self.libc
    }

    /// Whether it is musl's.
    pub fn is_musl(&self) -> bool {
        self.libc == Libc::Musl
    }

    /// Whether it is glibc of this release or a later one.
    pub fn is_glibc_since(&self, major: u32, minor: u32) -> bool {
        matches!(self.libc, Libc::Glibc(a, b) if (a, b) >= (major, minor))
    }

    /// The cache, for loaders that have one.
    pub fn cache_path(&self) -> Option<&Path> {
        self.cache_path.as_deref()
    }

    /// Default directories.
    pub fn system_dirs(&self) -> &[PathBuf] {
        &self.system_dirs
    }

    /// Subdirectories tried before each directory itself.
    pub fn subdirs(&self) -> &[String] {
        &self.subdirs
    }

    /// Usable glibc-hwcaps names, best first.
    pub fn hwcaps(&self) -> &[String] {
        &self.hwcaps
    }

    /// Value of `$LIB` (`DL_DST_LIB`).
    pub fn lib(&self) -> &str {
        &self.lib
    }

    /// Value of `$PLATFORM` (`AT_PLATFORM`; on x86 glibc may replace it by `haswell` or `xeon_phi`).
    pub fn platform(&self) -> String {
        if self.machine == Machine::X86_64 { legacy_platform().unwrap_or("x86_64").into() } else { self.machine.name() }
    }
}

/// What stands between zeros.
fn strings(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    memchr::memchr_iter(0, data).chain([data.len()]).map(move |end| {
        let text = &data[start..end];
        start = end + 1;
        text
    })
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// The release in "… stable release version 2.36." (`elf/dl-usage.c` since 2.33, `csu/version.c` in libc itself).
fn release(data: &[u8]) -> Option<(u32, u32)> {
    let marker = b"release version ";
    let at = memmem::find(data, marker)? + marker.len();
    let text = std::str::from_utf8(data.get(at..)?.split(|b| !b.is_ascii_digit() && *b != b'.').next()?).ok()?;
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Loaders before 2.33 do not tell their release; the libc beside them does.
fn release_of_libc(rootfs: &Rootfs, loader: &Path) -> Option<(u32, u32)> {
    let real = rootfs.canonicalize(loader).ok()?;
    let data = rootfs.read(&real.parent()?.join("libc.so.6"), MAX_LOADER).ok()?;
    release(&data)
}

/// `system_dirs`: consecutive strings, each an absolute directory with a trailing slash.
fn system_dirs(data: &[u8]) -> Option<Vec<PathBuf>> {
    let is_dir = |s: &[u8]| s.len() > 4 && s.starts_with(b"/") && s.ends_with(b"/") && s.is_ascii();
    let mut run: Vec<PathBuf> = Vec::new();
    for s in strings(data) {
        if is_dir(s) {
            run.push(path_of(&s[..s.len() - 1]));
        } else if run.iter().any(|d| d.ends_with("lib") || d.ends_with("lib64")) {
            return Some(run);
        } else {
            run.clear();
        }
    }
    None
}

/// musl's search path: `/etc/ld-musl-ARCH.path` below the loader's prefix, or the built-in one (`ldso/dynlink.c`,
/// `load_library`).
fn musl_path(rootfs: &Rootfs, loader: &Path, machine: Machine) -> Vec<PathBuf> {
    let prefix = loader.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let file = prefix.join("etc").join(format!("ld-musl-{}.path", machine.name()));
    match rootfs.read_text(&file, 1024 * 1024) {
        Ok(text) => text.split([':', '\n']).filter(|d| !d.is_empty()).map(PathBuf::from).collect(),
        Err(_) => ["/lib", "/usr/local/lib", "/usr/lib"].map(PathBuf::from).to_vec(),
    }
}

/// The levels of x86-64 that this processor has, as [`Elf::isa_needed`] counts them; nothing on others
/// (`sysdeps/x86/get-isa-level.h`).
///
/// [`Elf::isa_needed`]: crate::image::elf::Elf::isa_needed
#[cfg(target_arch = "x86_64")]
pub fn isa_levels() -> Option<u32> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("cmpxchg16b") && has!("popcnt") && has!("sse3") && has!("sse4.1") && has!("sse4.2") && has!("ssse3");
    let v3 = v2
        && has!("avx")
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let v4 = v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    Some(1 | u32::from(v2) << 1 | u32::from(v3) << 2 | u32::from(v4) << 3)
}

/// Other processors have no levels.
#[cfg(not(target_arch = "x86_64"))]
pub fn isa_levels() -> Option<u32> {
    None
}

/// The usable subdirectories of `glibc-hwcaps`, best first. glibc defines none for the other processors in use.
fn active_hwcaps(machine: Machine) -> Vec<String> {
    let levels = isa_levels().filter(|_| machine == Machine::X86_64).unwrap_or(0);
    (2..=4).rev().filter(|level| levels >> (level - 1) & 1 == 1).map(|level| format!("x86-64-v{level}")).collect()
}

/// Subdirectories of `AT_PLATFORM`, `AT_HWCAP` and `tls` that glibc tried before 2.37 (`_dl_important_hwcaps`).
fn legacy_subdirs(machine: Machine) -> Vec<String> {
    if machine != Machine::X86_64 {
        let platform = machine.name();
        return vec![format!("tls/{platform}"), "tls".into(), platform];
    }
    let platform = legacy_platform().unwrap_or("x86_64");
    let mut capabilities = vec![platform, "x86_64"];
    capabilities.dedup();
    let mut bare: Vec<String> = Vec::new();
    if capabilities.len() == 2 {
        bare.push(format!("{platform}/x86_64"));
    } else {
        bare.push("x86_64/x86_64".into());
    }
    bare.extend(capabilities.into_iter().map(str::to_owned));
    let mut all: Vec<String> = bare.iter().map(|d| format!("tls/{d}")).collect();
    all.push("tls".into());
    all.extend(bare);
    all
}

/// `haswell` or `xeon_phi` where glibc up to 2.36 sets it on Intel processors (`sysdeps/x86/cpu-features.c`).
#[cfg(target_arch = "x86_64")]
fn legacy_platform() -> Option<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    let vendor = std::arch::x86_64::__cpuid(0);
    let is_intel = (vendor.ebx, vendor.edx, vendor.ecx) == (0x756e_6547, 0x4965_6e69, 0x6c65_746e);
    let haswell =
        has!("avx2") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("movbe") && has!("popcnt") && has!("fma");
    (is_intel && haswell).then_some("haswell")
}

#[cfg(not(target_arch = "x86_64"))]
fn legacy_platform() -> Option<&'static str> {
    None
}
