//! Everything that is printed. Renderers read a finished report and write text; nothing else in the program prints.

pub mod github;
pub mod health;
pub mod json;
pub mod junit;
pub mod libs;
pub mod markdown;
pub mod matrix;
pub mod npd;
pub mod pages;
pub mod prometheus;
pub mod sarif;
pub mod size;
pub mod slim;
pub mod termination_log;
pub mod text;

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::exit::Exit;
use crate::facts::Facts;
use crate::finding::{Finding, Report, Severity};

/// Form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ReportFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
    /// For job summaries and pull requests
    Markdown,
    /// Annotations of GitHub Actions
    Github,
    /// Test results for CI systems
    Junit,
    /// Static analysis results for code scanning
    Sarif,
    /// Metrics for node_exporter's textfile collector
    Prometheus,
    /// One line for node-problem-detector
    Npd,
}

/// What the renderers of a report read.
pub struct Answer<'r> {
    /// What was observed.
    pub facts: &'r Facts,
    /// What is said about it.
    pub report: &'r Report,
    /// How the process will end.
    pub exit: Exit,
    /// Findings of this severity and worse fail the check.
    pub fail_on: Severity,
    /// How long it took.
    pub timing: json::Timing,
}

impl Answer<'_> {
    /// Whether the check fails because of the finding.
    pub fn fails(&self, finding: &Finding) -> bool {
        finding.severity <= self.fail_on
    }
}

/// Renders a report; `width` and `verbose` are for people.
///
/// # Errors
/// Never in practice: every part is serialisable.
pub fn render(format: ReportFormat, answer: &Answer<'_>, width: usize, verbose: bool) -> serde_json::Result<String> {
    Ok(match format {
        ReportFormat::Text => text::render(answer.facts, answer.report, width, verbose),
        ReportFormat::Json => json::render(answer.facts, answer.report, answer.exit, answer.timing)?,
        ReportFormat::Markdown => markdown::render(answer),
        ReportFormat::Github => github::render(answer),
        ReportFormat::Junit => junit::render(answer),
        ReportFormat::Sarif => sarif::render(answer)?,
        ReportFormat::Prometheus => prometheus::render(answer),
        ReportFormat::Npd => npd::render(answer),
    })
}

/// A finding as plain text, for formats that have one field for it.
fn plain(finding: &Finding) -> String {
    let mut out = finding.message.clone();
    if let Some(sees) = &finding.user_sees {
        out += &format!("\nYou see: {sees}");
    }
    let fix = &finding.fix;
    if !fix.summary.is_empty() {
        out += &format!("\nFix: {}", fix.summary);
    }
    for lines in [&fix.dockerfile, &fix.docker_run, &fix.kubernetes].into_iter().flatten() {
        out += &format!("\n{lines}");
    }
    out
}

/// Where the report goes, and in what form a person may see it.
pub struct Output {
    to: Option<PathBuf>,
    /// Columns of the terminal, or a default for files and pipes.
    pub width: usize,
    /// Whether a person sees it as it comes.
    pub is_terminal: bool,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Columns used where there is no terminal to ask.
const DEFAULT_WIDTH: usize = 80;
/// A line longer than this is hard to read, however wide the terminal is.
const MAX_WIDTH: usize = 100;

/// The columns used of those that a terminal tells. One that was not told its size (a serial line, `docker run -t` from a
/// script) tells 0.
fn width(told: Option<u16>) -> usize {
    told.filter(|columns| *columns > 0).map_or(DEFAULT_WIDTH, |columns| usize::from(columns).clamp(40, MAX_WIDTH))
}

impl Output {
    /// Standard output, or the file `to`.
    pub fn open(to: Option<&Path>, colour: Colour) -> Self {
        let is_terminal = to.is_none() && io::stdout().is_terminal();
        let wanted = match colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => is_terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        };
        colored::control::set_override(wanted);
        let size = if is_terminal { rustix::termios::tcgetwinsize(io::stdout()).ok() } else { None };
        Self { to: to.map(Path::to_owned), width: width(size.map(|s| s.ws_col)), is_terminal }
    }

