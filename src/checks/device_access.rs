//! Device nodes that are not there, may not be opened, or have an old number.

use super::place::{node, on_node, works};
use super::{Check, Rule, Surveyed, finding};
use crate::facts::Facts;
use crate::facts::node::{DeviceNode, Node, Platform};
use crate::finding::{Finding, Fix};

/// What is visible whether or not the driver was asked.
pub static CHECK: Check = Check {
    ids: &["dev-cgroup-lost", "dev-gpu-node-missing", "dev-perm", "dev-uvm", "dev-uvm-major"],
    rule: Rule::Survey(survey),
};

fn survey(facts: &Facts) -> Surveyed {
    let Some(node) = &facts.node else { return Surveyed::not_applicable("only the image is judged") };
    if !node.has_nodes() || node.is(Platform::Wsl) || node.is(Platform::Tegra) {
        return Surveyed::not_applicable("no device nodes of NVIDIA's driver");
    }
    if works(facts) {
        return Surveyed::found(Vec::new());
    }
    Surveyed::found(all(facts).into_iter().map(|found| found.breaks("gpu")).collect())
}

/// Everything that is wrong with the device nodes; the first is what a failed call is most likely due to.
pub fn all(facts: &Facts) -> Vec<Finding> {
    let node = node(facts);
    let found = [lost(&node), denied(&node), uvm(&node), uvm_major(&node), gpu_node(&node)];
    found.into_iter().flatten().collect()
}

/// Permission bits allow it and the kernel does not: the device rules of the container's cgroup were replaced.
fn lost(node: &Node) -> Option<Finding> {
    let (path, device) = node.refused("EPERM")?;
    Some(
        finding("dev-cgroup-lost", path, "the container has lost its access to the GPU".to_owned())
            .proof("open", format!("{path}: EPERM"), Some("open(2)".into()))
            .proof("mode", shown(device), None)
            .sees("Failed to initialize NVML: Unknown Error")
            .cure(Fix {
                summary: "start the container anew: nothing inside can give the access back. On the node, systemctl \
                          daemon-reload takes it away again unless the device nodes have links in /dev/char"
                    .into(),
                docker_run: Some("sudo nvidia-ctk system create-dev-char-symlinks --create-all".into()),
                ..Fix::default()
            }),
    )
}

fn denied(node: &Node) -> Option<Finding> {
    let (path, device) = node.refused("EACCES")?;
    let message = format!("user {} may not open the GPU's device nodes", node.process.uid);
    Some(
        finding("dev-perm", path, message)
            .proof("open", format!("{path}: EACCES"), Some("open(2)".into()))
            .proof("mode", shown(device), None)
            .proof("groups", node.process.gids.iter().map(u32::to_string).collect::<Vec<_>>().join(", "), None)
            .sees("Failed to initialize NVML: Insufficient Permissions")
            .cure(Fix {
                summary: format!("let the user be a member of group {}", device.gid),
                docker_run: Some(format!("docker run --group-add {} …", device.gid)),
                kubernetes: Some(format!("securityContext: {{ supplementalGroups: [{}] }}", device.gid)),
                dockerfile: None,
            }),
    )
}

fn shown(device: &DeviceNode) -> String {
    format!("{:04o}, owner {}, group {}", device.mode, device.uid, device.gid)
}

fn uvm(node: &Node) -> Option<Finding> {
    if node.device("/dev/nvidia-uvm").is_some() || node.device("/dev/nvidiactl").is_none() {
        return None;
    }
    let known = node.majors.seen().is_some_and(|majors| majors.contains_key("nvidia-uvm"));
    Some(
        finding("dev-uvm", "/dev/nvidia-uvm", "CUDA needs /dev/nvidia-uvm, which is not there".to_owned())
            .proof("/dev/nvidiactl", "there", None)
            .proof("nvidia-uvm", if known { "loaded" } else { "not loaded" }, Some("/proc/devices".into()))
            .sees("CUDA_ERROR_UNKNOWN: unknown error")
            .cure(on_node("nvidia-modprobe -u -c=0 at boot, then start the container anew")),
    )
}

/// The number is given anew each time the module is loaded.
fn uvm_major(node: &Node) -> Option<Finding> {
    let device = node.device("/dev/nvidia-uvm")?;
    let (own, _) = device.number?;
    let now = *node.majors.seen()?.get("nvidia-uvm")?;
    (own != now).then(|| {
        finding("dev-uvm-major", "/dev/nvidia-uvm", "/dev/nvidia-uvm has the number of an earlier time".to_owned())
            .proof("node", format!("major {own}"), Some("/dev/nvidia-uvm".into()))
            .proof("kernel", format!("major {now}"), Some("/proc/devices".into()))
            .sees("CUDA_ERROR_UNKNOWN: unknown error")
            .cure(Fix::words("start the container anew, so that it gets the node with the number of today"))
    })
}

fn gpu_node(node: &Node) -> Option<Finding> {
    if node.gpu_nodes().next().is_some() || node.device("/dev/nvidiactl").is_none() {
        return None;
    }
    let known = node.module_gpus.seen().copied().unwrap_or(0);
    Some(
        finding("dev-gpu-node-missing", "/dev/nvidia0", "no GPU's device node is in the container".to_owned())
            .proof("/dev/nvidiactl", "there", None)
            .proof("GPUs of the node", known.to_string(), Some("/proc/driver/nvidia/gpus".into()))
            .sees("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected")
            .cure(super::place::give_gpu("name the GPUs that it is to have")),
    )
}
