//! Device nodes, the numbers that the kernel gives them, and what is on the PCI bus.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::read;
use crate::facts::Observed;
use crate::facts::node::DeviceNode;
use crate::image::{EntryKind, FileError, Rootfs};

/// Nodes that are told of even where they are absent: without them nothing works on an ordinary host.
const EXPECTED: &[&str] = &["/dev/nvidiactl", "/dev/nvidia-uvm"];
/// Nodes of other platforms, told of where they are there.
const OTHERS: &[&str] =
    &["/dev/dxg", "/dev/nvhost-ctrl-gpu", "/dev/nvmap", "/dev/nvidia-modeset", "/dev/nvidia-uvm-tools"];
/// Folders of nodes.
const FOLDERS: &[&str] = &["/dev/nvidia-caps", "/dev/nvidia-caps-imex-channels", "/dev/infiniband"];
/// Entries of `/dev` looked at.
const MAX_NODES: usize = 500;

/// The nodes of NVIDIA's driver, without opening any.
pub fn nodes(rootfs: &Rootfs) -> BTreeMap<String, DeviceNode> {
    let mut paths: Vec<PathBuf> = EXPECTED.iter().map(PathBuf::from).collect();
    let is_gpu = |name: &str| name.strip_prefix("nvidia").is_some_and(|n| n.parse::<u32>().is_ok());
    let entries = rootfs.read_dir(Path::new("/dev")).unwrap_or_default();
    paths.extend(
        entries.iter().filter(|e| e.name.to_str().is_some_and(is_gpu)).map(|e| Path::new("/dev").join(&e.name)),
    );
    paths.extend(OTHERS.iter().map(PathBuf::from).filter(|p| rootfs.exists(p)));
    for folder in FOLDERS {
        for entry in rootfs.read_dir(Path::new(folder)).unwrap_or_default() {
            if entry.kind == EntryKind::Special {
                paths.push(Path::new(folder).join(entry.name));
            }
        }
    }
    paths.truncate(MAX_NODES);
    paths.into_iter().map(|path| (path.to_string_lossy().into_owned(), node(rootfs, &path))).collect()
}

fn node(rootfs: &Rootfs, path: &Path) -> DeviceNode {
    let mut node = DeviceNode::default();
    match rootfs.stat(path) {
        Ok(stat) => {
            node.number = Some((rustix::fs::major(stat.rdev), rustix::fs::minor(stat.rdev)));
            (node.mode, node.uid, node.gid) = (stat.mode & 0o7777, stat.uid, stat.gid);
        }
        Err(FileError::NotFound) => node.open = "ENOENT".into(),
        Err(e) => node.open = e.to_string(),
    }
    node
}

/// The major numbers of NVIDIA's character devices in `/proc/devices`.
pub fn majors(rootfs: &Rootfs) -> Observed<BTreeMap<String, u32>> {
    read(rootfs, "/proc/devices").and_then(|text| {
        let characters = text.split("Block devices:").next()?;
        let rows = characters.lines().filter_map(|line| {
            let (number, name) = line.trim().split_once(' ')?;
            Some((name.trim().to_owned(), number.parse().ok()?))
        });
        Some(rows.filter(|(name, _)| name.starts_with("nvidia")).collect())
    })
}

/// Display controllers of NVIDIA (vendor 10de, class 03) in `/sys/bus/pci/devices`.
pub fn on_pci(rootfs: &Rootfs) -> Observed<u32> {
    let bus = Path::new("/sys/bus/pci/devices");
    match rootfs.read_dir(bus) {
        Ok(entries) => {
            let is = |device: &Path, file: &str, prefix: &str| {
                rootfs.read_text(&device.join(file), 64).is_ok_and(|text| text.starts_with(prefix))
            };
            let gpus = entries.iter().map(|e| bus.join(&e.name));
            let gpus = gpus.filter(|d| is(d, "vendor", "0x10de") && is(d, "class", "0x03"));
            Observed::Seen(u32::try_from(gpus.count()).unwrap_or(u32::MAX))
        }
        Err(FileError::NotFound) => Observed::Absent(bus.display().to_string()),
        Err(e) => Observed::Failed(e.to_string()),
    }
}
