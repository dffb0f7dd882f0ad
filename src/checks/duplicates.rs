//! Two copies of one library: gigabytes that nothing loads, or two releases that meet in one process.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, Rule, Surveyed, finding, mixed_libraries};
use crate::facts::{Facts, LibraryCopy};
use crate::finding::Fix;

/// CUDA from the system and from wheels.
pub static CUDA: Check = Check { ids: &["lib-dup-cuda"], rule: Rule::Survey(cuda) };
/// Parts of cuDNN from two places.
pub static CUDNN: Check = Check { ids: &["lib-cudnn-mix"], rule: Rule::Survey(cudnn) };
/// Two distributions that write one NCCL.
pub static NCCL: Check = Check { ids: &["lib-nccl-mix"], rule: Rule::Survey(nccl) };

fn is_wheel(path: &str) -> bool {
    path.contains("/site-packages/") || path.contains("/dist-packages/")
}

fn cuda(facts: &Facts) -> Surveyed {
    let mut by_soname: BTreeMap<&str, Vec<&LibraryCopy>> = BTreeMap::new();
    for copy in &facts.image.libraries.cuda_copies {
        by_soname.entry(&copy.soname).or_default().push(copy);
    }
    let unused: Vec<&LibraryCopy> = by_soname
        .values()
        .filter(|copies| {
            copies.iter().any(|c| is_wheel(&c.path) && c.used) && copies.iter().any(|c| !is_wheel(&c.path))
        })
        .flatten()
        .copied()
        .filter(|c| !c.used && !is_wheel(&c.path))
        .collect();
    if unused.is_empty() {
        return Surveyed::in_libraries(facts, Vec::new());
    }
    let bytes: u64 = unused.iter().map(|c| c.size).sum();
    let mut found = finding(
        "lib-dup-cuda",
        "CUDA",
        format!("{} MB of system CUDA libraries that the wheels bring again, and nothing loads", bytes / 1_000_000),
    )
    .cure(Fix::dockerfile(
        "start from a base without CUDA libraries: the wheels have their own",
        "FROM nvidia/cuda:12.4.1-base-ubuntu22.04   # or debian:bookworm-slim",
    ));
    for copy in unused {
        found = found.proof("not used", &copy.path, Some(format!("{} bytes", copy.size)));
    }
    Surveyed::found(vec![found])
}

fn cudnn(facts: &Facts) -> Surveyed {
    let mut findings = Vec::new();
    for subject in &facts.subjects {
        let parts: Vec<_> = subject.mapped.iter().filter(|m| m.soname.starts_with("libcudnn")).collect();
        let dirs: BTreeSet<&str> = parts.iter().filter_map(|m| Some(m.path.rsplit_once('/')?.0)).collect();
        if dirs.len() > 1 {
            let mut found =
                finding("lib-cudnn-mix", "cuDNN", "the parts of cuDNN come from more than one directory".to_owned())
                    .cure(Fix::dockerfile("keep one cuDNN", "ENV LD_LIBRARY_PATH="));
            for part in parts {
                found = found.proof("loaded", &part.path, Some(part.via.clone()));
            }
            findings.push(found);
        }
    }
    Surveyed::found(findings)
}

fn nccl(facts: &Facts) -> Surveyed {
    let Some(python) = facts.python.as_ref().and_then(|p| p.seen()) else {
        return Surveyed::not_applicable("no Python interpreter");
    };
    let installed: Vec<_> = python
        .distributions
        .iter()
        .filter(|d| d.name.strip_prefix("nvidia-nccl-cu").is_some_and(|m| m.bytes().all(|b| b.is_ascii_digit())))
        .collect();
    let shared = installed.iter().any(|d| installed.iter().any(|o| o.name != d.name && o.location == d.location));
    if !shared {
        return Surveyed::found(Vec::new());
    }
    let mut found = finding(
        "lib-nccl-mix",
        "NCCL",
        "two distributions write the same libnccl.so.2, and the one installed last has won".to_owned(),
    )
    .cure(mixed_libraries::one_nccl());
    for d in installed {
        found = found.proof("installed", format!("{} {}", d.name, d.version), Some(d.location.clone()));
    }
    Surveyed::found(vec![found])
}
