//! What starts a program: the kernel opens the interpreter of a script (`#!`) and that of an executable (`PT_INTERP`)
//! itself, so no trace and no list of libraries shows them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::elf::{Elf, HeaderError, Machine};
use super::{Mapping, Rootfs};

/// Scripts that start scripts, as deep as the kernel follows them (`exec_binprm` in `fs/exec.c`).
const MAX_DEPTH: usize = 5;
/// The part of a program that the kernel reads for the first line of a script (`BINPRM_BUF_SIZE`).
const MAX_LINE: usize = 256;

/// Everything that the kernel opens to start the program `path`, in order: interpreters of scripts, and the dynamic
/// loader in the end.
pub fn interpreters(rootfs: &Rootfs, path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut next = path.to_owned();
    for _ in 0..MAX_DEPTH {
        let Some(interpreter) = rootfs.map(&next).ok().and_then(|(map, _)| interpreter(map)) else { break };
        found.push(interpreter.clone());
        next = interpreter;
    }
    found
}

/// Whether it is an executable of 32 bits.
pub fn is_32_bit(rootfs: &Rootfs, path: &Path) -> bool {
    let elf = rootfs.map(path).map(|(map, _)| Elf::parse(map, Machine::host()));
    matches!(elf, Ok(Err(HeaderError::Class)))
}

/// The words behind `#!` in the first line of a script, the interpreter first; none of what is no script.
pub fn shebang(program: &[u8]) -> Option<impl Iterator<Item = &OsStr>> {
    let line = program[..program.len().min(MAX_LINE)].strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    Some(line.split(|b| matches!(b, b' ' | b'\t')).filter(|word| !word.is_empty()).map(OsStr::from_bytes))
}

fn interpreter(map: Mapping) -> Option<PathBuf> {
    if let Some(mut words) = shebang(&map) {
        return words.next().map(PathBuf::from);
    }
    loader(map)
}

/// The dynamic loader that an executable names (`PT_INTERP`).
pub fn loader(map: Mapping) -> Option<PathBuf> {
    Some(PathBuf::from(Elf::parse(map, Machine::host()).ok()?.interpreter()?))
}
