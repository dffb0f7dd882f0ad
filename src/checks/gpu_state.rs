//! The state of each GPU, as NVML tells it: errors of its memory, a reset that is due, who uses it, how it is divided.

use mldoctor_probes::nvml::{Fabric, Gpu};

use super::place::{gpus, node, on_node};
use super::{Check, Rule, Surveyed, finding};
use crate::facts::{Driver, Facts};
use crate::finding::{Finding, Fix};

/// The check.
pub static CHECK: Check = Check {
    ids: &[
        "dev-fabric-802",
        "gpu-ecc",
        "gpu-exclusive",
        "gpu-lost",
        "gpu-mig-noinst",
        "gpu-mig-one",
        "gpu-persist",
        "gpu-reset-req",
        "gpu-thermal-throttle",
    ],
    rule: Rule::Survey(survey),
};

/// `NVML_ERROR_GPU_IS_LOST`
const LOST: i64 = 15;
/// `NVML_ERROR_RESET_REQUIRED`
const RESET_REQUIRED: i64 = 16;

fn survey(facts: &Facts) -> Surveyed {
    let gpus = gpus(facts);
    if gpus.is_empty() {
        return Surveyed::not_applicable("NVML tells of no GPU");
    }
    let mut findings = Vec::new();
    for gpu in &gpus {
        findings.extend(lost(gpu).map(|f| f.breaks("gpu")));
        findings.extend(ecc(gpu));
        findings.extend(reset(gpu));
        findings.extend(mode(facts, gpu));
        findings.extend(mig(gpu).map(|f| f.breaks("gpu")));
        findings.extend(fabric(gpu));
        findings.extend(held_down(gpu));
    }
    findings.extend(one_instance(facts, &gpus));
    findings.extend(persistence(facts, &gpus));
    Surveyed::found(findings)
}

/// How a GPU is called in messages.
pub fn called(gpu: &Gpu) -> String {
    match gpu.name.get() {
        Some(name) => format!("GPU {} ({name})", gpu.index),
        None => format!("GPU {}", gpu.index),
    }
}

fn proof(found: Finding, gpu: &Gpu) -> Finding {
    let found = match gpu.uuid.get() {
        Some(uuid) => found.proof("UUID", uuid, Some("NVML".into())),
        None => found,
    };
    match gpu.pci.get() {
        Some(pci) => found.proof("PCI", pci, None),
        None => found,
    }
}

fn lost(gpu: &Gpu) -> Option<Finding> {
    let fields = [gpu.handle.code(), gpu.memory.code(), gpu.temperature.code(), gpu.uuid.code()];
    fields.contains(&Some(LOST)).then(|| {
        let found = finding("gpu-lost", called(gpu), format!("{} has fallen off the bus", called(gpu)));
        proof(found, gpu)
            .proof("NVML", "error 15, GPU is lost", None)
            .sees("Unable to determine the device handle for GPU: GPU is lost. Reboot the system to recover this GPU")
            .cure(on_node("reboot it; if it happens again, look at its power, its heat and its slot"))
    })
}

fn ecc(gpu: &Gpu) -> Option<Finding> {
    let rows = gpu.remapped_rows.get();
    let volatile = gpu.uncorrected_volatile.get().copied().unwrap_or(0);
    let failed = rows.is_some_and(|r| r.failed);
    if volatile == 0 && !failed {
        return None;
    }
    let message = if failed {
        format!("{} has memory that cannot be remapped any more", called(gpu))
    } else {
        format!("{} has had {volatile} uncorrectable memory errors since the driver was loaded", called(gpu))
    };
    let mut found = proof(finding("gpu-ecc", called(gpu), message), gpu).proof(
        "uncorrectable errors",
        format!("{volatile}, {} in its life", gpu.uncorrected_aggregate.get().map_or("?".into(), u64::to_string)),
        Some("NVML".into()),
    );
    if let Some(rows) = rows {
        found = found.proof(
            "remapped rows",
            format!("{} uncorrectable, failed: {}", rows.uncorrectable, rows.failed),
            None,
        );
    }
    Some(
        found
            .sees("CUDA error: uncorrectable ECC error encountered")
            .cure(on_node("drain it and reset the GPU; replace the GPU where remapping has failed"))
            .breaks("gpu"),
    )
}

const MIG_CHANGED: &str = "its MIG mode was changed";

fn reset(gpu: &Gpu) -> Option<Finding> {
    let required = [gpu.handle.code(), gpu.memory.code(), gpu.mig.code()].contains(&Some(RESET_REQUIRED));
    let pending_rows = gpu.remapped_rows.get().is_some_and(|r| r.pending);
    let pending_pages = gpu.pages_pending.get() == Some(&true);
    let action = gpu.recovery_action.get().copied().unwrap_or(0);
    let pending_mig = gpu.mig.get().is_some_and(|m| m.enabled != m.pending);
    let why = match (required, pending_rows, pending_pages, action, pending_mig) {
        (true, ..) => "NVML answers: reset required",
        (_, true, ..) => "a row of its memory waits to be remapped",
        (_, _, true, ..) => "a page of its memory waits to be retired",
        (_, _, _, 2, _) => "the driver asks for a reboot",
        (_, _, _, 1 | 3 | 4, _) => "the driver asks for a reset",
        (_, _, _, _, true) => MIG_CHANGED,
        _ => return None,
    };
    let found = finding("gpu-reset-req", called(gpu), format!("{} has to be reset: {why}", called(gpu)));
    let cure = on_node(format!("nvidia-smi --gpu-reset -i {}, with nothing running on it", gpu.index));
    let mut found = proof(found, gpu).proof("recovery action", action.to_string(), Some("NVML".into())).cure(cure);
    if why == MIG_CHANGED {
        // It goes on as it was until then.
        found.severity = super::pages::Severity::Warning;
        return Some(found);
    }
    Some(found.breaks("gpu"))
}

