//! What the workload is said to need of the GPUs: how many, and how much of their memory.

use super::gpu_state::called;
use super::place::{give_gpu, gpus, works};
use super::{Check, Rule, Surveyed, finding};
use crate::facts::{Driver, Facts};
use crate::finding::{Finding, Fix};

/// Their number.
pub static COUNT: Check = Check { ids: &["gpu-count"], rule: Rule::Survey(count) };
/// Their memory.
pub static MEMORY: Check = Check { ids: &["gpu-mem-full"], rule: Rule::Survey(memory) };

fn count(facts: &Facts) -> Surveyed {
    let Some(expected) = facts.target.expect_gpus else {
        return Surveyed::not_applicable("no number of GPUs was named (--expect-gpus)");
    };
    let seen = facts.driver.as_ref().and_then(Driver::count);
    // Where CUDA does not work at all, that is what is wrong.
    let Some(seen) = seen.filter(|_| works(facts)) else {
        return Surveyed::open("gpu", "how many GPUs the workload sees could not be asked");
    };
    if u32::try_from(seen).is_ok_and(|seen| seen >= expected) {
        return Surveyed::found(Vec::new());
    }
    let mut found = finding("gpu-count", "GPUs", format!("the workload sees {seen} GPUs and needs {expected}"))
        .proof("cuDeviceGetCount", seen.to_string(), Some("CUDA".into()))
        .cure(give_gpu("give the container more GPUs"));
    for gpu in gpus(facts) {
        let uuid = gpu.uuid.get().map_or("?", String::as_str);
        found = found.proof("NVML", format!("{}: {uuid}", called(gpu)), Some("NVML".into()));
    }
    found.fix.docker_run = Some(format!("docker run --gpus {expected} …"));
    found.fix.kubernetes = Some(format!("resources: {{ limits: {{ nvidia.com/gpu: {expected} }} }}"));
    Surveyed::found(vec![found.breaks("gpu")])
}

fn memory(facts: &Facts) -> Surveyed {
    let Some(wanted) = facts.target.min_free_memory else {
        return Surveyed::not_applicable("no amount of memory was named (--min-free-memory)");
    };
    let gpus = gpus(facts);
    let shown = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let full = gpus.iter().filter_map(|gpu| {
        let memory = gpu.memory.get().filter(|memory| memory.free < wanted)?;
        let message = format!("{} has {} free and {} are needed", called(gpu), shown(memory.free), shown(wanted));
        let mut found = finding("gpu-mem-full", called(gpu), message)
            .proof("memory", format!("{} of {} used", shown(memory.used), shown(memory.total)), Some("NVML".into()))
            .sees("torch.OutOfMemoryError: CUDA out of memory.")
            .cure(Fix::words("end what holds it: other containers on the node are not seen from here"));
        for process in gpu.processes.get().into_iter().flatten() {
            let memory = process.memory.map_or("?".to_owned(), shown);
            found = found.proof("process", format!("{} holds {memory}", process.pid), Some("NVML".into()));
        }
        Some(found.breaks("gpu"))
    });
    let full: Vec<Finding> = full.collect();
    if full.is_empty() && (gpus.is_empty() || gpus.iter().any(|gpu| gpu.memory.get().is_none())) {
        return Surveyed::open("gpu", "NVML does not tell how much memory is free");
    }
    Surveyed::found(full)
}
