//! Confined access to the file system of an image.
//!
//! The image may be this container's own `/`, or a directory or archive given with `--root`. A path inside the image may pass
//! through symbolic links, absolute links and `..`; none of them may lead outside the root, none may loop for ever,
//! and nothing but a regular file may ever be opened (opening a FIFO blocks, opening a device has effects).
//!
//! Links are resolved here, one component at a time, with the kernel's own limits (`fs/namei.c`: 40 links,
//! `PATH_MAX` 4096), because the answer "which file is this really, and through which link" is itself evidence and
//! because `/proc` may be missing. The resolved path holds no link any more; it is then opened with
//! `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)` where the kernel has that call, so that a tree that changes under
//! our hands cannot redirect us either, and with `openat(O_NOFOLLOW)` where it has not (before 5.6, gVisor).

use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustc_hash::{FxHashMap, FxHashSet};
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, StatVfs, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use serde::{Deserialize, Serialize};

use super::archive::{self, ArchiveError, Config, Layers, Tree};
use super::map::Mapping;
use super::tree::Entry;
use crate::parallel;

/// Symbolic links followed for one path before it counts as a loop (`MAXSYMLINKS` in the kernel's `fs/namei.c`).
const MAX_LINKS: u32 = 40;
/// Longest path in bytes, terminating NUL included (`PATH_MAX`).
const PATH_MAX: usize = 4096;
/// Directory entries read from one directory before the rest is left out.
const MAX_DIR_ENTRIES: usize = 200_000;
/// Entries of a directory that one thread looks at in one go.
const ENTRIES_AT_ONCE: usize = 256;

/// Why a path could not be used. These are observations about the image, not failures of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FileError {
    /// A component does not exist, or one that should be a directory is not (`ENOENT`, `ENOTDIR`).
    #[error("No such file or directory")]
    NotFound,
    /// `EACCES` or `EPERM`.
    #[error("Permission denied")]
    Denied,
    /// More than 40 symbolic links (`ELOOP`).
    #[error("Too many levels of symbolic links")]
    Loop,
    /// Longer than `PATH_MAX`, or one component longer than 255 bytes (`ENAMETOOLONG`).
    #[error("File name too long")]
    TooLong,
    /// A FIFO, socket or device; never opened.
    #[error("not a regular file")]
    Special,
    /// A directory where a file was asked for (`EISDIR`).
    #[error("Is a directory")]
    Directory,
    /// Larger than the limit that the caller gave.
    #[error("file too large")]
    TooLarge,
    /// Any other error, by its number.
    #[error("{0}")]
    Other(Errno),
}

impl From<Errno> for FileError {
    fn from(e: Errno) -> Self {
        match e {
            Errno::NOENT | Errno::NOTDIR => Self::NotFound,
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::LOOP => Self::Loop,
            Errno::NAMETOOLONG => Self::TooLong,
            Errno::ISDIR => Self::Directory,
            other => Self::Other(other),
        }
    }
}

/// Device and inode number: glibc's notion of "the same file" (`_dl_map_object_from_fd`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// `st_dev`
    pub dev: u64,
    /// `st_ino`
    pub ino: u64,
}

/// What `stat` says of a file, links followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Identity of the file.
    pub id: FileId,
    /// `st_mode`, type bits included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Modification time in seconds since the epoch.
    pub mtime: i64,
    /// Device number, of a device.
    pub rdev: u64,
}

/// Identity and age of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    dev: u64,
    ino: u64,
    size: i64,
    /// `st_ctime`, which nobody can set back, in seconds and nanoseconds since the epoch.
    changed: (u64, u32),
    /// `st_mode`
    mode: u32,
}

impl Stamp {
    /// Whether anything was changed since `time`.
    pub fn is_since(&self, time: SystemTime) -> bool {
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(self.changed.0, self.changed.1)).is_none_or(|at| at >= time)
    }

    /// A directory where everybody leaves things, such as `/tmp`: that it changes tells nothing.
    pub fn is_sticky(&self) -> bool {
        rustix::fs::Mode::from_raw_mode(self.mode).contains(rustix::fs::Mode::SVTX)
    }
}

