//! The state of each GPU, as NVML tells it: errors of its memory, a reset that is due, who uses it, how it is divided.

use mldoctor_probes::nvml::Gpu;

use super::pages::Severity;
use super::place::{failed_with, gpus, node, on_node, variable, works};
use super::visible_devices::is_hidden;
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
        let found = lost(gpu).or_else(|| ecc(gpu)).or_else(|| reset(gpu));
        findings.extend(found.map(|found| if is_hidden(facts, gpu) { of_others(found) } else { found }));
    }
    let fabric = fabric(facts);
    // CUDA says so itself where that keeps it from working.
    findings.extend(fabric.filter(|_| failed_with(facts, 802).is_none()).map(|mut found| {
        found.severity = if gpus.len() > 1 { Severity::Warning } else { Severity::Note };
        found
    }));
    findings.extend(exclusive(facts));
    findings.extend(without_instance(facts));
    findings.extend(one_instance(facts));
    findings.extend(held_down(&gpus));
    findings.extend(persistence(facts, &gpus));
    Surveyed::found(findings)
}

/// The same of a GPU that the workload does not use.
fn of_others(found: Finding) -> Finding {
    Finding { severity: Severity::Note, breaks: None, ..found.proof("hidden by", "CUDA_VISIBLE_DEVICES", None) }
}

/// A state in which no GPU can be used; then it explains whatever CUDA answers.
pub fn of_none_usable(facts: &Facts) -> Option<Finding> {
    let gpus = gpus(facts);
    let of_one = gpus.iter().find_map(|gpu| lost(gpu).or_else(|| reset(gpu).filter(|found| found.breaks.is_some())));
    let of_all = || exclusive(facts).filter(|found| found.breaks.is_some());
    of_one.or_else(|| without_instance(facts).filter(|found| found.breaks.is_some())).or_else(of_all)
}

/// How a GPU is called in messages.
pub fn called(gpu: &Gpu) -> String {
    match gpu.name.get() {
        Some(name) => format!("GPU {} ({name})", gpu.index),
        None => format!("GPU {}", gpu.index),
    }
}

