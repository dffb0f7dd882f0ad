//! Device nodes that are not there, may not be opened, or have an old number.

use super::place::{node, on_node, variable, works};
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
    if !node.has_nodes() || node.is(Platform::Wsl) {
        return Surveyed::not_applicable("no device nodes of NVIDIA's driver");
    }
    if works(facts) {
        return Surveyed::found(Vec::new());
    }
    let found: Vec<Finding> = all(facts).into_iter().map(|found| found.breaks("gpu")).collect();
    let is_untried = |device: &DeviceNode| device.number.is_some() && device.open.is_empty();
    if found.is_empty() && node.devices.values().any(is_untried) {
        return Surveyed::unknown("opening the device nodes could not be tried");
    }
    Surveyed::found(found)
}

/// Everything that is wrong with the device nodes; the first is what a failed call is most likely due to.
pub fn all(facts: &Facts) -> Vec<Finding> {
    let node = node(facts);
    let found = [lost(node), denied(node), uvm(node), uvm_major(node), gpu_node(facts, node)];
    found.into_iter().flatten().collect()
}

/// Permission bits allow it and the kernel does not: the container's device rules do. Those that let it in may have been
/// replaced since it was started.
fn lost(node: &Node) -> Option<Finding> {
    // Without a GPU's node it never had the access, and the libraries have made the others themselves.
    let (path, device) = node.refused("EPERM").filter(|_| node.gpu_nodes().next().is_some())?;
    Some(
        finding("dev-cgroup-lost", path, format!("the device rules of this container do not let it open {path}"))
            .proof("open", format!("{path}: EPERM"), Some("open(2)".into()))
            .proof("mode", shown(device), None)
            .sees("Failed to initialize NVML: Unknown Error")
            .cure(Fix {
                summary: "start the container anew: nothing inside can give the access back. On the node, systemctl \
                          daemon-reload takes it away again unless the device nodes have links in /dev/char"
                    .into(),
                docker_run: Some("sudo nvidia-ctk system create-dev-char-symlinks --create-all".into()),
                kubernetes: Some("kubectl delete pod <pod>".into()),
                dockerfile: None,
            }),
    )
}

fn denied(node: &Node) -> Option<Finding> {
    let (path, device) = node.refused("EACCES")?;
    let message = format!("user {} may not open the GPU's device nodes", node.process.uid);
    let groups: Vec<String> = node.process.gids.iter().map(u32::to_string).collect();
    Some(
        finding("dev-perm", path, message)
            .proof("open", format!("{path}: EACCES"), Some("open(2)".into()))
            .proof("mode", shown(device), None)
            .proof("groups", groups.join(", "), None)
            .sees("Failed to initialize NVML: Insufficient Permissions")
            .cure(let_in(node, device)),
    )
}

/// The group that `stat(2)` tells where the container's user namespace has none for it.
const UNMAPPED: u32 = 65534;

fn let_in(node: &Node, device: &DeviceNode) -> Fix {
    const READ_WRITE: u32 = 0o060;
    if device.gid == UNMAPPED {
        return Fix {
            summary: "the group of the nodes is not mapped into the container's user namespace: keep the user's groups"
                .into(),
            docker_run: Some("podman run --userns=keep-id --group-add keep-groups …".into()),
            ..Fix::default()
        };
    }
    if device.mode & READ_WRITE != READ_WRITE || node.process.gids.contains(&device.gid) {
        return on_node("options nvidia NVreg_DeviceFileMode=0666 in /etc/modprobe.d, then load the module anew");
    }
    Fix {
        summary: format!("let the user be a member of group {}", device.gid),
        docker_run: Some(format!("docker run --group-add {} …", device.gid)),
        kubernetes: Some(format!("securityContext: {{ supplementalGroups: [{}] }}", device.gid)),
        dockerfile: None,
    }
}

fn shown(device: &DeviceNode) -> String {
    format!("{:04o}, owner {}, group {}", device.mode, device.uid, device.gid)
}

fn uvm(node: &Node) -> Option<Finding> {
    // Without any GPU's node it is not only this one that was not given.
    let has_gpu = node.device("/dev/nvidiactl").is_some() && node.gpu_nodes().next().is_some();
    if node.device("/dev/nvidia-uvm").is_some() || !has_gpu {
        return None;
    }
    let known = node.majors.seen().is_some_and(|majors| majors.contains_key("nvidia-uvm"));
    Some(
        finding("dev-uvm", "/dev/nvidia-uvm", "CUDA needs /dev/nvidia-uvm, which is not there".to_owned())
            .proof("/dev/nvidiactl", "there", None)
            .proof("nvidia-uvm", if known { "loaded" } else { "not loaded" }, Some("/proc/devices".into()))
            .sees("CUDA_ERROR_UNKNOWN: unknown error")
            .cure(on_node("sudo nvidia-modprobe -u -c=0, at every boot; then start the container anew")),
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

fn gpu_node(facts: &Facts, node: &Node) -> Option<Finding> {
    if node.gpu_nodes().next().is_some() || !node.is_backed("/dev/nvidiactl") {
        return None;
    }
    let known = node.module_gpus.seen().map_or("not known".to_owned(), u32::to_string);
    let visible = variable(facts, "NVIDIA_VISIBLE_DEVICES").map_or("not set".to_owned(), |value| format!("{value:?}"));
    Some(
        finding("dev-gpu-node-missing", "/dev/nvidia0", "no GPU's device node is in the container".to_owned())
            .proof("/dev/nvidiactl", "there", None)
            .proof("GPUs of the node", known, Some("/proc/driver/nvidia/gpus".into()))
            .proof("NVIDIA_VISIBLE_DEVICES", visible, Some("environment".into()))
            .sees("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected")
            .cure(super::place::give_gpu("name the GPUs that it is to have")),
    )
}
