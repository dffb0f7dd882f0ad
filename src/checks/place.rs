//! What the container and the driver look like, in the words of the checks: questions that several of them ask.

use std::sync::LazyLock;

use mldoctor_probes::nvml::Gpu;

use crate::facts::node::{DeviceNode, Node, Platform};
use crate::facts::{Driver, Facts, Observed};
use crate::finding::Fix;
use crate::probe::{Call, Outcome};

/// The node, or one of which nothing is known.
pub fn node(facts: &Facts) -> &Node {
    static NONE: LazyLock<Node> = LazyLock::new(Node::default);
    facts.node.as_ref().unwrap_or(&NONE)
}

/// A variable of the workload's environment.
pub fn variable<'f>(facts: &'f Facts, name: &str) -> Option<&'f str> {
    facts.image.env.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

/// What NVML says of each GPU.
pub fn gpus(facts: &Facts) -> Vec<&Gpu> {
    facts.driver.as_ref().map(Driver::gpus).unwrap_or_default()
}

/// A call to CUDA, with or without a context, that was answered with this code.
pub fn failed_with(facts: &Facts, code: i64) -> Option<&Call> {
    let driver = facts.driver.as_ref()?;
    let runs = [driver.cuda.seen(), driver.computed.as_ref().and_then(Observed::seen)];
    let mut calls = runs.into_iter().flatten().flat_map(|run| &run.calls);
    calls.find(|call| matches!(&call.outcome, Outcome::Error(e) if e.code == Some(code)))
}

/// The index of a GPU in the name of a call: `cuDeviceGetAttribute(COMPUTE_MODE, 3)`.
pub fn index_of(call: &Call) -> &str {
    call.name.strip_suffix(')').and_then(|name| name.rsplit(['(', ' ']).next()).unwrap_or_default()
}

/// The GPU that a call to CUDA is about, by the ordinal in its name: what it is called, and what NVML says of it.
pub fn gpu_of<'f>(facts: &'f Facts, call: &Call) -> (String, Option<&'f Gpu>) {
    let index = index_of(call);
    let device = facts.driver.as_ref().and_then(|d| d.devices().find(|d| d.ordinal.to_string() == index));
    let gpu = gpus(facts).into_iter().find(|gpu| {
        let uuid = gpu.uuid.get();
        uuid.is_some() && uuid == device.and_then(|d| d.uuid.get())
    });
    (gpu.map_or_else(|| format!("GPU {index}"), super::gpu_state::called), gpu)
}

/// Whether CUDA could be initialised and sees a GPU: then nothing around it can be wrong enough to matter.
pub fn works(facts: &Facts) -> bool {
    facts.driver.as_ref().and_then(Driver::count).is_some_and(|count| count > 0)
}

impl Node {
    /// Whether it is such a place.
    pub fn is(&self, platform: Platform) -> bool {
        self.platform.contains(&platform)
    }

    /// A device node that is there.
    pub fn device(&self, path: &str) -> Option<&DeviceNode> {
        self.devices.get(path).filter(|d| d.number.is_some())
    }

    /// `/dev/nvidiactl` or what other platforms have in its place.
    pub fn nodes(&self) -> impl Iterator<Item = &'static str> {
        ["/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-ctrl-gpu", "/dev/nvmap"]
            .into_iter()
            .filter(|path| self.is_backed(path))
    }

    /// Whether a device node is there and a driver behind it. The libraries of the driver make `/dev/nvidiactl` by
    /// themselves where they may (`cuInit` as root), also without a module.
    pub fn is_backed(&self, path: &str) -> bool {
        self.device(path).is_some_and(|device| !matches!(device.open.as_str(), "ENXIO" | "ENODEV"))
    }

    /// Whether one of these is there.
    pub fn has_nodes(&self) -> bool {
        self.nodes().next().is_some()
    }

    /// The nodes of single GPUs.
    pub fn gpu_nodes(&self) -> impl Iterator<Item = (&str, &DeviceNode)> {
        let is_gpu = |path: &str| path.strip_prefix("/dev/nvidia").is_some_and(|n| n.parse::<u32>().is_ok());
        self.devices.iter().filter(move |(path, d)| is_gpu(path) && d.number.is_some()).map(|(p, d)| (p.as_str(), d))
    }

    /// A node that CUDA cannot do without and for which `open(2)` answers with this error: one of those that all GPUs
    /// share, or that of the only GPUs there are.
    pub fn refused(&self, errno: &str) -> Option<(&str, &DeviceNode)> {
        let shared = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvmap", "/dev/nvhost-ctrl-gpu"]
            .into_iter()
            .filter_map(|path| Some((path, self.device(path)?)));
        let is_refused = |(_, d): &(&str, &DeviceNode)| d.open == errno;
        let all = self.gpu_nodes().all(|d| is_refused(&d));
        shared.filter(is_refused).chain(self.gpu_nodes().filter(|_| all)).next()
    }

    /// Whether a capability is effective, by its number in `capabilities(7)`.
    pub fn may(&self, capability: u32) -> bool {
        self.process.capabilities >> capability & 1 == 1
    }

    /// A mount point with this in its path.
    pub fn mounted(&self, part: &str) -> Option<&str> {
        self.mounts.seen()?.keys().map(String::as_str).find(|point| point.contains(part))
    }
}

/// What of a path lies below a directory; none where it does not.
pub fn below<'p>(dir: &str, path: &'p str) -> Option<&'p str> {
    let dir = dir.trim_end_matches('/');
    path.strip_prefix(dir).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The release in the name of a driver library: `535.104.05` of `libcuda.so.535.104.05`. The `1.1` of WSL and Tegra is
/// none.
pub fn release_in_name(path: &str) -> Option<&str> {
    let (_, release) = path.rsplit_once(".so.")?;
    let (major, _) = release.split_once('.')?;
    (major.len() >= 3 && release.bytes().all(|b| b == b'.' || b.is_ascii_digit())).then_some(release)
}

/// Where a container is given a GPU.
pub fn give_gpu(summary: &str) -> Fix {
    Fix {
        summary: summary.to_owned(),
        docker_run: Some("docker run --gpus all …".to_owned()),
        kubernetes: Some("resources: { limits: { nvidia.com/gpu: 1 } }".to_owned()),
        dockerfile: None,
    }
}

/// Something that only the node's owner can do.
pub fn on_node(summary: impl Into<String>) -> Fix {
    Fix::words(format!("on the node: {}", summary.into()))
}
