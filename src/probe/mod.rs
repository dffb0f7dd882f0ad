//! The supervisor of the probe: starts it, waits no longer than its deadline, and believes nothing blindly.
//!
//! A static file cannot load the image's libraries (`dlopen(3)` needs the dynamic loader that they were made for), and
//! loading them may crash or hang. So a small dynamically linked program does it, started by the image's own loader,
//! and dies alone.

mod locate;
mod supervise;

use std::path::PathBuf;
use std::time::Duration;

use mldoctor_probes::{Line, Load};

pub use locate::{Source, Unavailable, locate};

use crate::loader::Environment;

/// How a probe is to be run.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The executable.
    pub source: Source,
    /// The dynamic loader that starts it; its own `PT_INTERP` where none is named.
    pub loader: Option<PathBuf>,
    /// Environment of the workload, passed unchanged.
    pub env: Environment,
    /// Working directory of the workload.
    pub cwd: PathBuf,
    /// How long one child may take.
    pub deadline: Duration,
}

/// What came of one library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is loaded; the path that was mapped.
    Loaded(String),
    /// `dlopen` refused it; its message.
    Failed(String),
    /// The child died in this call.
    Died(Death),
    /// The child was not done with this call at its deadline.
    TimedOut(Duration),
    /// The child never came to this call.
    NotReached,
}

/// How a process ended that should not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// By this signal.
    Signal(i32),
    /// With this status, from within a library.
    Exit(i32),
}

impl std::fmt::Display for Death {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Signal(number) => write!(f, "killed by signal {number}"),
            Self::Exit(status) => write!(f, "exited with status {status}"),
        }
    }
}

/// What a child did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// One entry for each library, in their order.
    pub outcomes: Vec<Outcome>,
    /// What was printed, by whatever was loaded; the beginning of it.
    pub output: String,
}

impl Probe {
    /// Loads the libraries in one child, in their order. One that fails does not keep the next from being tried; after
    /// a death or a timeout the rest is tried in another child, without the one that was to blame.
    ///
    /// # Errors
    /// The probe does not start at all, in the words of the system or of the dynamic loader.
    pub fn load(&self, loads: &[Load]) -> Result<Run, String> {
        let mut all = Run { outcomes: vec![Outcome::NotReached; loads.len()], output: String::new() };
        let mut rest: Vec<usize> = (0..loads.len()).collect();
        while !rest.is_empty() {
            let these: Vec<&Load> = rest.iter().map(|&i| &loads[i]).collect();
            let child = supervise::run(self, &these)?;
            all.output.push_str(&child.output);
            let outcomes = attribute(&child, these.len(), self.deadline);
            if outcomes.iter().all(|o| *o == Outcome::NotReached) {
                return Err(child.why_no_answer());
            }
            let culprit = outcomes.iter().position(|o| matches!(o, Outcome::Died(_) | Outcome::TimedOut(_)));
            for (&index, outcome) in rest.iter().zip(outcomes) {
                all.outcomes[index] = outcome;
            }
            match culprit {
                // What was loaded before it stays: the order of loading matters to what comes after.
                Some(at) => {
                    let after = rest[at + 1..].to_vec();
                    if after.is_empty() {
                        break;
                    }
                    let before = rest[..at].iter().copied().filter(|&i| matches!(all.outcomes[i], Outcome::Loaded(_)));
                    rest = before.chain(after).collect();
                }
                None => break,
            }
        }
        Ok(all)
    }
}

/// The outcome of each library from what the child said, which may be anything.
fn attribute(child: &supervise::Child, count: usize, deadline: Duration) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::NotReached; count];
    let mut current = None;
    for line in &child.lines {
        let (index, outcome) = match line {
            Line::Begin { index } => {
                current = Some(*index);
                continue;
            }
            Line::Loaded { index, path } => (*index, Outcome::Loaded(path.clone())),
            Line::Failed { index, message } => (*index, Outcome::Failed(message.clone())),
        };
        if current == Some(index)
            && let Some(slot) = outcomes.get_mut(index)
        {
            *slot = outcome;
            current = None;
        }
    }
    if let Some(slot) = current.and_then(|index| outcomes.get_mut(index)) {
        *slot = match child.end {
            supervise::End::Deadline => Outcome::TimedOut(deadline),
            supervise::End::Signal(number) => Outcome::Died(Death::Signal(number)),
            supervise::End::Exit(status) => Outcome::Died(Death::Exit(status)),
        };
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(lines: Vec<Line>, end: supervise::End) -> supervise::Child {
        supervise::Child { lines, output: String::new(), end }
    }

    #[test]
    fn a_death_is_laid_at_the_call_that_began() {
        let lines =
            vec![Line::Begin { index: 0 }, Line::Loaded { index: 0, path: "/a".into() }, Line::Begin { index: 1 }];
        let outcomes = attribute(&child(lines, supervise::End::Signal(11)), 3, Duration::from_secs(1));
        let expected = [Outcome::Loaded("/a".into()), Outcome::Died(Death::Signal(11)), Outcome::NotReached];
        assert_eq!(outcomes, expected);
    }

    #[test]
    fn lines_that_no_probe_would_write_are_passed_over() {
        let lines = vec![
            Line::Loaded { index: 0, path: "/never-begun".into() },
            Line::Begin { index: 7 },
            Line::Failed { index: 7, message: "out of range".into() },
            Line::Begin { index: usize::MAX },
        ];
        let outcomes = attribute(&child(lines, supervise::End::Exit(0)), 2, Duration::from_secs(1));
        assert_eq!(outcomes, [Outcome::NotReached, Outcome::NotReached]);
    }
}
