//! Whether the user of the image may read a file: `USER` in an image is often not root, while the examiner is.

use std::path::Path;

use super::{FileError, Rootfs, Stat};

/// The user that the workload runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Primary and supplementary groups.
    pub gids: Vec<u32>,
}

impl Credentials {
    fn may(&self, stat: &Stat, bit: u32) -> bool {
        let shift = if stat.uid == self.uid {
            6
        } else if self.gids.contains(&stat.gid) {
            3
        } else {
            0
        };
        self.uid == 0 || stat.mode >> shift & bit != 0
    }

    /// Whether the file that `path` leads to can be opened for reading: its own mode, and the search permission of
    /// every directory on the way (path_resolution(7)); access control lists are not seen.
    ///
    /// # Errors
    /// [`FileError::Denied`], or why the path leads nowhere.
    pub fn may_read(&self, rootfs: &Rootfs, path: &Path) -> Result<(), FileError> {
        if self.uid == 0 {
            return Ok(());
        }
        let real = rootfs.canonicalize(path)?;
        // The way through links crosses the directories of the path as written too.
        for start in [path, &real] {
            for dir in start.ancestors().skip(1) {
                if !self.may(&rootfs.stat(dir)?, 1) {
                    return Err(FileError::Denied);
                }
            }
        }
        if self.may(&rootfs.stat(&real)?, 4) { Ok(()) } else { Err(FileError::Denied) }
    }

    /// Whether something can be made in a directory: by its mode, and the search permission of those above it. For an
    /// image whose user is not the one who examines it; a running container asks [`Rootfs::may_create_in`].
    ///
    /// # Errors
    /// [`FileError::Denied`], or why the path leads nowhere.
    pub fn may_create_in(&self, rootfs: &Rootfs, dir: &Path) -> Result<(), FileError> {
        let real = rootfs.canonicalize(dir)?;
        for above in real.ancestors().skip(1) {
            if !self.may(&rootfs.stat(above)?, 1) {
                return Err(FileError::Denied);
            }
        }
        // Root's CAP_DAC_OVERRIDE covers the execute bit of directories too.
        let stat = rootfs.stat(&real)?;
        if self.may(&stat, 2) && self.may(&stat, 1) { Ok(()) } else { Err(FileError::Denied) }
    }
}

/// A row of `/etc/passwd` (passwd(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswdRow {
    /// The name of the user.
    pub name: String,
    /// The home directory.
    pub home: String,
}

/// Largest `/etc/passwd` read, in bytes.
const MAX_PASSWD: u64 = 4 * 1024 * 1024;

/// The row of a user, as `getpwuid(3)` finds it in the file.
///
/// # Errors
/// The file is there and cannot be read.
pub fn passwd_row(rootfs: &Rootfs, uid: u32) -> Result<Option<PasswdRow>, FileError> {
    let text = match rootfs.read_text(Path::new("/etc/passwd"), MAX_PASSWD) {
        Ok(text) => text,
        Err(FileError::NotFound) => return Ok(None),
        Err(e) => return Err(e),
    };
    Ok(text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, id, _, _, home, ..] = fields.as_slice() else { return None };
        (id.parse() == Ok(uid)).then(|| PasswdRow { name: (*name).to_owned(), home: (*home).to_owned() })
    }))
}
