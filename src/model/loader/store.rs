//! Every ELF file that was opened, once: the same file may be reached under many names.

use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use rustc_hash::FxHashMap;

use crate::image::elf::{Elf, HeaderError, Machine, VersionNames};
use crate::image::{Credentials, FileError, FileId, Rootfs};

/// An opened ELF file.
#[derive(Debug)]
pub struct ElfFile {
    /// Its contents.
    pub elf: Elf,
    /// Its identity.
    pub id: FileId,
    /// Size in bytes.
    pub size: u64,
    versions: OnceLock<VersionNames>,
}

impl ElfFile {
    /// Its version table.
    pub fn versions(&self) -> &VersionNames {
        self.versions.get_or_init(|| self.elf.version_names())
    }
}

/// Outcome of `open_verify` (`elf/dl-load.c`).
#[derive(Debug, Clone)]
pub enum Opened {
    /// An ELF file for this machine.
    Elf(Arc<ElfFile>),
    /// `open` failed.
    Failed(FileError),
    /// For another class; the search goes on, and is remembered for the message.
    OtherClass,
    /// For another processor; the search goes on.
    OtherMachine,
    /// The loader gives up with this message.
    Fatal(HeaderError),
    /// A directory, a FIFO or a device has the library's name.
    Special(FileError),
}

/// Cache of opened files.
pub struct ElfStore {
    rootfs: Rootfs,
    machine: Machine,
    user: Option<Credentials>,
    by_path: Mutex<FxHashMap<OsString, Opened>>,
    by_id: Mutex<FxHashMap<FileId, Opened>>,
    dirs: Mutex<FxHashMap<OsString, bool>>,
}

impl ElfStore {
    /// An empty store for files of `machine`, read as `user` (as root where there is none).
    pub fn new(rootfs: Rootfs, machine: Machine, user: Option<Credentials>) -> Self {
        Self { rootfs, machine, user, by_path: Mutex::default(), by_id: Mutex::default(), dirs: Mutex::default() }
    }

    /// Opens the file that `path` leads to.
    pub fn open(&self, path: &Path) -> Opened {
        if let Some(known) = lock(&self.by_path).get(path.as_os_str()) {
            return known.clone();
        }
        let opened = self.open_now(path);
        lock(&self.by_path).insert(path.into(), opened.clone());
        opened
    }

    /// Whether `path` leads to a directory; the loader remembers this too (`r_dir_status`).
    pub fn is_dir(&self, path: &Path) -> bool {
        if let Some(&known) = lock(&self.dirs).get(path.as_os_str()) {
            return known;
        }
        let is_dir = self.rootfs.is_dir(path);
        lock(&self.dirs).insert(path.into(), is_dir);
        is_dir
    }

    fn open_now(&self, path: &Path) -> Opened {
        if let Some(user) = &self.user
            && let Err(e) = user.may_read(&self.rootfs, path)
        {
            return Opened::Failed(e);
        }
        let (file, stat) = match self.rootfs.open(path) {
            Ok(opened) => opened,
            Err(e @ (FileError::Special | FileError::Directory)) => return Opened::Special(e),
            Err(e) => return Opened::Failed(e),
        };
        if let Some(known) = lock(&self.by_id).get(&stat.id) {
            return known.clone();
        }
        let opened = match file.map(stat.size) {
            Err(_) => Opened::Failed(FileError::Other(rustix::io::Errno::NODEV)),
            Ok(map) => match Elf::parse(map, self.machine) {
                Ok(elf) => {
                    Opened::Elf(Arc::new(ElfFile { elf, id: stat.id, size: stat.size, versions: OnceLock::new() }))
                }
                Err(HeaderError::Class) => Opened::OtherClass,
                Err(HeaderError::Machine) => Opened::OtherMachine,
                Err(e) => Opened::Fatal(e),
            },
        };
        lock(&self.by_id).insert(stat.id, opened.clone());
        opened
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
