//! Facts in, report out: which failures matter, what they are called, and what follows for the verdict.

#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use crate::checks::{CHECKS, Cause, Failed, NEEDED_BY, RECORDED, Rule};
use crate::facts::{Facts, How, Scope, Step, StepOutcome, Subject, Weight};
use crate::finding::{Capability, CheckOutcome, CheckResult, Finding, Report, Severity, Status, Verdict};
use crate::loader::{Failure, ISA_TOO_LOW, LoadError};
use crate::suggestion::nearest;

/// Judges the facts.
pub fn judge(facts: &Facts) -> Report {
    let mut findings: Vec<Finding> = Vec::new();
    let mut capabilities: Vec<Capability> = Vec::new();
    let mut explained: BTreeMap<&str, usize> = BTreeMap::new();
    for subject in &facts.subjects {
        let required = is_required(facts, &subject.capability);
        let mut blockers: Vec<String> = Vec::new();
        let mut first_message = None;
        for step in &subject.steps {
            for cause in causes(step) {
                let failed = Failed { subject, step, cause };
                let Some(mut finding) = explain(&failed, facts) else { continue };
                if let Some(id) = CHECKS.iter().flat_map(|c| c.ids).find(|id| **id == finding.id) {
                    *explained.entry(id).or_default() += 1;
                }
                finding.severity = weigh(finding.severity, step.weight, required);
                if finding.user_sees.is_none() {
                    finding.user_sees = user_sees(facts, step, &failed);
                }
                if step.weight == Weight::Required {
                    first_message.get_or_insert_with(|| finding.message.clone());
                    if !blockers.contains(&finding.id) {
                        blockers.push(finding.id.clone());
                    }
                }
                add(&mut findings, finding);
            }
        }
        capabilities.push(capability(subject, required, blockers, first_message));
    }
    let judged = facts.subjects.iter().any(|s| !s.steps.is_empty());
    let called = facts.driver.is_some() || !facts.libraries.is_empty();
    let mut checks = Vec::new();
    for check in CHECKS {
        match check.rule {
            Rule::Explain(_) | Rule::ExplainCall(_) => {
                let was_tried = if matches!(check.rule, Rule::Explain(_)) { judged } else { called };
                for id in check.ids {
                    let (outcome, reason) = match (explained.get(id), was_tried) {
                        (Some(_), _) => (CheckOutcome::Found, None),
                        (None, true) => (CheckOutcome::Pass, None),
                        (None, false) => (CheckOutcome::NotApplicable, Some("nothing was tried".to_owned())),
                    };
                    checks.push(CheckResult { id: (*id).to_owned(), outcome, reason });
                }
            }
            Rule::Survey(survey) => {
                let surveyed = survey(facts);
                for id in check.ids {
                    let found = surveyed.findings.iter().any(|f| f.id == *id);
                    let outcome = match surveyed.outcome {
                        CheckOutcome::Found if !found => CheckOutcome::Pass,
                        other => other,
                    };
                    checks.push(CheckResult { id: (*id).to_owned(), outcome, reason: surveyed.reason.clone() });
                }
                for capability in surveyed.capabilities {
                    know(facts, &mut capabilities, capability);
                }
                for mut finding in surveyed.findings {
                    if let Some(broken) = finding.breaks.take() {
                        break_capability(facts, &mut capabilities, &broken, &mut finding);
                    }
                    add(&mut findings, finding);
                }
            }
        }
    }
    for id in &facts.target.require {
        if capabilities.iter().all(|c| c.id != *id) {
            let near = nearest(id, capabilities.iter().map(|c| c.id.as_str()));
            let why = format!("nothing that is examined has this capability{near}");
            let mut asked = Capability::new(id, Status::Unknown, why);
            asked.required = true;
            capabilities.push(asked);
        }
    }
    inherit(facts, &mut capabilities);
    // An id may be given by an explanation and by a survey: what was found counts, and then what could not be seen.
    let weight = |outcome: CheckOutcome| match outcome {
        CheckOutcome::Found => 0,
        CheckOutcome::Unknown => 1,
        CheckOutcome::Pass => 2,
        CheckOutcome::NotApplicable => 3,
    };
    checks.sort_by(|a, b| a.id.cmp(&b.id).then_with(|| weight(a.outcome).cmp(&weight(b.outcome))));
    checks.dedup_by(|a, b| a.id == b.id);
    // Stable: within one severity the order in which the workload meets them.
    findings.sort_by_key(|f| f.severity);
    let verdict = verdict(&capabilities, &findings);
    Report { verdict, capabilities, findings, checks }
}

