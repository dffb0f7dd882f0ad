//! `mldoctor.report/1`: the machine-readable report. The shape is a contract, so it has its own types.

use serde::Serialize;

use crate::exit::Exit;
use crate::facts::{Facts, Scope};
use crate::finding::{Capability, CheckResult, Finding, Report, Verdict};
use crate::structured;

#[derive(Serialize)]
struct Document<'r> {
    schema: &'static str,
    tool: Tool,
    target: Target<'r>,
    verdict: Verdict,
    exit_code: u8,
    capabilities: &'r [Capability],
    findings: &'r [Finding],
    checks: &'r [CheckResult],
    timing_ms: Timing,
}

/// This program.
#[derive(Serialize)]
pub struct Tool {
    name: &'static str,
    version: &'static str,
}

impl Tool {
    /// This version.
    pub const THIS: Tool = Tool { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") };
}

#[derive(Serialize)]
struct Target<'r> {
    root: &'r str,
    arch: &'r str,
    scope: Scope,
    python: Option<&'r str>,
    workload: &'r [String],
}

/// Durations in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Timing {
    /// Reading files.
    pub observe: u64,
    /// Judging.
    pub judge: u64,
    /// Everything.
    pub total: u64,
}

/// Renders a report.
///
/// # Errors
/// Never in practice: every part is serialisable.
pub fn render(facts: &Facts, report: &Report, exit: Exit, timing: Timing) -> serde_json::Result<String> {
    let python = facts.python.as_ref().and_then(|p| p.seen()).map(|p| p.executable.as_str());
    let document = Document {
        schema: "mldoctor.report/1",
        tool: Tool::THIS,
        target: Target {
            root: &facts.target.root,
            arch: &facts.target.arch,
            scope: facts.target.scope,
            python,
            workload: &facts.target.workload,
        },
        verdict: report.verdict,
        exit_code: exit.code(),
        capabilities: &report.capabilities,
        findings: &report.findings,
        checks: &report.checks,
        timing_ms: timing,
    };
    structured::to_json(&document)
}
