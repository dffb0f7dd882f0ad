//! Programs and headers that run-time compilers want, and slim images lack.

use super::{Check, Failed, Rule, finding};
use crate::facts::Facts;
use crate::finding::{Finding, Fix};

/// The check.
pub static CHECK: Check = Check {
    ids: &["jit-cc", "jit-cxx", "jit-ldconfig", "jit-libc-dev", "jit-ptxas-missing", "jit-python-h"],
    rule: Rule::Explain(explain),
};

/// Kind of absence, finding id, message, what to install on Debian.
const TOOLS: &[(&str, &str, &str, Option<&str>)] = &[
    (
        "c-compiler",
        "jit-cc",
        "Triton compiles its launchers with a C compiler, and there is none",
        Some("gcc libc6-dev"),
    ),
    ("c++-compiler", "jit-cxx", "Inductor compiles CPU code with a C++ compiler, and there is none", Some("g++")),
    ("libc-headers", "jit-libc-dev", "a compiler without the headers of libc compiles nothing", Some("libc6-dev")),
    ("python-header", "jit-python-h", "Triton includes Python.h of the base interpreter, which is not there", None),
    ("ldconfig", "jit-ldconfig", "Triton asks /sbin/ldconfig where libcuda is, and it is not there", Some("libc-bin")),
    ("ptxas", "jit-ptxas-missing", "Triton's ptxas is not there, or may not be executed", None),
];

fn explain(failed: &Failed<'_>, facts: &Facts) -> Option<Finding> {
    let (kind, id, message, package) = TOOLS.iter().find(|(kind, ..)| failed.absent(kind).is_some())?;
    let absence = failed.absent(kind)?;
    let mut found = finding(id, &absence.name, *message);
    for place in &absence.searched {
        found = found.proof("looked for", place, None);
    }
    for (label, value) in &absence.notes {
        found = found.proof(label, value, Some("environment".into()));
    }
    let version = facts.python.as_ref().and_then(|p| p.seen()).map_or("3", |p| p.version.as_str());
    let package = match (*kind, package) {
        ("python-header", _) => format!("python{version}-dev"),
        (_, Some(package)) => (*package).to_owned(),
        _ => {
            return Some(found.cure(Fix::dockerfile(
                "put the file of the triton wheel back, with its execute bit",
                "RUN pip install --force-reinstall --no-deps --no-cache-dir triton",
            )));
        }
    };
    Some(found.cure(Fix::dockerfile(
        "install it, or do without torch.compile",
        format!("RUN apt-get update && apt-get install -y --no-install-recommends {package} \\\n    && rm -rf /var/lib/apt/lists/*"),
    )))
}