/// Whether the verdict depends on a capability: the workload itself, and what `--require` names.
fn is_required(facts: &Facts, id: &str) -> bool {
    // Who names a profile wants what it names.
    let by_default = id.starts_with("import:") || id.starts_with("load:") || id == RECORDED;
    let has_node = facts.target.scope == Scope::Container || facts.assumed.is_named();
    let of_node = has_node && (id == "gpu" || id.starts_with("kernels:"));
    by_default || of_node || facts.target.require.iter().any(|r| r == id)
}

/// What failed in one step. Symbols that are undefined because a whole library is missing are not told again.
fn causes(step: &Step) -> Vec<Cause<'_>> {
    match &step.outcome {
        StepOutcome::Ok(_) => Vec::new(),
        StepOutcome::NotFound(absence) => vec![Cause::Absent(absence)],
        StepOutcome::Call(call) => vec![Cause::Call(call)],
        StepOutcome::Failed(Failure { errors, .. }) => {
            let lost = errors.iter().any(|e| matches!(e, LoadError::Missing { .. } | LoadError::Rejected { .. }));
            let follows = |e: &LoadError| lost && matches!(e, LoadError::Undefined { .. } | LoadError::Version { .. });
            errors.iter().filter(|e| e.is_fatal() && !follows(e)).map(Cause::Load).collect()
        }
    }
}

fn explain(failed: &Failed<'_>, facts: &Facts) -> Option<Finding> {
    CHECKS.iter().find_map(|check| match check.rule {
        Rule::Explain(explain) | Rule::ExplainCall(explain) => explain(failed, facts),
        Rule::Survey(_) => None,
    })
}

/// An error is only an error where the verdict depends on it.
fn weigh(severity: Severity, weight: Weight, required: bool) -> Severity {
    match (weight, required) {
        (Weight::Required, true) => severity,
        (Weight::Required, false) => severity.max(Severity::Warning),
        (Weight::Optional, _) => Severity::Note,
    }
}

/// The message that the workload would print.
fn user_sees(facts: &Facts, step: &Step, failed: &Failed<'_>) -> Option<String> {
    if let Some(whole) = &step.user_sees {
        return Some(whole.clone());
    }
    let error = failed.load()?;
    if matches!(error, LoadError::Rejected { truncated: true, .. }) {
        return Some("Bus error (core dumped)".into());
    }
    let is_musl = facts.image.loader.as_ref().is_some_and(|l| l.libc == "musl");
    let message = if is_musl { error.musl_message() } else { error.message() };
    Some(match step.how {
        How::Exec if is_musl || matches!(error, LoadError::Rejected { reason, .. } if reason == ISA_TOO_LOW) => message,
        How::Import => format!("ImportError: {message}"),
        How::Ctypes => format!("OSError: {message}"),
        How::Exec if matches!(error, LoadError::Undefined { .. }) => {
            format!("{}: symbol lookup error: {message}", step.file)
        }
        How::Exec if matches!(error, LoadError::Version { .. }) => format!("{}: {message}", step.file),
        How::Exec => format!("{}: error while loading shared libraries: {message}", step.file),
        How::Dlopen | How::File | How::Call => message,
    })
}

/// The same thing found twice is one finding, and so is one that is lacking to several and has one cure.
fn add(findings: &mut Vec<Finding>, finding: Finding) {
    let is_same = |f: &Finding| f.id == finding.id && f.subject == finding.subject;
    if let Some(known) = findings.iter_mut().find(|f| is_same(f) && f.message == finding.message) {
        known.severity = known.severity.min(finding.severity);
        for evidence in finding.evidence {
            if !known.evidence.contains(&evidence) {
                known.evidence.push(evidence);
            }
        }
        return;
    }
    let needed_by = |f: &Finding| f.evidence.first().filter(|e| e.label == NEEDED_BY).cloned();
    let is_like = |f: &Finding| is_same(f) && f.fix == finding.fix && f.severity == finding.severity;
    match (findings.iter_mut().find(|f| is_like(f) && needed_by(f).is_some()), needed_by(&finding)) {
        (Some(known), Some(by)) => {
            let at = known.evidence.iter().take_while(|e| e.label == NEEDED_BY).count();
            if !known.evidence[..at].contains(&by) {
                known.evidence.insert(at, by);
            }
        }
        _ => findings.push(finding),
    }
}

