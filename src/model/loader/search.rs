//! Where a library is looked for (`_dl_map_object`, `open_path`, `fillin_rpath` and `_dl_dst_substitute` in glibc's
//! `elf/dl-load.c`; `load_library` in musl's `ldso/dynlink.c`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;

use super::error::{Searched, SearchedWhy};
use super::process::{Object, ObjectId, Process, Via};
use super::store::{ElfFile, Opened};
use crate::image::FileError;
use crate::image::elf::{DF_1_NODEFLIB, HeaderError};

/// Environment variables of the workload, never those of this program.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Value of a variable.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// Value of a variable that is set and not empty.
    pub fn non_empty(&self, name: &str) -> Option<&OsStr> {
        self.get(name).filter(|v| !v.is_empty())
    }

    /// Sets a variable.
    pub fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.0.insert(name.into(), value.into());
    }

    /// Unsets a variable.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(OsStr::new(name));
    }

    /// All variables, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(k, v)| (k.as_os_str(), v.as_os_str()))
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<T: IntoIterator<Item = (OsString, OsString)>>(iter: T) -> Self {
        Self(iter.into_iter().collect())
    }
}

/// Result of a search.
pub(super) enum Found {
    /// A usable file.
    File { path: PathBuf, file: Arc<ElfFile>, via: Via, by: Option<ObjectId> },
    /// Nothing; with the error number that the message tells.
    Missing { reason: FileError, other_class: bool },
    /// A file that ends the search with an error.
    Fatal { path: PathBuf, error: HeaderError },
    /// A directory or device with the name of the library.
    Special { path: PathBuf, error: FileError },
}

/// A directory that libraries are looked for in.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    /// As the list has it.
    path: PathBuf,
    is_there: bool,
    /// It and its subdirectories for better processors, those that are there, in the order in which they are searched.
    places: Vec<PathBuf>,
}

/// A list of directories, which many libraries are looked for along.
pub(super) type Directories = OnceLock<Arc<[Directory]>>;

/// What one list of directories gave.
enum Walk {
    Done(Found),
    Next,
}

/// Collects the places searched, only when asked for: most searches succeed.
type Record<'r> = Option<&'r mut Vec<Searched>>;

struct State<'r> {
    name: &'r OsStr,
    errno: FileError,
    other_class: bool,
    record: Record<'r>,
}

