//! What the files promise, tried for real: a shared object that is to be examined is loaded in a child process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mldoctor_probes::{Load, Mode};

use super::Request;
use crate::facts::{How, Observed, Step, StepOutcome, Subject, Weight};
use crate::loader::{Failure, LoadError, Loader};
use crate::probe::{Outcome, Probe, locate};

/// How things are tried for real.
#[derive(Debug, Clone)]
pub struct Live {
    /// `--probes`
    pub probe: Option<PathBuf>,
    /// `--deadline`: how long one child may take.
    pub deadline: Duration,
}

/// Loads `path` in a child, by the loader and in the environment of the workload, and adds what came of it. Gives the
/// way in which the probe was started, or why it was not.
pub(super) fn load(
    live: &Live,
    request: &Request,
    loader: &Loader,
    path: &Path,
    subject: &mut Subject,
) -> Observed<String> {
    let source = match locate(live.probe.as_deref()) {
        Ok(source) => source,
        Err(why) => return Observed::Failed(why.to_string()),
    };
    let way = source.describe();
    let probe = Probe {
        source,
        loader: Some(loader.dynamic_loader().path().to_owned()),
        env: request.env.clone(),
        cwd: request.cwd.clone(),
        deadline: live.deadline,
    };
    let wanted = Load { mode: Mode::Local, file: path.as_os_str().to_owned() };
    let outcome = match probe.load(&[wanted]) {
        Ok(run) => run.outcomes.into_iter().next().unwrap_or(Outcome::NotReached),
        Err(why) => return Observed::Failed(why),
    };
    let foretold = subject.steps.iter().any(|s| matches!(s.outcome, StepOutcome::Failed(_)));
    let outcome = match outcome {
        Outcome::Loaded(_) if foretold => {
            subject.unknown = Some("it loads in a child process, although by its files it should not".into());
            subject.steps.clear();
            return Observed::Seen(way);
        }
        Outcome::Loaded(path) => StepOutcome::Ok(path),
        // The files say more about the cause than the message does.
        Outcome::Failed(_) if foretold => return Observed::Seen(way),
        Outcome::Failed(message) => {
            StepOutcome::Failed(Failure { errors: vec![refusal(path, &message)], loaded: Vec::new() })
        }
        Outcome::Died(death) => {
            subject.unknown = Some(format!("the process that loads it is {death}"));
            return Observed::Seen(way);
        }
        Outcome::TimedOut(after) => {
            subject.unknown = Some(format!("loading it takes longer than {} s", after.as_secs_f32()));
            return Observed::Seen(way);
        }
        Outcome::NotReached => return Observed::Failed("the probe ended without an answer".into()),
    };
    let file = path.to_string_lossy().into_owned();
    subject.steps.push(Step {
        what: format!("load {file} in a child process"),
        how: How::Dlopen,
        file,
        because: Vec::new(),
        weight: Weight::Required,
        outcome,
        user_sees: None,
    });
    Observed::Seen(way)
}

/// What `dlopen` said, as the loader model says it: the object, then what is wrong with it.
fn refusal(path: &Path, message: &str) -> LoadError {
    let shown = path.display().to_string();
    let (subject, reason) = message.split_once(": ").unwrap_or((shown.as_str(), message));
    LoadError::Rejected {
        path: shown.clone(),
        subject: subject.to_owned(),
        requested_by: "dlopen in a child process".into(),
        reason: reason.to_owned(),
        truncated: false,
    }
}
