//! How much a process may take: `setrlimit(2)`, the control group (version 1 and 2), and `/dev/shm`.

use std::path::{Path, PathBuf};

use super::Processes;
use crate::facts::Observed;
use crate::facts::node::{Cgroup, CgroupMemory, CgroupPids, Limit, Limits};
use crate::facts::surroundings::Space;
use crate::image::{FileError, Rootfs};

/// Where control groups are mounted in every container.
const CGROUP: &str = "/sys/fs/cgroup";
/// From this on a limit of version 1 is none (`PAGE_COUNTER_MAX` in pages).
const NO_LIMIT: u64 = 1 << 62;

/// `/proc/PID/limits` (proc_pid_limits(5)).
pub fn limits(processes: &Processes<'_>) -> Limits {
    let text = processes.read(&processes.own, "limits").seen().cloned().unwrap_or_default();
    let limit = |name: &str| {
        let mut words = text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
        let mut value = || match words.next()? {
            "unlimited" => Some(None),
            number => number.parse().ok().map(Some),
        };
        Some(Limit { soft: value()?, hard: value()? })
    };
    Limits {
        open_files: limit("Max open files"),
        locked_memory: limit("Max locked memory"),
        address_space: limit("Max address space"),
    }
}

/// A controller's files in one version.
struct Files {
    limit: &'static str,
    current: &'static str,
}

/// The control group of the process, as it is mounted in its container.
pub fn cgroup(rootfs: &Rootfs, processes: &Processes<'_>) -> Cgroup {
    let own = processes.read(&processes.own, "cgroup").seen().cloned().unwrap_or_default();
    let is_unified = rootfs.exists(&Path::new(CGROUP).join("cgroup.controllers"));
    Cgroup { memory: memory(rootfs, &own, is_unified), pids: pids(rootfs, &own, is_unified) }
}

fn memory(rootfs: &Rootfs, own: &str, is_unified: bool) -> Option<CgroupMemory> {
    let files = if is_unified {
        Files { limit: "memory.max", current: "memory.current" }
    } else {
        Files { limit: "memory.limit_in_bytes", current: "memory.usage_in_bytes" }
    };
    let groups = groups(own, "memory", is_unified);
    let group = groups.iter().find(|dir| rootfs.exists(&dir.join(files.current)))?;
    let events = if is_unified { "memory.events" } else { "memory.oom_control" };
    Some(CgroupMemory {
        limit: lowest(rootfs, &groups, files.limit),
        current: number(rootfs, &group.join(files.current))?,
        oom_kills: field(rootfs, &group.join(events), "oom_kill"),
        shared: field(rootfs, &group.join("memory.stat"), "shmem"),
        path: group.to_string_lossy().into_owned(),
    })
}

fn pids(rootfs: &Rootfs, own: &str, is_unified: bool) -> Option<CgroupPids> {
    let groups = groups(own, "pids", is_unified);
    let group = groups.iter().find(|dir| rootfs.exists(&dir.join("pids.current")))?;
    Some(CgroupPids {
        limit: lowest(rootfs, &groups, "pids.max"),
        current: number(rootfs, &group.join("pids.current"))?,
        path: group.to_string_lossy().into_owned(),
    })
}

/// The directories of the own group and of those above it, innermost first. In a container the mount begins at the own
/// group, while `/proc/self/cgroup` may still tell the path outside; then only the last of them is there.
fn groups(own: &str, controller: &str, is_unified: bool) -> Vec<PathBuf> {
    let base = if is_unified { PathBuf::from(CGROUP) } else { Path::new(CGROUP).join(controller) };
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = if is_unified { number == "0" } else { controllers.split(',').any(|c| c == controller) };
        is_it.then(|| path.trim_start_matches('/').to_owned())
    });
    let path = path.unwrap_or_default();
    // Joining nothing would add a slash.
    let of = |part: &Path| if part.as_os_str().is_empty() { base.clone() } else { base.join(part) };
    Path::new(&path).ancestors().map(of).collect()
}

