//! Driver libraries in an image: they belong to the host, and are mounted when the container starts.

use super::pages::Severity;
use super::place::{variable, works};
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

/// Libraries of the driver that are part of the image.
pub(super) fn baked_files(facts: &Facts) -> impl Iterator<Item = &DriverFile> {
    of_kind(facts, DriverFileKind::Driver)
}

fn baked(facts: &Facts) -> Surveyed {
    let findings = baked_files(facts)
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
    Surveyed::in_libraries(facts, findings)
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
    Surveyed::in_libraries(facts, findings)
}

fn remove(file: &DriverFile) -> Fix {
    Fix::dockerfile(
        "remove it, and do not commit images from a container that runs with a GPU",
        format!("RUN rm -f {}", file.path),
    )
}

/// A stub is harmless in its own directory, and an error once a search path leads there.
fn stub(facts: &Facts) -> Surveyed {
    Surveyed::in_libraries(facts, stubs(facts))
}

/// What is found of the stub that the driver's name leads to.
pub fn stub_of(facts: &Facts) -> Option<Finding> {
    let used = of_kind(facts, DriverFileKind::Stub).find(|f| f.used)?;
    stubs(facts).into_iter().find(|found| found.subject == used.path)
}

fn stubs(facts: &Facts) -> Vec<Finding> {
    let on_path: Vec<&str> = variable(facts, "LD_LIBRARY_PATH")
        .into_iter()
        .flat_map(|value| value.split([':', ';']))
        .map(|d| d.trim_end_matches('/'))
        .collect();
    of_kind(facts, DriverFileKind::Stub).filter_map(|file| of_stub(facts, file, &on_path)).collect()
}

fn of_stub(facts: &Facts, file: &DriverFile, on_path: &[&str]) -> Option<Finding> {
    let dir = file.path.rsplit_once('/').map_or("", |(dir, _)| dir);
    let listed = on_path.contains(&dir);
    let in_stubs = file.path.contains("/stubs/");
    // Outside a directory of stubs it stands where libraries are searched for.
    if !(listed || file.used || !in_stubs) || !file.path.contains("libcuda.so") {
        return None;
    }
    let why = match (listed, in_stubs) {
        (true, _) => "its directory is on LD_LIBRARY_PATH",
        (false, true) => "libcuda.so.1 leads to it",
        (false, false) => "it stands among the libraries",
    };
    let message = format!("{} is a linker stub, and {why}", file_name(&file.path));
    let cure = if listed {
        let rest: Vec<&str> = on_path.iter().filter(|d| **d != dir).copied().collect();
        Fix::dockerfile(
            "use the stubs only while linking: LIBRARY_PATH, never LD_LIBRARY_PATH",
            format!("ENV LD_LIBRARY_PATH={}", rest.join(":")),
        )
    } else {
        remove(file)
    };
    let found = finding("ver-stub-34", &file.path, message)
        .proof("file", &file.path, Some(format!("{} bytes; the driver's has tens of megabytes", file.size)))
        .sees("CUDA driver is a stub library")
        .cure(cure);
    if file.used {
        return Some(found.breaks("gpu"));
    }
    // Programs ask for libcuda.so.1; the bare name is asked for by few. Where CUDA works, the stub is not what they get.
    let is_asked_for = file.path.ends_with("libcuda.so.1") && !works(facts);
    Some(Finding { severity: if is_asked_for { found.severity } else { Severity::Warning }, ..found })
}
