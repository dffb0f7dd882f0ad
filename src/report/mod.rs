//! Everything that is printed. Renderers read a finished report and write text; nothing else in the program prints.

pub mod health;
pub mod json;
pub mod libs;
pub mod matrix;
pub mod pages;
pub mod size;
pub mod slim;
pub mod text;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Where the report goes, and in what form a person may see it.
pub struct Output {
    sink: Box<dyn Write>,
    /// Columns of the terminal, or a default for files and pipes.
    pub width: usize,
    /// Whether to use colour.
    pub colour: bool,
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

impl Output {
    /// Opens standard output, or the file `to`.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn open(to: Option<&Path>, colour: Colour) -> io::Result<Self> {
        let terminal = to.is_none() && io::stdout().is_terminal();
        let wanted = match colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        };
        colored::control::set_override(wanted);
        let width = if terminal {
            rustix::termios::tcgetwinsize(io::stdout()).map_or(DEFAULT_WIDTH, |s| usize::from(s.ws_col))
        } else {
            DEFAULT_WIDTH
        };
        let sink: Box<dyn Write> = match to {
            Some(path) => Box::new(io::BufWriter::new(File::create(path)?)),
            None => Box::new(io::BufWriter::new(io::stdout().lock())),
        };
        Ok(Self { sink, width: width.clamp(40, MAX_WIDTH), colour: wanted })
    }

    /// Writes a rendered text. A reader that has gone away (a closed pipe) has seen what it wanted.
    ///
    /// # Errors
    /// As `write(2)`, except `EPIPE`.
    pub fn write(&mut self, text: &str) -> io::Result<()> {
        match self.sink.write_all(text.as_bytes()).and_then(|()| self.sink.flush()) {
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