impl Process<'_> {
    /// Finds the file for `name`, wanted by `requester`, as `_dl_map_object` does after it looked among the loaded.
    pub(super) fn search(&self, name: &OsStr, requester: ObjectId, record: Record<'_>) -> Found {
        let mut state = State { name, errno: FileError::NotFound, other_class: false, record };
        if name.as_bytes().contains(&b'/') {
            return self.search_path_name(&mut state, requester);
        }
        let found = if self.loader.dl.is_musl() {
            self.search_musl(&mut state, requester)
        } else {
            self.search_glibc(&mut state, requester)
        };
        found.unwrap_or(Found::Missing { reason: state.errno, other_class: state.other_class })
    }

    /// A name with a slash is a path, after expansion of `$ORIGIN` and the like.
    fn search_path_name(&self, state: &mut State<'_>, requester: ObjectId) -> Found {
        let expanded = self.expand(state.name, &self.objects[requester.0]);
        if expanded.as_os_str().is_empty() {
            return Found::Missing { reason: FileError::NotFound, other_class: false };
        }
        match self.try_file(state, expanded, Via::Absolute, None) {
            Walk::Done(found) => found,
            Walk::Next => Found::Missing { reason: state.errno, other_class: state.other_class },
        }
    }

    fn search_glibc(&self, state: &mut State<'_>, requester: ObjectId) -> Option<Found> {
        let main = ObjectId(0);
        let elf = &self.objects[requester.0].file.elf;
        if elf.runpath().is_none() {
            let mut seen_main = false;
            let mut at = Some(requester);
            while let Some(id) = at {
                let object = &self.objects[id.0];
                if object.file.elf.rpath().is_some() {
                    if let Walk::Done(found) = self.walk(state, self.own_path(object), Via::Rpath, Some(id)) {
                        return Some(found);
                    }
                    seen_main |= id == main;
                }
                at = object.loader;
            }
            if !seen_main
                && self.objects[0].file.elf.rpath().is_some()
                && let Walk::Done(found) = self.walk(state, self.own_path(&self.objects[0]), Via::Rpath, Some(main))
            {
                return Some(found);
            }
        }
        if let Walk::Done(found) = self.walk(state, self.library_path(), Via::LdLibraryPath, None) {
            return Some(found);
        }
        if elf.runpath().is_some() {
            let dirs = self.own_path(&self.objects[requester.0]);
            if let Walk::Done(found) = self.walk(state, dirs, Via::Runpath, Some(requester)) {
                return Some(found);
            }
        }
        let no_default = elf.flags_1() & DF_1_NODEFLIB != 0;
        if let Some(cache) = &self.loader.cache {
            let hit = cache.lookup(state.name, self.loader.dl.hwcaps());
            let hit = hit.filter(|path| !(no_default && self.is_in_system_dir(path)));
            match hit {
                Some(path) => {
                    if let Walk::Done(found) = self.try_file(state, path, Via::Cache, None) {
                        return Some(found);
                    }
                }
                None => state.note(
                    &self.loader.dl.cache_path().unwrap_or(Path::new("")).to_string_lossy(),
                    Via::Cache,
                    None,
                    SearchedWhy::NotInCache,
                ),
            }
        }
        if !no_default && let Walk::Done(found) = self.walk(state, self.system_path(), Via::Default, None) {
            return Some(found);
        }
        None
    }

    /// musl: `LD_LIBRARY_PATH`, then `RUNPATH` or `RPATH` of the object and of every object that led to it, then the
    /// system path.
    fn search_musl(&self, state: &mut State<'_>, requester: ObjectId) -> Option<Found> {
        if let Walk::Done(found) = self.walk(state, self.library_path(), Via::LdLibraryPath, None) {
            return Some(found);
        }
        let mut at = Some(requester);
        while let Some(id) = at {
            let object = &self.objects[id.0];
            let via = if object.file.elf.runpath().is_some() { Via::Runpath } else { Via::Rpath };
            if let Walk::Done(found) = self.walk(state, self.own_path(object), via, Some(id)) {
                return Some(found);
            }
            at = object.loader;
        }
        if let Walk::Done(found) = self.walk(state, self.system_path(), Via::Default, None) {
            return Some(found);
        }
        None
    }

    /// `DT_RUNPATH` of an object, or its `DT_RPATH`.
    fn own_path<'o>(&self, object: &'o Object) -> &'o [Directory] {
        let elf = &object.file.elf;
        object.path_list.get_or_init(|| {
            let list = elf.runpath().or_else(|| elf.rpath()).filter(|list| !list.is_empty());
            self.directories(list.map(|list| self.split(list, b":", object)).unwrap_or_default())
        })
    }

    /// `LD_LIBRARY_PATH`
    fn library_path(&self) -> &[Directory] {
        self.library_path.get_or_init(|| {
            let list = self.loader.env.non_empty("LD_LIBRARY_PATH");
            let dirs = list.map(|list| match self.loader.dl.is_musl() {
                true => {
                    let elements = list.as_bytes().split(|b| b":\n".contains(b));
                    elements.filter(|d| !d.is_empty()).map(bytes_path).collect()
                }
                // Tokens expand relative to the main program.
                false => self.split(list, b":;", &self.objects[0]),
            });
            self.directories(dirs.unwrap_or_default())
        })
    }

    fn system_path(&self) -> &[Directory] {
        self.system_path.get_or_init(|| self.directories(self.loader.dl.system_dirs().to_vec()))
    }

    fn directories(&self, dirs: Vec<PathBuf>) -> Arc<[Directory]> {
        let directory = |path: PathBuf| {
            let subdirs = self.loader.dl.subdirs().iter().map(|sub| path.join(sub));
            let is_there = |place: &Path| self.loader.store.is_dir(&self.absolute(place));
            let mut places: Vec<PathBuf> = subdirs.filter(|place| is_there(place)).collect();
            let is_there = is_there(&path);
            if is_there {
                places.push(path.clone());
            }
            Directory { path, is_there, places }
        };
        dirs.into_iter().map(directory).collect()
    }

    fn absolute<'p>(&self, path: &'p Path) -> Cow<'p, Path> {
        if path.is_absolute() { path.into() } else { self.loader.cwd.join(path).into() }
    }

    fn is_in_system_dir(&self, path: &Path) -> bool {
        // glibc compares prefixes, so `/lib/x/liby.so` counts as in `/lib/`.
        self.loader.dl.system_dirs().iter().any(|d| path.starts_with(d))
    }

    /// `open_path`: one list of directories.
    fn walk(&self, state: &mut State<'_>, dirs: &[Directory], via: Via, by: Option<ObjectId>) -> Walk {
        for dir in dirs {
            for place in &dir.places {
                if let Walk::Done(found) = self.try_file(state, place.join(state.name), via, by) {
                    return Walk::Done(found);
                }
            }
            if !dir.is_there && state.record.is_some() {
                let by = by.map(|id| self.objects[id.0].display());
                let shown = format!("{}/", self.absolute(&dir.path).display());
                state.note(&shown, via, by, SearchedWhy::NoDirectory);
            }
            // "The file exists and is readable, but something went wrong": glibc gives this list up, musl the search
            // (`path_open`).
            if self.loader.dl.is_musl() {
                if !matches!(state.errno, FileError::NotFound | FileError::Denied | FileError::TooLong) {
                    return Walk::Done(Found::Missing { reason: state.errno, other_class: false });
                }
            } else if !dir.places.is_empty() && !matches!(state.errno, FileError::NotFound | FileError::Denied) {
                return Walk::Next;
            }
        }
        Walk::Next
    }

    fn try_file(&self, state: &mut State<'_>, path: PathBuf, via: Via, by: Option<ObjectId>) -> Walk {
        let opened = self.loader.store.open(&self.absolute(&path));
        let why = match opened {
            Opened::Elf(file) => return Walk::Done(Found::File { path, file, via, by }),
            Opened::Fatal(error) => return Walk::Done(Found::Fatal { path, error }),
            Opened::Special(error) => return Walk::Done(Found::Special { path, error }),
            Opened::OtherClass => {
                state.other_class = true;
                state.errno = FileError::NotFound;
                SearchedWhy::OtherMachine
            }
            Opened::OtherMachine => {
                state.errno = FileError::NotFound;
                SearchedWhy::OtherMachine
            }
            Opened::Failed(e) => {
                state.errno = e;
                match e {
                    FileError::NotFound
                        if state.record.is_some() && self.loader.rootfs.symlink_stat(&self.absolute(&path)).is_ok() =>
                    {
                        SearchedWhy::DanglingLink
                    }
                    FileError::NotFound => SearchedWhy::NotThere,
                    FileError::Denied => SearchedWhy::Denied,
                    _ => SearchedWhy::Unusable,
                }
            }
        };
        if state.record.is_some() {
            let by = by.map(|id| self.objects[id.0].display());
            state.note(&self.absolute(&path).to_string_lossy(), via, by, why);
        }
        Walk::Next
    }

    /// `fillin_rpath`: elements of a path list. An empty element is the current directory; one that expands to
    /// nothing is dropped.
    fn split(&self, list: &OsStr, separators: &[u8], object: &Object) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = Vec::new();
        for element in list.as_bytes().split(|b| separators.contains(b)) {
            let dir = if element.is_empty() {
                PathBuf::new()
            } else {
                let expanded = self.expand(OsStr::from_bytes(element), object);
                if expanded.as_os_str().is_empty() {
                    continue;
                }
                strip_slashes(expanded)
            };
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        dirs
    }

    /// `_dl_dst_substitute`: `$ORIGIN`, `$LIB` and `$PLATFORM`, also in braces.
    fn expand(&self, text: &OsStr, object: &Object) -> PathBuf {
        let bytes = text.as_bytes();
        if !bytes.contains(&b'$') {
            return PathBuf::from(text);
        }
        let mut out = Vec::with_capacity(bytes.len() + 64);
        let mut rest = bytes;
        while let Some((&b, after)) = rest.split_first() {
            if b != b'$' {
                out.push(b);
                rest = after;
                continue;
            }
            let token = ["ORIGIN", "PLATFORM", "LIB"].into_iter().find_map(|t| Some((t, token_length(after, t)?)));
            match token {
                Some(("ORIGIN", len)) => {
                    out.extend_from_slice(object.origin.as_os_str().as_bytes());
                    rest = &after[len..];
                }
                Some(("LIB", len)) => {
                    out.extend_from_slice(self.loader.dl.lib().as_bytes());
                    rest = &after[len..];
                }
                Some((_, len)) => {
                    out.extend_from_slice(self.loader.dl.platform().as_bytes());
                    rest = &after[len..];
                }
                None => {
                    out.push(b'$');
                    rest = after;
                }
            }
        }
        PathBuf::from(OsString::from_vec(out))
    }
}

