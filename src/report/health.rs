//! `health`: a line for `docker ps` and `kubectl describe pod`, and where something is wrong, what.

use std::time::Duration;

use super::text::{self, VERDICT_BYTES};
use crate::facts::Facts;
use crate::finding::{Report, Verdict};

/// Docker keeps 4096 bytes of what a health check prints (`maxOutputLen` in moby's `daemon/health.go`).
const MAX_BYTES: usize = 4000;
/// Columns of the details.
const WIDTH: usize = 80;

/// The line, with how long it took; where the workload cannot run, followed by the report.
pub fn render(facts: &Facts, report: &Report, took: Duration) -> String {
    let took = format!("  ({} ms)", took.as_millis());
    let line = text::cut(&text::verdict_line(facts, report), VERDICT_BYTES - took.len());
    let mut out = format!("{line}{took}\n");
    if matches!(report.verdict, Verdict::NotReady | Verdict::Undetermined) {
        let whole = text::render(facts, report, WIDTH, false);
        out.push_str(whole.split_once('\n').map_or("", |(_, details)| details));
    }
    let mut end = out.len().min(MAX_BYTES);
    while !out.is_char_boundary(end) {
        end -= 1;
    }
    out.truncate(end);
    out
}

/// What is said where the deadline comes first.
pub fn late(deadline: Duration) -> String {
    format!("UNDETERMINED  not done within {} ms (MLDOCTOR_HEALTH_DEADLINE)\n", deadline.as_millis())
}
