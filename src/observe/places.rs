//! Where frameworks look for files: patterns of their data, filled in for one image.
//!
//! A pattern starts with one of
//! * `{site}/`: each entry of `sys.path`,
//! * `{packages}/`: each directory of `site.getsitepackages()`,
//! * `{prefix}/`: `sys.prefix`,
//! * `$NAME/`: each directory that the variable lists; `$NAME|OTHER/`: of the first that is set,
//! * `$NAME(OPTION)/`: the value of an option in the variable, as in `XLA_FLAGS=--option=/directory`,
//! * `/`,
//! * `{ldconfig}/`: what `ldconfig -p | grep` finds for the text that follows, up to a `*`.
//!
//! `{arch}` is the processor. The file name may be a pattern of a shell, and `**` before it stands for any directories
//! but those of linker stubs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Examination;
use crate::frameworks::glob;
use crate::image::elf::Machine;
use crate::image::{EntryKind, Rootfs};
use crate::loader::Cache;
use crate::python::Interpreter;

/// See above.
const LDCONFIG: &str = "{ldconfig}/";
/// Directories that a `**` goes through; a toolkit has hundreds.
const MAX_WALK: usize = 5_000;

/// The paths that a pattern stands for, in the order in which they are tried; they need not exist unless the file name
/// is a pattern.
pub fn expand(examination: &Examination, python: &Interpreter, pattern: &str) -> Vec<PathBuf> {
    if let Some(text) = pattern.strip_prefix(LDCONFIG) {
        return ldconfig(examination, text.trim_end_matches('*')).unwrap_or_default();
    }
    let paths = filled(examination, python, pattern);
    let rootfs = &examination.rootfs;
    let matches = |path: PathBuf| {
        let (parent, name) = (path.parent().unwrap_or(&path), path.file_name().and_then(OsStr::to_str));
        let parents = match parent.ends_with("**") {
            true => below(rootfs, parent.parent().unwrap_or(parent)),
            false => vec![parent.to_owned()],
        };
        parents.into_iter().flat_map(|p| glob(rootfs, &p, name.unwrap_or_default())).collect::<Vec<_>>()
    };
    if pattern.contains('*') { paths.into_iter().flat_map(matches).collect() } else { paths }
}

/// The files of the lines of `ldconfig -p` with a text. It fails without a cache.
pub fn ldconfig(examination: &Examination, text: &str) -> Option<Vec<PathBuf>> {
    let cache = Cache::read(&examination.rootfs, Path::new("/etc/ld.so.cache"), Machine::host())?;
    let has = |bytes: &[u8]| memchr::memmem::find(bytes, text.as_bytes()).is_some();
    let listed = cache.entries().filter(|(key, value)| has(key) || has(value));
    Some(listed.map(|(_, value)| PathBuf::from(OsStr::from_bytes(value))).collect())
}

/// What a pattern stands for but for the files that it matches; nothing where no directory is searched.
pub fn filled(examination: &Examination, python: &Interpreter, pattern: &str) -> Vec<PathBuf> {
    let pattern = pattern.replace("{arch}", &Machine::host().name());
    let Some((start, rest)) = pattern.split_once('/') else { return Vec::new() };
    let directories: Vec<PathBuf> = match start {
        "" => vec![PathBuf::from("/")],
        "{site}" => examination.sys_path.entries.clone(),
        "{packages}" => examination.sys_path.packages.clone(),
        "{prefix}" => vec![python.prefix.clone()],
        _ => start.strip_prefix('$').map(|variable| of_variable(examination, variable)).unwrap_or_default(),
    };
    directories.into_iter().map(|d| examination.request.cwd.join(d).join(rest)).collect()
}

/// A directory and those below it, links to directories followed as `glob` does.
fn below(rootfs: &Rootfs, root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_owned()];
    let mut at = 0;
    while at < found.len() && found.len() < MAX_WALK {
        for entry in rootfs.read_dir(&found[at]).unwrap_or_default() {
            let path = found[at].join(&entry.name);
            let is_dir = entry.kind == EntryKind::Dir || (entry.kind == EntryKind::Link && rootfs.is_dir(&path));
            if is_dir && !entry.name.to_string_lossy().contains("stub") {
                found.push(path);
            }
        }
        at += 1;
    }
    found
}

fn of_variable(examination: &Examination, variable: &str) -> Vec<PathBuf> {
    let env = &examination.request.env;
    if let Some((name, option)) = variable.split_once('(') {
        let value = env.non_empty(name).unwrap_or_default().to_string_lossy().into_owned();
        let prefix = format!("{}=", option.trim_end_matches(')'));
        return value.split_whitespace().filter_map(|o| o.strip_prefix(&prefix)).map(PathBuf::from).collect();
    }
    let value = variable.split('|').find_map(|name| env.non_empty(name)).unwrap_or_default();
    let listed = value.as_bytes().split(|&b| b == b':').filter(|d| !d.is_empty());
    listed.map(|d| Path::new(OsStr::from_bytes(d)).to_owned()).collect()
}
