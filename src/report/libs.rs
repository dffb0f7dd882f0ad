//! How every library of a process resolves, and why: as a tree for people, as `mldoctor.libs/1` for programs.

use std::fmt::Write;

use colored::Colorize;
use serde::Serialize;

use crate::loader::{LoadError, ObjectId, Process, Searched, SearchedWhy, Via};
use crate::structured;

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    objects: Vec<Object>,
    missing: Vec<Missing>,
    rejected: Vec<Rejected>,
    version_errors: Vec<VersionError>,
    undefined: Vec<Undefined>,
}

#[derive(Serialize)]
struct Object {
    path: String,
    soname: Option<String>,
    requested_by: Option<String>,
    via: &'static str,
    needed: Vec<Needed>,
}

#[derive(Serialize)]
struct Needed {
    name: String,
    path: Option<String>,
    via: &'static str,
    by: Option<String>,
}

#[derive(Serialize)]
struct Missing {
    name: String,
    requested_by: String,
    searched: Vec<Searched>,
}

#[derive(Serialize)]
struct Rejected {
    path: String,
    requested_by: String,
    reason: String,
}

#[derive(Serialize)]
struct VersionError {
    object: String,
    requires: String,
    from: String,
    version: String,
}

#[derive(Serialize)]
struct Undefined {
    object: String,
    symbol: String,
    version: Option<String>,
}

/// Renders a process and its errors as JSON.
///
/// # Errors
/// Never in practice: every part is serialisable.
pub fn json(process: Option<&Process<'_>>, errors: &[LoadError]) -> serde_json::Result<String> {
    let mut document = Document {
        schema: "mldoctor.libs/1",
        objects: process.map(objects).unwrap_or_default(),
        missing: Vec::new(),
        rejected: Vec::new(),
        version_errors: Vec::new(),
        undefined: Vec::new(),
    };
    for error in errors.iter().cloned() {
        match error {
            LoadError::Missing { name, requested_by, searched, .. } => {
                document.missing.push(Missing { name, requested_by, searched });
            }
            LoadError::Rejected { path, requested_by, reason, .. } => {
                document.rejected.push(Rejected { path, requested_by, reason });
            }
            LoadError::Version { object, requires, version, from } => {
                document.version_errors.push(VersionError { object, requires, from, version });
            }
            LoadError::Undefined { object, symbol, version, .. } => {
                document.undefined.push(Undefined { object, symbol, version });
            }
        }
    }
    structured::to_json(&document)
}

fn objects(process: &Process<'_>) -> Vec<Object> {
    let path = |id: ObjectId| process.object(id).display();
    process
        .objects()
        .map(|(_, o)| Object {
            path: o.display(),
            soname: o.file.elf.soname().map(|s| s.to_string_lossy().into_owned()),
            requested_by: o.requested_by.map(path),
            via: contract(o.via),
            needed: o
                .edges
                .iter()
                .map(|e| Needed {
                    name: e.name.to_string_lossy().into_owned(),
                    path: e.to.map(path),
                    via: contract(e.via),
                    by: e.by.map(path),
                })
                .collect(),
        })
        .collect()
}

/// The program and its interpreter are named by path.
fn contract(via: Via) -> &'static str {
    match via {
        Via::Program | Via::Interpreter => "absolute",
        other => other.as_str(),
    }
}

/// Renders the tree: every object once with its dependencies, later only its name.
pub fn tree(process: Option<&Process<'_>>, errors: &[LoadError]) -> String {
    let mut out = String::new();
    if let Some(process) = process {
        let mut shown = vec![false; process.objects().count()];
        for (root, object) in process.objects().filter(|(_, o)| o.is_opened_directly()) {
            let _ = writeln!(out, "{}", object.path.display().to_string().bold());
            branch(&mut out, process, root, "", &mut shown, errors);
        }
    }
    let not_shown = |e: &&LoadError| !matches!(e, LoadError::Missing { .. });
    for error in errors.iter().filter(not_shown) {
        let lazy = if error.is_fatal() { "" } else { "  (when first called)" };
        let _ = writeln!(out, "{} {}{}", "✗".red(), error.message(), lazy.dimmed());
    }
    for error in errors {
        if let LoadError::Missing { name, requested_by, searched, .. } = error {
            let _ = writeln!(out, "\n{} {} needed by {requested_by}; searched:", "✗".red(), name.red().bold());
            for place in searched {
                let why = match place.why {
                    SearchedWhy::NoDirectory => "no such directory",
                    SearchedWhy::NotThere => "not there",
                    SearchedWhy::DanglingLink => "link leads nowhere",
                    SearchedWhy::OtherMachine => "for another machine",
                    SearchedWhy::Denied => "permission denied",
                    SearchedWhy::Unusable => "unusable",
                    SearchedWhy::NotInCache => "no entry",
                };
                let _ = writeln!(out, "    {} {}", place.path, format!("[{}: {why}]", place.via).dimmed());
            }
        }
    }
    out
}

fn branch(
    out: &mut String,
    process: &Process<'_>,
    id: ObjectId,
    indent: &str,
    shown: &mut Vec<bool>,
    errors: &[LoadError],
) {
    if std::mem::replace(&mut shown[id.0], true) {
        return;
    }
    let edges = &process.object(id).edges;
    for (i, edge) in edges.iter().enumerate() {
        let last = i + 1 == edges.len();
        let tee = if last { "└── " } else { "├── " };
        let name = edge.name.to_string_lossy();
        match edge.to {
            Some(to) => {
                let object = process.object(to);
                let why = match (edge.via, edge.by) {
                    (Via::Rpath | Via::Runpath, Some(by)) if by != id => {
                        let owner = process.object(by);
                        let owner = owner.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                        format!("{} of {owner}", edge.via.as_str())
                    }
                    _ => edge.via.as_str().to_owned(),
                };
                let _ = writeln!(
                    out,
                    "{indent}{tee}{name} {} {}",
                    format!("→ {}", object.path.display()).dimmed(),
                    format!("[{why}]").cyan()
                );
                let deeper = format!("{indent}{}", if last { "    " } else { "│   " });
                branch(out, process, to, &deeper, shown, errors);
            }
            None => {
                let why = errors.iter().find_map(|e| match e {
                    LoadError::Rejected { subject, reason, .. } if subject.ends_with(&*name) => Some(reason.as_str()),
                    _ => None,
                });
                let _ = writeln!(out, "{indent}{tee}{} {}", name.red(), why.unwrap_or("not found").red());
            }
        }
    }
}