impl From<rustix::fs::Stat> for Stamp {
    fn from(s: rustix::fs::Stat) -> Self {
        Self {
            dev: s.st_dev,
            ino: s.st_ino,
            size: s.st_size,
            changed: (u64::try_from(s.st_ctime).unwrap_or(0), u32::try_from(s.st_ctime_nsec).unwrap_or(0)),
            mode: s.st_mode,
        }
    }
}

impl Stat {
    /// One in an archive, which has no other identity than its place there.
    pub(super) fn of_tree(kind: FileType, mode: u32) -> Self {
        let id = FileId { dev: 0, ino: 0 };
        Self { id, mode: kind.as_raw_mode() | mode, uid: 0, gid: 0, size: 0, mtime: 0, rdev: 0 }
    }

    /// Takes over what an entry of an archive says.
    pub(super) fn set(&mut self, entry: &super::tar::Entry) {
        self.mode = self.file_type().as_raw_mode() | entry.mode;
        (self.uid, self.gid, self.mtime) = (entry.uid, entry.gid, entry.mtime);
        self.size = if entry.kind == super::tar::Kind::Symlink { entry.link.len() as u64 } else { entry.size };
    }

    fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }
    /// A regular file.
    pub fn is_file(&self) -> bool {
        self.file_type() == FileType::RegularFile
    }
    /// A directory.
    pub fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }
    /// Any of the three execute bits is set.
    pub fn is_executable(&self) -> bool {
        self.mode & 0o111 != 0
    }
}

impl From<rustix::fs::Stat> for Stat {
    fn from(s: rustix::fs::Stat) -> Self {
        Self {
            id: FileId { dev: s.st_dev, ino: s.st_ino },
            mode: s.st_mode,
            uid: s.st_uid,
            gid: s.st_gid,
            size: s.st_size.max(0) as u64,
            mtime: s.st_mtime,
            rdev: s.st_rdev,
        }
    }
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Name without directory.
    pub name: OsString,
    /// Type of the entry itself, links not followed.
    pub kind: EntryKind,
}

/// Type of a directory entry, links not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Link,
    /// Anything else.
    Special,
}

/// What a name in a directory is, links not followed.
enum Node {
    Link(PathBuf),
    Other(Stat),
}

/// The confined file system. Cheap to clone; all methods take `&self`.
#[derive(Clone)]
pub struct Rootfs {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Rootfs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Rootfs").field(&self.inner.outside).finish()
    }
}

/// Where the files are.
enum Source {
    Directory {
        root: OwnedFd,
        /// Whether the root is the process's own `/`.
        is_host: bool,
    },
    Archive(Box<Tree>, Option<Config>),
}

/// A regular file that was opened.
pub enum Opened {
    /// Of a directory.
    File(OwnedFd),
    /// Of an archive.
    Mapped(Mapping),
}

impl Opened {
    /// Maps its `size` bytes.
    ///
    /// # Errors
    /// As `mmap(2)`.
    pub fn map(self, size: u64) -> std::io::Result<Mapping> {
        match self {
            Self::File(fd) => Mapping::new(fd, size),
            Self::Mapped(mapping) => Ok(mapping),
        }
    }

    fn read_all(self, stat: Stat, limit: u64, data: &mut Vec<u8>) -> Result<(), FileError> {
        match self {
            Self::File(fd) => read_all(&fd, stat, limit, data),
            Self::Mapped(_) if stat.size > limit => Err(FileError::TooLarge),
            Self::Mapped(mapping) => {
                data.clear();
                data.extend_from_slice(&mapping);
                Ok(())
            }
        }
    }
}

struct Inner {
    /// The root as given, for messages about the root itself only.
    outside: PathBuf,
    source: Source,
    /// Directory path as asked → directory path without links.
    dirs: Mutex<FxHashMap<OsString, Result<PathBuf, FileError>>>,
    /// Files that were opened and directories that were listed, by their paths without links.
    looked_at: Mutex<FxHashSet<PathBuf>>,
}

