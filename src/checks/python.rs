//! Python's side: modules that are not there, built for another interpreter, or not what was installed.

use super::{Check, Failed, Rule, Surveyed, finding, package};
use crate::facts::{Facts, LOST};
use crate::finding::{Finding, Fix, Severity};
use crate::loader::LoadError;

/// Explains what is missing from Python's point of view.
pub static MODULE: Check =
    Check { ids: &["lib-pyabi", "py-extension", "py-interpreter", "py-module-missing"], rule: Rule::Explain(explain) };
/// Files that are not as their distribution installed them.
pub static RECORD: Check = Check { ids: &["py-record"], rule: Rule::Survey(record) };
/// A torch without CUDA.
pub static CPU_TORCH: Check = Check { ids: &["lib-cpu-torch"], rule: Rule::Survey(cpu_torch) };

fn explain(failed: &Failed<'_>, facts: &Facts) -> Option<Finding> {
    if let Some(error) = failed.load() {
        return stdlib(failed, facts, error);
    }
    if let Some(absence) = failed.absent("interpreter") {
        let mut found = finding("py-interpreter", &absence.name, "no Python interpreter that works is in the image");
        for tried in &absence.searched {
            found = found.proof("tried", tried, None);
        }
        return Some(found.cure(Fix::dockerfile(
            "a virtual environment holds links to its interpreter: copy that too, to the same place",
            "COPY --from=builder /usr/local /usr/local\nCOPY --from=builder /opt/venv /opt/venv",
        )));
    }
    if let Some(absence) = failed.absent("python-abi") {
        let mut found = finding(
            "lib-pyabi",
            &absence.name,
            format!("{} is built for another Python than the one that imports it", absence.name),
        );
        for (label, value) in &absence.notes {
            found = found.proof(label, value, None);
        }
        return Some(found.cure(Fix::dockerfile(
            "build and run with the same minor version of Python",
            "ARG PYTHON=3.11\nFROM python:${PYTHON}-slim AS builder\nFROM python:${PYTHON}-slim",
        )));
    }
    if let Some(absence) = failed.absent("stdlib-extension") {
        return Some(
            chain(
                failed,
                finding(
                    "py-extension",
                    &absence.name,
                    format!("the interpreter's own module {} is gone", absence.name),
                ),
            )
            .cure(Fix::words("copy the interpreter's whole lib-dynload directory, or install the full package of it")),
        );
    }
    let absence = failed.absent("module").or_else(|| failed.absent("extension-file"))?;
    let message = if failed.absent("module").is_some() {
        format!("no module {} in this environment", absence.name)
    } else {
        format!("the file of {} was installed, and is gone", absence.name)
    };
    let top = absence.name.split('.').next().unwrap_or(&absence.name).to_owned();
    let mut found = chain(failed, finding("py-module-missing", &absence.name, message));
    for (label, value) in &absence.notes {
        found = found.proof(label, value, None);
    }
    for place in &absence.searched {
        found = found.proof("searched", place, Some("sys.path".into()));
    }
    if let Some((_, source)) = absence.notes.iter().find(|(label, _)| label == LOST) {
        let source = source.trim_end_matches("/__init__.py");
        return Some(found.cure(Fix::dockerfile(
            format!(
                "an editable installation (pip install -e) only refers to its source: copy that too, or install it whole; \
                 or install {top}, if it is of no such project"
            ),
            format!("COPY --from=builder {source} {source}"),
        )));
    }
    Some(found.cure(Fix::dockerfile("install it", package::pip(&top))))
}

fn chain(failed: &Failed<'_>, mut found: Finding) -> Finding {
    if let Some(importer) = failed.step.importer() {
        found = found.proof("imported at", importer, None);
    }
    found
}

/// An extension module of the standard library that lacks a library of the system.
fn stdlib(failed: &Failed<'_>, facts: &Facts, error: &LoadError) -> Option<Finding> {
    let LoadError::Missing { name, requested_by, .. } = error else { return None };
    if !requested_by.contains("/lib-dynload/") || *requested_by != failed.step.file {
        return None;
    }
    let module = failed.step.what.trim_start_matches("import ");
    Some(
        chain(failed, finding("py-extension", name, format!("Python's own module {module} needs {name}")))
            .proof("needed by", requested_by, Some("DT_NEEDED".into()))
            .cure(package::that_brings(facts, name)),
    )
}

fn record(facts: &Facts) -> Surveyed {
    let Some(python) = facts.python.as_ref().and_then(|p| p.seen()) else {
        return Surveyed::not_applicable("no Python interpreter");
    };
    let mut findings = Vec::new();
    for d in python.distributions.iter().filter(|d| !d.problems.is_empty()) {
        let mut found = finding(
            "py-record",
            format!("{} {}", d.name, d.version),
            format!("{} of its libraries are not as they were installed", d.problems.len()),
        )
        .cure(Fix::dockerfile("if that was not meant, put them back", package::reinstall(&d.name, &d.version)));
        for p in &d.problems {
            let what = match p.found {
                Some(size) => format!("{}: {size} bytes instead of {}", p.path, p.expected),
                None => format!("{}: missing", p.path),
            };
            found = found.proof("file", what, Some("RECORD".into()));
        }
        findings.push(found);
    }
    Surveyed::found(findings)
}

fn cpu_torch(facts: &Facts) -> Surveyed {
    let Some(import) = facts.subjects.iter().find(|s| s.capability == "import:torch") else {
        return Surveyed::not_applicable("torch is not examined");
    };
    if import.mapped.iter().any(|m| m.soname == "libtorch_cuda.so") {
        return Surveyed::found(Vec::new());
    }
    let Some(core) = import.mapped.iter().find(|m| m.soname.starts_with("libtorch_cpu")) else {
        return Surveyed::unknown("import torch does not come that far");
    };
    let mut found = finding("lib-cpu-torch", "torch", "this torch is built without CUDA".to_owned())
        .proof("loaded", &core.path, None)
        .cure(Fix::dockerfile(
            "install a CUDA build",
            "RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cu128 torch",
        ));
    found.user_sees = Some("AssertionError: Torch not compiled with CUDA enabled".into());
    // For a CPU it is the right one.
    let wants_cuda = facts.target.require.iter().any(|r| r.starts_with("torch.") && r != "torch.compile");
    if !wants_cuda {
        found.severity = Severity::Note;
    }
    Surveyed::found(vec![found])
}