/// How several are called together, and the verb that goes with them.
fn called_together(gpus: &[&Gpu], one: &str, several: &str) -> String {
    match gpus {
        [gpu] => format!("{} {one}", called(gpu)),
        _ => {
            let numbers: Vec<String> = gpus.iter().map(|gpu| gpu.index.to_string()).collect();
            format!("GPUs {} {several}", numbers.join(", "))
        }
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

/// It does not answer on the bus.
pub fn lost(gpu: &Gpu) -> Option<Finding> {
    let fields = [gpu.handle.code(), gpu.memory.code(), gpu.temperature.code(), gpu.uuid.code()];
    fields.contains(&Some(LOST)).then(|| {
        let found = finding("gpu-lost", called(gpu), format!("{} has fallen off the bus", called(gpu)));
        proof(found, gpu)
            .proof("NVML", "error 15, GPU is lost", None)
            .sees("Unable to determine the device handle for GPU: GPU is lost. Reboot the system to recover this GPU")
            .cure(on_node("reboot it; if it happens again, look at its power, its heat and its slot"))
            .breaks("gpu")
    })
}

/// Errors of its memory that could not be corrected. Where the driver says that nothing has to be done about them
/// (`nvmlDeviceGpuRecoveryAction_t`, since release 570), new processes may use the GPU.
pub fn ecc(gpu: &Gpu) -> Option<Finding> {
    let rows = gpu.remapped_rows.get();
    let volatile = gpu.uncorrected_volatile.get().copied().unwrap_or(0);
    let failed = rows.is_some_and(|r| r.failed);
    if volatile == 0 && !failed {
        return None;
    }
    let message = if failed {
        format!("{} has memory that could not be remapped", called(gpu))
    } else {
        format!("{} has had {volatile} uncorrectable memory errors since the driver was loaded", called(gpu))
    };
    let mut found = proof(finding("gpu-ecc", called(gpu), message), gpu).proof(
        "uncorrectable errors",
        format!("{volatile}, {} in its life", gpu.uncorrected_aggregate.get().map_or("?".into(), u64::to_string)),
        Some("NVML".into()),
    );
    if let Some(rows) = rows {
        let state = format!("{} uncorrectable, pending: {}, failed: {}", rows.uncorrectable, rows.pending, rows.failed);
        found = found.proof("remapped rows", state, None);
    }
    if gpu.pages_pending.get() == Some(&true) {
        found = found.proof("retired pages", "pending", None);
    }
    if let Some(action) = gpu.recovery_action.get() {
        found = found.proof("recovery action", shown_action(*action), None);
    }
    let mut found = found
        .sees("CUDA error: uncorrectable ECC error encountered")
        .cure(on_node("drain it and reset the GPU; replace the GPU where remapping has failed"));
    if !failed && gpu.recovery_action.get() == Some(&0) {
        found.severity = Severity::Warning;
        return Some(found);
    }
    Some(found.breaks("gpu"))
}

/// `nvmlDeviceGpuRecoveryAction_t`; what the numbers from 5 on mean differs between releases of the driver.
fn shown_action(action: u64) -> String {
    match action {
        0 => "none".into(),
        1 => "reset the GPU".into(),
        2 => "reboot the node".into(),
        3 => "drain peer-to-peer traffic".into(),
        4 => "drain and reset".into(),
        other => other.to_string(),
    }
}

/// It waits for a reset. Only some reasons keep it from working until then.
pub fn reset(gpu: &Gpu) -> Option<Finding> {
    let required = [gpu.handle.code(), gpu.memory.code(), gpu.mig.code()].contains(&Some(RESET_REQUIRED));
    let pending_rows = gpu.remapped_rows.get().is_some_and(|r| r.pending);
    let pending_pages = gpu.pages_pending.get() == Some(&true);
    let action = gpu.recovery_action.get().copied().unwrap_or(0);
    let pending_mig = gpu.mig.get().is_some_and(|m| m.enabled != m.pending);
    let (severity, why) = match (required, action, pending_pages, pending_mig, pending_rows) {
        (true, ..) => (Severity::Error, "NVML answers: reset required"),
        (_, 2, ..) => (Severity::Error, "the driver asks for a reboot"),
        (_, 1, ..) => (Severity::Error, "the driver asks for a reset"),
        (_, 4, ..) => (Severity::Warning, "until then it works with less than it has"),
        (_, 3, ..) => (Severity::Warning, "before that, peer-to-peer traffic has to end"),
        (_, 5.., ..) => (Severity::Warning, "the driver asks for an action that is not known here"),
        (_, _, true, ..) => (Severity::Warning, "a page of its memory waits to be retired"),
        (_, _, _, true, _) => (Severity::Warning, "its MIG mode was changed"),
        // The driver keeps off the row until then, and new work may start.
        (_, _, _, _, true) => (Severity::Note, "a row of its memory waits to be remapped"),
        _ => return None,
    };
    let how = match action {
        2 => "reboot it".to_owned(),
        5.. => "nvidia-smi -q tells which; the driver's release notes know it".to_owned(),
        _ => format!("nvidia-smi --gpu-reset -i {}, with nothing running on it", gpu.index),
    };
    let found = finding("gpu-reset-req", called(gpu), format!("{} has to be reset: {why}", called(gpu)));
    let found = proof(found, gpu).proof("recovery action", shown_action(action), Some("NVML".into()));
    let mut found = found.cure(on_node(how));
    found.severity = severity;
    Some(if severity == Severity::Error { found.breaks("gpu") } else { found })
}

/// GPUs that do not take every process. NVML tells the mode; without NVML CUDA does, of the devices that it sees.
pub fn exclusive(facts: &Facts) -> Option<Finding> {
    let gpus = gpus(facts);
    let with = |mode: &str| -> Vec<&Gpu> {
        let has_mode = |g: &&Gpu| g.compute_mode.get().is_some_and(|m| m.starts_with(mode));
        gpus.iter().copied().filter(has_mode).collect()
    };
    let (prohibited, exclusive) = (with("Prohibited"), with("Exclusive"));
    let taken: Vec<&Gpu> =
        exclusive.iter().copied().filter(|g| g.processes.get().is_some_and(|p| !p.is_empty())).collect();
    let (concerned, message, severity) = if !prohibited.is_empty() && prohibited.len() == gpus.len() {
        let message = called_together(&prohibited, "lets no process compute", "let no process compute");
        (prohibited, message, Severity::Error)
    } else if !taken.is_empty() {
        let message = called_together(&taken, "takes one process, and has one", "take one process each, and have one");
        // The one process may be this workload, or the server of MPS, which takes all the others.
        let is_ours = is_cuda_running(facts) || is_mps(facts);
        (taken, message, if is_ours { Severity::Note } else { Severity::Warning })
    } else if !exclusive.is_empty() {
        (exclusive.clone(), called_together(&exclusive, "takes one process", "take one process each"), Severity::Note)
    } else if !prohibited.is_empty() {
        let message = called_together(&prohibited, "lets no process compute", "let no process compute");
        (prohibited, message, Severity::Note)
    } else {
        return None;
    };
    let mut found = finding("gpu-exclusive", "compute mode", message);
    for gpu in concerned {
        let mode = gpu.compute_mode.get().map_or("?", String::as_str);
        let others = gpu.processes.get().map_or(0, Vec::len);
        found = found.proof(
            "compute mode",
            format!("{}: {mode}, {others} processes are seen from here", called(gpu)),
            Some("NVML".into()),
        );
    }
    let mut found = found
        .sees("CUDA error: all CUDA-capable devices are busy or unavailable")
        .cure(on_node("nvidia-smi -c 0, or share the GPU with MPS"));
    found.severity = severity;
    Some(if severity == Severity::Error { found.breaks("gpu") } else { found })
}

/// Whether the first process of the container uses CUDA: then it may be the one that has the GPU.
fn is_cuda_running(facts: &Facts) -> bool {
    node(facts).pid1.seen().is_some_and(|pid1| pid1.mapped.iter().any(|path| path.contains("/libcuda.so")))
}

/// Whether the container is set up for MPS.
fn is_mps(facts: &Facts) -> bool {
    variable(facts, "CUDA_MPS_PIPE_DIRECTORY").is_some() || node(facts).mounted("nvidia-mps").is_some()
}

/// Divided GPUs (MIG) of which no part belongs to the container. Parts that cannot be counted are not missing.
pub fn without_instance(facts: &Facts) -> Option<Finding> {
    let gpus = gpus(facts);
    let is_empty = |g: &&&Gpu| g.mig.get().is_some_and(|mig| mig.enabled && mig.devices.is_empty());
    let empty: Vec<&Gpu> = gpus.iter().filter(is_empty).copied().collect();
    if empty.is_empty() {
        return None;
    }
    let message =
        called_together(&empty, "is divided (MIG)", "are divided (MIG)") + ", and no part belongs to this container";
    let mut found = finding("gpu-mig-noinst", "MIG", message);
    for gpu in &empty {
        found = found.proof("MIG", format!("{}: enabled, no instance", called(gpu)), Some("NVML".into()));
    }
    let mut found = found.sees("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected").cure(Fix {
        summary: "on the node: nvidia-smi mig -cgi <profile> -C makes instances; then give one to the container".into(),
        docker_run: Some("docker run --gpus '\"device=MIG-<uuid>\"' …".into()),
        kubernetes: Some("resources: { limits: { nvidia.com/mig-1g.10gb: 1 } }".into()),
        dockerfile: None,
    });
    if empty.len() == gpus.len() && !works(facts) {
        return Some(found.breaks("gpu"));
    }
    found.severity = Severity::Warning;
    Some(found)
}

/// CUDA enumerates one MIG device per process.
pub fn one_instance(facts: &Facts) -> Option<Finding> {
    let gpus = gpus(facts);
    let all: Vec<&String> = gpus.iter().filter_map(|g| g.mig.get()).flat_map(|m| &m.devices).collect();
    let seen = facts.driver.as_ref().and_then(Driver::cuda).and_then(|c| c.count.get().copied())?;
    let is_chosen = variable(facts, "CUDA_VISIBLE_DEVICES").is_some_and(|value| value.contains("MIG-"));
    (all.len() > 1 && seen == 1 && !is_chosen).then(|| {
        let message = format!("a process sees one of the {} MIG devices of this container", all.len());
        let mut found = finding("gpu-mig-one", "MIG", message);
        for uuid in &all {
            found = found.proof("MIG device", uuid.as_str(), Some("NVML".into()));
        }
        let mut found = found.cure(Fix {
            summary: "start one process for each, and let each see its own".into(),
            docker_run: Some(format!("docker run -e CUDA_VISIBLE_DEVICES={} …", all[0])),
            ..Fix::default()
        });
        if facts.target.expect_gpus.is_some_and(|expected| expected > 1) {
            found.severity = Severity::Error;
            found = found.breaks("gpu");
        }
        found
    })
}

/// `NVML_GPU_FABRIC_STATE_COMPLETED`
pub const COMPLETED: u32 = 3;

/// GPUs that are connected by NVSwitch and have not joined its fabric.
pub fn fabric(facts: &Facts) -> Option<Finding> {
    let is_ready = |state: u32, status: u32| state == 0 || (state == COMPLETED && status == 0);
    let gpus = gpus(facts);
    let late: Vec<_> = gpus
        .iter()
        .filter_map(|g| Some((g, g.fabric.get().filter(|fabric| !is_ready(fabric.state, fabric.status))?)))
        .collect();
    if late.is_empty() {
        return None;
    }
    let mut found = no_fabric();
    for (gpu, fabric) in late {
        let state = match fabric.state {
            1 => "not started".to_owned(),
            2 => "in progress".to_owned(),
            COMPLETED => format!("completed with error {}", fabric.status),
            other => other.to_string(),
        };
        found = found.proof("fabric", format!("{}: {state}", called(gpu)), Some("NVML".into()));
    }
    Some(found)
}

/// CUDA says that the fabric is not ready.
pub fn no_fabric() -> Finding {
    finding("dev-fabric-802", "NVSwitch", "the NVSwitch fabric is not ready")
        .sees("Error 802: system not yet initialized")
        .cure(on_node("start nvidia-fabricmanager of the same release as the driver, and wait until it is done"))
}

/// What a GPU does by itself at its usual limits is not worth a word: it stays below its power cap all the time.
const USUAL: &[&str] = &["sw_power_cap", "sync_boost", "display_clock_setting", "user_defined_clocks"];

fn held_down(gpus: &[&Gpu]) -> Option<Finding> {
    let reasons = |gpu: &Gpu| -> Vec<String> {
        let all = gpu.clock_reasons.get().into_iter().flatten();
        all.filter(|reason| !USUAL.contains(&reason.as_str())).cloned().collect()
    };
    let slow: Vec<&Gpu> = gpus.iter().copied().filter(|gpu| !reasons(gpu).is_empty()).collect();
    if slow.is_empty() {
        return None;
    }
    let message = called_together(&slow, "runs below its clock", "run below their clocks");
    let mut found = finding("gpu-thermal-throttle", "clocks", message);
    for gpu in slow {
        let temperature = gpu.temperature.get().map_or("temperature not known".into(), |t| format!("{t} °C"));
        let shown = format!("{}: {}, {temperature}", called(gpu), reasons(gpu).join(", "));
        found = found.proof("reasons", shown, Some("NVML".into()));
    }
    Some(found.cure(on_node("look at its cooling and its power supply: nvidia-smi -q -d PERFORMANCE,TEMPERATURE")))
}

/// Start-up that takes long because each first process initialises the GPUs. The mode is told as off where the daemon
/// holds them.
fn persistence(facts: &Facts, gpus: &[&Gpu]) -> Option<Finding> {
    const SLOW: u64 = 2_000;
    let run = facts.driver.as_ref()?.nvml.seen()?;
    let took = run.took;
    let off = gpus.iter().any(|g| g.persistence.get() == Some(&false));
    let has_daemon = node(facts).mounted("nvidia-persistenced").is_some();
    (off && took > SLOW && run.unfinished().is_none() && !has_daemon).then(|| {
        let message = format!("asking the GPUs took {:.1} s, and nothing keeps them initialised", took as f64 / 1000.0);
        finding("gpu-persist", "persistence mode", message)
            .proof("persistence mode", "off", Some("NVML".into()))
            .proof("NVML", format!("{took} ms for {} GPUs", gpus.len()), None)
            .proof("nvidia-persistenced", "its socket is not in the container", Some("/proc/self/mountinfo".into()))
            .cure(on_node("systemctl enable --now nvidia-persistenced"))
    })
}
