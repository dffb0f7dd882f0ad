//! JUnit XML for the test views of CI systems: a test case per capability and one per check.
//!
//! The format is what Jenkins' `junit-10.xsd` and Surefire's `surefire-test-report.xsd` have in common. Only what the
//! exit code is about fails: a required capability that is broken (`failure`) or unknown (`error`), and a finding of the
//! severity that `--fail-on` names. JUnit has no warnings, so what else is broken, unknown or found is `skipped` with the
//! reason: visible, not failing, and not passed.
//!
//! Written here and not with quick-junit, whose chrono, uuid and indexmap have no use in a report without times; the
//! tests read the result with it.

use std::fmt::Write;

use super::{Answer, plain, text};
use crate::finding::{CheckOutcome, Finding, Severity, Status};

/// What a test case came to.
enum Outcome {
    Passed,
    Skipped(String),
    Failed { message: String, details: String },
    Error(String),
}

struct Case<'r> {
    name: &'r str,
    outcome: Outcome,
}

/// Renders a report.
pub fn render(answer: &Answer<'_>) -> String {
    let suites = [("capabilities", capabilities(answer)), ("checks", checks(answer))];
    let seconds = answer.timing.total as f64 / 1000.0;
    let all = || suites.iter().flat_map(|(_, cases)| cases);
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(out, "<!-- {} -->", comment(&text::verdict_line(answer.facts, answer.report)));
    let _ = writeln!(
        out,
        "<testsuites name=\"mldoctor\" tests=\"{}\" failures=\"{}\" errors=\"{}\" time=\"{seconds:.3}\">",
        all().count(),
        count(all(), |o| matches!(o, Outcome::Failed { .. })),
        count(all(), |o| matches!(o, Outcome::Error(_))),
    );
    for (name, cases) in &suites {
        suite(&mut out, name, cases);
    }
    out + "</testsuites>\n"
}

fn capabilities<'r>(answer: &Answer<'r>) -> Vec<Case<'r>> {
    let of = |c: &'r crate::finding::Capability| match c.status {
        Status::Ok => Outcome::Passed,
        Status::NotApplicable => Outcome::Skipped(format!("not applicable: {}", c.summary)),
        Status::Broken if c.required => Outcome::Failed { message: c.summary.clone(), details: c.blockers.join(", ") },
        Status::Broken => Outcome::Skipped(format!("broken, but not required: {}", c.summary)),
        Status::Unknown if c.required => Outcome::Error(c.summary.clone()),
        Status::Unknown => Outcome::Skipped(format!("unknown: {}", c.summary)),
    };
    answer.report.capabilities.iter().map(|c| Case { name: &c.id, outcome: of(c) }).collect()
}

fn checks<'r>(answer: &Answer<'r>) -> Vec<Case<'r>> {
    let mut cases = Vec::new();
    for check in &answer.report.checks {
        let found: Vec<&Finding> = answer.report.findings.iter().filter(|f| f.id == check.id).collect();
        let failing: Vec<&&Finding> = found.iter().filter(|f| answer.fails(f)).collect();
        let details = |of: &[&&Finding]| of.iter().map(|f| plain(f)).collect::<Vec<_>>().join("\n\n");
        let reason = check.reason.as_deref().unwrap_or("no reason is known");
        // Surefire's schema has one failure per test case.
        let outcome = if let Some(first) = failing.first() {
            Outcome::Failed { message: first.message.clone(), details: details(&failing) }
        } else if !found.is_empty() {
            let told = found.iter().map(|f| format!("{}: {}", severity(f.severity), plain(f)));
            Outcome::Skipped(told.collect::<Vec<_>>().join("\n\n"))
        } else {
            match check.outcome {
                CheckOutcome::Pass | CheckOutcome::Found => Outcome::Passed,
                CheckOutcome::NotApplicable => Outcome::Skipped(format!("not applicable: {reason}")),
                CheckOutcome::Unknown => Outcome::Skipped(format!("unknown: {reason}")),
            }
        };
        cases.push(Case { name: &check.id, outcome });
    }
    cases
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

fn count<'c>(cases: impl Iterator<Item = &'c Case<'c>>, is: impl Fn(&Outcome) -> bool) -> usize {
    cases.filter(|c| is(&c.outcome)).count()
}

fn suite(out: &mut String, name: &str, cases: &[Case<'_>]) {
    let _ = writeln!(
        out,
        "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"0\">",
        cases.len(),
        count(cases.iter(), |o| matches!(o, Outcome::Failed { .. })),
        count(cases.iter(), |o| matches!(o, Outcome::Error(_))),
        count(cases.iter(), |o| matches!(o, Outcome::Skipped(_))),
    );
    for case in cases {
        let _ = write!(out, "    <testcase name=\"{}\" classname=\"mldoctor.{name}\" time=\"0\"", escape(case.name));
        match &case.outcome {
            Outcome::Passed => {
                out.push_str("/>\n");
                continue;
            }
            Outcome::Skipped(why) => _ = write!(out, "><skipped message=\"{}\"/>", escape(why)),
            Outcome::Error(why) => _ = write!(out, "><error type=\"unknown\" message=\"{}\"/>", escape(why)),
            Outcome::Failed { message, details } => {
                let (message, details) = (escape(message), lines(details));
                let _ = write!(out, "><failure type=\"error\" message=\"{message}\">{details}</failure>");
            }
        }
        out.push_str("</testcase>\n");
    }
    out.push_str("  </testsuite>\n");
}

/// An attribute's value. Line ends in it would be read as blanks, so they are escaped; characters that XML 1.0
/// does not have in any form (section 2.2, `Char`) are replaced.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\t' => out.push_str("&#9;"),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Text, in which line ends are left for people to read.
fn lines(text: &str) -> String {
    escape(text).replace("&#10;", "\n").replace("&#9;", "\t")
}

/// Inside a comment, `--` is not allowed, nor are characters that XML does not have.
fn comment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '-' && out.ends_with('-') {
            out.push(' ');
        }
        out.push(if c < ' ' { ' ' } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_it_says_is_xml() {
        assert_eq!(escape("a<b>&\"\n\u{1b}"), "a&lt;b&gt;&amp;&quot;&#10;\u{fffd}");
        assert_eq!(comment("a--b---"), "a- -b- - -");
    }
}
