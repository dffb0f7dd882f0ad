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

/// Largest `/etc/passwd` or `/etc/group` that is read, in bytes.
const MAX_ACCOUNTS: u64 = 16 << 20;

impl Credentials {
    /// The user of `USER` in a Dockerfile and of `docker run --user`: a name or number, and maybe groups behind
    /// colons, looked up in the image as container runtimes do it (`GetExecUser` in moby/sys `user`): without a group it
    /// is the one of `/etc/passwd` with all that `/etc/group` adds, and for a number without a row there, group 0.
    ///
    /// # Errors
    /// A name that the image does not know.
    pub fn find(rootfs: &Rootfs, text: &str) -> Result<Self, String> {
        let rows = |path: &str| -> Vec<Vec<String>> {
            let text = rootfs.read_text(Path::new(path), MAX_ACCOUNTS).unwrap_or_default();
            text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
        };
        let number = |field: Option<&String>| field.and_then(|f| f.parse::<u32>().ok());
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let uid = user.parse::<u32>().ok();
        let passwd = rows("/etc/passwd");
        let row = passwd.iter().find(|r| r[0] == user || (uid.is_some() && number(r.get(2)) == uid));
        let uid = uid.or(row.and_then(|r| number(r.get(2))));
        let uid = uid.ok_or_else(|| format!("no user {user:?} in /etc/passwd of the image"))?;
        let groups = rows("/etc/group");
        let gid = |group: &str| {
            let row = groups.iter().find(|r| r[0] == group).and_then(|r| number(r.get(2)));
            group.parse().ok().or(row).ok_or_else(|| format!("no group {group:?} in /etc/group of the image"))
        };
        let gids = match group.filter(|g| !g.is_empty()) {
            Some(all) => all.split(':').map(gid).collect::<Result<_, _>>()?,
            None => {
                let primary = row.and_then(|r| number(r.get(3))).unwrap_or(0);
                let is_member = |r: &&Vec<String>| {
                    let members = r.get(3).map_or("", String::as_str);
                    row.is_some_and(|row| members.split(',').any(|m| m == row[0]))
                };
                let others = groups.iter().filter(is_member).filter_map(|r| number(r.get(2)));
                std::iter::once(primary).chain(others).collect()
            }
        };
        Ok(Self { uid, gids })
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_those_of_the_image() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "root:x:0:0::/:\napp:x:1000:100::/:\n").unwrap();
        std::fs::write(dir.path().join("etc/group"), "users:x:100:\nvideo:x:44:x,app\n").unwrap();
        let rootfs = Rootfs::open_root(dir.path()).unwrap();
        let find = |text| Credentials::find(&rootfs, text);
        assert_eq!(find("app"), Ok(Credentials { uid: 1000, gids: vec![100, 44] }));
        assert_eq!(find("1000"), find("app"));
        assert_eq!(find("app:video"), Ok(Credentials { uid: 1000, gids: vec![44] }));
        assert_eq!(find("12345"), Ok(Credentials { uid: 12345, gids: vec![0] }));
        assert_eq!(find("12:34:video"), Ok(Credentials { uid: 12, gids: vec![34, 44] }));
        assert!(find("nobody").is_err() && find("app:none").is_err());
    }
}
