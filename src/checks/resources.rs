//! What the container may take: shared memory, locked memory, memory, files, processes. What is certain to break is an
//! error, what depends on the use that is made of it is a warning where several GPUs are there, and else a note.

use super::folders::bytes;
use super::pages::Severity;
use super::place::{gpus, on_node, variable};
use super::{Check, Rule, Surveyed, finding};
use crate::facts::node::Node;
use crate::facts::{Facts, Observed};
use crate::finding::{Finding, Fix};

/// The check.
pub static CHECK: Check = Check {
    ids: &["res-memlock", "res-nofile", "res-oom", "res-pids", "res-probe-1s", "res-shm"],
    rule: Rule::Survey(survey),
};

/// Shared memory that workers and NCCL are content with.
const ENOUGH_SHM: u64 = 1 << 30;
/// Locked memory that NCCL's buffers for InfiniBand stay below.
const ENOUGH_MEMLOCK: u64 = 1 << 30;
/// What `import torch` takes at least and cannot give back: 193 MiB in 2.4.1, 206 MiB in 2.6.0, 290 MiB in 2.15.0.
const IMPORT_TORCH: u64 = 192 << 20;
/// `CAP_IPC_LOCK` in capabilities(7).
const IPC_LOCK: u32 = 14;
/// Milliseconds that Kubernetes gives a probe by default (`timeoutSeconds`).
const PROBE: u64 = 1000;

fn survey(facts: &Facts) -> Surveyed {
    let Some(node) = &facts.node else { return Surveyed::not_applicable("only a running container has limits") };
    let found = [
        shared_memory(facts, node),
        locked_memory(node),
        killed(node),
        memory(facts, node),
        open_files(facts, node),
        processes(facts, node),
        slow_driver(facts),
    ];
    Surveyed::found(found.into_iter().flatten().collect())
}

fn gpu_count(facts: &Facts, node: &Node) -> usize {
    gpus(facts).len().max(node.gpu_nodes().count())
}

fn imports(facts: &Facts) -> bool {
    facts.subjects.iter().any(|s| s.capability.starts_with("import:"))
}

fn shared_memory(facts: &Facts, node: &Node) -> Option<Finding> {
    let (total, value) = match &node.shm {
        Observed::Seen(space) => (space.total, format!("{}, {} free", bytes(space.total), bytes(space.free))),
        Observed::Absent(_) => (0, "not there".to_owned()),
        Observed::Failed(_) | Observed::NotAsked => return None,
    };
    if total >= ENOUGH_SHM || !imports(facts) {
        return None;
    }
    let several = gpu_count(facts, node) > 1;
    let sees = if several {
        "NCCL WARN Error while creating shared memory segment /dev/shm/nccl-…"
    } else {
        "RuntimeError: DataLoader worker (pid(s) …) is killed by signal: Bus error."
    };
    let mut found = finding("res-shm", "/dev/shm", "little shared memory for NCCL and for the workers of a DataLoader")
        .sees(sees)
        .proof("/dev/shm", value, Some("statvfs".into()))
        .proof("GPUs", gpu_count(facts, node).to_string(), None)
        .cure(Fix {
            summary: "give the container more, or share that of the node".into(),
            docker_run: Some("docker run --shm-size=8g …".into()),
            kubernetes: Some(
                "volumes: [{ name: shm, emptyDir: { medium: Memory, sizeLimit: 8Gi } }]  # mounted at /dev/shm".into(),
            ),
            dockerfile: None,
        });
    if !several {
        found.severity = Severity::Note;
    }
    Some(found)
}

fn locked_memory(node: &Node) -> Option<Finding> {
    let limit = node.limits.locked_memory?.soft.filter(|limit| *limit < ENOUGH_MEMLOCK)?;
    let has_verbs =
        node.devices.iter().any(|(path, d)| path.starts_with("/dev/infiniband/uverbs") && d.number.is_some());
    (has_verbs && !node.may(IPC_LOCK)).then(|| {
        finding("res-memlock", "RLIMIT_MEMLOCK", "InfiniBand wants to lock more memory than the container may")
            .sees(format!(
                "Cannot allocate memory. Please set max locked memory (ulimit -l) to 'unlimited' (current: {} kbytes)",
                limit / 1024
            ))
            .proof("Max locked memory", bytes(limit), Some("/proc/self/limits".into()))
            .proof("CAP_IPC_LOCK", "no", Some("/proc/self/status".into()))
            .proof("/dev/infiniband", "uverbs", None)
            .cure(Fix {
                summary: "raise the limit, or add the capability".into(),
                docker_run: Some("docker run --ulimit memlock=-1:-1 --cap-add IPC_LOCK …".into()),
                kubernetes: Some("securityContext: { capabilities: { add: [IPC_LOCK] } }".into()),
                dockerfile: None,
            })
    })
}

