//! Programs and headers that run-time compilers want, and slim images lack.

use super::package::{self, Packages};
use super::{Check, Failed, Rule, finding};
use crate::facts::Facts;
use crate::finding::{Finding, Fix};

/// The check.
pub static CHECK: Check = Check {
    ids: &["jit-cc", "jit-cxx", "jit-ldconfig", "jit-libc-dev", "jit-ptxas-missing", "jit-python-h"],
    rule: Rule::Explain(explain),
};

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
    let tool = TOOLS.iter().find(|tool| failed.absent(tool.kind).is_some())?;
    let absence = failed.absent(tool.kind)?;
    let mut found = finding(tool.id, &absence.name, tool.message);
    for place in &absence.searched {
        found = found.proof("looked for", place, None);
    }
    for (label, value) in &absence.notes {
        found = found.proof(label, value, Some("environment".into()));
    }
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
