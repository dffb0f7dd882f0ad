//! The parts of a framework: what each opens when it is first used, tried in a copy of the process that imported it.

use std::path::Path;

use mldoctor_probes::library::Family;

use super::live::{self, Plan};
use super::{Examination, libcuda, tools};
use crate::facts::{Absence, How, Step, StepOutcome, Subject, Weight};
use crate::frameworks::{self, Feature, Open, torch::Torch};
use crate::loader::{Failure, LoadError, Mode, ObjectId, Process};
use crate::parallel;
use crate::python::Interpreter;

/// Tries every part of the framework that is imported as `module`.
pub fn features(
    examination: &Examination,
    python: &Interpreter,
    module: &str,
    import: &Subject,
    process: &Process<'_>,
    bare: Option<&Process<'_>>,
) -> Vec<(Subject, Vec<Plan>)> {
    let Some(framework) = frameworks::of_module(module) else { return Vec::new() };
    let extension = import.steps.iter().find_map(|s| match &s.outcome {
        StepOutcome::Ok(path) if s.what == "import torch._C" => Some(path.clone()),
        _ => None,
    });
    let torch = extension
        .as_ref()
        .and_then(|e| Torch::installed(&examination.rootfs, &examination.sys_path.entries, Path::new(e)));
    let cuda = torch.as_ref().and_then(|t| t.cuda.clone());
    let attempt = |feature: &Feature, process: &mut Process<'_>| {
        let mut subject = Subject::new(&feature.id);
        subject.needs = Some(import.capability.clone());
        if extension.is_none() {
            subject.unknown = Some(format!("import {module} does not come that far"));
        } else if let Some(lacking) = feature.linked.iter().find(|l| find(process, l).is_none()) {
            subject.not_applicable = Some(format!("this build of {module} does not use {lacking}"));
        } else if feature.tools.is_empty() && cuda.is_none() {
            subject.not_applicable = Some(format!("this build of {module} has no CUDA"));
        } else {
            for library in &feature.linked {
                if let Some(id) = find(process, library) {
                    let path = process.object(id).display();
                    subject.steps.push(step(library, "the import", StepOutcome::Ok(path), false));
                }
            }
            for open in &feature.opens {
                if let Some(step) = opens(open, process, cuda.as_deref()) {
                    subject.steps.push(step);
                }
            }
            imports(examination, python, feature, process, &mut subject);
            for tool in &feature.tools {
                subject.steps.extend(match tool.as_str() {
                    "libcuda" => libcuda::find(examination, process),
                    tool => tools::find(examination, python, tool),
                });
            }
        }
        subject
    };
    parallel::map(&framework.feature, |feature| {
        let mut process = process.clone();
        let before = process.count();
        let mut subject = attempt(feature, &mut process);
        let bare = bare.map(|bare| {
            let mut bare = bare.clone();
            attempt(feature, &mut bare);
            bare
        });
        subject.mapped = examination.mapped(&process, bare.as_ref(), before);
        // What the import has mapped already, and what this part has opened.
        let mut plans = live::plans(&process, before, &feature.id);
        let linked = |plan: &Plan| feature.linked.iter().any(|l| Family::of_soname(l) == Some(plan.family));
        plans.extend(live::plans(&process, 0, &feature.id).into_iter().filter(linked));
        (subject, plans)
    })
}

