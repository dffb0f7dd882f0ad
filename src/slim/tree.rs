//! Everything that is in the file system of an image, links not followed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

use crate::image::{EntryKind, FileId, Rootfs, Stat};

/// Index into [`Tree::nodes`].
pub type NodeId = usize;

/// One file, directory or link.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its path inside the image, without links.
    pub path: PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// Its own `stat`, links not followed.
    pub stat: Stat,
    /// Bytes that it adds: its size, or 0 for a second name of a file.
    pub bytes: u64,
}

/// The whole image. A directory stands before what is in it.
pub struct Tree {
    /// All of it.
    pub nodes: Vec<Node>,
    ids: FxHashMap<PathBuf, NodeId>,
    /// Directories that something else is mounted on, or that could not be read: their content is not part of it.
    pub not_seen: Vec<PathBuf>,
}

/// File systems of the kernel, and what a container gets anew: their content is never part of an image.
const NOT_OF_IMAGE: &[&str] = &["/proc", "/sys", "/dev", "/run"];

impl Tree {
    /// Walks the image, except for the directories of `without`.
    pub fn walk(rootfs: &Rootfs, without: &[PathBuf]) -> Self {
        let mut tree = Self { nodes: Vec::new(), ids: FxHashMap::default(), not_seen: Vec::new() };
        let mut seen: HashSet<FileId> = HashSet::new();
        let Ok(root) = rootfs.symlink_stat(Path::new("/")) else { return tree };
        tree.add(Node { path: PathBuf::from("/"), kind: EntryKind::Dir, stat: root, bytes: 0 });
        let mut open = vec![PathBuf::from("/")];
        while let Some(dir) = open.pop() {
            let Ok(entries) = rootfs.read_dir(&dir) else {
                tree.not_seen.push(dir);
                continue;
            };
            for entry in entries {
                let path = dir.join(&entry.name);
                if without.contains(&path) {
                    continue;
                }
                let Ok(stat) = rootfs.symlink_stat(&path) else { continue };
                let counts = entry.kind == EntryKind::File && seen.insert(stat.id);
                let bytes = if counts { stat.size } else { 0 };
                tree.add(Node { path: path.clone(), kind: entry.kind, stat, bytes });
                if entry.kind != EntryKind::Dir || NOT_OF_IMAGE.iter().any(|p| Path::new(p) == path) {
                    continue;
                }
                if stat.id.dev == root.id.dev {
                    open.push(path);
                } else {
                    tree.not_seen.push(path);
                }
            }
        }
        tree
    }

    fn add(&mut self, node: Node) {
        self.ids.insert(node.path.clone(), self.nodes.len());
        self.nodes.push(node);
    }

    /// What is at a path that holds no links.
    pub fn id(&self, path: &Path) -> Option<NodeId> {
        self.ids.get(path).copied()
    }

    /// Bytes of all of it.
    pub fn bytes(&self) -> u64 {
        self.nodes.iter().map(|n| n.bytes).sum()
    }
}
