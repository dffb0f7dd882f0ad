//! Observing the container and the node without a call to the driver: `/proc`, `/sys`, `/dev`, through a root that tests
//! can put another one in the place of.

mod devices;
mod host;
mod limits;
mod other;
mod proc_driver;
mod process;

use std::collections::BTreeMap;
use std::path::Path;

use crate::facts::Observed;
use crate::facts::node::{Mount, Node, Platform};
use crate::image::{FileError, Rootfs};

pub use other::OtherProcess;
pub use process::{is_own, words};

/// Largest file of `/proc` read, in bytes.
const MAX_PROC: u64 = 16 * 1024 * 1024;

/// Whose container it is.
pub struct Processes<'r> {
    /// Holds a `/proc` that has these processes.
    rootfs: &'r Rootfs,
    /// The directory in `/proc` of the process that the workload is like.
    own: String,
    /// That of the first process of the container.
    first: String,
}

impl<'r> Processes<'r> {
    /// The container that this program runs in.
    pub fn here(rootfs: &'r Rootfs) -> Self {
        Self { rootfs, own: "/proc/self".into(), first: "/proc/1".into() }
    }

    /// The container of another process; `rootfs` is that which this program runs in.
    pub fn of(rootfs: &'r Rootfs, pid: u32) -> Self {
        let dir = format!("/proc/{pid}");
        Self { rootfs, own: dir.clone(), first: dir }
    }

    fn read(&self, dir: &str, name: &str) -> Observed<String> {
        read(self.rootfs, &format!("{dir}/{name}"))
    }
}

/// Everything but what takes opening a device.
pub fn observe(rootfs: &Rootfs, processes: &Processes<'_>) -> Node {
    Node {
        platform: platform(rootfs),
        driver: proc_driver::version(rootfs),
        parameters: proc_driver::parameters(rootfs),
        module_gpus: proc_driver::gpus(rootfs),
        pci_gpus: devices::on_pci(rootfs),
        majors: devices::majors(rootfs),
        devices: devices::nodes(rootfs),
        mounts: mounts(processes),
        cache_written: process::cache_written(rootfs, processes),
        process: process::own(processes),
        pid1: process::first(processes),
        host: host::observe(rootfs),
        limits: limits::limits(processes),
        cgroup: limits::cgroup(rootfs, processes),
        shm: limits::shared_memory(rootfs),
    }
}

/// A file of `/proc` or `/sys`.
fn read(rootfs: &Rootfs, path: &str) -> Observed<String> {
    match rootfs.read_text(Path::new(path), MAX_PROC) {
        Ok(text) => Observed::Seen(text),
        Err(FileError::NotFound) => Observed::Absent(path.to_owned()),
        Err(e) => Observed::Failed(format!("{path}: {e}")),
    }
}

impl<T> Observed<T> {
    /// What follows from what was seen, if anything.
    pub fn and_then<U>(self, follow: impl FnOnce(T) -> Option<U>) -> Observed<U> {
        match self {
            Self::Seen(value) => match follow(value) {
                Some(value) => Observed::Seen(value),
                None => Observed::Failed("its form is not known".into()),
            },
            Self::Absent(why) => Observed::Absent(why),
            Self::Failed(why) => Observed::Failed(why),
            Self::NotAsked => Observed::NotAsked,
        }
    }
}

fn platform(rootfs: &Rootfs) -> Vec<Platform> {
    let mut found = Vec::new();
    let exists = |path: &str| rootfs.exists(Path::new(path));
    let version = read(rootfs, "/proc/version").seen().cloned().unwrap_or_default();
    if version.to_lowercase().contains("microsoft") || exists("/dev/dxg") {
        found.push(Platform::Wsl);
    }
    if exists("/etc/nv_tegra_release") || exists("/dev/nvhost-ctrl-gpu") || exists("/dev/nvmap") {
        found.push(Platform::Tegra);
    }
    // gVisor calls itself that in the kernel log and, since 2023, in /proc/version; its kernel is 4.4.0 of 2016.
    if version.contains("gVisor") || version.starts_with("Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016") {
        found.push(Platform::Gvisor);
    }
    let command_line = read(rootfs, "/proc/cmdline").seen().cloned().unwrap_or_default();
    if command_line.contains("agent.log") || command_line.contains("systemd.unit=kata-containers.target") {
        found.push(Platform::Kata);
    }
    found
}

/// Every mount point of a text of `/proc/PID/mountinfo`.
pub fn mount_points(mountinfo: &str) -> impl Iterator<Item = String> {
    mountinfo.lines().filter_map(|line| Some(unescape(line.split(' ').nth(4)?)))
}

/// Mount points that a finding may be about.
fn mounts(processes: &Processes<'_>) -> Observed<BTreeMap<String, Mount>> {
    processes.read(&processes.own, "mountinfo").and_then(|text| Some(text.lines().filter_map(mount).collect()))
}

/// `proc_pid_mountinfo(5)`: the point is the fifth field; after a dash come the type, the source and options.
fn mount(line: &str) -> Option<(String, Mount)> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ');
    let point = unescape(before.nth(4)?);
    let own = before.next()?;
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let is_of_driver = point.contains("nvidia") || point.contains("libcuda") || point.contains("/wsl/");
    let matters = is_of_driver
        || matches!(point.as_str(), "/" | "/dev" | "/dev/shm" | "/tmp" | "/var/tmp" | "/root")
        || point.starts_with("/home")
        || point.starts_with("/usr")
        || matches!(kind, "tmpfs" | "overlay");
    let options = own.split(',').chain(options.split(',')).map(str::to_owned).collect();
    matters.then(|| (point, Mount { kind: kind.to_owned(), options }))
}

/// Spaces, tabs, newlines and backslashes are written as octal numbers.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, c)| text.replace(code, c))
}
