//! Driver libraries in an image: they belong to the host, and are mounted when the container starts.

use super::pages::Severity;
use super::{Check, Rule, Surveyed, file_name, finding};
use crate::facts::{DriverFile, DriverFileKind, Facts};
use crate::finding::{Finding, Fix};

/// Driver libraries that are part of the image.
pub static BAKED: Check = Check { ids: &["drv-baked-libs"], rule: Rule::Survey(baked) };
/// Empty files with their names.
pub static EMPTY: Check = Check { ids: &["drv-empty-placeholder"], rule: Rule::Survey(empty) };
/// Linker stubs where the loader finds them.
pub static STUB: Check = Check { ids: &["ver-stub-34"], rule: Rule::Survey(stub) };

fn of_kind(facts: &Facts, kind: DriverFileKind) -> impl Iterator<Item = &DriverFile> {
    facts.image.libraries.driver_files.iter().filter(move |f| f.kind == kind && !f.mounted)
}

fn baked(facts: &Facts) -> Surveyed {
    let findings = of_kind(facts, DriverFileKind::Driver)
        .map(|f| {
            finding(
                "drv-baked-libs",
                &f.path,
                format!("{} belongs to the host's driver, not into an image", file_name(&f.path)),
            )
            .proof("file", &f.path, Some(format!("{} bytes", f.size)))
            .cure(remove(f))
        })
        .collect();
    Surveyed::found(findings)
}

fn empty(facts: &Facts) -> Surveyed {
    let findings = of_kind(facts, DriverFileKind::Empty)
        .map(|f| {
            finding(
                "drv-empty-placeholder",
                &f.path,
                format!("{} is empty: left over from a GPU container", file_name(&f.path)),
            )
            .proof("file", &f.path, Some("0 bytes".into()))
            .cure(remove(f))
        })
        .collect();
    Surveyed::found(findings)
}

fn remove(file: &DriverFile) -> Fix {
    Fix::dockerfile(
        "remove it, and do not commit images from a container that runs with a GPU",
        format!("RUN rm -f {}", file.path),
    )
}

/// A stub is harmless in its own directory, and an error once a search path leads there.
fn stub(facts: &Facts) -> Surveyed {
    let on_path: Vec<&str> = facts
        .image
        .env
        .iter()
        .filter(|(name, _)| name == "LD_LIBRARY_PATH")
        .flat_map(|(_, value)| value.split([':', ';']))
        .map(|d| d.trim_end_matches('/'))
        .collect();
    let findings: Vec<Finding> = of_kind(facts, DriverFileKind::Stub)
        .filter_map(|f| {
            let dir = f.path.rsplit_once('/').map_or("", |(d, _)| d);
            let listed = on_path.contains(&dir);
            let in_stubs = f.path.contains("/stubs/");
            // Outside a directory of stubs it stands where libraries are searched for.
            if !(listed || f.used || !in_stubs) || !f.path.contains("libcuda.so") {
                return None;
            }
            let why = if listed { "its directory is on LD_LIBRARY_PATH" } else { "it stands among the libraries" };
            let mut found =
                finding("ver-stub-34", &f.path, format!("{} is a linker stub, and {why}", file_name(&f.path)))
                    .proof("file", &f.path, Some(format!("{} bytes; the driver's has tens of megabytes", f.size)))
                    .cure(if listed {
                        Fix::dockerfile(
                            "use the stubs only while linking: LIBRARY_PATH, never LD_LIBRARY_PATH",
                            format!(
                                "ENV LD_LIBRARY_PATH={}",
                                on_path.iter().filter(|d| **d != dir).copied().collect::<Vec<_>>().join(":")
                            ),
                        )
                    } else {
                        remove(f)
                    });
            found.user_sees = Some("CUDA driver is a stub library".into());
            if !f.path.ends_with("libcuda.so.1") {
                // Programs ask for libcuda.so.1; the bare name is asked for by few.
                found.severity = Severity::Warning;
            }
            Some(found)
        })
        .collect();
    Surveyed::found(findings)
}
