//! From facts to findings. Pure: nothing here reads a file, and the same facts always give the same report.
//!
//! Two kinds of check. An *explanation* is asked about one thing that failed while a capability was tried, and either
//! recognises it or passes it on; the first in the registry that recognises it names the finding, the last ones
//! recognise everything. A *survey* looks at the facts as a whole and finds what no single failure shows.

#![deny(clippy::disallowed_methods)]

pub mod pages;
pub mod size;

mod build_tools;
mod compile_tools;
mod device_access;
pub mod driver_age;
mod driver_calls;
mod driver_files;
mod driver_missing;
mod driver_versions;
mod duplicates;
mod expectations;
mod folders;
mod gpu_state;
pub mod hardware;
mod image_environment;
pub mod kernels;
mod ld_library_path;
mod missing_library;
mod mixed_libraries;
mod package;
mod place;
mod platforms;
mod privileges;
mod processes;
mod python;
mod recorded;
mod rejected_file;
mod resources;
mod visible_devices;

use crate::facts::{Absence, Facts, Step, StepOutcome, Subject};
use crate::finding::{Capability, CheckOutcome, Evidence, Finding, Fix, Status};
use crate::loader::{LoadError, Loaded};
use crate::probe::Call;

pub use recorded::RECORDED;

/// What failed.
pub enum Cause<'f> {
    /// The loader refuses something.
    Load(&'f LoadError),
    /// Something else is not there.
    Absent(&'f Absence),
    /// A call in a child process that did not succeed.
    Call(&'f Call),
}

/// One thing that failed while a capability was tried.
pub struct Failed<'f> {
    /// The capability.
    pub subject: &'f Subject,
    /// What was tried.
    pub step: &'f Step,
    /// Why it failed.
    pub cause: Cause<'f>,
}

impl Failed<'_> {
    /// The loader's error, if that is the cause.
    pub fn load(&self) -> Option<&LoadError> {
        match self.cause {
            Cause::Load(error) => Some(error),
            Cause::Absent(_) | Cause::Call(_) => None,
        }
    }

    /// The call, if that is the cause.
    pub fn call(&self) -> Option<&Call> {
        match self.cause {
            Cause::Call(call) => Some(call),
            Cause::Load(_) | Cause::Absent(_) => None,
        }
    }

    /// The library that answers to a name: among those that were mapped in vain, or in the process as it is.
    pub fn loaded(&self, is_it: impl Fn(&str) -> bool) -> Option<Loaded> {
        let in_vain = match &self.step.outcome {
            StepOutcome::Failed(failure) => failure.loaded.as_slice(),
            _ => &[],
        };
        let mapped = self.subject.mapped.iter();
        in_vain.iter().find(|l| is_it(&l.soname)).cloned().or_else(|| {
            let found = mapped.into_iter().find(|m| is_it(&m.soname))?;
            Some(Loaded { soname: found.soname.clone(), path: found.path.clone(), via: found.via.clone() })
        })
    }

    /// The missing thing, if that is the cause.
    pub fn absent(&self, kind: &str) -> Option<&Absence> {
        match self.cause {
            Cause::Absent(absence) if absence.kind == kind => Some(absence),
            _ => None,
        }
    }
}

/// What a survey says.
pub struct Surveyed {
    /// The answer.
    pub outcome: CheckOutcome,
    /// Why, where it is not a plain pass.
    pub reason: Option<String>,
    /// What was found.
    pub findings: Vec<Finding>,
    /// Capabilities that no step has tried, and what is known of them. Findings may break them yet.
    pub capabilities: Vec<Capability>,
}

impl Surveyed {
    /// What was found; nothing found is a pass.
    pub fn found(findings: Vec<Finding>) -> Self {
        let outcome = if findings.is_empty() { CheckOutcome::Pass } else { CheckOutcome::Found };
        Self { outcome, reason: None, findings, capabilities: Vec::new() }
    }

    /// What was found among the files in the directories of libraries; where not all of them were seen, nothing found is
    /// no pass.
    pub fn in_libraries(facts: &Facts, findings: Vec<Finding>) -> Self {
        match &facts.image.libraries.scan_cut {
            Some(why) if findings.is_empty() => Self::unknown(why),
            _ => Self::found(findings),
        }
    }

