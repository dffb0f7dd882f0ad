//! A file that is there and cannot be used: cut short, no ELF file, for another machine, a broken link, or forbidden.

use std::path::{Path, PathBuf};

use super::{Check, Failed, Rule, Surveyed, file_name, finding};
use crate::facts::{Facts, StepOutcome};
use crate::finding::{Finding, Fix};
use crate::loader::{ISA_TOO_LOW, LoadError, SearchedWhy};
use crate::python::site::normal;

/// Explains what the loader refuses.
pub static CHECK: Check = Check {
    ids: &["arch-cpu-isa", "lib-corrupt", "lib-permission", "lib-tgi-rootlib", "lib-broken-link", "lib-missing"],
    rule: Rule::Explain(explain),
};

/// Finds links that lead nowhere, before something needs them.
pub static BROKEN_LINKS: Check = Check { ids: &["lib-broken-link"], rule: Rule::Survey(broken_links) };

fn explain(failed: &Failed<'_>, facts: &Facts) -> Option<Finding> {
    match failed.load()? {
        LoadError::Rejected { path, reason, requested_by, truncated, .. } => {
            if *truncated || reason == "file too short" {
                let found = finding("lib-broken-link", path, format!("{} is cut short", file_name(path)));
                let source = if *truncated { "a segment reaches beyond the end of the file" } else { "no ELF header" };
                return Some(
                    found
                        .proof("file", path, Some(source.into()))
                        .proof("needed by", requested_by, None)
                        .cure(copy_again()),
                );
            }
            if reason == "No such file or directory" {
                let found = finding("lib-missing", path, format!("{path} is not there"));
                return Some(found.proof("target", path, None).cure(Fix::words("name it as it is inside the image")));
            }
            if reason.ends_with("Exec format error") {
                let found =
                    finding("arch-cpu-isa", path, format!("{} is built for another processor", file_name(path)));
                let host = &facts.target.arch;
                return Some(found.proof("this machine", host, None).proof("kernel says", reason, None).cure(
                    Fix::words(format!(
                        "build the image for {host}: docker build --platform, or copy the program from an image for it"
                    )),
                ));
            }
            if reason == ISA_TOO_LOW {
                let message = format!("{} needs a newer processor than this one", file_name(path));
                return Some(
                    finding("arch-cpu-isa", path, message)
                        .proof("loader says", reason, Some("readelf -n shows the x86 ISA that is needed".into()))
                        .proof("needed by", requested_by, None)
                        .cure(Fix::words("build it for the oldest processor of the fleet, such as -march=x86-64-v2")),
                );
            }
            if reason.contains("Permission denied") {
                return Some(denied(path, requested_by));
            }
            Some(
                finding("lib-corrupt", path, format!("{} is no library that this machine can load", file_name(path)))
                    .proof("loader says", reason, None)
                    .proof("needed by", requested_by, None)
                    .cure(Fix::words("put the right file there: this one is for another machine, or is not a library")),
            )
        }
        LoadError::Missing { name, requested_by, searched, .. } => {
            if let Some(place) = searched.iter().find(|s| s.why == SearchedWhy::DanglingLink) {
                return Some(
                    finding("lib-broken-link", &place.path, format!("{name} is a link that leads nowhere"))
                        .proof("link", &place.path, Some(place.via.clone()))
                        .proof("needed by", requested_by, None)
                        .cure(copy_again()),
                );
            }
            if let Some(place) = searched.iter().find(|s| s.why == SearchedWhy::Denied) {
                return Some(denied(&place.path, requested_by));
            }
            let is_searched = |dir: &str| {
                searched.iter().any(|s| normal(Path::new(&s.path)).parent().is_some_and(|p| p == Path::new(dir)))
            };
            let mut copies = facts.image.libraries.cuda_copies.iter().filter(|c| c.soname == *name);
            let (dir, file) = copies.find_map(|c| c.path.rsplit_once('/').filter(|(dir, _)| is_searched(dir)))?;
            Some(
                finding("lib-broken-link", format!("{dir}/{file}"), format!("{file} lacks its link {name}"))
                    .proof("file", format!("{dir}/{file}"), Some(format!("SONAME {name}")))
                    .proof("needed by", requested_by, None)
                    .cure(Fix::dockerfile("make the link that its SONAME asks for", format!("RUN ldconfig -n {dir}"))),
            )
        }
        _ => None,
    }
}

fn denied(path: &str, requested_by: &str) -> Finding {
    let id = if path.starts_with("/root/") { "lib-tgi-rootlib" } else { "lib-permission" };
    finding(id, path, format!("the user of this image may not read {}", file_name(path)))
        .proof("file", path, Some("mode of the file, or of a directory above it".into()))
        .proof("needed by", requested_by, None)
        .cure(Fix::dockerfile(
            "install it where every user may read, such as below /opt, or open it up",
            format!("RUN chmod -R a+rX {}", path.rsplit_once('/').map_or("/", |(d, _)| d)),
        ))
}

fn copy_again() -> Fix {
    Fix::dockerfile(
        "copy the directory and not a pattern: a pattern loses links, and copies links without what they lead to",
        "COPY --from=builder /usr/local/cuda/lib64 /usr/local/cuda/lib64\nRUN ldconfig",
    )
}

fn broken_links(facts: &Facts) -> Surveyed {
    let told: Vec<PathBuf> = facts
        .subjects
        .iter()
        .flat_map(|s| &s.steps)
        .filter_map(|s| match &s.outcome {
            StepOutcome::Failed(failure) => Some(&failure.errors),
            _ => None,
        })
        .flatten()
        .filter_map(|e| match e {
            LoadError::Missing { searched, .. } => Some(searched),
            _ => None,
        })
        .flatten()
        .map(|s| normal(Path::new(&s.path)))
        .collect();
    let findings = facts
        .image
        .libraries
        .broken_links
        .iter()
        // A development link without its library is what a slim image is expected to hold.
        .filter(|l| l.path.rsplit_once(".so.").is_some() && !told.iter().any(|t| *t == *l.path))
        .map(|l| {
            let mut found =
                finding("lib-broken-link", &l.path, format!("{} is a link that leads nowhere", file_name(&l.path)))
                    .proof("link to", &l.to, None)
                    .cure(copy_again());
            found.severity = super::pages::Severity::Note;
            found
        })
        .collect();
    Surveyed::in_libraries(facts, findings)
}
