//! `slim`: what stays and what goes, and why; the lines of a Dockerfile that make an image of it.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::checks::size::human;
use crate::facts::Facts;
use crate::slim::{Mode, Plan};
use crate::structured;

/// Groups that are shown one by one; `--format json` has all.
const MOST_GROUPS: usize = 16;

#[derive(Serialize)]
struct Document<'p> {
    schema: &'static str,
    mode: &'static str,
    total_bytes: u64,
    kept_bytes: u64,
    groups: Vec<GroupJson>,
    notes: Vec<&'p str>,
    generated: Vec<String>,
    keep: Vec<String>,
}

#[derive(Serialize)]
struct GroupJson {
    stays: bool,
    group: String,
    why: String,
    files: u64,
    bytes: u64,
}

/// `mldoctor.slim/1`: bytes are the sizes of files, each counted once however many names it has.
///
/// # Errors
/// None that can happen: the document is made of text and numbers.
pub fn json(plan: &Plan, mode: Mode) -> serde_json::Result<String> {
    let groups = plan.groups().into_iter().map(|g| GroupJson {
        stays: g.reason.stays,
        group: g.reason.group,
        why: g.reason.why,
        files: g.files,
        bytes: g.bytes,
    });
    structured::to_json(&Document {
        schema: "mldoctor.slim/1",
        mode: match mode {
            Mode::Safe => "safe",
            Mode::Recorded => "recorded",
        },
        total_bytes: plan.tree.bytes(),
        kept_bytes: plan.kept_bytes(),
        groups: groups.collect(),
        notes: plan.notes.iter().map(String::as_str).collect(),
        generated: plan.generated.keys().map(|p| p.to_string_lossy().into_owned()).collect(),
        keep: plan.kept().map(|n| n.path.to_string_lossy().into_owned()).collect(),
    })
}

/// For people: the sizes, then what goes, then what stays, the largest first.
pub fn text(plan: &Plan) -> String {
    let (total, kept) = (plan.tree.bytes(), plan.kept_bytes());
    let percent = 100.0 * (1.0 - kept as f64 / total.max(1) as f64);
    let mut out = format!("{} of {} stay: {percent:.1} % smaller\n", human(kept), human(total));
    let groups = plan.groups();
    for (stays, title) in [(false, "goes"), (true, "stays")] {
        let _ = writeln!(out, "\n{title}");
        let of_kind: Vec<_> = groups.iter().filter(|g| g.reason.stays == stays).collect();
        for group in of_kind.iter().take(MOST_GROUPS) {
            let _ = writeln!(
                out,
                "  {:>10}  {:>6} files  {}: {}",
                human(group.bytes),
                group.files,
                group.reason.group,
                group.reason.why
            );
        }
        if let Some(rest) = of_kind.get(MOST_GROUPS..).filter(|rest| !rest.is_empty()) {
            let bytes = rest.iter().map(|g| g.bytes).sum();
            let files: u64 = rest.iter().map(|g| g.files).sum();
            let _ = writeln!(out, "  {:>10}  {files:>6} files  in {} smaller groups", human(bytes), rest.len());
        }
    }
    for note in &plan.notes {
        let _ = writeln!(out, "\n{note}");
    }
    out
}

/// The second stage of a build whose first, `builder`, ran `slim --copy-to DIR`.
pub fn dockerfile(facts: &Facts, dir: &Path) -> String {
    let mut out = format!("FROM scratch\nCOPY --from=builder {}/ /\n", dir.display());
    for (name, value) in &facts.image.env {
        // What a container gets from its runtime is not written into an image.
        if ["HOME", "USER", "TMPDIR"].contains(&name.as_str()) {
            continue;
        }
        let _ = writeln!(out, "ENV {name}={}", serde_json::Value::from(value.replace('$', "\\$")));
    }
    out
}
