//! The supervisor of the probe: starts it, waits no longer than its deadline, and believes nothing blindly.
//!
//! A static file cannot load the image's libraries (`dlopen(3)` needs the dynamic loader that they were made for), and
//! loading them may crash or hang. So a small dynamically linked program does it, started by the image's own loader,
//! and dies alone.

mod inside;
mod locate;
mod supervise;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mldoctor_probes::{CallError, Job, Line, Load, RESULTS_FD};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use supervise::Task;

pub use inside::{ENTER, Inside, enter};
pub use locate::{NAME, Source, Unavailable, embedded, locate};

use crate::loader::Environment;
use crate::structured;

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
    /// Whose container it runs in, where that is not this one.
    pub inside: Option<Inside>,
}

/// A call that the child made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The function, and what it was called for.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Success.
    Ok,
    /// It came back with an error.
    Error(CallError),
    /// The child died in it.
    Died(Death),
    /// The child was not done with it at its deadline, in milliseconds.
    TimedOut(u64),
}

/// How a process ended that should not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Death {
    /// By this signal.
    Signal(i32),
    /// With this status, from within a library.
    Exit(i32),
}

impl std::fmt::Display for Death {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Signal(number) => write!(f, "killed by signal {number}{}", signal_name(*number)),
            Self::Exit(status) => write!(f, "ended with exit status {status}"),
        }
    }
}

fn signal_name(number: i32) -> &'static str {
    match Signal::from_named_raw(number) {
        Some(Signal::SEGV) => " (SIGSEGV)",
        Some(Signal::ABORT) => " (SIGABRT)",
        Some(Signal::BUS) => " (SIGBUS)",
        Some(Signal::FPE) => " (SIGFPE)",
        Some(Signal::ILL) => " (SIGILL)",
        Some(Signal::KILL) => " (SIGKILL)",
        _ => "",
    }
}

/// What a child did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The calls that it made, in their order.
    pub calls: Vec<Call>,
    /// What it found out.
    pub lines: Vec<Line>,
    /// What was printed by whatever was loaded; the beginning of it.
    pub output: String,
    /// How long it took, in milliseconds.
    pub took: u64,
}

impl Run {
    /// Whether every call succeeded.
    pub fn is_well(&self) -> bool {
        self.calls.iter().all(|call| call.outcome == Outcome::Ok)
    }

    /// The call that did not come back, if there is one.
    pub fn unfinished(&self) -> Option<&Call> {
        self.calls.iter().find(|c| matches!(c.outcome, Outcome::Died(_) | Outcome::TimedOut(_)))
    }
}

impl Probe {
    /// Lets one child load these libraries and do a job with the last.
    ///
    /// # Errors
    /// The probe does not start at all, in the words of the system or of the dynamic loader.
    pub fn run(&self, job: Job, loads: &[Load]) -> Result<Run, String> {
        self.run_all(&[(job, loads)]).map(|mut runs| runs.swap_remove(0))
    }

    /// Lets one child do several jobs, one after the other. There are as many runs as jobs were begun, and at least one.
    ///
    /// # Errors
    /// As [`Probe::run`].
    pub fn run_all(&self, jobs: &[(Job, &[Load])]) -> Result<Vec<Run>, String> {
        // In another container, the path of a file here leads nowhere.
        let opened = match (&self.source, &self.inside) {
            (Source::File(path), Some(_)) => {
                Some(std::fs::File::open(path).map_err(|e| format!("{}: {e}", path.display()))?)
            }
            _ => None,
        };
        let descriptor = match &self.source {
            Source::File(_) => opened.as_ref().map(AsFd::as_fd),
            Source::Memory(fd) | Source::Temporary(fd) => Some(fd.as_fd()),
        };
        let own = match &self.source {
            Source::File(path) if descriptor.is_none() => path.clone(),
            _ => supervise::program_path(),
        };
        let (program, mut arguments) = match &self.loader {
            None => (own, Vec::new()),
            Some(loader) => (loader.clone(), vec![own.into_os_string()]),
        };
        let descriptors = descriptor.into_iter().collect();
        for (job, loads) in jobs {
            arguments.push(job.name().into());
            arguments.extend(loads.iter().map(Load::to_argument));
        }
        let task = Task {
            program,
            descriptors,
            arguments,
            env: &self.env,
            cwd: &self.cwd,
            deadline: self.deadline,
            inside: self.inside.as_ref(),
        };
        supervise(&task)
    }
}