    /// There was nothing to look at.
    pub fn not_applicable(why: impl Into<String>) -> Self {
        Self { outcome: CheckOutcome::NotApplicable, reason: Some(why.into()), ..Self::found(Vec::new()) }
    }

    /// It could not be looked at, and whether a capability works depends on it.
    pub fn open(capability: &str, why: &str) -> Self {
        Self { capabilities: vec![Capability::new(capability, Status::Unknown, why)], ..Self::unknown(why) }
    }

    /// It could not be looked at.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self { outcome: CheckOutcome::Unknown, reason: Some(why.into()), ..Self::found(Vec::new()) }
    }
}

/// How a check works.
pub enum Rule {
    /// Recognises one failure.
    Explain(fn(&Failed<'_>, &Facts) -> Option<Finding>),
    /// Recognises one failure of a call, which only children make.
    ExplainCall(fn(&Failed<'_>, &Facts) -> Option<Finding>),
    /// Looks at everything.
    Survey(fn(&Facts) -> Surveyed),
}

/// One check.
pub struct Check {
    /// The finding ids that it can give.
    pub ids: &'static [&'static str],
    /// How it works.
    pub rule: Rule,
}

/// Every check. Explanations are asked in this order, so the special ones stand before the general ones.
pub static CHECKS: &[&Check] = &[
    &processes::CALLS,
    &platforms::JETSON,
    &driver_missing::CHECK,
    &driver_calls::CHECK,
    &driver_versions::SYMBOLS,
    &rejected_file::CHECK,
    &mixed_libraries::CHECK,
    &python::MODULE,
    &compile_tools::CHECK,
    &missing_library::CHECK,
    &driver_files::BAKED,
    &driver_files::EMPTY,
    &driver_files::STUB,
    &driver_versions::CHECK,
    &driver_versions::NGC,
    &device_access::CHECK,
    &visible_devices::CHECK,
    &gpu_state::CHECK,
    &expectations::COUNT,
    &expectations::MEMORY,
    &privileges::CHECK,
    &image_environment::RUNTIME,
    &image_environment::LEFT_BEHIND,
    &processes::MAPPED,
    &processes::RUNNING,
    &driver_age::OLD,
    &driver_age::NUMBA,
    &kernels::CHECK,
    &compile_tools::ASSEMBLER,
    &duplicates::CUDA,
    &duplicates::CUDNN,
    &duplicates::NCCL,
    &ld_library_path::CHECK,
    &python::RECORD,
    &python::CPU_TORCH,
    &rejected_file::BROKEN_LINKS,
    &folders::FOLDERS,
    &folders::USER,
    &folders::LIBRARIES,
    &resources::CHECK,
    &platforms::PLATFORM,
    &build_tools::COMPILERS,
    &build_tools::SEVERAL,
    &recorded::MISSING,
    &recorded::DIFFERS,
];

/// Label of the evidence of who needs something.
pub(crate) const NEEDED_BY: &str = "needed by";

/// Starts a finding with what its page says.
pub(crate) fn finding(id: &str, subject: impl Into<String>, message: impl Into<String>) -> Finding {
    Finding {
        id: id.to_owned(),
        severity: pages::severity(id),
        subject: subject.into(),
        message: message.into(),
        user_sees: None,
        evidence: Vec::new(),
        fix: Fix::default(),
        breaks: None,
    }
}

impl Finding {
    pub(crate) fn proof(mut self, label: &str, value: impl Into<String>, source: Option<String>) -> Self {
        self.evidence.push(Evidence { label: label.to_owned(), value: value.into(), source });
        self
    }

    pub(crate) fn sees(mut self, message: impl Into<String>) -> Self {
        self.user_sees = Some(message.into());
        self
    }

    pub(crate) fn breaks(mut self, capability: &str) -> Self {
        self.breaks = Some(capability.to_owned());
        self
    }

    pub(crate) fn cure(mut self, fix: Fix) -> Self {
        self.fix = fix;
        self
    }
}

/// File name of a path.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn checks_and_pages_name_the_same_ids() {
        let checks: BTreeSet<&str> = CHECKS.iter().flat_map(|c| c.ids).copied().chain(size::ids()).collect();
        let pages: BTreeSet<&str> = pages::all().iter().map(|p| p.id).collect();
        assert_eq!(checks, pages);
    }
}
