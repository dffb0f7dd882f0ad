//! What a run used in the image that this one was made from, and does not find here.

use super::{Check, Rule, Surveyed, finding};
use crate::facts::{Facts, RecordedMissing};
use crate::finding::{Capability, Fix, Severity, Status};

/// Things that are gone.
pub static MISSING: Check = Check { ids: &["slim-missing"], rule: Rule::Survey(missing) };
/// Libraries that are others.
pub static DIFFERS: Check = Check { ids: &["slim-differs"], rule: Rule::Survey(differs) };

/// The capability of having all that was recorded.
pub const RECORDED: &str = "recorded";
/// Kinds of things, and what each lacks.
const KINDS: &[(&str, &str)] = &[
    ("program", "programs that were executed are gone"),
    ("library", "libraries that were loaded are gone"),
    ("module", "Python modules that were imported are gone"),
    ("file", "files that were opened are gone"),
];
/// Paths that one finding shows.
const MOST_SHOWN: usize = 10;

fn missing(facts: &Facts) -> Surveyed {
    let Some(recorded) = &facts.recorded else { return Surveyed::not_applicable("no profile to compare with") };
    let mut findings = Vec::new();
    for (kind, message) in KINDS {
        let gone: Vec<&RecordedMissing> = recorded.missing.iter().filter(|m| m.kind == *kind).collect();
        let Some(first) = gone.first() else { continue };
        let count = if gone.len() > 1 { format!(" ({} of them)", gone.len()) } else { String::new() };
        let mut found = finding("slim-missing", &first.path, format!("{message}{count}")).breaks(RECORDED);
        for missing in gone.iter().take(MOST_SHOWN) {
            found = found.proof(kind, &missing.path, Some(format!("used by {}", missing.by.join(", "))));
        }
        let directory = first.path.rsplit_once('/').map_or("/", |(dir, _)| dir);
        findings.push(found.cure(Fix::dockerfile(
            "copy them too, or record again if the workload no longer uses them",
            format!("COPY --from=builder {} {directory}/", first.path),
        )));
    }
    let known = match recorded.compared {
        0 => Capability::new(RECORDED, Status::Unknown, "the profile names nothing that could be compared"),
        _ => Capability::new(RECORDED, Status::Ok, ""),
    };
    Surveyed { capabilities: vec![known], ..Surveyed::found(findings) }
}

fn differs(facts: &Facts) -> Surveyed {
    let Some(recorded) = &facts.recorded else { return Surveyed::not_applicable("no profile to compare with") };
    let found = recorded.differs.iter().map(|differs| {
        let message = match differs.other_soname {
            true => "another library lies where the recorded one was",
            false => "the library comes from another build than the recorded one",
        };
        let mut found = finding("slim-differs", &differs.path, message)
            .proof("recorded", &differs.recorded, None)
            .proof("here", &differs.found, Some(differs.path.clone()))
            .cure(Fix::dockerfile(
                "take the library from the image that was recorded, or record this one",
                format!("COPY --from=builder {0} {0}", differs.path),
            ));
        if differs.other_soname {
            found.severity = Severity::Error;
            found = found.breaks(RECORDED);
        }
        found
    });
    Surveyed::found(found.collect())
}
