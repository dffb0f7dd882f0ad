//! Everything that is printed. Renderers read a finished report and write text; nothing else in the program prints.

pub mod json;
pub mod libs;
pub mod matrix;
pub mod pages;
pub mod text;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

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

/// Tells an error of this program on standard error, causes included. A closed standard error is not worth dying for.
pub fn error(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "mldoctor: {error:#}");
}
