//! Where the probe comes from: a named file, the file beside the executable, the embedded copy.
//!
//! The file comes before the copies in memory, for security monitors call a program started from memory, or written
//! and started at once, an attack.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, Mode, OFlags};

use crate::embedded::unpack;

/// File name of the probe.
pub const NAME: &str = "mldoctor-probes";
/// The probe that was built with this file, compressed; empty where it was built without.
const EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mldoctor-probes"));

/// An executable probe.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A file in memory.
    Memory(Arc<OwnedFd>),
    /// A temporary file without a name, on a file system that programs can be started from.
    Temporary(Arc<OwnedFd>),
}

impl Source {
    /// Which way it was.
    pub fn describe(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Memory(_) => "the embedded copy, in memory".into(),
            Self::Temporary(_) => "the embedded copy, in a temporary file".into(),
        }
    }
}

/// Why there is no probe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The named file cannot be started.
    #[error("{0} is not an executable file")]
    Named(PathBuf),
    /// Built for a target without one.
    #[error("no probe is built into this file, and there is no {NAME} beside it")]
    None,
    /// Neither a file in memory nor a temporary one can be made.
    #[error("the built-in probe cannot be put anywhere: {0}")]
    NoPlace(String),
}

/// The probe that is built in, if one is.
pub fn embedded() -> Option<Vec<u8>> {
    (!EMBEDDED.is_empty()).then(|| unpack(EMBEDDED))
}

/// Finds the probe; `named` is the one that was asked for.
///
/// # Errors
/// There is none, or none that can be started; a file that was named is never replaced by another.
pub fn locate(named: Option<&Path>) -> Result<Source, Unavailable> {
    if let Some(path) = named {
        return match is_executable(path) {
            true => Ok(Source::File(path.to_owned())),
            false => Err(Unavailable::Named(path.to_owned())),
        };
    }
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name(NAME));
    if let Some(path) = beside.filter(|path| is_executable(path)) {
        return Ok(Source::File(path));
    }
    if EMBEDDED.is_empty() {
        return Err(Unavailable::None);
    }
    let has_proc = Path::new("/proc/self/fd").exists();
    if !has_proc {
        return Err(Unavailable::NoPlace("there is no /proc".into()));
    }
    match in_memory() {
        Ok(fd) => Ok(Source::Memory(Arc::new(fd))),
        Err(first) => in_temporary_file()
            .map(|fd| Source::Temporary(Arc::new(fd)))
            .map_err(|second| Unavailable::NoPlace(format!("memfd_create: {first}; {second}"))),
    }
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

fn in_memory() -> std::io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(NAME, MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(&unpack(EMBEDDED))?;
    // A file that is open for writing cannot be started; this opens it anew.
    reopen(file.as_fd())
}

fn in_temporary_file() -> std::io::Result<OwnedFd> {
    let dirs = [std::env::var_os("TMPDIR"), Some("/tmp".into()), Some("/dev/shm".into()), Some("/var/tmp".into())];
    let mut last = std::io::Error::other("no directory for a temporary file");
    for dir in dirs.into_iter().flatten() {
        match unnamed_file(&dir) {
            Ok(fd) => return Ok(fd),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn unnamed_file(dir: &OsString) -> std::io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(Path::new(dir), flags, Mode::RWXU)?);
    if rustix::fs::fstatvfs(&file)?.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC) {
        return Err(std::io::Error::other("programs cannot be started from it"));
    }
    file.write_all(&unpack(EMBEDDED))?;
    reopen(file.as_fd())
}

fn reopen(fd: std::os::fd::BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_probe_is_never_replaced() {
        let path = Path::new("/nowhere/probe");
        assert_eq!(locate(Some(path)).unwrap_err(), Unavailable::Named(path.to_owned()));
    }

    #[test]
    fn the_embedded_copy_can_be_put_into_memory_and_into_a_file() {
        for fd in [in_memory(), in_temporary_file()] {
            let size = rustix::fs::fstat(fd.unwrap()).unwrap().st_size;
            assert_eq!(size, i64::try_from(unpack(EMBEDDED).len()).unwrap());
        }
    }
}