fn capability(subject: &Subject, required: bool, blockers: Vec<String>, message: Option<String>) -> Capability {
    let failed = subject.steps.iter().any(Step::breaks);
    let (status, summary) = if let Some(why) = &subject.not_applicable {
        // Who asks for a part that this build does not have does not get it.
        (if required { Status::Broken } else { Status::NotApplicable }, why.clone())
    } else if failed {
        (Status::Broken, message.unwrap_or_else(|| "does not load".into()))
    } else if let Some(why) = &subject.unknown {
        (Status::Unknown, why.clone())
    } else {
        (Status::Ok, String::new())
    };
    Capability { required, blockers, ..Capability::new(&*subject.capability, status, summary) }
}

/// What a survey knows of a capability: it is told if nothing else knows it, and leaves open what otherwise seems to work.
fn know(facts: &Facts, capabilities: &mut Vec<Capability>, known: Capability) {
    match capabilities.iter_mut().find(|c| c.id == known.id) {
        Some(tried) if tried.status == Status::Ok && known.status == Status::Unknown => {
            (tried.status, tried.summary) = (known.status, known.summary);
        }
        Some(_) => {}
        None => capabilities.push(Capability { required: is_required(facts, &known.id), ..known }),
    }
}

/// What a survey found keeps a capability from working, whatever else was tried. One that nothing tried is there if the
/// verdict depends on it: `gpu` where only the image is judged, for a driver that is named.
fn break_capability(facts: &Facts, capabilities: &mut Vec<Capability>, id: &str, finding: &mut Finding) {
    let at = match capabilities.iter().position(|c| c.id == id) {
        Some(at) => at,
        None if is_required(facts, id) => {
            capabilities.push(Capability { required: true, ..Capability::new(id, Status::Ok, "") });
            capabilities.len() - 1
        }
        None => return,
    };
    let capability = &mut capabilities[at];
    finding.severity = weigh(finding.severity, Weight::Required, capability.required);
    if capability.status != Status::Broken {
        capability.status = Status::Broken;
        capability.summary.clone_from(&finding.message);
    }
    if !capability.blockers.contains(&finding.id) {
        capability.blockers.push(finding.id.clone());
    }
}

/// A part of a framework cannot work where the framework itself does not import.
fn inherit(facts: &Facts, capabilities: &mut [Capability]) {
    for subject in &facts.subjects {
        let Some(needs) = &subject.needs else { continue };
        let Some(base) = capabilities.iter().find(|c| c.id == *needs).cloned() else { continue };
        let Some(this) = capabilities.iter_mut().find(|c| c.id == subject.capability) else { continue };
        if base.status == Status::Broken && this.status != Status::NotApplicable {
            for id in base.blockers {
                if !this.blockers.contains(&id) {
                    this.blockers.push(id);
                }
            }
            this.status = Status::Broken;
            this.summary = format!("{needs} is broken");
            this.inherited = true;
        } else if base.status == Status::Unknown && this.status == Status::Ok {
            this.status = Status::Unknown;
            this.summary = format!("{needs} is unknown");
        }
    }
}

/// What follows from what works.
pub fn verdict(capabilities: &[Capability], findings: &[Finding]) -> Verdict {
    let required = || capabilities.iter().filter(|c| c.required);
    if required().any(|c| c.status == Status::Broken) {
        Verdict::NotReady
    } else if required().next().is_none() || required().any(|c| c.status == Status::Unknown) {
        Verdict::Undetermined
    } else if capabilities.iter().any(|c| c.status == Status::Broken)
        || findings.iter().any(|f| f.severity != Severity::Note)
    {
        Verdict::Degraded
    } else {
        Verdict::Ready
    }
}