fn mode(facts: &Facts, gpu: &Gpu) -> Option<Finding> {
    let mode = gpu.compute_mode.get()?;
    if mode == "Default" {
        return None;
    }
    let others = gpu.processes.get().map_or(0, Vec::len);
    let prohibited = mode == "Prohibited";
    let message = if prohibited {
        format!("{} lets no process compute", called(gpu))
    } else {
        format!("{} lets only one process compute", called(gpu))
    };
    let mut found = proof(finding("gpu-exclusive", called(gpu), message), gpu)
        .proof("compute mode", mode, Some("NVML".into()))
        .proof("processes", others.to_string(), Some("as far as they are seen from here".into()))
        .sees("CUDA error: all CUDA-capable devices are busy or unavailable")
        .cure(on_node(format!("nvidia-smi -i {} -c 0, or use MPS", gpu.index)));
    if prohibited && !facts.driver.as_ref().is_some_and(|d| d.gpus().iter().any(|g| g.compute_mode.get() != Some(mode)))
    {
        found = found.breaks("gpu");
    } else if !prohibited && others == 0 {
        found.severity = super::pages::Severity::Note;
    }
    Some(found)
}

fn mig(gpu: &Gpu) -> Option<Finding> {
    let mig = gpu.mig.get()?;
    (mig.enabled && mig.devices.is_empty()).then(|| {
        let message = format!("{} is divided (MIG), and no part of it belongs to this container", called(gpu));
        proof(finding("gpu-mig-noinst", called(gpu), message), gpu)
            .proof("MIG", "enabled, no instance", Some("NVML".into()))
            .sees("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected")
            .cure(Fix {
                summary: "on the node: create instances; then give one to the container".into(),
                docker_run: Some("docker run --gpus '\"device=MIG-<uuid>\"' …".into()),
                kubernetes: Some("resources: { limits: { nvidia.com/mig-1g.10gb: 1 } }".into()),
                dockerfile: None,
            })
    })
}

/// CUDA enumerates one MIG device per process.
fn one_instance(facts: &Facts, gpus: &[&Gpu]) -> Option<Finding> {
    let all: Vec<&String> = gpus.iter().filter_map(|g| g.mig.get()).flat_map(|m| &m.devices).collect();
    let seen = facts.driver.as_ref().and_then(Driver::cuda).and_then(|c| c.count.get().copied())?;
    (all.len() > 1 && seen == 1).then(|| {
        let mut found = finding(
            "gpu-mig-one",
            "MIG",
            format!("a process sees one of the {} MIG devices of this container", all.len()),
        );
        for uuid in &all {
            found = found.proof("MIG device", uuid.as_str(), Some("NVML".into()));
        }
        found.cure(Fix::words("start one process for each, with CUDA_VISIBLE_DEVICES=MIG-<uuid>"))
    })
}

/// `NVML_GPU_FABRIC_STATE_COMPLETED`
pub const COMPLETED: u32 = 3;

fn fabric(gpu: &Gpu) -> Option<Finding> {
    let Fabric { state, status } = *gpu.fabric.get()?;
    let is_ready = state == 0 || (state == COMPLETED && status == 0);
    (!is_ready).then(|| {
        let message = format!("{} has not joined the NVSwitch fabric", called(gpu));
        proof(finding("dev-fabric-802", called(gpu), message), gpu)
            .proof("fabric", format!("state {state}, status {status}"), Some("NVML".into()))
            .sees("Error 802: system not yet initialized")
            .cure(on_node("start nvidia-fabricmanager of the same release as the driver, and wait until it is done"))
    })
}

fn held_down(gpu: &Gpu) -> Option<Finding> {
    let reasons = gpu.clock_reasons.get().filter(|r| !r.is_empty())?;
    Some(
        proof(finding("gpu-thermal-throttle", called(gpu), format!("{} runs below its clock", called(gpu))), gpu)
            .proof("reasons", reasons.join(", "), Some("NVML".into()))
            .proof("temperature", gpu.temperature.get().map_or("?".into(), |t| format!("{t} °C")), None),
    )
}

/// Start-up that takes long because each first process initialises the GPUs.
fn persistence(facts: &Facts, gpus: &[&Gpu]) -> Option<Finding> {
    const SLOW: u64 = 2_000;
    let took = facts.driver.as_ref()?.nvml.seen()?.took;
    let off = gpus.iter().any(|g| g.persistence.get() == Some(&false));
    (off && took > SLOW).then(|| {
        finding("gpu-persist", "persistence mode", format!("initialising the GPUs took {} s", took / 1000))
            .proof("persistence mode", "off", Some("NVML".into()))
            .proof("NVML", format!("{took} ms"), None)
            .proof("nodes", node(facts).devices.len().to_string(), None)
            .cure(on_node("run nvidia-persistenced"))
    })
}
