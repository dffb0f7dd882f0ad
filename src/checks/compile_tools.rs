//! Programs, headers and device code that run-time compilers want, and slim images lack.

use super::package::{self, Packages};
use super::{Check, Failed, Rule, finding};
use crate::facts::Facts;
use crate::finding::{Finding, Fix};

/// The check.
pub static CHECK: Check = Check {
    ids: &[
        "jit-cc",
        "jit-cxx",
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
    let tool = TOOLS.iter().find(|tool| failed.absent(tool.kind).is_some())?;
    let absence = failed.absent(tool.kind)?;
    let mut found = finding(tool.id, &absence.name, tool.message);
    for place in &absence.searched {
        found = found.proof("looked for", place, None);
    }
    for (label, value) in &absence.notes {
        found = found.proof(label, value, Some("environment".into()));
    }
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
