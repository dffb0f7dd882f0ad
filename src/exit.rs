//! The one table of exit codes.

use std::ffi::OsStr;
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
    /// `exec`: an error of this program; so and as the next two does `docker run` say it.
    ExecFailed,
    /// `exec`: the command cannot be started.
    NotExecutable,
    /// `exec`: there is no such command.
    NoSuchCommand,
    /// As another program ended.
    Of(u8),
}

impl Exit {
    /// For a command that cannot be started, as `docker run` and shells say it.
    pub fn not_started(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::NotFound { Self::NoSuchCommand } else { Self::NotExecutable }
    }

    /// For a command line that is no use, of which `first` is the first word. Docker keeps 2 for itself.
    pub fn of_usage(first: Option<&OsStr>) -> Self {
        match first.and_then(OsStr::to_str) {
            Some("health") => Self::NotReady,
            Some("exec") => Self::ExecFailed,
            _ => Self::Undetermined,
        }
    }

    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::NotReady => 1,
            Self::Undetermined => 2,
            Self::ExecFailed => 125,
            Self::NotExecutable => 126,
            Self::NoSuchCommand => 127,
            Self::Of(code) => code,
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
