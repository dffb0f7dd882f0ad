//! This process, and the first one of the container.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::{Processes, read};
use crate::facts::Observed;
use crate::facts::node::{Pid1, ProcessFacts, Written};
use crate::image::{Credentials, FileError, Rootfs};

/// `/proc/PID/status` (proc_pid_status(5)).
pub fn own(processes: &Processes<'_>) -> ProcessFacts {
    let status = processes.read(&processes.own, "status").seen().cloned().unwrap_or_default();
    let line = |key| line(&status, key);
    // Without a readable `/proc` the kernel can still be asked, about this process.
    let Credentials { uid, gids } = user(&status).unwrap_or_else(|| Credentials {
        uid: rustix::process::geteuid().as_raw(),
        gids: vec![rustix::process::getegid().as_raw()],
    });
    ProcessFacts {
        uid,
        gids,
        capabilities: u64::from_str_radix(line("CapEff"), 16).unwrap_or(0),
        seccomp: line("Seccomp").parse().unwrap_or(0),
        cpus: count(line("Cpus_allowed_list")),
    }
}

fn line<'s>(status: &'s str, key: &str) -> &'s str {
    status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).unwrap_or("").trim()
}

/// The user that the text of `/proc/PID/status` tells of, by effective numbers.
pub fn user(status: &str) -> Option<Credentials> {
    // The second number is the effective one.
    let effective = |key| line(status, key).split_whitespace().nth(1)?.parse::<u32>().ok();
    let mut gids = vec![effective("Gid")?];
    gids.extend(line(status, "Groups").split_whitespace().filter_map(|g| g.parse::<u32>().ok()));
    gids.dedup();
    Some(Credentials { uid: effective("Uid")?, gids })
}

/// The words of `/proc/PID/cmdline`.
pub fn words(line: &[u8]) -> Vec<OsString> {
    line.split(|b| *b == 0).filter(|w| !w.is_empty()).map(|w| OsString::from_vec(w.to_vec())).collect()
}

/// Whether a command starts this program.
pub fn is_own(words: &[OsString]) -> bool {
    words.first().is_some_and(|w| Path::new(w).file_name() == Some(OsStr::new("mldoctor")))
}

/// How many numbers are in a list such as `0-3,8`.
fn count(list: &str) -> u32 {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)?.saturating_add(1))
    };
    list.split(',').filter_map(range).fold(0, u32::saturating_add)
}

/// The first process, unless it is this program. Its maps and environment are readable for the same user only.
pub fn first(processes: &Processes<'_>) -> Observed<Pid1> {
    let read = |name| processes.read(&processes.first, name);
    let command = read("cmdline").and_then(|text| {
        let words = words(text.as_bytes());
        let is_other = !words.is_empty() && !is_own(&words);
        is_other.then(|| words.iter().map(|w| w.to_string_lossy().into_owned()).collect::<Vec<String>>())
    });
    let maps = read("maps");
    let environ = read("environ");
    command.and_then(|command| {
        let paths = maps.seen().map_or("", String::as_str).lines().filter_map(|l| l.find('/').map(|at| &l[at..]));
        let libraries: BTreeSet<&str> = paths.filter(|p| p.contains(".so")).collect();
        let ld_library_path = environ.clone().and_then(|text| {
            let value = text.split('\0').find_map(|line| line.strip_prefix("LD_LIBRARY_PATH="));
            Some(value.unwrap_or_default().to_owned())
        });
        Some(Pid1 { command, ld_library_path, mapped: libraries.into_iter().map(str::to_owned).collect() })
    })
}

/// `USER_HZ` (`include/asm-generic/param.h` of Linux): what times in `/proc` are counted in, on every architecture here.
const TICKS: i64 = 100;
/// `btime` is rounded, and drifts when the clock is set.
const SLACK: i64 = 10;

/// Whether the loader's cache is older than the first process. The runtime starts that process before it runs its hooks,
/// and lets it wait for them (`runc init`), so a cache that a hook has written is not older.
pub fn cache_written(rootfs: &Rootfs, processes: &Processes<'_>) -> Observed<Written> {
    let written = match rootfs.stat(Path::new("/etc/ld.so.cache")) {
        Ok(stat) => stat.mtime,
        Err(FileError::NotFound) => return Observed::Absent("/etc/ld.so.cache".into()),
        Err(e) => return Observed::Failed(format!("/etc/ld.so.cache: {e}")),
    };
    let boot = read(processes.rootfs, "/proc/stat")
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<i64>().ok()));
    // proc_pid_stat(5): field 22; the name in parentheses may hold anything.
    let started = processes
        .read(&processes.first, "stat")
        .and_then(|text| text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse::<i64>().ok());
    boot.and_then(|boot| {
        let started = boot.checked_add(started.seen()? / TICKS)?;
        Some(if written < started - SLACK { Written::BeforeStart } else { Written::SinceStart })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_from_the_image_is_older_than_the_container() {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["etc", "proc/1"] {
            std::fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        let cache = dir.path().join("etc/ld.so.cache");
        let written = |start: i64| {
            // Booted at the beginning of 2020, and the first process has a name made to deceive.
            std::fs::write(dir.path().join("proc/stat"), "cpu 1 2 3\nbtime 1577836800\n").unwrap();
            let fields = "S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0";
            let text = format!("1 (a) b 2) {fields} {} 9 9", (start - 1_577_836_800) * TICKS);
            std::fs::write(dir.path().join("proc/1/stat"), text).unwrap();
            {
                let root = Rootfs::open_root(dir.path()).unwrap();
                cache_written(&root, &Processes::here(&root))
            }
        };
        assert!(matches!(written(0), Observed::Absent(_)));
        std::fs::write(&cache, "").unwrap();
        let now = std::fs::metadata(&cache).unwrap().modified().unwrap();
        let now = i64::try_from(now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()).unwrap();
        assert_eq!(written(now + 3600), Observed::Seen(Written::BeforeStart));
        assert_eq!(written(now - 1), Observed::Seen(Written::SinceStart));
        std::fs::write(dir.path().join("proc/1/stat"), "1 (a").unwrap();
        let root = Rootfs::open_root(dir.path()).unwrap();
        assert!(matches!(cache_written(&root, &Processes::here(&root)), Observed::Failed(_)));
    }
}