fn killed(node: &Node) -> Option<Finding> {
    let memory = node.cgroup.memory.as_ref()?;
    let count = memory.oom_kills.filter(|count| *count > 0)?;
    let limit = memory.limit.map_or_else(|| "none here".to_owned(), bytes);
    let mut found =
        finding("res-oom", "memory", format!("{count} processes of this container were killed for want of memory"))
            .sees("exit code 137")
            .proof("oom_kill", count.to_string(), Some(memory.path.clone()))
            .proof("limit", limit, Some(memory.path.clone()))
            .cure(more_memory());
    if let Some(shared) = memory.shared.filter(|shared| *shared > 0) {
        found = found.proof("of it in /dev/shm and tmpfs", bytes(shared), None);
    }
    found.severity = Severity::Warning;
    Some(found)
}

fn memory(facts: &Facts, node: &Node) -> Option<Finding> {
    let memory = node.cgroup.memory.as_ref()?;
    let limit = memory.limit.filter(|limit| *limit < IMPORT_TORCH)?;
    let capability = facts.subjects.iter().find(|s| s.capability == "import:torch")?;
    let mut found =
        finding("res-oom", "memory limit", "import torch alone takes more memory than the container may have")
            .sees("exit code 137")
            .proof("limit", bytes(limit), Some(memory.path.clone()))
            .proof("taken at least", bytes(IMPORT_TORCH), None)
            .cure(more_memory());
    // What is swapped out does not count.
    match node.host.as_ref().is_some_and(|host| host.swap == 0) {
        true => found = found.breaks(&capability.capability),
        false => found.severity = Severity::Warning,
    }
    Some(found)
}

fn more_memory() -> Fix {
    Fix {
        summary: "raise the limit; page cache, pinned memory and what lies in /dev/shm count too".into(),
        docker_run: Some("docker run --memory 16g …".into()),
        kubernetes: Some("resources: { limits: { memory: 16Gi } }".into()),
        dockerfile: None,
    }
}

fn open_files(facts: &Facts, node: &Node) -> Option<Finding> {
    let soft = node.limits.open_files?.soft?;
    let several = gpu_count(facts, node) > 1;
    if soft >= 256 && !(several && soft <= 1024) {
        return None;
    }
    let mut found = finding("res-nofile", "RLIMIT_NOFILE", format!("the container may open {soft} files at a time"))
        .sees("OSError: [Errno 24] Too many open files")
        .proof("Max open files", soft.to_string(), Some("/proc/self/limits".into()))
        .cure(Fix {
            summary: "raise the limit".into(),
            docker_run: Some("docker run --ulimit nofile=65536:65536 …".into()),
            ..Fix::default()
        });
    if soft >= 256 {
        found.severity = Severity::Note;
    }
    Some(found)
}

/// OpenBLAS and OpenMP start a thread per processor, the driver a few for itself.
fn processes(facts: &Facts, node: &Node) -> Option<Finding> {
    let pids = node.cgroup.pids.as_ref()?;
    let limit = pids.limit?;
    let threads = variable(facts, "OMP_NUM_THREADS").and_then(|n| n.parse().ok()).unwrap_or(node.process.cpus);
    let needed = u64::from(threads).saturating_add(4);
    let left = limit.saturating_sub(pids.current);
    (left < needed && imports(facts)).then(|| {
        finding("res-pids", "pids.max", format!("the container may have {left} more threads, and wants {needed}"))
            .sees("RuntimeError: can't start new thread")
            .proof("pids.max", limit.to_string(), Some(pids.path.clone()))
            .proof("pids.current", pids.current.to_string(), Some(pids.path.clone()))
            .proof("processors", node.process.cpus.to_string(), Some("/proc/self/status".into()))
            .cure(Fix {
                summary: "raise the limit, or let OMP_NUM_THREADS be less".into(),
                docker_run: Some("docker run --pids-limit 4096 …".into()),
                kubernetes: Some("# podPidsLimit in the kubelet's configuration".into()),
                dockerfile: Some("ENV OMP_NUM_THREADS=1".into()),
            })
    })
}

fn slow_driver(facts: &Facts) -> Option<Finding> {
    let driver = facts.driver.as_ref()?;
    // A call that never came back is told as such.
    let finished =
        [&driver.cuda, &driver.nvml].into_iter().filter_map(|r| r.seen()).filter(|r| r.unfinished().is_none());
    let took = finished.map(|run| run.took).max()?;
    (took >= PROBE).then(|| {
        finding(
            "res-probe-1s",
            "driver",
            format!("the driver took {took} ms to answer, and a probe has 1 s by default"),
        )
        .sees("Readiness probe failed: command timed out: context deadline exceeded")
        .proof("took", format!("{took} ms"), None)
        .cure(Fix {
            kubernetes: Some("livenessProbe: { timeoutSeconds: 5 }".into()),
            ..on_node("persistence mode keeps the driver initialised; and give probes more time")
        })
    })
}
