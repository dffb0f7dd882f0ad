//! `mldoctor check`: observe, judge, report.

use std::time::Instant;

use anyhow::Context;

use crate::checks::pages;
use crate::cli::Check;
use crate::exit::Exit;
use crate::facts::{Facts, SCHEMA};
use crate::finding::{Report, Severity};
use crate::judge::judge;
use crate::observe::Examination;
use crate::record::profile::Profile;
use crate::report::{self, Answer, Output, json, termination_log};
use crate::structured;

/// Runs it.
pub fn run(arguments: Check) -> anyhow::Result<Exit> {
    let start = Instant::now();
    for id in arguments.only.iter().chain(&arguments.skip) {
        anyhow::ensure!(pages::find(id).is_some(), "no finding id {id:?}; mldoctor list shows them");
    }
    let facts = match &arguments.facts {
        Some(path) => read_facts(path)?,
        None => {
            let mut request = arguments.subject.clone().request(Some(arguments.trial.clone()))?;
            if !arguments.against.is_empty() {
                request.against = Some(Profile::read_all(&arguments.against)?);
            }
            Examination::open(request)?.observe()
        }
    };
    let observed = start.elapsed();
    let mut report = judge(&facts);
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
        termination_log::write(path, &termination_log::render(&answer))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !arguments.quiet {
        let out = Output::open(arguments.print.output.as_deref(), arguments.print.color);
        let text = report::render(arguments.format, &answer, out.width, arguments.verbose)?;
        out.write(&text)?;
    }
    Ok(exit)
}

fn read_facts(path: &std::path::Path) -> anyhow::Result<Facts> {
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