impl State<'_> {
    fn note(&mut self, path: &str, via: Via, by: Option<String>, why: SearchedWhy) {
        if let Some(record) = self.record.as_deref_mut() {
            record.push(Searched { path: path.to_owned(), via: via.as_str().to_owned(), by, why });
        }
    }
}

/// `is_dst`: length of the token `name` at the start of `text` (after the dollar), or `None`.
fn token_length(text: &[u8], name: &str) -> Option<usize> {
    let (curly, text) = match text.strip_prefix(b"{") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let rest = text.strip_prefix(name.as_bytes())?;
    match rest.first() {
        Some(b'}') if curly => Some(name.len() + 2),
        _ if curly => None,
        Some(c) if c.is_ascii_alphanumeric() || *c == b'_' => None,
        _ => Some(name.len()),
    }
}

fn strip_slashes(path: PathBuf) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|&b| b != b'/').map_or(1, |i| i + 1);
    bytes_path(&bytes[..end.min(bytes.len())])
}

fn bytes_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// `strerror` of what kept a file from being opened.
pub(super) fn strerror(error: FileError) -> String {
    match error {
        FileError::Other(errno) => errno_text(errno),
        other => other.to_string(),
    }
}

fn errno_text(errno: Errno) -> String {
    match errno {
        Errno::MFILE => "Too many open files".into(),
        Errno::NFILE => "Too many open files in system".into(),
        Errno::IO => "Input/output error".into(),
        Errno::NODEV => "No such device".into(),
        other => format!("error {}", other.raw_os_error()),
    }
}
