//! The one table of exit codes.

use std::process::ExitCode;

use crate::finding::Verdict;

/// What the process says to whoever started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// `ready` or `degraded`; or a command that only prints did so.
    Ready,
    /// `not-ready`, or findings at the level of `--fail-on`.
    NotReady,
    /// `undetermined`, wrong usage, or an error of this program.
    Undetermined,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::NotReady => 1,
            Self::Undetermined => 2,
        }
    }
}

impl From<Verdict> for Exit {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Ready | Verdict::Degraded => Self::Ready,
            Verdict::NotReady => Self::NotReady,
            Verdict::Undetermined => Self::Undetermined,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}