impl Rootfs {
    /// Opens `root`, a directory outside the image.
    ///
    /// # Errors
    /// The directory does not exist, is not a directory or may not be searched.
    pub fn open_root(root: &Path) -> Result<Self, FileError> {
        let fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self {
            inner: Arc::new(Inner {
                outside: root.to_owned(),
                source: Source::Directory { root: fd, is_host: root == Path::new("/") },
                dirs: Mutex::new(FxHashMap::default()),
                looked_at: Mutex::new(FxHashSet::default()),
            }),
        })
    }

    /// Opens an image outside: a directory, or an archive as [`super::archive`] reads it.
    ///
    /// # Errors
    /// It is none, or may not be read.
    pub fn open_image(path: &Path) -> Result<Self, ArchiveError> {
        if path.is_file() || archive::is_layout(path) {
            let (tree, config) = archive::open(path)?;
            return Ok(Self::of_tree(path, tree, config));
        }
        Ok(Self::open_root(path)?)
    }

    pub(super) fn of_tree(outside: &Path, tree: Tree, config: Option<Config>) -> Self {
        Self {
            inner: Arc::new(Inner {
                outside: outside.to_owned(),
                source: Source::Archive(Box::new(tree), config),
                dirs: Mutex::new(FxHashMap::default()),
                looked_at: Mutex::new(FxHashSet::default()),
            }),
        }
    }

    /// How the image is started, where an archive says it.
    pub fn config(&self) -> Option<&Config> {
        match &self.inner.source {
            Source::Archive(_, config) => config.as_ref(),
            Source::Directory { .. } => None,
        }
    }

    /// What the layers of an archive hide.
    pub fn layers(&self) -> Option<&Layers> {
        match &self.inner.source {
            Source::Archive(tree, _) => Some(tree.layers()),
            Source::Directory { .. } => None,
        }
    }

    /// Whether this is the root of the running process, so that paths mean the same inside and outside.
    pub fn is_host(&self) -> bool {
        matches!(self.inner.source, Source::Directory { is_host: true, .. })
    }

    /// The root directory as it was given.
    pub fn outside(&self) -> &Path {
        &self.inner.outside
    }

    /// The absolute path without links, `.` or `..` that `path` names inside the image, and that exists.
    ///
    /// # Errors
    /// As `realpath(3)`.
    pub fn canonicalize(&self, path: &Path) -> Result<PathBuf, FileError> {
        let (resolved, stat) = self.resolve(path)?;
        stat.map(|_| resolved).ok_or(FileError::NotFound)
    }

    /// The path whose directory part holds no link, while the last component may be one.
    ///
    /// # Errors
    /// As for [`Rootfs::canonicalize`]; the last component need not exist.
    pub fn canonicalize_parent(&self, path: &Path) -> Result<PathBuf, FileError> {
        match path.components().next_back() {
            Some(Component::Normal(name)) => {
                let parent = path.parent().unwrap_or(Path::new("/"));
                Ok(self.resolve_dir(parent, &mut { MAX_LINKS })?.join(name))
            }
            _ => self.resolve_dir(path, &mut { MAX_LINKS }),
        }
    }

    /// `stat(2)`: links are followed.
    ///
    /// # Errors
    /// As `stat(2)`.
    pub fn stat(&self, path: &Path) -> Result<Stat, FileError> {
        self.resolve(path)?.1.ok_or(FileError::NotFound)
    }

    /// `stat(2)` of the name itself, a link not followed in the last component.
    ///
    /// # Errors
    /// As `lstat(2)`.
    pub fn symlink_stat(&self, path: &Path) -> Result<Stat, FileError> {
        self.lstat(&self.canonicalize_parent(path)?)
    }

    /// Whether `path` leads to something that exists.
    pub fn exists(&self, path: &Path) -> bool {
        self.stat(path).is_ok()
    }

    /// Whether `path` leads to a regular file.
    pub fn is_file(&self, path: &Path) -> bool {
        self.stat(path).is_ok_and(|s| s.is_file())
    }

    /// Whether `path` leads to a directory.
    pub fn is_dir(&self, path: &Path) -> bool {
        self.stat(path).is_ok_and(|s| s.is_dir())
    }

    /// Target of the symbolic link `path`, as written.
    ///
    /// # Errors
    /// As `readlink(2)`; `Other(EINVAL)` if it is not a link.
    pub fn read_link(&self, path: &Path) -> Result<PathBuf, FileError> {
        self.target(&self.canonicalize_parent(path)?)
    }

    fn target(&self, resolved: &Path) -> Result<PathBuf, FileError> {
        match &self.inner.source {
            Source::Directory { root, .. } => {
                let target = rustix::fs::readlinkat(root, relative(resolved), Vec::new())?;
                Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
            }
            Source::Archive(tree, _) => tree.read_link(resolved)?.ok_or(FileError::Other(Errno::INVAL)),
        }
    }

    /// Opens a regular file for reading and tells its `stat`. Never blocks on a FIFO and never opens a device.
    ///
    /// # Errors
    /// As `open(2)`; [`FileError::Special`] or [`FileError::Directory`] for what is not a regular file.
    pub fn open(&self, path: &Path) -> Result<(Opened, Stat), FileError> {
        let (resolved, stat) = self.resolve(path)?;
        match stat.ok_or(FileError::NotFound)?.file_type() {
            FileType::RegularFile => {}
            FileType::Directory => return Err(FileError::Directory),
            _ => return Err(FileError::Special),
        }
        let opened = self.open_resolved(&resolved)?;
        self.look_at(resolved);
        Ok(opened)
    }

    fn open_resolved(&self, resolved: &Path) -> Result<(Opened, Stat), FileError> {
        if let Source::Archive(tree, _) = &self.inner.source {
            return Ok((Opened::Mapped(tree.map(resolved)?), tree.lstat(resolved)?));
        }
        // O_NONBLOCK: a name that turned into a FIFO since must not block us.
        let fd = self.open_at(resolved, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = Stat::from(rustix::fs::fstat(&fd)?);
        if stat.is_file() { Ok((Opened::File(fd), stat)) } else { Err(FileError::Special) }
    }

    /// Maps a regular file read-only. An empty file gives an empty mapping.
    ///
    /// # Errors
    /// As [`Rootfs::open`].
    pub fn map(&self, path: &Path) -> Result<(Mapping, Stat), FileError> {
        let (file, stat) = self.open(path)?;
        let mapping = file.map(stat.size).map_err(|_| FileError::Other(Errno::NODEV))?;
        Ok((mapping, stat))
    }

    /// Reads a regular file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Rootfs::open`]; [`FileError::TooLarge`] beyond the limit.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
        let mut data = Vec::new();
        self.read_into(path, limit, &mut data)?;
        Ok(data)
    }

    fn read_into(&self, path: &Path, limit: u64, data: &mut Vec<u8>) -> Result<(), FileError> {
        let (file, stat) = self.open(path)?;
        file.read_all(stat, limit, data)
    }

    /// Reads the regular file `name` of a directory whose path holds no link, as [`Rootfs::canonicalize`] gives it, into
    /// `data`. Saves looking at each part of the path where many files of one directory are read.
    ///
    /// # Errors
    /// As [`Rootfs::read`].
    pub fn read_in(&self, dir: &Path, name: &str, limit: u64, data: &mut Vec<u8>) -> Result<(), FileError> {
        let path = dir.join(name);
        match self.open_resolved(&path) {
            Err(FileError::Loop) => self.read_into(&path, limit, data), // It is a link.
            opened => {
                let (file, stat) = opened?;
                file.read_all(stat, limit, data)
            }
        }
    }

    /// Reads regular files of one directory whose path holds no link, and gives each to `use_it`, by its number. A link is
    /// not followed. What cannot be read is left out.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn read_files<'n>(
        &self,
        dir: &Path,
        names: impl Iterator<Item = (usize, &'n OsStr)>,
        limit: u64,
        mut use_it: impl FnMut(usize, &[u8]),
    ) -> Result<(), FileError> {
        let dir = self.open_at(dir, OFlags::PATH | OFlags::DIRECTORY)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut data = Vec::new();
        for (number, name) in names {
            let Ok(fd) = rustix::fs::openat(&dir, name, flags, Mode::empty()) else { continue };
            let Ok(stat) = rustix::fs::fstat(&fd).map(Stat::from) else { continue };
            if stat.is_file() && read_all(&fd, stat, limit, &mut data).is_ok() {
                use_it(number, &data);
            }
        }
        Ok(())
    }

    /// Reads a file as text; bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// As [`Rootfs::read`].
    pub fn read_text(&self, path: &Path, limit: u64) -> Result<String, FileError> {
        Ok(String::from_utf8_lossy(&self.read(path, limit)?).into_owned())
    }

    /// Entries of a directory, sorted by name, without `.` and `..`.
    ///
    /// # Errors
    /// As `opendir(3)`.
    pub fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>, FileError> {
        let mut entries = self.read_dir_unsorted(path)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Entries of a directory in the order in which the file system has them, which is what `glob.glob` in Python
    /// gives.
    ///
    /// # Errors
    /// As `opendir(3)`.
    pub fn read_dir_unsorted(&self, path: &Path) -> Result<Vec<DirEntry>, FileError> {
        let (resolved, _) = self.resolve(path)?;
        if let Source::Archive(tree, _) = &self.inner.source {
            return tree.read_dir(&resolved);
        }
        let fd = self.open_at(&resolved, OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.look_at(resolved.clone());
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::new(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let name = OsStr::from_bytes(name).to_owned();
            let kind = match entry.file_type() {
                FileType::RegularFile => EntryKind::File,
                FileType::Directory => EntryKind::Dir,
                FileType::Symlink => EntryKind::Link,
                FileType::Unknown => match self.lstat(&resolved.join(&name)).map(|s| s.file_type()) {
                    Ok(FileType::RegularFile) => EntryKind::File,
                    Ok(FileType::Directory) => EntryKind::Dir,
                    Ok(FileType::Symlink) => EntryKind::Link,
                    _ => EntryKind::Special,
                },
                _ => EntryKind::Special,
            };
            entries.push(DirEntry { name, kind });
            if entries.len() >= MAX_DIR_ENTRIES {
                break;
            }
        }
        Ok(entries)
    }

    fn look_at(&self, resolved: PathBuf) {
        self.inner.looked_at.lock().unwrap_or_else(PoisonError::into_inner).insert(resolved);
    }

    /// Everything that was looked at so far: directories, in which something may appear or be lost, and files that were
    /// opened, but for Python's sources, of which many are read and none is changed in place.
    /// Paths hold no links.
    pub fn looked_at(&self) -> Vec<PathBuf> {
        let mut paths: FxHashSet<PathBuf> = self.lock().values().filter_map(|dir| dir.as_ref().ok()).cloned().collect();
        paths.extend(self.inner.looked_at.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        paths.into_iter().collect()
    }

    /// What changes when a file or the list of a directory's names does, of a path without links.
    ///
    /// # Errors
    /// As `lstat(2)`.
    pub fn stamp(&self, resolved: &Path) -> Result<Stamp, FileError> {
        // An archive is one file: what is in it does not change by itself.
        let Source::Directory { root, .. } = &self.inner.source else { return Err(FileError::NotFound) };
        Ok(Stamp::from(rustix::fs::statat(root, relative(resolved), AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// Whether this process may make something in a directory, by the kernel's own word: `faccessat(2)`, which sees access
    /// control lists, capabilities, user namespaces and read-only mounts. Nothing is written.
    ///
    /// # Errors
    /// `EROFS`, `EACCES`, or why the path leads nowhere.
    pub fn may_create_in(&self, dir: &Path) -> Result<(), FileError> {
        let (resolved, _) = self.resolve(dir)?;
        let wanted = Access::WRITE_OK | Access::EXEC_OK;
        // Nobody writes to an archive.
        let Source::Directory { root, .. } = &self.inner.source else { return Err(FileError::Other(Errno::ROFS)) };
        Ok(rustix::fs::accessat(root, relative(&resolved), wanted, AtFlags::empty())?)
    }

    /// The file system that holds a path, as it is mounted: `fstatvfs(3)`.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn file_system(&self, path: &Path) -> Result<StatVfs, FileError> {
        let (resolved, _) = self.resolve(path)?;
        Ok(rustix::fs::fstatvfs(self.open_at(&resolved, OFlags::PATH)?)?)
    }

    /// What the root directory itself occupies.
    ///
    /// # Errors
    /// As `statx(2)`.
    pub fn root_entry(&self) -> Result<Entry, FileError> {
        match &self.inner.source {
            Source::Directory { root, .. } => Ok(entry(root, OsStr::new("."))?),
            Source::Archive(tree, _) => Ok(tree.root_entry()),
        }
    }

    /// Entries of a directory whose path holds no link, each with what `statx(2)` says of it, in the order in which the
    /// file system has them. An entry that is gone by then is left out.
    ///
    /// # Errors
    /// As `opendir(3)`.
    pub fn entries(&self, resolved: &Path) -> Result<Vec<Entry>, FileError> {
        if let Source::Archive(tree, _) = &self.inner.source {
            return tree.entries(resolved);
        }
        let fd = self.open_at(resolved, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
        let mut listing = RawDir::new(&fd, &mut buffer);
        let mut names = Vec::new();
        while let Some(next) = listing.next() {
            let next = next?;
            let name = next.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        // A directory of thousands of headers would otherwise be the work of one processor.
        let parts: Vec<&[OsString]> = names.chunks(ENTRIES_AT_ONCE).collect();
        let read = |part: &&[OsString]| part.iter().map(|name| entry(&fd, name)).collect::<Vec<_>>();
        let mut entries = Vec::with_capacity(names.len());
        for entry in parallel::map(&parts, read).into_iter().flatten() {
            match entry {
                Err(Errno::NOENT) => {}
                read => entries.push(read?),
            }
        }
        Ok(entries)
    }

    fn open_at(&self, resolved: &Path, flags: OFlags) -> Result<OwnedFd, FileError> {
        let Source::Directory { root, is_host } = &self.inner.source else { return Err(FileError::NotFound) };
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let relative = relative(resolved);
        if !is_host {
            let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(root, relative, flags, Mode::empty(), how) {
                // Kernels before 5.6 have no openat2; some seccomp profiles answer EPERM for calls that they do not know.
                Err(Errno::NOSYS | Errno::PERM) => {}
                done => return Ok(done?),
            }
        }
        Ok(rustix::fs::openat(root.as_fd(), relative, flags, Mode::empty())?)
    }

    fn lstat(&self, resolved: &Path) -> Result<Stat, FileError> {
        match &self.inner.source {
            Source::Directory { root, .. } => {
                Ok(rustix::fs::statat(root, relative(resolved), AtFlags::SYMLINK_NOFOLLOW)?.into())
            }
            Source::Archive(tree, _) => tree.lstat(resolved),
        }
    }

    fn node(&self, resolved: &Path) -> Result<Node, FileError> {
        let stat = self.lstat(resolved)?;
        if stat.file_type() != FileType::Symlink {
            return Ok(Node::Other(stat));
        }
        Ok(Node::Link(self.target(resolved)?))
    }

    /// Follows all links. A path whose last component does not exist resolves, without a `stat`.
    fn resolve(&self, path: &Path) -> Result<(PathBuf, Option<Stat>), FileError> {
        self.resolve_bounded(path, &mut { MAX_LINKS })
    }

    fn resolve_bounded(&self, path: &Path, links: &mut u32) -> Result<(PathBuf, Option<Stat>), FileError> {
        if path.as_os_str().len() >= PATH_MAX {
            return Err(FileError::TooLong);
        }
        let Some(Component::Normal(name)) = path.components().next_back() else {
            let dir = self.resolve_dir(path, links)?;
            let stat = self.lstat(&dir)?;
            return Ok((dir, Some(stat)));
        };
        let parent = self.resolve_dir(path.parent().unwrap_or(Path::new("/")), links)?;
        let here = parent.join(name);
        match self.node(&here) {
            Ok(Node::Link(target)) => {
                *links = links.checked_sub(1).ok_or(FileError::Loop)?;
                self.resolve_bounded(&parent.join(target), links)
            }
            Ok(Node::Other(stat)) => Ok((here, Some(stat))),
            Err(FileError::NotFound) => Ok((here, None)),
            Err(e) => Err(e),
        }
    }

    /// The link-free path of a directory; remembered, as the same few directories are asked for again and again.
    fn resolve_dir(&self, path: &Path, links: &mut u32) -> Result<PathBuf, FileError> {
        if matches!(path.as_os_str().as_bytes(), b"" | b"/") {
            return Ok(PathBuf::from("/"));
        }
        if let Some(known) = self.lock().get(path.as_os_str()) {
            return known.clone();
        }
        let answer = self.resolve_dir_now(path, links);
        // A loop found deep inside another walk depends on the links already spent; do not remember it for others.
        if !matches!(answer, Err(FileError::Loop)) {
            self.lock().insert(path.into(), answer.clone());
        }
        answer
    }

    fn resolve_dir_now(&self, path: &Path, links: &mut u32) -> Result<PathBuf, FileError> {
        let (parent, last) = match path.components().next_back() {
            Some(last) => (path.parent().unwrap_or(Path::new("/")), last),
            None => return Ok(PathBuf::from("/")),
        };
        match last {
            Component::RootDir | Component::Prefix(_) => Ok(PathBuf::from("/")),
            Component::CurDir => self.resolve_dir(parent, links),
            Component::ParentDir => {
                let mut up = self.resolve_dir(parent, links)?;
                up.pop(); // the parent of "/" is "/"
                Ok(up)
            }
            Component::Normal(name) => {
                let parent = self.resolve_dir(parent, links)?;
                let here = parent.join(name);
                match self.node(&here)? {
                    Node::Link(target) => {
                        *links = links.checked_sub(1).ok_or(FileError::Loop)?;
                        let (dir, stat) = self.resolve_bounded(&parent.join(target), links)?;
                        stat.map(|_| dir).ok_or(FileError::NotFound)
                    }
                    Node::Other(_) => Ok(here),
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, FxHashMap<OsString, Result<PathBuf, FileError>>> {
        self.inner.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `statx` where the kernel and the container's seccomp profile have it, else `fstatat`, which tells of no mounts.
fn entry(dir: &OwnedFd, name: &OsStr) -> Result<Entry, Errno> {
    let kind = |mode| match FileType::from_raw_mode(mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Dir,
        FileType::Symlink => EntryKind::Link,
        _ => EntryKind::Special,
    };
    let own_name = name.to_owned();
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS) {
        Ok(s) => Ok(Entry {
            name: own_name,
            kind: kind(s.stx_mode.into()),
            mode: s.stx_mode.into(),
            links: s.stx_nlink,
            size: s.stx_size,
            allocated: s.stx_blocks * 512,
            id: FileId { dev: rustix::fs::makedev(s.stx_dev_major, s.stx_dev_minor), ino: s.stx_ino },
            is_mount: s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        }),
        Err(Errno::NOSYS | Errno::PERM) => {
            let s = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(Entry {
                name: own_name,
                kind: kind(s.st_mode),
                mode: s.st_mode,
                links: s.st_nlink as u32,
                size: s.st_size.max(0) as u64,
                allocated: s.st_blocks.max(0) as u64 * 512,
                id: FileId { dev: s.st_dev, ino: s.st_ino },
                is_mount: false,
            })
        }
        Err(e) => Err(e),
    }
}

fn read_all(fd: &OwnedFd, stat: Stat, limit: u64, data: &mut Vec<u8>) -> Result<(), FileError> {
    if stat.size > limit {
        return Err(FileError::TooLarge);
    }
    // Files below /proc have size 0: read until the end, but never more than the limit.
    let size = stat.size as usize;
    data.clear();
    data.reserve(if size == 0 { 4096 } else { size });
    loop {
        if data.len() == data.capacity() {
            data.reserve(64 * 1024);
        }
        match rustix::io::read(fd, rustix::buffer::spare_capacity(data)) {
            Ok(0) => return Ok(()),
            Ok(_) if size > 0 && data.len() >= size => return Ok(()),
            Ok(_) if data.len() as u64 > limit => return Err(FileError::TooLarge),
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// A resolved absolute path as `*at` calls below the root want it.
fn relative(resolved: &Path) -> &Path {
    let bytes = resolved.as_os_str().as_bytes();
    match bytes.iter().position(|b| *b != b'/') {
        Some(start) => Path::new(OsStr::from_bytes(&bytes[start..])),
        None => Path::new("."),
    }
}
