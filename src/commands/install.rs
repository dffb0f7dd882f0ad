//! `mldoctor install DIR`: this program and its probe as two files, so that nothing has to be started from memory.

use anyhow::Context;
use rustix::fs::Mode;

use crate::cli::Install;
use crate::exit::Exit;
use crate::probe;
use crate::report::write_whole;

/// Runs it.
pub fn run(arguments: Install) -> anyhow::Result<Exit> {
    let own = std::env::current_exe().context("this program has no path")?;
    let own = std::fs::read(&own).with_context(|| format!("cannot read {}", own.display()))?;
    let probe = probe::embedded().context("no probe is built into this file")?;
    std::fs::create_dir_all(&arguments.dir).with_context(|| format!("cannot make {}", arguments.dir.display()))?;
    let everybody = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
    for (name, bytes) in [("mldoctor", own), (probe::NAME, probe)] {
        let path = arguments.dir.join(name);
        write_whole(&path, &bytes, everybody).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Exit::Ready)
}
