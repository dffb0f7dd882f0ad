//! Programs and headers that run-time compilers want, and slim images lack.

use super::package::{self, Packages};
use super::{Check, Failed, Rule, Surveyed, finding, hardware};
use crate::driver::{Capability, Cuda};
use crate::facts::{Absence, Facts};
use crate::finding::{Finding, Fix};

/// The check.
pub static CHECK: Check = Check {
    ids: &["jit-cc", "jit-cxx", "jit-lcuda", "jit-ldconfig", "jit-libc-dev", "jit-ptxas-missing", "jit-python-h"],
    rule: Rule::Explain(explain),
};

/// An assembler of Triton that does not know the GPU.
pub static ASSEMBLER: Check = Check { ids: &["arch-ptxas-old"], rule: Rule::Survey(assembler) };

struct Tool {
    /// Kind of absence.
    kind: &'static str,
    id: &'static str,
    message: &'static str,
    /// `{}` stands for the version of Python; none where a wheel brings it.
    packages: Option<Packages<'static>>,
}

const TOOLS: &[Tool] = &[
    Tool {
        kind: "c-compiler",
        id: "jit-cc",
        message: "Triton compiles its launchers with a C compiler, and there is none",
        packages: Some(Packages { apt: "gcc libc6-dev", apk: "gcc musl-dev", dnf: "gcc glibc-devel" }),
    },
    Tool {
        kind: "c++-compiler",
        id: "jit-cxx",
        message: "Inductor compiles CPU code with a C++ compiler, and there is none",
        packages: Some(Packages { apt: "g++", apk: "g++", dnf: "gcc-c++" }),
    },
    Tool {
        kind: "libc-headers",
        id: "jit-libc-dev",
        message: "a compiler without the headers of libc compiles nothing",
        packages: Some(Packages { apt: "libc6-dev", apk: "musl-dev", dnf: "glibc-devel" }),
    },
    Tool {
        kind: "python-header",
        id: "jit-python-h",
        message: "Triton includes Python.h of the base interpreter, which is not there",
        packages: Some(Packages { apt: "python{}-dev", apk: "python3-dev", dnf: "python{}-devel" }),
    },
    Tool {
        kind: "ldconfig",
        id: "jit-ldconfig",
        message: "Triton asks /sbin/ldconfig where libcuda is, and it is not there",
        packages: Some(Packages { apt: "libc-bin", apk: "libc-utils", dnf: "glibc" }),
    },
    Tool {
        kind: "ptxas",
        id: "jit-ptxas-missing",
        message: "Triton's ptxas is not there, or may not be executed",
        packages: None,
    },
];

fn explain(failed: &Failed<'_>, facts: &Facts) -> Option<Finding> {
    if let Some(absence) = failed.absent("libcuda-dirs").or_else(|| failed.absent("libcuda-link")) {
        return Some(libcuda(absence));
    }
    let tool = TOOLS.iter().find(|tool| failed.absent(tool.kind).is_some())?;
    let absence = failed.absent(tool.kind)?;
    let found = proved(finding(tool.id, &absence.name, tool.message), absence, "environment");
    let python = facts.python.as_ref().and_then(|p| p.seen());
    Some(found.cure(match tool.packages {
        Some(packages) => {
            let line = package::install(facts, packages).replace("{}", python.map_or("3", |p| &p.version));
            Fix::dockerfile("install it, or do without torch.compile", line)
        }
        None => {
            let version = python.and_then(|p| p.distributions.iter().find(|d| d.name == "triton"));
            Fix::dockerfile(
                "put the file of the triton wheel back, with its execute bit",
                package::reinstall("triton", version.map_or("*", |d| &d.version)),
            )
        }
    }))
}

fn proved(found: Finding, absence: &Absence, source: &str) -> Finding {
    let found = absence.searched.iter().fold(found, |found, place| found.proof("looked for", place, None));
    absence.notes.iter().fold(found, |found, (label, value)| found.proof(label, value, Some(source.into())))
}

/// CUDA finds the driver, and what Triton asks does not know it.
fn libcuda(absence: &Absence) -> Finding {
    let dir = absence.notes.first().and_then(|(_, path)| path.rsplit_once('/')).map_or("…", |(dir, _)| dir);
    if absence.kind == "libcuda-dirs" {
        let message = "Triton does not find libcuda: neither ldconfig -p nor LD_LIBRARY_PATH lead to it";
        return proved(finding("jit-ldconfig", &absence.name, message), absence, "dlopen").cure(Fix::dockerfile(
            "tell Triton the directory, or run ldconfig as root before the workload starts",
            format!("ENV TRITON_LIBCUDA_PATH={dir}"),
        ));
    }
    let message = format!("Triton links with {}, and the linker does not find it", absence.name);
    proved(finding("jit-lcuda", &absence.name, message), absence, "dlopen").cure(Fix::dockerfile(
        "make the link that programs are linked with; newer releases of Triton do without",
        format!("RUN ln -s libcuda.so.1 {dir}/libcuda.so"),
    ))
}

fn assembler(facts: &Facts) -> Surveyed {
    // Releases of Triton differ in which of two they take for which GPU, so the newer one counts.
    let Some((path, cuda)) = facts.assemblers.iter().max_by_key(|(_, cuda)| *cuda) else {
        return Surveyed::not_applicable("no ptxas of Triton was read");
    };
    let gpus = hardware::gpus(facts);
    let too_new = gpus.iter().filter_map(|g| Some((g, Capability::of(g.cc)?.first.filter(|first| cuda < first)?)));
    let found: Vec<Finding> = too_new
        .map(|(gpu, first)| {
            // Releases of Triton that bring the ptxas of CUDA 12.8 or later ask for the code of one architecture.
            let letter = if *cuda < (Cuda { major: 12, minor: 8 }) { "" } else { "a" };
            let target = format!("sm_{}{letter}", gpu.cc.sm());
            finding(
                "arch-ptxas-old",
                path,
                format!("Triton's ptxas is of CUDA {cuda}, and {} needs that of {first}", gpu.describe()),
            )
            .sees(format!("ptxas fatal   : Value '{target}' is not defined for option 'gpu-name'"))
            .proof("ptxas", path, Some(format!("release {cuda}")))
            .proof("GPU", gpu.describe(), Some(hardware::source(facts).into()))
            .breaks("torch.compile")
            .cure(Fix::dockerfile(
                "name the ptxas of a newer CUDA, or take a newer Triton",
                "ENV TRITON_PTXAS_PATH=/usr/local/cuda/bin/ptxas",
            ))
        })
        .collect();
    Surveyed::found(found)
}
