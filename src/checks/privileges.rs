//! What the container may not do, and which part of a workload notices. None of it keeps CUDA from working.

use super::gpu_state::COMPLETED;
use super::pages::Severity;
use super::place::{gpus, node, variable};
use super::{Check, Rule, Surveyed, file_name, finding};
use crate::facts::Facts;
use crate::finding::{Finding, Fix};

/// The check.
pub static CHECK: Check = Check {
    ids: &["dev-cupti-perm", "dev-imex", "dev-pidfd", "dev-seccomp-numa", "gpu-p2p-acs"],
    rule: Rule::Survey(survey),
};

// Numbers of capabilities(7).
const SYS_PTRACE: u32 = 19;
const SYS_ADMIN: u32 = 21;
const SYS_NICE: u32 = 23;

fn survey(facts: &Facts) -> Surveyed {
    if facts.node.as_ref().is_none_or(|node| !node.has_nodes()) {
        return Surveyed::not_applicable("no GPU in this container");
    }
    Surveyed::found(
        [counters(facts), mempolicy(facts), pidfd(facts), peers(facts), channels(facts)]
            .into_iter()
            .flatten()
            .collect(),
    )
}

fn counters(facts: &Facts) -> Option<Finding> {
    let node = node(facts);
    let restricted = node.parameters.get("RmProfilingAdminOnly").is_some_and(|value| value == "1");
    (restricted && !(node.may(SYS_ADMIN) && node.process.uid == 0)).then(|| {
        finding("dev-cupti-perm", "CUPTI", "the GPU's performance counters are for administrators only")
            .proof("RmProfilingAdminOnly", "1", Some("/proc/driver/nvidia/params".into()))
            .proof("CAP_SYS_ADMIN", if node.may(SYS_ADMIN) { "yes" } else { "no" }, None)
            .sees("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES")
            .cure(Fix {
                summary: "profile as root with CAP_SYS_ADMIN, or set NVreg_RestrictProfilingToAdminUsers=0 on the node"
                    .into(),
                docker_run: Some("docker run --cap-add SYS_ADMIN …".into()),
                kubernetes: Some("securityContext: { capabilities: { add: [SYS_ADMIN] } }".into()),
                dockerfile: None,
            })
    })
}

fn mempolicy(facts: &Facts) -> Option<Finding> {
    let node = node(facts);
    let command = &node.pid1.seen()?.command;
    let binds = command.iter().any(|word| file_name(word) == "numactl");
    (binds && node.process.seccomp == 2 && !node.may(SYS_NICE)).then(|| {
        finding("dev-seccomp-numa", "numactl", "the container's seccomp filter lets nobody bind memory to a NUMA node")
            .proof("command", command.join(" "), Some("/proc/1/cmdline".into()))
            .proof("Seccomp", "2", Some("/proc/self/status".into()))
            .proof("CAP_SYS_NICE", "no", None)
            .sees("set_mempolicy: Operation not permitted")
            .cure(Fix {
                summary: "add the capability, or do without numactl".into(),
                docker_run: Some("docker run --cap-add SYS_NICE …".into()),
                kubernetes: Some("securityContext: { capabilities: { add: [SYS_NICE] } }".into()),
                dockerfile: None,
            })
    })
}

/// Expandable segments are shared between processes with `pidfd_getfd(2)`, which asks for `PTRACE_MODE_ATTACH`.
fn pidfd(facts: &Facts) -> Option<Finding> {
    let node = node(facts);
    let expandable = ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"]
        .iter()
        .any(|name| variable(facts, name).is_some_and(|v| v.replace(' ', "").contains("expandable_segments:True")));
    (expandable && node.process.seccomp == 2 && !node.may(SYS_PTRACE)).then(|| {
        let mut found = finding(
            "dev-pidfd",
            "PYTORCH_CUDA_ALLOC_CONF",
            "expandable segments cannot be shared between processes here",
        )
        .proof("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True", Some("environment".into()))
        .proof("CAP_SYS_PTRACE", "no", None)
        .sees("RuntimeError: pidfd_getfd: Operation not permitted")
        .cure(Fix {
            summary: "add the capability, or do without expandable segments".into(),
            docker_run: Some("docker run --cap-add SYS_PTRACE …".into()),
            kubernetes: Some("securityContext: { capabilities: { add: [SYS_PTRACE] } }".into()),
            dockerfile: None,
        });
        if gpus(facts).len() < 2 {
            // One process for each GPU is what shares tensors.
            found.severity = Severity::Note;
        }
        found
    })
}

/// Peer-to-peer writes that PCIe access control drops hang NCCL; without NVLink they go over PCIe.
fn peers(facts: &Facts) -> Option<Finding> {
    let gpus = gpus(facts);
    let on_pcie = gpus.iter().all(|g| g.nvlinks.get().is_some_and(|links| !links.contains(&true)));
    let virtualization = gpus.iter().filter_map(|g| g.virtualization.get()).find(|mode| *mode != "Bare")?;
    (gpus.len() > 1 && on_pcie).then(|| {
        finding("gpu-p2p-acs", "peer-to-peer", "several GPUs talk over PCIe from within a virtual machine")
            .proof("NVLink", "none", Some("NVML".into()))
            .proof("virtualization", virtualization, Some("NVML".into()))
            .cure(Fix {
                summary: "if NCCL hangs, access control (ACS) drops what one GPU writes to another".into(),
                dockerfile: Some("ENV NCCL_P2P_DISABLE=1".into()),
                ..Fix::default()
            })
    })
}

/// Memory that is shared between nodes (multi-node NVLink) wants a channel of the IMEX service.
pub fn channels(facts: &Facts) -> Option<Finding> {
    let node = node(facts);
    let known = node.majors.seen()?.contains_key("nvidia-caps-imex-channels");
    let is_there = node.devices.iter().any(|(p, d)| p.starts_with(IMEX_CHANNELS) && d.number.is_some());
    // The module has them on every node; only those in an NVLink domain of several nodes have a use for them. NCCL tells
    // by the same field (src/mnnvl.cc).
    let in_domain = gpus(facts).iter().any(|g| g.fabric.get().is_some_and(|f| f.state == COMPLETED && f.clustered));
    (known && in_domain && !is_there).then(|| {
        finding("dev-imex", IMEX_CHANNELS, "no IMEX channel was given to this container: no memory of other nodes")
            .proof("nvidia-caps-imex-channels", "the kernel module has them", Some("/proc/devices".into()))
            .proof(IMEX_CHANNELS, "not there", None)
            .sees("CUDA_ERROR_NOT_PERMITTED: operation not permitted")
            .cure(imex_cure())
    })
}

const IMEX_CHANNELS: &str = "/dev/nvidia-caps-imex-channels";

/// What gives a container a channel.
fn imex_cure() -> Fix {
    Fix {
        summary: "give the container a channel, or do without memory across nodes: NCCL_MNNVL_ENABLE=0".into(),
        docker_run: Some("docker run -e NVIDIA_IMEX_CHANNELS=0 …".into()),
        kubernetes: Some("resources: { claims: [{ name: imex-channel }] }  # of a ComputeDomain".into()),
        dockerfile: None,
    }
}
