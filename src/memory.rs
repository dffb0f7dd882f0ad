//! What a health check found in order the last time. A check that runs every few seconds on a hundred pods must not look
//! at a thousand files to say the same again: it compares when each of them, and each directory, was last changed.
//!
//! Only that an image is in order is remembered, never that it is not; and only what files decide, never what the driver
//! said. It is a file of the user's own, where one can be written; where none can, each check looks at everything.

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustc_hash::FxHasher;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::image::{Rootfs, Stamp};
use crate::observe::{Known, Request};
use crate::{report, structured};

/// Where it is looked for and written: memory that lasts as long as the container.
const DIRS: &[&str] = &["/dev/shm", "/run", "/tmp"];
/// Another directory.
const DIR_VARIABLE: &str = "MLDOCTOR_STATE_DIR";
/// Longest file believed, in bytes.
const MAX_SIZE: u64 = 4 << 20;
/// A change that is younger than this may be followed by one with the same time: kernels keep time in ticks.
const TICK: Duration = Duration::from_secs(2);
/// What changes there is no matter of the image.
const NOT_IMAGE: &[&str] = &["/proc", "/sys", "/dev"];

/// The question that an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// What is asked: decides the name of the file.
    name: u64,
    /// The rest of the question: this version, the environment.
    whole: u64,
}

impl Key {
    /// Of what is to be examined.
    pub fn of(request: &Request) -> Self {
        let mut hash = FxHasher::default();
        (&request.root, &request.targets, &request.command, &request.python, &request.cwd).hash(&mut hash);
        (&request.require, request.scope as u8, rustix::process::geteuid().as_raw()).hash(&mut hash);
        request.user.as_ref().map(|user| (user.uid, &user.gids)).hash(&mut hash);
        let name = hash.finish();
        env!("CARGO_PKG_VERSION").hash(&mut hash);
        let mut env: Vec<_> = request.env.iter().collect();
        env.sort();
        env.hash(&mut hash);
        Self { name, whole: hash.finish() }
    }

    fn file(self, dir: &Path) -> PathBuf {
        dir.join(format!(".mldoctor-health-{:016x}", self.name))
    }
}

/// What is remembered.
#[derive(Debug, Serialize, Deserialize)]
pub struct Memory {
    key: u64,
    known: Known,
    /// Everything that was looked at to know it.
    looked_at: Vec<(String, Stamp)>,
}

impl Memory {
    /// What `known` rests on; nothing if some of it changes just now, or cannot be named.
    pub fn new(key: Key, known: Known, rootfs: &Rootfs, now: SystemTime) -> Option<Self> {
        let young = now.checked_sub(TICK)?;
        let mut looked_at = Vec::new();
        for path in rootfs.looked_at() {
            if NOT_IMAGE.iter().any(|dir| path.starts_with(dir)) {
                continue;
            }
            let stamp = rootfs.stamp(&path).ok()?;
            if stamp.is_sticky() {
                continue;
            }
            if stamp.is_since(young) {
                return None;
            }
            looked_at.push((path.to_str()?.to_owned(), stamp));
        }
        Some(Self { key: key.whole, known, looked_at })
    }

    /// What is remembered, if nothing of what it rests on has changed.
    pub fn recall(key: Key, rootfs: &Rootfs) -> Option<Known> {
        let memory = dirs().iter().find_map(|dir| read(&key.file(dir))).filter(|memory| memory.key == key.whole)?;
        let is_same = |(path, stamp): &(String, Stamp)| rootfs.stamp(Path::new(path)).is_ok_and(|now| now == *stamp);
        memory.looked_at.iter().all(is_same).then_some(memory.known)
    }

    /// Writes it down where that is possible.
    pub fn keep(&self, key: Key) {
        let Ok(text) = structured::to_json_line(self) else { return };
        for dir in dirs() {
            if report::write_whole(&key.file(&dir), text.as_bytes(), Mode::RUSR | Mode::WUSR).is_ok() {
                return;
            }
        }
    }
}

fn dirs() -> Vec<PathBuf> {
    match std::env::var_os(DIR_VARIABLE).filter(|dir| dir.as_bytes().starts_with(b"/")) {
        Some(dir) => vec![dir.into()],
        None => DIRS.iter().map(PathBuf::from).collect(),
    }
}

/// A file that nobody else can have written.
fn read(path: &Path) -> Option<Memory> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let stat = file.metadata().ok()?;
    let is_own = stat.is_file() && stat.uid() == rustix::process::geteuid().as_raw() && stat.mode() & 0o077 == 0;
    if !is_own || stat.len() > MAX_SIZE {
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut text).ok()?;
    structured::from_json(&text).ok()
}