    /// Writes a rendered text. A reader that has gone away (a closed pipe) has seen what it wanted.
    ///
    /// # Errors
    /// As `write(2)`, except `EPIPE`.
    pub fn write(self, text: &str) -> io::Result<()> {
        if let Some(path) = &self.to {
            return replace(path, text.as_bytes())
                .map_err(|e| io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display())));
        }
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            done => done,
        }
    }
}

/// Writes a text past everything that another thread may hold, as the last thing that is done.
pub fn last_word(text: &str) {
    let _ = rustix::io::write(io::stdout(), text.as_bytes());
}

/// Writes a file that is there as a whole or not at all, whoever reads it meanwhile.
///
/// # Errors
/// It cannot be created, written or put in its place; nothing is left behind then.
pub fn write_whole(path: &Path, bytes: &[u8], mode: Mode) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let part = path.with_file_name(name);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(&part, flags, mode)?);
    let written = file.write_all(bytes).and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// Writes a file such that whoever reads it sees the old content or the new, never a part; it keeps its mode. What is no
/// regular file (a pipe, `/dev/stdout`), and a file whose name cannot be given to another (a mount point, a directory
/// that may not be written to) is written in place.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    // A link stays, and what it leads to is replaced.
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let Ok(old) = fs::metadata(&real) else {
        return write_whole(&real, content, Mode::from_raw_mode(0o666));
    };
    if !old.is_file() {
        return OpenOptions::new().write(true).open(&real)?.write_all(content);
    }
    match write_whole(&real, content, Mode::from_raw_mode(old.permissions().mode() & 0o7777)) {
        Ok(()) => fs::set_permissions(&real, old.permissions()),
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(error),
        Err(_) => fs::write(&real, content),
    }
}

/// Tells something on standard error, which may be closed.
pub fn tell(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

impl Output {
    /// Standard output for bytes that are no text, in large pieces.
    pub fn stream() -> impl Write {
        io::BufWriter::with_capacity(1 << 20, io::stdout().lock())
    }
}

/// One line on standard error that tells how far a long piece of work is; nothing where that is no terminal.
pub struct Progress {
    what: &'static str,
    total: u64,
    /// Percent that were told last.
    told: Option<u64>,
    terminal: bool,
}

impl Progress {
    /// Work of `total` bytes.
    pub fn new(what: &'static str, total: u64) -> Self {
        Self { what, total: total.max(1), told: None, terminal: io::stderr().is_terminal() }
    }

    /// So many bytes are done.
    pub fn at(&mut self, done: u64) {
        let percent = (done.saturating_mul(100) / self.total).min(100);
        if self.terminal && self.told != Some(percent) {
            self.told = Some(percent);
            let _ = write!(io::stderr(), "\r{} {percent:3} %", self.what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.told.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// Tells an error of this program on standard error, causes included. A closed standard error is not worth dying for.
pub fn error(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "mldoctor: {error:#}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    fn names(dir: &Path) -> Vec<std::ffi::OsString> {
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect()
    }

    #[test]
    fn a_file_is_replaced_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mldoctor.prom");
        replace(&file, b"one").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        let mut reader = File::open(&file).unwrap();
        replace(&file, b"two").unwrap();
        let mut seen = String::new();
        io::Read::read_to_string(&mut reader, &mut seen).unwrap();
        assert_eq!((seen.as_str(), fs::read_to_string(&file).unwrap().as_str()), ("one", "two"));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(names(dir.path()), ["mldoctor.prom"]);
    }

    #[test]
    fn a_terminal_without_a_size_is_as_wide_as_most() {
        assert_eq!([None, Some(0), Some(20), Some(72), Some(300)].map(width), [80, 80, 40, 72, 100]);
    }

    #[test]
    fn links_stay_and_pipes_are_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        replace(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        replace(Path::new("/dev/null"), b"gone").unwrap();
        assert!(!Path::new("/dev/null").is_file());
        assert!(replace(&dir.path().join("none/file"), b"").is_err());
        assert_eq!(names(dir.path()).len(), 2);
    }
}
