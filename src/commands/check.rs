//! `mldoctor check`: observe, judge, report.

use std::path::Path;
use std::time::Instant;

use anyhow::Context;

use crate::checks::pages;
use crate::cli::Check;
use crate::exit::Exit;
use crate::facts::{Assumed, Facts, SCHEMA};
use crate::finding::{Finding, Report, Severity};
use crate::judge::judge;
use crate::observe::{CodeDepth, Examination};
use crate::record::profile::Profile;
use crate::report::{self, Answer, Output, json, termination_log};
use crate::structured;

/// Runs it.
pub fn run(arguments: Check) -> anyhow::Result<Exit> {
    let start = Instant::now();
    for id in arguments.only.iter().chain(&arguments.skip) {
        pages::get(id).map_err(anyhow::Error::msg)?;
    }
    let assumed = Assumed::from(arguments.assume.clone());
    let facts = match &arguments.facts {
        Some(path) => {
            let facts = read_facts(path)?;
            let assumed = if assumed.is_named() { assumed } else { facts.assumed.clone() };
            Facts { assumed, ..facts }
        }
        None => {
            let mut request = arguments.subject.clone().request(Some(arguments.trial.clone()))?;
            (request.assumed, request.code) = (assumed, CodeDepth::Workload);
            if !arguments.against.is_empty() {
                request.against = Some(Profile::read_all(&arguments.against)?);
            }
            Examination::open(request)?.observe()
        }
    };
    let observed = start.elapsed();
    let mut report = judge(&facts);
    if let (Some(command), Some(typed)) = (&arguments.slip, arguments.subject.targets.first()) {
        anyhow::ensure!(exists(typed, &report), "no command {typed}, and no module; is {command} meant?");
    }
    select(&mut report, &arguments);
    let judged = start.elapsed();
    let mut exit = Exit::from(report.verdict);
    if let Some(level) = arguments.fail_on
        && exit == Exit::Ready
        && report.findings.iter().any(|f| f.severity <= level.into())
    {
        exit = Exit::NotReady;
    }
    if arguments.report_only {
        exit = Exit::Ready;
    }
    let answer = Answer {
        facts: &facts,
        report: &report,
        exit,
        fail_on: arguments.fail_on.map_or(Severity::Error, Severity::from),
        timing: json::Timing {
            observe: observed.as_millis() as u64,
            judge: (judged - observed).as_millis() as u64,
            total: start.elapsed().as_millis() as u64,
        },
    };
    if let Some(path) = &arguments.termination_log {
        termination_log::write(path, &termination_log::render(&facts, &report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !arguments.quiet {
        let out = Output::open(arguments.print.output.as_deref(), arguments.print.color);
        let text = report::render(arguments.format, &answer, out.width, arguments.verbose)?;
        out.write(&text)?;
    }
    Ok(exit)
}

/// Whether there is anything of this name that somebody may have meant.
fn exists(name: &str, report: &Report) -> bool {
    let is_absence = |f: &Finding| f.id == "py-interpreter" || (f.id == "py-module-missing" && f.subject == name);
    Path::new(name).exists() || !report.findings.iter().any(is_absence)
}

fn read_facts(path: &Path) -> anyhow::Result<Facts> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let facts: Facts =
        structured::from_json(text.as_bytes()).with_context(|| format!("{} is not a facts file", path.display()))?;
    anyhow::ensure!(facts.schema == SCHEMA, "{} has the schema {}, not {SCHEMA}", path.display(), facts.schema);
    Ok(facts)
}

/// `--only` and `--skip` choose what is told; what works and what does not stays what it is.
fn select(report: &mut Report, arguments: &Check) {
    let told = |id: &str| {
        (arguments.only.is_empty() || arguments.only.iter().any(|o| o == id)) && !arguments.skip.iter().any(|s| s == id)
    };
    report.findings.retain(|f| told(&f.id));
    report.checks.retain(|c| told(&c.id));
}
