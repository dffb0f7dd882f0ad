//! Every name of an image with what it occupies: directories walked in parallel, a `statx` for each entry.
//!
//! Counted as `du -x` counts: the blocks of everything that has some, a file with several names once, other file systems
//! not at all. What is mounted into a container (`/proc`, volumes, the driver's libraries) is not part of its image.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

use super::{EntryKind, FileError, FileId, Rootfs};
use crate::parallel;

/// Directories entered before the rest is left out.
const MAX_DIRS: usize = 500_000;

/// What an entry of a directory is, as `statx(2)` says, links not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name without directory.
    pub name: OsString,
    /// Type.
    pub kind: EntryKind,
    /// `stx_mode`, type bits included.
    pub mode: u32,
    /// Number of names.
    pub links: u32,
    /// Size in bytes.
    pub size: u64,
    /// Bytes occupied: blocks of 512 bytes.
    pub allocated: u64,
    /// Identity.
    pub id: FileId,
    /// Whether another file system is mounted here.
    pub is_mount: bool,
}

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dir {
    /// Its path in the image, which holds no link.
    pub path: PathBuf,
    /// Index of the directory that holds it; the root's own.
    pub parent: usize,
    /// `stx_mode`
    pub mode: u32,
    /// Bytes that it occupies itself.
    pub allocated: u64,
    /// Where its files lie among all files.
    pub files: std::ops::Range<usize>,
}

/// Anything but a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Index of its directory.
    pub dir: usize,
    /// What the file system says.
    pub entry: Entry,
    /// Whether its bytes count here: a file with several names counts at the first of them.
    pub counted: bool,
}

impl File {
    /// Bytes occupied, none at the second name of a file.
    pub fn bytes(&self) -> u64 {
        if self.counted { self.entry.allocated } else { 0 }
    }
}

/// All names of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// A directory stands before those that it holds.
    pub dirs: Vec<Dir>,
    /// Those of one directory stand together, sorted by name.
    pub files: Vec<File>,
    /// Directories that could not be read, and why.
    pub unread: Vec<(PathBuf, String)>,
    /// Where other file systems are mounted.
    pub mounts: Vec<PathBuf>,
    by_path: FxHashMap<PathBuf, usize>,
    /// How many names in the image a file has that has more than one anywhere.
    names: FxHashMap<FileId, u32>,
}

impl Tree {
    /// Walks the whole image.
    ///
    /// # Errors
    /// The root itself cannot be read.
    pub fn walk(rootfs: &Rootfs) -> Result<Self, FileError> {
        let root = rootfs.root_entry()?;
        let mut tree = Self::default();
        tree.add_dir(PathBuf::from("/"), 0, &root);
        let mut level = 0..1;
        while !level.is_empty() {
            let start = tree.dirs.len();
            let sorted = |dir: &Dir| {
                let mut entries = rootfs.entries(&dir.path)?;
                entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
                Ok(entries)
            };
            let listed = parallel::map(&tree.dirs[level.clone()], sorted);
            tree.files.reserve(listed.iter().flatten().map(Vec::len).sum());
            for (dir, listed) in level.zip(listed) {
                match listed {
                    Ok(entries) => tree.add_entries(dir, root.id.dev, entries),
                    // It was removed meanwhile.
                    Err(FileError::NotFound) => {}
                    Err(e) => tree.unread.push((tree.dirs[dir].path.clone(), e.to_string())),
                }
            }
            level = start..tree.dirs.len();
        }
        Ok(tree)
    }

    fn add_dir(&mut self, path: PathBuf, parent: usize, entry: &Entry) {
        self.by_path.insert(path.clone(), self.dirs.len());
        self.dirs.push(Dir { path, parent, mode: entry.mode, allocated: entry.allocated, files: 0..0 });
    }

    fn add_entries(&mut self, dir: usize, dev: u64, entries: Vec<Entry>) {
        let start = self.files.len();
        for entry in entries {
            let path = || self.dirs[dir].path.join(&entry.name);
            if entry.is_mount || (entry.kind == EntryKind::Dir && entry.id.dev != dev) {
                self.mounts.push(path());
            } else if entry.kind == EntryKind::Dir {
                let path = path();
                if self.dirs.len() < MAX_DIRS {
                    self.add_dir(path, dir, &entry);
                } else {
                    self.unread.push((path, format!("more than {MAX_DIRS} directories")));
                }
            } else {
                let counted = entry.links < 2 || {
                    let names = self.names.entry(entry.id).or_default();
                    *names += 1;
                    *names == 1
                };
                self.files.push(File { dir, entry, counted });
            }
        }
        self.dirs[dir].files = start..self.files.len();
    }

    /// The path of a file.
    pub fn path(&self, file: usize) -> PathBuf {
        let file = &self.files[file];
        self.dirs[file.dir].path.join(&file.entry.name)
    }

    /// The directory at a path that holds no link.
    pub fn dir(&self, path: &Path) -> Option<usize> {
        self.by_path.get(path).copied()
    }

    /// The file of this name in a directory.
    pub fn file_in(&self, dir: usize, name: &[u8]) -> Option<usize> {
        let range = self.dirs[dir].files.clone();
        let found = self.files[range.clone()].binary_search_by(|f| f.entry.name.as_encoded_bytes().cmp(name)).ok()?;
        Some(range.start + found)
    }

    /// The file at a path whose directory holds no link.
    pub fn file_at(&self, path: &Path) -> Option<usize> {
        self.file_in(self.dir(path.parent()?)?, path.file_name()?.as_encoded_bytes())
    }

    /// The directory itself and all below it.
    pub fn below(&self, dir: usize) -> Vec<usize> {
        let mut inside = vec![false; self.dirs.len()];
        inside[dir] = true;
        for at in dir + 1..self.dirs.len() {
            inside[at] = inside[self.dirs[at].parent];
        }
        (dir..self.dirs.len()).filter(|at| inside[*at]).collect()
    }

    /// Bytes of each directory with all that it holds.
    pub fn totals(&self) -> Vec<u64> {
        let mut totals: Vec<u64> = self
            .dirs
            .iter()
            .map(|d| d.allocated + self.files[d.files.clone()].iter().map(File::bytes).sum::<u64>())
            .collect();
        for at in (1..totals.len()).rev() {
            totals[self.dirs[at].parent] += totals[at];
        }
        totals
    }

    /// Bytes occupied, as `du -sx --block-size=1` tells.
    pub fn allocated(&self) -> u64 {
        self.dirs.iter().map(|d| d.allocated).chain(self.files.iter().map(File::bytes)).sum()
    }

    /// Bytes in files and links, as `du -sx --apparent-size --block-size=1` tells since coreutils 9.2; before, it added
    /// what the file system says is the size of a directory.
    pub fn apparent(&self) -> u64 {
        self.files
            .iter()
            .filter(|f| f.counted && matches!(f.entry.kind, EntryKind::File | EntryKind::Link))
            .map(|f| f.entry.size)
            .sum()
    }

    /// Bytes that removing these files takes from the image: a file is gone with the last of its names there.
    pub fn freed(&self, files: impl IntoIterator<Item = usize>) -> u64 {
        let mut names: FxHashMap<FileId, u32> = FxHashMap::default();
        let mut bytes = 0;
        for at in files {
            let entry = &self.files[at].entry;
            let gone = match self.names.get(&entry.id) {
                None => true,
                Some(all) => {
                    let removed = names.entry(entry.id).or_default();
                    *removed += 1;
                    *removed == *all
                }
            };
            if gone {
                bytes += entry.allocated;
            }
        }
        bytes
    }
}
