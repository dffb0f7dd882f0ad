//! CUDA from two places, tools for developers, libraries of the driver.

use std::collections::BTreeSet;

use super::caches::found;
use super::{Candidate, Seen, human};
use crate::checks::{driver_files, file_name};
use crate::driver::{Code, Gpu, Target};
use crate::finding::Fix;

/// Programs of NVIDIA's profilers and debuggers.
const TOOLS: &[&str] = &["ncu", "nsys", "nvprof", "nvvp", "nsight", "cuda-gdb", "compute-sanitizer", "cuda-memcheck"];
/// Parts of directories that belong to them.
const TOOL_DIRECTORIES: &[&str] = &["/nsight", "/libnvvp", "/compute-sanitizer", "/nsightee_plugins"];
/// CUPTI with what it opens.
const CUPTI: &[&str] = &["libcupti", "libnvperf_host", "libnvperf_target", "libpcsamplingutil", "libcheckpoint"];

/// What a file's name is without `.so` and what follows.
fn stem(path: &str) -> &str {
    let name = file_name(path);
    name.split(".so").next().unwrap_or(name)
}

/// Why the system's copies of these libraries stay: something names one of them, or may, as far as is known.
fn needed(seen: &Seen<'_>, stems: &BTreeSet<String>) -> Option<String> {
    if let Some((name, by)) = seen.size.named_by.iter().find(|(name, _)| stems.contains(name)) {
        return Some(format!("{} names {name}.so", seen.path(*by)));
    }
    let is_known =
        |s: &crate::facts::Subject| s.unknown.is_none() && s.capability.contains(':') && !s.mapped.is_empty();
    (!seen.facts.subjects.iter().any(is_known)).then(|| "what the workload loads is not known; name it".into())
}

/// The system's copies of libraries that wheels bring too.
pub fn twice(seen: &Seen<'_>) -> Vec<Candidate> {
    let copies = &seen.facts.image.libraries.cuda_copies;
    let in_wheels: BTreeSet<&str> =
        copies.iter().filter(|c| c.path.contains("-packages/")).map(|c| stem(&c.path)).collect();
    let mut candidate = Candidate::new("CUDA", "CUDA is there twice, and the workload loads that of the wheels");
    let mut stems = BTreeSet::new();
    let mut used = None;
    for at in &seen.size.system_cuda {
        let path = seen.path(*at);
        if !in_wheels.contains(stem(&path)) || seen.gone[*at] {
            continue;
        }
        stems.insert(stem(&path).to_owned());
        used = used.or_else(|| seen.first_used([*at].into_iter()));
        candidate.add(seen.dir(*at).to_string_lossy(), *at);
    }
    candidate.stays = used.or_else(|| needed(seen, &stems));
    candidate.fix = Fix::dockerfile(
        "start from a base without CUDA libraries: the wheels have their own",
        match &seen.size.cuda {
            Some(release) => format!("FROM nvidia/cuda:{release}.0-base-…   # or debian:bookworm-slim"),
            None => "FROM debian:bookworm-slim".into(),
        },
    );
    found(candidate)
}

/// Nsight, debuggers, and copies of CUPTI that nothing links.
pub fn profilers(seen: &Seen<'_>) -> Vec<Candidate> {
    let mut tools = Candidate::new("profilers", "NVIDIA's profilers and debuggers: tools for developers");
    let mut cupti = Candidate::new("CUPTI", "a copy of CUPTI that nothing links");
    let mut stems = BTreeSet::new();
    for of in &seen.size.tree.dirs {
        let dir = of.path.to_string_lossy();
        if !dir.starts_with("/usr/local/cuda") && !dir.starts_with("/opt/nvidia/") {
            continue;
        }
        let tool_directory = TOOL_DIRECTORIES.iter().find_map(|d| Some(dir.find(d)? + 1));
        for at in of.files.clone().filter(|at| !seen.gone[*at]) {
            let name = String::from_utf8_lossy(seen.name(at));
            let name = stem(&name);
            if let Some(end) = tool_directory {
                let rest = dir[end..].find('/').map_or(dir.len(), |n| end + n);
                tools.add(&dir[..rest], at);
            } else if dir.ends_with("/bin") && TOOLS.iter().any(|t| name.starts_with(t)) {
                tools.add(dir.clone(), at);
            } else if CUPTI.contains(&name) {
                stems.insert(name.to_owned());
                cupti.add(dir.clone(), at);
            }
        }
    }
    tools.stays = seen.first_used(tools.files());
    tools.fix = Fix::dockerfile(
        "profile in an image of its own",
        super::remove(tools.places.keys()) + "   # or start from -runtime instead of -devel",
    );
    cupti.stays = seen.first_used(cupti.files()).or_else(|| needed(seen, &stems));
    cupti.fix = Fix::dockerfile("remove it in the RUN that installs the toolkit", super::remove(cupti.places.keys()));
    [tools, cupti].into_iter().flat_map(found).collect()
}

/// Libraries of the driver.
pub fn driver(seen: &Seen<'_>) -> Vec<Candidate> {
    let mut candidate = Candidate::new("driver", "libraries of the driver belong to the host, not into an image");
    for file in driver_files::baked_files(seen.facts) {
        if let Some(at) = seen.size.tree.file_at(file.path.as_ref()) {
            candidate.add(&file.path, at);
        }
    }
    candidate.fix = Fix::dockerfile(
        "remove them, and do not commit images from a container that runs with a GPU",
        super::remove(candidate.places.keys()),
    );
    found(candidate)
}

/// Machine code for GPUs that are not among those that are named. PTX stays, as the driver compiles it for any newer one.
pub fn other_gpus(seen: &Seen<'_>) -> Vec<Candidate> {
    let gpus = &seen.facts.assumed.gpus;
    let named: Vec<String> = gpus.iter().map(Gpu::describe).collect();
    let mut candidate = Candidate::new("device code", format!("machine code for other GPUs than {}", named.join(", ")));
    // No file goes with it.
    candidate.note = true;
    for kernels in &seen.facts.kernels {
        for module in &kernels.modules {
            let runs = |target: Target| gpus.iter().any(|gpu| target.runs_on(gpu.cc, kernels.cuda));
            let foreign = module.code.amounts().into_iter().filter(|a| matches!(a.code, Code::Sass(t) if !runs(t)));
            let (mut bytes, mut targets) = (0, BTreeSet::new());
            for amount in foreign {
                bytes += amount.bytes;
                targets.insert(amount.code.target_name());
            }
            if bytes > 0 {
                let targets = targets.into_iter().collect::<Vec<_>>().join(" ");
                candidate.parts.insert(format!("{} ({}: {targets})", module.path, human(bytes)), bytes);
            }
        }
    }
    let list: BTreeSet<String> = gpus.iter().map(|gpu| format!("{}.{}", gpu.cc.major, gpu.cc.minor)).collect();
    candidate.fix = Fix::dockerfile(
        "build extensions for the GPUs that there are; wheels keep what they were built with",
        format!("ENV TORCH_CUDA_ARCH_LIST={:?}", list.into_iter().collect::<Vec<_>>().join(";")),
    );
    if gpus.is_empty() { Vec::new() } else { found(candidate) }
}
