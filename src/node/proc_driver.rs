//! The kernel module's own files in `/proc/driver/nvidia`. Absent on WSL, Tegra and in gVisor, where that says nothing.

use std::collections::BTreeMap;
use std::path::Path;

use super::read;
use crate::facts::Observed;
use crate::facts::node::KernelDriver;
use crate::image::{FileError, Rootfs};

/// Parameters that a finding is about.
const PARAMETERS: &[&str] = &["RmProfilingAdminOnly", "DeviceFileUID", "DeviceFileGID", "DeviceFileMode"];

/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 …`
pub fn version(rootfs: &Rootfs) -> Observed<KernelDriver> {
    read(rootfs, "/proc/driver/nvidia/version").and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("NVRM version:"))?;
        let is_version = |word: &&str| {
            let mut parts = word.split('.');
            parts.next().is_some_and(|major| major.len() >= 3) && word.contains('.') && parts.all(is_number)
        };
        let version = line.split_whitespace().find(|w| w.starts_with(|c: char| c.is_ascii_digit()) && is_version(w))?;
        Some(KernelDriver { version: version.to_owned(), open: line.contains("Open Kernel Module") })
    })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// `Name: value` lines.
pub fn parameters(rootfs: &Rootfs) -> BTreeMap<String, String> {
    let text = read(rootfs, "/proc/driver/nvidia/params").seen().cloned().unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| PARAMETERS.contains(name))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// GPUs that the module has found, whether or not they could be initialised.
pub fn gpus(rootfs: &Rootfs) -> Observed<u32> {
    match rootfs.read_dir(Path::new("/proc/driver/nvidia/gpus")) {
        Ok(entries) => Observed::Seen(u32::try_from(entries.len()).unwrap_or(u32::MAX)),
        Err(FileError::NotFound) => Observed::Absent("/proc/driver/nvidia/gpus".into()),
        Err(e) => Observed::Failed(e.to_string()),
    }
}
