//! `mldoctor exec -- COMMAND`: the entry point of an image. The workload takes the place of this process, with its
//! process id, environment, working directory and signals; nothing of this program stays behind.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use rustix::fs::Mode;

use crate::cli::Exec;
use crate::exit::Exit;
use crate::finding::{Report, Verdict};
use crate::judge::judge;
use crate::observe::{CodeDepth, Examination};
use crate::report::{self, termination_log, text};

/// Columns of the report: it ends up in a log.
const WIDTH: usize = 100;

/// Runs it; comes back only where the workload is not started.
pub fn run(arguments: Exec) -> anyhow::Result<Exit> {
    let Some((program, rest)) = arguments.command.split_first() else { anyhow::bail!("no command is named") };
    if let Some(path) = &arguments.ready_file {
        remove(path)?;
    }
    let mut command = Command::new(program);
    command.args(rest);
    match examine(&arguments) {
        Ok(report) => {
            if report.verdict == Verdict::NotReady && !arguments.report_only {
                return Ok(Exit::NotReady);
            }
            if arguments.export {
                command.env("MLDOCTOR_VERDICT", report.verdict.as_str());
                command.env("MLDOCTOR_FINDINGS", ids(&report));
            }
        }
        // A doctor that fails is no reason to keep the workload from starting where it only was to report.
        Err(error) if arguments.report_only => report::error(&error),
        Err(error) => return Err(error),
    }
    if let Some(path) = &arguments.ready_file {
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        report::write_whole(path, b"", mode).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let error = command.exec();
    if let Some(path) = &arguments.ready_file {
        remove(path)?;
    }
    let exit = Exit::not_started(&error);
    report::error(&anyhow::Error::new(error).context(format!("cannot start {}", program.to_string_lossy())));
    Ok(exit)
}

/// Standard output is the workload's; what is found goes to standard error.
fn examine(arguments: &Exec) -> anyhow::Result<Report> {
    let mut request = arguments.subject.clone().request(Some(arguments.trial.clone()))?;
    request.command.clone_from(&arguments.command);
    request.code = CodeDepth::Workload;
    let facts = Examination::open(request)?.observe();
    let report = judge(&facts);
    if report.verdict == Verdict::NotReady && !arguments.report_only {
        let reason = termination_log::render(&facts, &report);
        if let Err(error) = termination_log::write(&arguments.termination_log, &reason) {
            let path = arguments.termination_log.display();
            report::error(&anyhow::Error::new(error).context(format!("cannot write {path}")));
        }
    }
    let told = match report.verdict {
        Verdict::Ready | Verdict::Degraded if arguments.quiet => return Ok(report),
        Verdict::Ready => text::verdict_line(&facts, &report) + "\n",
        _ => text::render(&facts, &report, WIDTH, false),
    };
    report::tell(&told);
    Ok(report)
}

fn ids(report: &Report) -> String {
    let mut ids: Vec<&str> = report.findings.iter().map(|f| f.id.as_str()).collect();
    ids.dedup();
    ids.join(",")
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