/// The mapped object that is `library`, named without its version.
fn find(process: &Process<'_>, library: &str) -> Option<ObjectId> {
    process
        .objects()
        .find(|(_, o)| {
            let name = o.file.elf.soname().or(o.path.file_name()).unwrap_or_default().to_string_lossy().into_owned();
            name.strip_prefix(library).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
        .map(|(id, _)| id)
}

/// Opens the first of the names that is there; tells of the last failure otherwise.
fn opens(open: &Open, process: &mut Process<'_>, cuda: Option<&str>) -> Option<Step> {
    let by = find(process, &open.by)?;
    let object = process.object(by).clone();
    let stem = open.names.first()?.split(".so").next()?;
    if open.named && memchr::memmem::find(object.file.elf.data(), stem.as_bytes()).is_none() {
        return None;
    }
    let soname = object.file.elf.soname().unwrap_or_default().to_string_lossy().into_owned();
    let version = soname.split_once(".so.").map_or("", |(_, v)| v).to_owned();
    let mut first: Option<(String, Failure)> = None;
    for name in &open.names {
        let name = name.replace("{N}", &version);
        let name = match cuda {
            Some(cuda) => name.replace("{cuda}", nvrtc_soname(cuda)),
            None => name,
        };
        let name = match name.strip_suffix("{named}") {
            Some(prefix) => format!("{prefix}{}", named_version(object.file.elf.data(), prefix)?),
            None => name,
        };
        match process.dlopen(name.as_ref(), by, Mode { now: false, global: false }) {
            Ok(id) => {
                let path = process.object(id).display();
                return Some(step(&name, &object.display(), StepOutcome::Ok(path), open.optional));
            }
            // A file that is there and does not load says more than a name that is not there.
            Err(failure) => {
                let is_there =
                    |e: &[LoadError]| !matches!(e.first(), Some(LoadError::Missing { name: n, .. }) if *n == name);
                if first.as_ref().is_none_or(|(_, known)| {
                    is_there(&failure.errors) && matches!(known.errors.first(), Some(LoadError::Missing { .. }))
                }) {
                    first = Some((name, failure));
                }
            }
        }
    }
    let (name, failure) = first?;
    Some(step(&name, &object.display(), StepOutcome::Failed(failure), open.optional))
}

/// The digits and dots that follow `prefix` where it stands in `data`, without a dot that ends a sentence.
fn named_version(data: &[u8], prefix: &str) -> Option<String> {
    memchr::memmem::find_iter(data, prefix.as_bytes()).find_map(|at| {
        let rest = &data[at + prefix.len()..];
        let len = rest.iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count().min(32);
        let version = std::str::from_utf8(&rest[..len]).ok()?.trim_end_matches('.');
        (!version.is_empty()).then(|| version.to_owned())
    })
}

/// CUDA 11 kept the SONAME `libnvrtc.so.11.2` from 11.2 on; later releases use the major version.
fn nvrtc_soname(cuda: &str) -> &str {
    match cuda.split_once('.') {
        Some(("11", _)) => "11.2",
        Some((major, _)) => major,
        None => cuda,
    }
}

fn step(name: &str, by: &str, outcome: StepOutcome, optional: bool) -> Step {
    Step {
        what: format!("open {name}"),
        how: How::Dlopen,
        file: name.to_owned(),
        because: vec![by.to_owned()],
        weight: if optional { Weight::Optional } else { Weight::Required },
        outcome,
        user_sees: None,
    }
}

/// Extension modules named by the feature, in whichever entry of `sys.path` has them.
fn imports(
    examination: &Examination,
    python: &Interpreter,
    feature: &Feature,
    process: &mut Process<'_>,
    subject: &mut Subject,
) {
    for module in &feature.imports {
        let relative = module.replace('.', "/");
        let found = examination.sys_path.entries.iter().find_map(|entry| {
            python.suffixes.iter().map(|s| entry.join(format!("{relative}{s}"))).find(|p| examination.rootfs.is_file(p))
        });
        let (file, outcome) = match found {
            Some(path) => {
                let file = path.to_string_lossy().into_owned();
                match process.dlopen(path.as_os_str(), ObjectId(0), Mode::NOW) {
                    Ok(_) => (file.clone(), StepOutcome::Ok(file)),
                    Err(failure) => (file, StepOutcome::Failed(failure)),
                }
            }
            None => (
                module.clone(),
                StepOutcome::NotFound(Absence {
                    kind: "module".into(),
                    name: module.clone(),
                    searched: examination.sys_path.entries.iter().map(|p| p.to_string_lossy().into_owned()).collect(),
                    notes: Vec::new(),
                }),
            ),
        };
        let top = module.split('.').next().unwrap_or(module);
        let user_sees = matches!(outcome, StepOutcome::NotFound(_))
            .then(|| format!("ModuleNotFoundError: No module named '{top}'"));
        subject.steps.push(Step {
            what: format!("import {module}"),
            how: How::Import,
            file,
            because: Vec::new(),
            weight: Weight::Required,
            outcome,
            user_sees,
        });
    }
}
