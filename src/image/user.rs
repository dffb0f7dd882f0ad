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
}
