//! One child: its descriptors, its deadline, its end.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use mldoctor_probes::{Line, RESULTS_FD};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process_group};

use super::Inside;
use crate::loader::Environment;
use crate::structured;

/// Most bytes of results that are read.
const MAX_RESULTS: usize = 1 << 20;
/// Most bytes kept of what a child prints.
const MAX_OUTPUT: usize = 16 << 10;
/// How long a killed child is waited for: one that is stuck in the kernel cannot be reaped.
const GRACE: Duration = Duration::from_millis(200);
/// Descriptor of a probe that has no path.
const PROGRAM_FD: i32 = 4;

/// What a child said and how it ended.
pub(super) struct Child {
    pub lines: Vec<Line>,
    pub output: String,
    pub end: End,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Exit(i32),
    Signal(i32),
    Deadline,
}

impl Child {
    /// For a child that did nothing: what it, or the dynamic loader, printed.
    pub(super) fn why_no_answer(&self) -> String {
        let first = self.output.lines().find(|l| !l.trim().is_empty()).unwrap_or("it printed nothing");
        // Where this program went first, it is this program that says why.
        let first = first.strip_prefix("mldoctor: ").unwrap_or(first);
        match self.end {
            End::Exit(status) => format!("the probe does not start: {first} (status {status})"),
            End::Signal(number) => format!("the probe does not start: {first} (signal {number})"),
            End::Deadline => "the probe does not start before its deadline".into(),
        }
    }
}

/// A pipe that is drained, of which the beginning is kept.
struct Drain {
    file: File,
    kept: Vec<u8>,
    limit: usize,
    is_open: bool,
}

impl Drain {
    fn new(fd: OwnedFd, limit: usize) -> std::io::Result<Self> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(Self { file: File::from(fd), kept: Vec::new(), limit, is_open: true })
    }

    /// Reads what there is, at most a buffer full, so that a flood from one pipe does not starve the others.
    fn read(&mut self) {
        let mut buffer = [0; 16 << 10];
        match self.file.read(&mut buffer) {
            Ok(0) => self.is_open = false,
            Ok(n) => {
                let room = self.limit - self.kept.len();
                self.kept.extend_from_slice(&buffer[..n.min(room)]);
            }
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {}
            Err(_) => self.is_open = false,
        }
    }

    /// The rest, after the end of the child. Its own children may hold the pipe open and go on writing.
    fn rest(&mut self) {
        for _ in 0..=MAX_RESULTS / (16 << 10) {
            let before = self.kept.len();
            self.read();
            if !self.is_open || self.kept.len() == before {
                return;
            }
        }
    }
}

/// A program that is run as a child.
pub(super) struct Task<'t> {
    pub program: PathBuf,
    /// Files that it starts from; the first has the path [`program_path`].
    pub descriptors: Vec<BorrowedFd<'t>>,
    pub arguments: Vec<OsString>,
    pub env: &'t Environment,
    pub cwd: &'t Path,
    pub deadline: Duration,
    pub inside: Option<&'t Inside>,
}

/// The path of the first of a task's descriptors.
pub(super) fn program_path() -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{PROGRAM_FD}"))
}

/// Runs a task until it ends, or for as long as it may take.
///
/// # Errors
/// It cannot be started: no pipe, no process, no such program.
pub(super) fn run(task: &Task<'_>) -> Result<Child, String> {
    let start = |e: std::io::Error| format!("{} cannot be started: {e}", task.program.display());
    let (results, results_end) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| start(e.into()))?;
    let mut mappings = vec![FdMapping { parent_fd: results_end, child_fd: RESULTS_FD }];
    for (fd, child_fd) in task.descriptors.iter().zip(PROGRAM_FD..) {
        mappings.push(FdMapping { parent_fd: fd.try_clone_to_owned().map_err(start)?, child_fd });
    }
    let mut command = match task.inside {
        Some(inside) => inside.command(&task.program, task.cwd),
        None => Command::new(&task.program),
    };
    command
        .args(&task.arguments)
        .env_clear()
        .envs(task.env.iter())
        .current_dir(if task.inside.is_some() { Path::new("/") } else { task.cwd })
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    command.fd_mappings(mappings).map_err(|e| start(std::io::Error::other(e)))?;
    let mut child = command.spawn().map_err(start)?;
    // Its copies of the child's ends would keep the pipes open.
    drop(command);
    let mut drains = vec![Drain::new(results, MAX_RESULTS).map_err(start)?];
    for fd in [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)].into_iter().flatten() {
        drains.push(Drain::new(fd, MAX_OUTPUT).map_err(start)?);
    }
    let end = follow(&mut child, &mut drains, Instant::now() + task.deadline);
    drains.iter_mut().for_each(Drain::rest);
    let lines = parse(&drains[0].kept);
    let output = drains[1..].iter().map(|d| String::from_utf8_lossy(&d.kept)).collect();
    Ok(Child { lines, output, end })
}

/// Reads until the child is gone or its time is up; then nothing of its group is left.
fn follow(child: &mut Process, drains: &mut [Drain], deadline: Instant) -> End {
    let group = Pid::from_child(child);
    // Readable once the process has ended (`pidfd_open(2)`, Linux 5.3); without it the end is seen a little later.
    let ended = rustix::process::pidfd_open(group, rustix::process::PidfdFlags::empty()).ok();
    let step = if ended.is_some() { Duration::from_secs(1) } else { Duration::from_millis(5) };
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) => {}
            Err(_) => break None,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break None;
        }
        wait(drains, ended.as_ref(), left.min(step));
    };
    // Also what the libraries may have started.
    let _ = kill_process_group(group, Signal::KILL);
    if let Some(status) = status {
        return end(status);
    }
    let until = Instant::now() + GRACE;
    while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
        wait(drains, ended.as_ref(), Duration::from_millis(5));
    }
    End::Deadline
}

fn wait(drains: &mut [Drain], ended: Option<&OwnedFd>, at_most: Duration) {
    let timeout = Timespec::try_from(at_most).ok();
    let ready: Vec<bool> = {
        let open = drains.iter().filter(|d| d.is_open).map(|d| PollFd::new(&d.file, PollFlags::IN));
        let mut fds: Vec<PollFd<'_>> =
            open.chain(ended.map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN))).collect();
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return;
        }
        fds.iter().map(|fd| !fd.revents().is_empty()).collect()
    };
    for (drain, _) in drains.iter_mut().filter(|d| d.is_open).zip(ready).filter(|(_, ready)| *ready) {
        drain.read();
    }
}

fn end(status: ExitStatus) -> End {
    match status.signal() {
        Some(number) => End::Signal(number),
        None => End::Exit(status.code().unwrap_or_default()),
    }
}

/// The lines that are whole and well-formed; after a broken one nothing is believed.
fn parse(bytes: &[u8]) -> Vec<Line> {
    bytes.split_inclusive(|b| *b == b'\n').map_while(|line| structured::from_json(line).ok()).collect()
}
