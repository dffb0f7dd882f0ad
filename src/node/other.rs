//! A process of another container, as `/proc` shows it to whoever may look (proc(5), ptrace(2): `PTRACE_MODE_READ`).

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::process::{user, words};

use crate::image::Credentials;
use crate::loader::Environment;

/// It.
pub struct OtherProcess {
    pid: u32,
    dir: PathBuf,
}

impl OtherProcess {
    /// The process with this number, as this program's `/proc` counts.
    pub fn new(pid: u32) -> Self {
        Self { pid, dir: PathBuf::from(format!("/proc/{pid}")) }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its root directory.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The environment that it was started with.
    ///
    /// # Errors
    /// There is no such process, or it may not be looked at.
    pub fn environment(&self) -> anyhow::Result<Environment> {
        let lines = self.read("environ")?;
        let lines = lines.split(|b| *b == 0).filter_map(|line| {
            let at = line.iter().position(|b| *b == b'=')?;
            Some((OsStr::from_bytes(&line[..at]).to_owned(), OsStr::from_bytes(&line[at + 1..]).to_owned()))
        });
        Ok(lines.collect())
    }

    /// Its working directory, as a path below its root.
    ///
    /// # Errors
    /// As [`OtherProcess::environment`].
    pub fn cwd(&self) -> anyhow::Result<PathBuf> {
        let path = self.dir.join("cwd");
        fs::read_link(&path).with_context(|| self.refused(&path))
    }

    /// Its command line.
    ///
    /// # Errors
    /// As [`OtherProcess::environment`].
    pub fn command(&self) -> anyhow::Result<Vec<OsString>> {
        Ok(words(&self.read("cmdline")?))
    }

    /// The user that it runs as, by effective numbers.
    ///
    /// # Errors
    /// As [`OtherProcess::environment`].
    pub fn credentials(&self) -> anyhow::Result<Credentials> {
        let status = self.read("status")?;
        user(&String::from_utf8_lossy(&status)).context("/proc/PID/status has an unknown form")
    }

    fn read(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let path = self.dir.join(name);
        fs::read(&path).with_context(|| self.refused(&path))
    }

    fn refused(&self, path: &Path) -> String {
        match fs::metadata(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => format!("there is no process {}", self.pid),
            _ => format!("cannot read {}: it takes the same user, or CAP_SYS_PTRACE", path.display()),
        }
    }
}
