//! Annotations of GitHub Actions: workflow commands that show each finding beside the run of a job.
//!
//! The rules are those of the runner (`ActionCommand` in actions/runner): a line that starts with `::` is a command; in
//! its text `%`, CR and LF are escaped, in its properties `:` and `,` too. Ten annotations of a kind are shown per step,
//! so the worst come first, which is the order of the report.

use std::fmt::Write;

use super::{Answer, text};
use crate::finding::{Severity, Status};

/// Renders a report.
pub fn render(answer: &Answer<'_>) -> String {
    let mut out = text::verdict_line(answer.facts, answer.report) + "\n";
    for capability in answer.report.capabilities.iter().filter(|c| c.required && c.status == Status::Unknown) {
        command(&mut out, "error", &format!("{} is unknown", capability.id), &capability.summary);
    }
    for finding in &answer.report.findings {
        let kind = match finding.severity {
            _ if answer.fails(finding) => "error",
            Severity::Error | Severity::Warning => "warning",
            Severity::Note => "notice",
        };
        command(&mut out, kind, &finding.id, &super::plain(finding));
    }
    out
}

fn command(out: &mut String, kind: &str, title: &str, message: &str) {
    let title = escape_data(title).replace(':', "%3A").replace(',', "%2C");
    let _ = writeln!(out, "::{kind} title={title}::{}", escape_data(message));
}

fn escape_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_one_line_whatever_it_says() {
        let mut out = String::new();
        command(&mut out, "error", "a:b,c", "100% of\r\nit::x");
        assert_eq!(out, "::error title=a%3Ab%2Cc::100%25 of%0D%0Ait::x\n");
    }
}
