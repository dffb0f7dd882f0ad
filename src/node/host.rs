//! The machine that the container shares with others, as the crate `sysinfo` sees it: its kernel and its memory.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::facts::node::Host;
use crate::image::Rootfs;

/// Nothing where another root than that of this process is looked at, for `sysinfo` knows no other.
pub fn observe(rootfs: &Rootfs) -> Option<Host> {
    if !rootfs.is_host() {
        return None;
    }
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::everything());
    let system = System::new_with_specifics(memory).ok()?;
    Some(Host {
        kernel: System::kernel_version().unwrap_or_default(),
        memory: system.total_memory(),
        available: system.available_memory(),
        swap: system.total_swap(),
    })
}
