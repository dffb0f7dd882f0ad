//! Child processes that did not come back, and what they had mapped instead of what the files promised.

use mldoctor_probes::library::Family;

use super::place::{self, on_node, variable};
use super::{Check, Failed, Rule, Surveyed, file_name, finding};
use crate::facts::Facts;
use crate::finding::{Finding, Fix};
use crate::probe::{Call, Death, Outcome};

/// What the workload has mapped that runs already.
pub static RUNNING: Check = Check { ids: &["lib-dup-cuda", "lib-mapped-other"], rule: Rule::Survey(running) };
/// A call that a child died in, or that it was not done with.
pub static CALLS: Check = Check {
    ids: &["drv-crash", "gpu-hang", "lib-crash", "lib-hang", "lib-nvrtc-builtins", "lib-refused"],
    rule: Rule::ExplainCall(explain),
};
/// Libraries that came from elsewhere than was foretold.
pub static MAPPED: Check = Check { ids: &["lib-mapped-other"], rule: Rule::Survey(mapped) };

fn explain(failed: &Failed<'_>, facts: &Facts) -> Option<Finding> {
    let call = failed.call()?;
    let file = &failed.step.file;
    if failed.subject.capability == "gpu" {
        return of_driver(call, file);
    }
    let printed = {
        let library = facts.libraries.iter().find(|l| l.paths.last() == Some(file));
        library.and_then(|l| l.run.seen()).map(|run| run.output.trim()).filter(|text| !text.is_empty())
    };
    let of = file_name(file);
    const CURE: &str = "install the release of it that the framework asks for, and let no other copy be loaded";
    let found = match &call.outcome {
        Outcome::Ok => return None,
        Outcome::Died(death) => {
            let message = match death {
                Death::Exit(_) => format!("{of} ends the process in {}: {death}", call.name),
                Death::Signal(_) => format!("{of} does not survive {}: {death}", call.name),
            };
            finding("lib-crash", file, message).sees(death.to_string()).cure(Fix::words(CURE))
        }
        Outcome::TimedOut(after) => finding("lib-hang", file, late(call, *after))
            .cure(Fix::words("see what it waits for: strace -f of the workload tells")),
        Outcome::Error(error) => {
            let text = printed.unwrap_or(&error.name);
            let (id, message) = if text.contains("nvrtc-builtins") {
                ("lib-nvrtc-builtins", format!("NVRTC compiles nothing: {}", error.name))
            } else {
                ("lib-refused", format!("{of} is loaded, and {} fails: {}", call.name, error.name))
            };
            finding(id, file, message).sees(text).cure(Fix::words(CURE))
        }
    };
    let found = found.proof("call", &call.name, Some(file.clone()));
    Some(match printed {
        Some(output) => found.proof("printed", output.lines().next().unwrap_or_default(), None),
        None => found,
    })
}

/// A call of the driver that did not come back; none if it did, with whatever answer.
pub fn of_driver(call: &Call, file: &str) -> Option<Finding> {
    let found = match &call.outcome {
        Outcome::Ok | Outcome::Error(_) => return None,
        Outcome::Died(death) => {
            finding("drv-crash", file, format!("the driver does not survive {}: {death}", call.name))
                .sees(death.to_string())
                .cure(on_node(
                    "look for NVRM and Xid in dmesg; the libraries in the container must be those of the driver",
                ))
        }
        Outcome::TimedOut(after) => finding("gpu-hang", &call.name, late(call, *after))
            .cure(on_node("a GPU or the driver is stuck: look for NVRM and Xid in dmesg, and reboot it")),
    };
    Some(found.proof("call", &call.name, Some(file.to_owned())))
}

fn late(call: &Call, after: u64) -> String {
    format!("{} has not come back after {} s", call.name, after as f64 / 1000.0)
}

/// The model of the loader foretold one path, and the loader took another: then the model is wrong here.
fn mapped(facts: &Facts) -> Surveyed {
    if facts.libraries.is_empty() {
        return Surveyed::not_applicable("no library was tried for real");
    }
    let mut findings = Vec::new();
    for library in &facts.libraries {
        let Some(mapped) = library.mapped() else { continue };
        for path in &library.paths {
            let name = file_name(path);
            let instead = mapped.iter().find(|m| file_name(m) == name && *m != path);
            if let Some(instead) = instead.filter(|_| !mapped.contains(path)) {
                findings.push(
                    finding("lib-mapped-other", path, format!("{name} was loaded from elsewhere than its files say"))
                        .proof("foretold", path, None)
                        .proof("loaded", instead, None)
                        .cure(Fix::words("tell the authors of mldoctor: its model of the loader is wrong here")),
                );
            }
        }
    }
    Surveyed::found(findings)
}

/// The first process of the container has its libraries since it was started; a check sees what it would get today, in
/// the environment that the check has.
fn running(facts: &Facts) -> Surveyed {
    let node = place::node(facts);
    let Some(pid1) = node.pid1.seen().filter(|pid1| !pid1.mapped.is_empty()) else {
        return Surveyed::not_applicable("the libraries of process 1 are not to be seen, or it is not the workload");
    };
    let family = |path: &str| Family::of_soname(file_name(path));
    let foretold: Vec<&str> = facts.subjects.iter().flat_map(|s| &s.mapped).map(|m| m.path.as_str()).collect();
    let mut findings = Vec::new();
    for (at, path) in pid1.mapped.iter().enumerate() {
        let Some(own) = family(path) else { continue };
        if let Some(other) = pid1.mapped[..at].iter().find(|p| family(p) == Some(own)) {
            let message = format!("process 1 has two copies of {} mapped", own.name());
            let found = finding("lib-dup-cuda", path, message).proof("mapped", other, Some("/proc/1/maps".into()));
            findings.push(found.proof("mapped", path, Some("/proc/1/maps".into())).cure(Fix::words(
                "keep one: what the wheels bring, or what the base image has, and nothing on LD_LIBRARY_PATH",
            )));
        }
        let expected = foretold.iter().find(|p| family(p) == Some(own));
        if let Some(expected) = expected.filter(|_| !foretold.contains(&path.as_str())) {
            let shown = |value: Option<&str>| value.filter(|v| !v.is_empty()).unwrap_or("not set").to_owned();
            findings.push(
                finding(
                    "lib-mapped-other",
                    path,
                    format!("process 1 runs with another {} than is found now", own.name()),
                )
                .proof("process 1", path, Some("/proc/1/maps".into()))
                .proof("found now", *expected, None)
                .proof(
                    "LD_LIBRARY_PATH",
                    shown(pid1.ld_library_path.seen().map(String::as_str)),
                    Some("process 1".into()),
                )
                .proof("LD_LIBRARY_PATH", shown(variable(facts, "LD_LIBRARY_PATH")), Some("mldoctor".into()))
                .cure(Fix::dockerfile(
                    "set it in the image, so that the entrypoint and everything started beside it see the same",
                    format!("ENV LD_LIBRARY_PATH={}", pid1.ld_library_path.seen().map_or("…", String::as_str)),
                )),
            );
        }
    }
    Surveyed::found(findings)
}
