//! What the workload is, where nobody says: what its command line starts, which frameworks are installed, which programs
//! use CUDA.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::scan::{is_cuda, is_driver};
use crate::image::Rootfs;
use crate::image::elf::{Elf, Machine};
use crate::image::programs::shebang;
use crate::loader::Environment;
use crate::node::{is_own, words};

/// Words of a command line looked at: `tini -g -- python serve.py` starts Python too.
const MAX_WORDS: usize = 16;
/// Programs on `PATH` looked at before the rest is left out.
const MAX_PROGRAMS: usize = 5_000;
/// Longest command line, in bytes.
const MAX_COMMAND: u64 = 1 << 20;

/// The command of the first process of the container, unless it is this program.
pub fn first_process(node: &Rootfs) -> Vec<OsString> {
    let words = words(&node.read(Path::new("/proc/1/cmdline"), MAX_COMMAND).unwrap_or_default());
    if is_own(&words) { Vec::new() } else { words }
}

/// The image, and what the workload has of it.
pub struct Programs<'i> {
    /// The image.
    pub rootfs: &'i Rootfs,
    /// Environment of the workload.
    pub env: &'i Environment,
    /// Its working directory.
    pub cwd: &'i Path,
}

impl Programs<'_> {
    /// The Python interpreter that a command starts, itself or through a script that is one of its words.
    pub fn python(&self, command: &[OsString]) -> Option<PathBuf> {
        let paths = command.iter().take(MAX_WORDS).filter_map(|word| self.find(word));
        paths
            .filter_map(|path| self.interpreter(path))
            .find(|path| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"python")))
    }

    /// The program of a command, if it is linked with CUDA.
    pub fn with_cuda(&self, command: &[OsString]) -> Option<PathBuf> {
        self.find(command.first()?).filter(|path| self.is_linked_with_cuda(path))
    }

    /// Programs on `PATH` that are linked with CUDA.
    pub fn all_with_cuda(&self) -> Vec<PathBuf> {
        let all = self.path().flat_map(|dir| {
            let entries = self.rootfs.read_dir(&dir).unwrap_or_default();
            entries.into_iter().map(move |entry| dir.join(entry.name))
        });
        all.take(MAX_PROGRAMS).filter(|path| self.is_linked_with_cuda(path)).collect()
    }

    fn path(&self) -> impl Iterator<Item = PathBuf> {
        let path = self.env.get("PATH").unwrap_or_default().as_bytes();
        path.split(|b| *b == b':').filter(|dir| !dir.is_empty()).map(|dir| self.cwd.join(OsStr::from_bytes(dir)))
    }

    /// As `execvp(3)` finds it.
    fn find(&self, word: &OsStr) -> Option<PathBuf> {
        let is_program = |path: &PathBuf| self.rootfs.stat(path).is_ok_and(|s| s.is_file() && s.is_executable());
        if word.as_bytes().contains(&b'/') {
            return Some(self.cwd.join(word)).filter(is_program);
        }
        self.path().map(|dir| dir.join(word)).find(is_program)
    }

    /// What starts a script, or the program itself.
    fn interpreter(&self, path: PathBuf) -> Option<PathBuf> {
        let (file, _) = self.rootfs.map(&path).ok()?;
        let Some(mut words) = shebang(&file) else { return Some(path) };
        let first = words.next()?;
        if !first.as_bytes().ends_with(b"/env") {
            return self.find(first);
        }
        self.find(words.find(|word| !word.as_bytes().starts_with(b"-"))?)
    }

    fn is_linked_with_cuda(&self, path: &Path) -> bool {
        let Ok((map, _)) = self.rootfs.map(path) else { return false };
        let Ok(elf) = Elf::parse(map, Machine::host()) else { return false };
        elf.needed().any(|name| name.to_str().is_some_and(|name| is_cuda(name) || is_driver(name)))
    }
}
