//! Programs, headers and device code that run-time compilers want, and slim images lack.

use super::package::{self, Packages};
use super::{Check, Failed, Rule, Surveyed, finding, hardware};
use crate::driver::{Capability, Cuda};
use crate::facts::{Absence, Facts};
use crate::finding::{Finding, Fix};

/// The check.
pub static CHECK: Check = Check {
    ids: &[
        "jit-cc",
        "jit-cxx",
        "jit-lcuda",
        "jit-ldconfig",
        "jit-libc-dev",
        "jit-ptxas-missing",
        "jit-python-h",
        "lib-cupy-headers",
        "lib-numba-nvvm",
        "lib-xla-libdevice",
    ],
    rule: Rule::Explain(explain),
};

/// An assembler of Triton that does not know the GPU.
pub static ASSEMBLER: Check = Check { ids: &["arch-ptxas-old"], rule: Rule::Survey(assembler) };

struct Tool {
    /// Kind of absence.
    kind: &'static str,
    id: &'static str,
    message: &'static str,
    brings: Brings,
}

/// What brings a tool.
enum Brings {
    /// The distribution; `{}` stands for the version of Python.
    System(Packages<'static>),
    /// A wheel that is installed, but incomplete.
    Lost(&'static str),
    /// One of NVIDIA's wheels, for CUDA 12 and for later releases.
    Cuda([&'static str; 2]),
}

const TOOLS: &[Tool] = &[
    Tool {
        kind: "c-compiler",
        id: "jit-cc",
        message: "Triton compiles its launchers with a C compiler, and there is none",
        brings: Brings::System(Packages { apt: "gcc libc6-dev", apk: "gcc musl-dev", dnf: "gcc glibc-devel" }),
    },
    Tool {
        kind: "c++-compiler",
        id: "jit-cxx",
        message: "Inductor compiles CPU code with a C++ compiler, and there is none",
        brings: Brings::System(Packages { apt: "g++", apk: "g++", dnf: "gcc-c++" }),
    },
    Tool {
        kind: "libc-headers",
        id: "jit-libc-dev",
        message: "a compiler without the headers of libc compiles nothing",
        brings: Brings::System(Packages { apt: "libc6-dev", apk: "musl-dev", dnf: "glibc-devel" }),
    },
    Tool {
        kind: "python-header",
        id: "jit-python-h",
        message: "Triton includes Python.h of the base interpreter, which is not there",
        brings: Brings::System(Packages { apt: "python{}-dev", apk: "python3-dev", dnf: "python{}-devel" }),
    },
    Tool {
        kind: "ldconfig",
        id: "jit-ldconfig",
        message: "Triton asks /sbin/ldconfig where libcuda is, and it is not there",
        brings: Brings::System(Packages { apt: "libc-bin", apk: "libc-utils", dnf: "glibc" }),
    },
    Tool {
        kind: "ptxas",
        id: "jit-ptxas-missing",
        message: "Triton's ptxas is not there, or may not be executed",
        brings: Brings::Lost("triton"),
    },
    Tool {
        kind: "cupy-headers",
        id: "lib-cupy-headers",
        message: "CuPy compiles each kernel with headers of CUDA, which are not there",
        brings: Brings::Cuda(["nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime"]),
    },
    Tool {
        kind: "numba-libdevice",
        id: "lib-numba-nvvm",
        message: "Numba compiles kernels with libdevice, which is not there",
        brings: Brings::Cuda(["nvidia-cuda-nvcc-cu12", "nvidia-nvvm"]),
    },
    Tool {
        kind: "xla-ptxas",
        id: "lib-xla-libdevice",
        message: "XLA turns PTX into machine code with ptxas, which is not there or may not be executed",
        brings: Brings::Cuda(["nvidia-cuda-nvcc-cu12", "nvidia-cuda-nvcc"]),
    },
    Tool {
        kind: "xla-libdevice",
        id: "lib-xla-libdevice",
        message: "XLA links kernels with libdevice, which is not there",
        brings: Brings::Cuda(["nvidia-cuda-nvcc-cu12", "nvidia-nvvm"]),
    },
];

fn explain(failed: &Failed<'_>, facts: &Facts) -> Option<Finding> {
    if let Some(absence) = failed.absent("libcuda-dirs").or_else(|| failed.absent("libcuda-link")) {
        return Some(libcuda(absence));
    }
    let tool = TOOLS.iter().find(|tool| failed.absent(tool.kind).is_some())?;
    let absence = failed.absent(tool.kind)?;
    let found = proved(finding(tool.id, &absence.name, tool.message), absence, "environment");
    Some(found.cure(cure(&tool.brings, facts)))
}

fn cure(brings: &Brings, facts: &Facts) -> Fix {
    let python = facts.python.as_ref().and_then(|p| p.seen());
    match *brings {
        Brings::System(packages) => {
            let line = package::install(facts, packages).replace("{}", python.map_or("3", |p| &p.version));
            Fix::dockerfile("install it, or do without torch.compile", line)
        }
        Brings::Lost(wheel) => {
            let version = python.and_then(|p| p.distributions.iter().find(|d| d.name == wheel));
            Fix::dockerfile(
                format!("put the file of the {wheel} wheel back, with its execute bit"),
                package::reinstall(wheel, version.map_or("*", |d| &d.version)),
            )
        }
        Brings::Cuda([of_12, later]) => {
            let wheel = if package::cuda(facts).is_some_and(|(major, _)| major > 12) { later } else { of_12 };
            Fix::dockerfile(format!("install {wheel}, of the CUDA release that is used"), package::pip(wheel))
        }
    }
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