/// The limit that is reached first: a group cannot have more than those above it.
fn lowest(rootfs: &Rootfs, groups: &[PathBuf], file: &str) -> Option<u64> {
    groups.iter().filter_map(|dir| number(rootfs, &dir.join(file))).filter(|limit| *limit < NO_LIMIT).min()
}

/// A file with one number; `max` is none.
fn number(rootfs: &Rootfs, path: &Path) -> Option<u64> {
    rootfs.read_text(path, 256).ok()?.trim().parse().ok()
}

/// A line `name number`.
fn field(rootfs: &Rootfs, path: &Path, name: &str) -> Option<u64> {
    let text = rootfs.read_text(path, 64 * 1024).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The size of `/dev/shm`.
pub fn shared_memory(rootfs: &Rootfs) -> Observed<Space> {
    match rootfs.file_system(Path::new("/dev/shm")) {
        Ok(system) => Observed::Seen(Space {
            total: system.f_blocks.saturating_mul(system.f_frsize),
            free: system.f_bavail.saturating_mul(system.f_frsize),
        }),
        Err(FileError::NotFound) => Observed::Absent("/dev/shm".into()),
        Err(e) => Observed::Failed(format!("/dev/shm: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn root(files: &[(&str, &str)]) -> (tempfile::TempDir, Rootfs) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let rootfs = Rootfs::open_root(dir.path()).unwrap();
        (dir, rootfs)
    }

    #[test]
    fn version_2_with_a_tighter_group_above() {
        let (_dir, rootfs) = root(&[
            ("/proc/self/cgroup", "0::/pod/app\n"),
            ("/sys/fs/cgroup/cgroup.controllers", "memory pids\n"),
            ("/sys/fs/cgroup/pod/memory.max", "1000\n"),
            ("/sys/fs/cgroup/pod/app/memory.max", "max\n"),
            ("/sys/fs/cgroup/pod/app/memory.current", "10\n"),
            ("/sys/fs/cgroup/pod/app/memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"),
            ("/sys/fs/cgroup/pod/app/memory.stat", "anon 5\nshmem_thp 9\nshmem 4\n"),
            ("/sys/fs/cgroup/pod/app/pids.max", "8\n"),
            ("/sys/fs/cgroup/pod/app/pids.current", "3\n"),
        ]);
        let cgroup = cgroup(&rootfs, &Processes::here(&rootfs));
        let memory = cgroup.memory.unwrap();
        assert_eq!((memory.limit, memory.current), (Some(1000), 10));
        assert_eq!((memory.oom_kills, memory.shared), (Some(2), Some(4)));
        assert_eq!(cgroup.pids.map(|p| (p.limit, p.current)), Some((Some(8), 3)));
    }

    #[test]
    fn version_1_whose_mount_begins_at_the_own_group() {
        let (_dir, rootfs) = root(&[
            ("/proc/self/cgroup", "8:pids:/docker/0123\n4:memory:/docker/0123\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "77\n"),
            ("/sys/fs/cgroup/memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
        ]);
        let cgroup = cgroup(&rootfs, &Processes::here(&rootfs));
        let memory = cgroup.memory.unwrap();
        assert_eq!((memory.limit, memory.current, memory.oom_kills), (None, 77, Some(1)));
        assert_eq!(memory.path, "/sys/fs/cgroup/memory");
        assert_eq!(cgroup.pids, None);
    }

    #[test]
    fn limits_of_the_process() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 4096                 files     \n\
                    Max locked memory         8388608              unlimited            bytes     \n";
        let (_dir, rootfs) = root(&[("/proc/self/limits", text)]);
        let limits = limits(&Processes::here(&rootfs));
        assert_eq!(limits.open_files, Some(Limit { soft: Some(1024), hard: Some(4096) }));
        assert_eq!(limits.locked_memory, Some(Limit { soft: Some(8_388_608), hard: None }));
        assert_eq!(limits.address_space, None);
    }
}
