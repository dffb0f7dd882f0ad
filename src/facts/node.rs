//! What is around the workload: the kernel's side of the driver, device nodes, mounts, and this process.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Observed;
use super::surroundings::Space;

/// The container and the node, without a call to the driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// What kind of place it is, where it is not an ordinary Linux host.
    pub platform: Vec<Platform>,
    /// `/proc/driver/nvidia/version`
    pub driver: Observed<KernelDriver>,
    /// `/proc/driver/nvidia/params`, those that bear on something.
    pub parameters: BTreeMap<String, String>,
    /// GPUs that the kernel module knows: `/proc/driver/nvidia/gpus`.
    pub module_gpus: Observed<u32>,
    /// NVIDIA's display controllers on the PCI bus.
    pub pci_gpus: Observed<u32>,
    /// Character devices of NVIDIA's modules in `/proc/devices`, with their major numbers.
    pub majors: Observed<BTreeMap<String, u32>>,
    /// Device nodes by path, also those that are expected and not there.
    pub devices: BTreeMap<String, DeviceNode>,
    /// Mount points that bear on the driver, the caches or the libraries.
    pub mounts: Observed<BTreeMap<String, Mount>>,
    /// When `/etc/ld.so.cache` was written last.
    pub cache_written: Observed<Written>,
    /// This process.
    pub process: ProcessFacts,
    /// The first process of the container, where it is the workload.
    pub pid1: Observed<Pid1>,
    /// The machine.
    pub host: Option<Host>,
    /// `setrlimit(2)` of this process.
    pub limits: Limits,
    /// Its control group.
    pub cgroup: Cgroup,
    /// `/dev/shm`
    pub shm: Observed<Space>,
}

/// The machine that the container shares with others. Sizes are in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// Release of the kernel.
    pub kernel: String,
    /// All memory.
    pub memory: u64,
    /// What could be had without swapping.
    pub available: u64,
    /// All swap.
    pub swap: u64,
}

/// Limits of a process; none where they are not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// `RLIMIT_NOFILE`
    pub open_files: Option<Limit>,
    /// `RLIMIT_MEMLOCK`, in bytes.
    pub locked_memory: Option<Limit>,
    /// `RLIMIT_AS`, in bytes.
    pub address_space: Option<Limit>,
}

/// A limit; none where there is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limit {
    /// The one that counts.
    pub soft: Option<u64>,
    /// How far the process may raise it.
    pub hard: Option<u64>,
}

/// What the control group of a process has and may have; none where it is not to be seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cgroup {
    /// Memory.
    pub memory: Option<CgroupMemory>,
    /// Processes and threads.
    pub pids: Option<CgroupPids>,
}

/// Memory of a control group, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CgroupMemory {
    /// The lowest limit of this group and those above it; none where there is none.
    pub limit: Option<u64>,
    /// In use, page cache included.
    pub current: u64,
    /// Processes that were killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Of it in shared memory, such as files in `/dev/shm`.
    pub shared: Option<u64>,
    /// Directory of the group.
    pub path: String,
}

/// Processes and threads of a control group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CgroupPids {
    /// The lowest limit of this group and those above it; none where there is none.
    pub limit: Option<u64>,
    /// Those that there are.
    pub current: u64,
    /// Directory of the group.
    pub path: String,
}

/// A kind of place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// Windows Subsystem for Linux.
    Wsl,
    /// A Jetson or another Tegra system.
    Tegra,
    /// gVisor's sandbox.
    Gvisor,
    /// A virtual machine of its own for each container.
    Kata,
}

/// A time, as seen from the start of the container's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Written {
    /// Earlier.
    BeforeStart,
    /// Later, or in the seconds in which the container was made.
    SinceStart,
}

/// The kernel module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelDriver {
    /// Such as `535.104.05`.
    pub version: String,
    /// The open kernel module.
    pub open: bool,
}

/// A device node, or one that is expected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceNode {
    /// Device number, where the node is there.
    pub number: Option<(u32, u32)>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What `open(2)` says: `ok` or the name of the error; empty where it was not tried.
    pub open: String,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// File system type.
    pub kind: String,
    /// Options of the mount and of the file system.
    pub options: Vec<String>,
}

/// Credentials of this process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessFacts {
    /// Effective user.
    pub uid: u32,
    /// Effective group and supplementary groups.
    pub gids: Vec<u32>,
    /// `CapEff`
    pub capabilities: u64,
    /// `Seccomp`: 0 none, 1 strict, 2 filter.
    pub seccomp: u32,
    /// Processors that it may run on.
    pub cpus: u32,
}

/// The first process of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pid1 {
    /// Its command.
    pub command: Vec<String>,
    /// Libraries that it has mapped.
    pub mapped: Vec<String>,
    /// Its `LD_LIBRARY_PATH`, where its environment can be read.
    pub ld_library_path: Observed<String>,
}
