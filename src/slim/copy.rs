//! Putting down what stays: complete or not at all.
//!
//! The tree grows under another name and gets its own when it is complete. A file is shared with the image where that is
//! possible, by a reflink or else by a hard link, and copied otherwise. Mode, owner, time and extended attributes (among them
//! file capabilities) are kept as far as the user may set them.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use rustix::fs::{AtFlags, CWD, Gid, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};

use super::Plan;
use super::tree::Node;
use crate::image::{EntryKind, FileId, Rootfs};

/// What a copy cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of files that share their content with the image.
    pub shared: u64,
    /// Bytes that were copied.
    pub copied: u64,
    /// Owners and extended attributes that could not be set.
    pub not_set: u64,
}

/// Largest list or value of extended attributes (`XATTR_LIST_MAX`).
const MAX_XATTR: usize = 64 * 1024;

/// Copies what stays to `to`, which must not exist or be an empty directory. `tell` hears of bytes done.
///
/// # Errors
/// What could not be made; then nothing is left behind.
pub fn copy(plan: &Plan, rootfs: &Rootfs, to: &Path, mut tell: impl FnMut(u64)) -> io::Result<Copied> {
    let is_empty = |dir: &Path| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    if to.symlink_metadata().is_ok() && !is_empty(to) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there already", to.display())));
    }
    let partial = partial(to);
    if partial.symlink_metadata().is_ok() {
        let why = format!("{} is there, perhaps of a run that was killed: remove it", partial.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    let made = fill(plan, rootfs, &partial, &mut tell).and_then(|copied| {
        fs::rename(&partial, to)?;
        Ok(copied)
    });
    if made.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    made
}

/// The name that a tree has until it is complete.
pub fn partial(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

fn fill(plan: &Plan, rootfs: &Rootfs, to: &Path, tell: &mut impl FnMut(u64)) -> io::Result<Copied> {
    let mut copied = Copied::default();
    let mut names: FxHashMap<FileId, PathBuf> = FxHashMap::default();
    let inside = |path: &Path| path.strip_prefix("/").unwrap_or(path).to_owned();
    let context = |path: &Path, e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    fs::create_dir_all(to)?;
    let mut done = 0;
    for node in plan.kept() {
        let (from, target) = (rootfs.outside().join(inside(&node.path)), to.join(inside(&node.path)));
        match node.kind {
            EntryKind::Dir if target == to || node.path == Path::new("/") => {}
            EntryKind::Dir => fs::create_dir(&target).map_err(|e| context(&target, e))?,
            EntryKind::Link => {
                symlink(fs::read_link(&from)?, &target).map_err(|e| context(&target, e))?;
                own(node, &target, &mut copied);
            }
            EntryKind::File => {
                if let Some(bytes) = plan.generated.get(&node.path) {
                    fs::write(&target, bytes).map_err(|e| context(&target, e))?;
                    dress(node, &from, &target, &mut copied)?;
                } else if let Some(first) = names.get(&node.stat.id) {
                    fs::hard_link(first, &target).map_err(|e| context(&target, e))?;
                } else {
                    file(node, &from, &target, &mut copied).map_err(|e| context(&from, e))?;
                    names.insert(node.stat.id, target);
                }
            }
            EntryKind::Special => {}
        }
        done += node.bytes;
        tell(done);
    }
    // Directories last, the innermost first: filling one changes its time, and may need the right to write.
    let dirs: Vec<&Node> = plan.kept().filter(|n| n.kind == EntryKind::Dir).collect();
    for node in dirs.into_iter().rev() {
        let (from, target) = (rootfs.outside().join(inside(&node.path)), to.join(inside(&node.path)));
        dress(node, &from, &target, &mut copied)?;
    }
    Ok(copied)
}

/// A reflink, else a hard link, else a copy.
fn file(node: &Node, from: &Path, to: &Path, copied: &mut Copied) -> io::Result<()> {
    let source = File::open(from)?;
    let target = File::options().write(true).create_new(true).open(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        copied.shared += node.bytes;
        drop(target);
        return dress(node, from, to, copied);
    }
    drop(target);
    fs::remove_file(to)?;
    if fs::hard_link(from, to).is_ok() {
        // The same file: mode, owner, time and attributes are its own.
        copied.shared += node.bytes;
        return Ok(());
    }
    // The standard library's copy uses copy_file_range where it can.
    fs::copy(from, to)?;
    copied.copied += node.bytes;
    dress(node, from, to, copied)
}

/// Owner, extended attributes, mode and time: in this order, for a change of owner takes setuid bits and capabilities away.
fn dress(node: &Node, from: &Path, to: &Path, copied: &mut Copied) -> io::Result<()> {
    own(node, to, copied);
    fs::set_permissions(to, Permissions::from_mode(node.stat.mode & 0o7777))?;
    for (name, value) in attributes(from) {
        copied.not_set += u64::from(rustix::fs::lsetxattr(to, &name, &value, XattrFlags::empty()).is_err());
    }
    let modified = Timespec { tv_sec: node.stat.mtime, tv_nsec: 0 };
    let untouched = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: untouched, last_modification: modified };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn own(node: &Node, to: &Path, copied: &mut Copied) {
    let owner = Some(Uid::from_raw(node.stat.uid));
    let group = Some(Gid::from_raw(node.stat.gid));
    let set = rustix::fs::chownat(CWD, to, owner, group, AtFlags::SYMLINK_NOFOLLOW);
    copied.not_set += u64::from(set.is_err() && rustix::process::geteuid().is_root());
}

/// Extended attributes of a file: names and values.
pub fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0u8; MAX_XATTR];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else { return Vec::new() };
    let value = |name: &[u8]| {
        let mut value = vec![0u8; MAX_XATTR];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
        value.truncate(length);
        Some((name.to_vec(), value))
    };
    names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()).filter_map(value).collect()
}