/// Opens each of these device nodes in a child, for that may block as any other call of a driver.
///
/// # Errors
/// The child cannot be started.
pub fn open_devices(paths: &[PathBuf], deadline: Duration, inside: Option<&Inside>) -> Result<Run, String> {
    let program = PathBuf::from("/proc/self/exe");
    let arguments = std::iter::once(OPEN_DEVICES.into()).chain(paths.iter().map(|p| p.clone().into_os_string()));
    let env = Environment::default();
    let task = Task {
        program,
        descriptors: Vec::new(),
        arguments: arguments.collect(),
        env: &env,
        cwd: Path::new("/"),
        deadline,
        inside,
    };
    supervise(&task).map(|mut runs| runs.swap_remove(0))
}

/// The argument that makes this program the child of [`open_devices`].
pub const OPEN_DEVICES: &str = "open-devices";

/// The child of [`open_devices`].
pub fn open_devices_here(paths: &[OsString]) {
    // The descriptor was opened by the supervisor; without it, writing fails and nothing is told.
    let Ok(mut results) = std::fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{RESULTS_FD}")) else {
        return;
    };
    let mut tell = |line: Line| {
        let text = structured::to_json_line(&line).unwrap_or_default();
        results.write_all(text.as_bytes()).is_ok()
    };
    for path in paths {
        if !tell(Line::Begin { call: format!("open {}", path.to_string_lossy()) }) {
            return;
        }
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let error = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).err();
        let error = error.map(|e| CallError { code: Some(e.raw_os_error().into()), name: errno_name(e) });
        if !tell(Line::End { error }) {
            return;
        }
    }
}

fn errno_name(errno: Errno) -> String {
    match errno {
        Errno::PERM => "EPERM".into(),
        Errno::ACCESS => "EACCES".into(),
        Errno::NOENT => "ENOENT".into(),
        Errno::NXIO => "ENXIO".into(),
        Errno::NODEV => "ENODEV".into(),
        Errno::IO => "EIO".into(),
        Errno::BUSY => "EBUSY".into(),
        other => format!("errno {}", other.raw_os_error()),
    }
}

/// What a child did, job by job; at least one.
fn supervise(task: &Task<'_>) -> Result<Vec<Run>, String> {
    let start = Instant::now();
    let child = supervise::run(task)?;
    if child.lines.is_empty() {
        return Err(child.why_no_answer());
    }
    let took = start.elapsed().as_millis() as u64;
    let new = || Run { output: child.output.clone(), took, ..Run::default() };
    let mut runs = vec![new()];
    let mut is_done = false;
    // A call that has begun and not ended is the one that it died in.
    let mut open = false;
    for line in child.lines {
        if std::mem::take(&mut is_done) {
            runs.push(new());
        }
        let Some(run) = runs.last_mut() else { break };
        match line {
            Line::Begin { call } => {
                run.calls.push(Call { name: call, outcome: Outcome::Ok });
                open = true;
            }
            Line::End { error } => {
                if let Some(call) = run.calls.last_mut().filter(|_| std::mem::take(&mut open)) {
                    call.outcome = error.map_or(Outcome::Ok, Outcome::Error);
                }
            }
            other => {
                is_done = matches!(other, Line::Mapped { .. });
                run.lines.push(other);
            }
        }
    }
    if let Some(call) = runs.last_mut().and_then(|run| run.calls.last_mut()).filter(|_| open) {
        call.outcome = match child.end {
            supervise::End::Deadline => Outcome::TimedOut(task.deadline.as_millis() as u64),
            supervise::End::Signal(number) => Outcome::Died(Death::Signal(number)),
            supervise::End::Exit(status) => Outcome::Died(Death::Exit(status)),
        };
    }
    Ok(runs)
}
