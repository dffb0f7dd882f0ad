//! Every report in every format, read by that format's own library or schema.

use std::sync::OnceLock;

use jsonschema::Validator;
use mldoctor::exit::Exit;
use mldoctor::facts::Facts;
use mldoctor::finding::{Report, Severity, Status};
use mldoctor::report::{self, Answer, ReportFormat, json, termination_log};
use serde_json::Value;

use crate::support::schema::schema;

/// What is wrong with the report in any format.
pub fn check(facts: &Facts, report: &Report) -> Vec<String> {
    let answer = Answer {
        facts,
        report,
        exit: Exit::from(report.verdict),
        fail_on: Severity::Error,
        timing: json::Timing::default(),
    };
    let render = |format| report::render(format, &answer, 80, false).unwrap();
    let mut wrong = Vec::new();
    for format in [ReportFormat::Text, ReportFormat::Markdown, ReportFormat::Github, ReportFormat::Prometheus] {
        let text = render(format);
        let first = text.lines().next().unwrap_or("");
        if first.len() > 80 || first.len() < 5 || !text.ends_with('\n') {
            wrong.push(format!("{format:?}: the first line is {first:?}"));
        }
    }
    let npd = render(ReportFormat::Npd);
    if npd.trim_end().len() > 80 || npd.lines().count() != 1 {
        wrong.push(format!("npd: {npd:?}"));
    }
    let termination = termination_log::render(facts, report);
    if termination.len() > 4096 {
        wrong.push(format!("termination log: {} bytes", termination.len()));
    }
    wrong.extend(schema("report", &render(ReportFormat::Json)));
    wrong.extend(schema("facts", &serde_json::to_string(facts).unwrap()));
    wrong.extend(schema("matrix", &report::matrix::json(facts).unwrap()));
    wrong.extend(github(&render(ReportFormat::Github), report));
    wrong.extend(junit(&render(ReportFormat::Junit), report));
    wrong.extend(sarif(&render(ReportFormat::Sarif), report));
    wrong
}

/// A line per finding that the runner takes for a command.
fn github(text: &str, report: &Report) -> Option<String> {
    let commands: Vec<&str> = text.lines().skip(1).collect();
    let is_command = |line: &&&str| ["::error ", "::warning ", "::notice "].iter().any(|kind| line.starts_with(kind));
    let unknown = report.capabilities.iter().filter(|c| c.required && c.status == Status::Unknown).count();
    let expected = report.findings.len() + unknown;
    let right = commands.iter().filter(is_command).count() == expected && commands.len() == expected;
    (!right).then(|| format!("github: {expected} commands were expected: {text}"))
}

/// quick-junit reads it, and what fails in it is what the exit code is about.
fn junit(text: &str, report: &Report) -> Vec<String> {
    let read = match quick_junit::Report::deserialize_from_str(text) {
        Ok(read) => read,
        Err(e) => return vec![format!("junit: {e}: {text}")],
    };
    let mut wrong = Vec::new();
    for (kind, status) in [("failures", Status::Broken), ("errors", Status::Unknown)] {
        let own = if kind == "failures" { read.test_suites[0].failures } else { read.test_suites[0].errors };
        let expected = report.capabilities.iter().filter(|c| c.required && c.status == status).count();
        if own != expected {
            wrong.push(format!("junit: {own} {kind}, not {expected}"));
        }
    }
    if read.tests != report.capabilities.len() + report.checks.len() {
        wrong.push(format!("junit: {} tests", read.tests));
    }
    wrong
}

/// It holds to the schema of OASIS, and each result names its rule.
fn sarif(text: &str, report: &Report) -> Vec<String> {
    static SCHEMA: OnceLock<Validator> = OnceLock::new();
    let schema = SCHEMA.get_or_init(|| {
        // A bracket too much in two patterns of the published schema, which are about parts that are not used.
        let schema = include_str!("../data/sarif-2.1.0.json").replace("{2}]?$", "{2}?$");
        let schema = serde_json::from_str(&schema).unwrap();
        jsonschema::validator_for(&schema).unwrap()
    });
    let value: Value = serde_json::from_str(text).unwrap();
    let mut wrong: Vec<String> =
        schema.iter_errors(&value).map(|e| format!("sarif: {e} ({})", e.instance_path())).collect();
    let rules = value.pointer("/runs/0/tool/driver/rules").unwrap();
    let results = value.pointer("/runs/0/results").and_then(Value::as_array).unwrap();
    for (result, finding) in results.iter().zip(&report.findings) {
        let rule = result["ruleIndex"].as_u64().and_then(|at| rules.get(at as usize)).map(|rule| &rule["id"]);
        if rule != Some(&finding.id.as_str().into()) || result["ruleId"] != finding.id.as_str() {
            wrong.push(format!("sarif: the rule of {} is {rule:?}", finding.id));
        }
        if result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].as_str().is_none_or(str::is_empty) {
            wrong.push(format!("sarif: {} is nowhere", finding.id));
        }
    }
    if results.len() != report.findings.len() {
        wrong.push(format!("sarif: {} results", results.len()));
    }
    wrong
}
