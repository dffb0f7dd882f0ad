//! The report as GitHub-flavoured Markdown: for job summaries, pull request comments and issues.

use std::fmt::Write;

use super::{Answer, text};
use crate::finding::{Finding, Severity, Status};

/// Renders a report; notes are left to those who ask for the whole.
pub fn render(answer: &Answer<'_>) -> String {
    let report = answer.report;
    let mut out = format!("{}\n", heading(&text::verdict_line(answer.facts, report)));
    if !report.capabilities.is_empty() {
        out.push_str("\n| capability | status | required | |\n|---|---|---|---|\n");
    }
    for c in &report.capabilities {
        let status = match c.status {
            Status::Ok => "✅ ok",
            Status::Broken if c.required => "❌ broken",
            Status::Broken => "⚠️ broken",
            Status::Unknown => "❔ unknown",
            Status::NotApplicable => "not applicable",
        };
        let required = if c.required { "yes" } else { "" };
        let _ = writeln!(out, "| {} | {status} | {required} | {} |", cell(&code(&c.id)), cell(&escape(&c.summary)));
    }
    for finding in report.findings.iter().filter(|f| f.severity != Severity::Note) {
        describe(&mut out, finding);
    }
    out
}

fn describe(out: &mut String, finding: &Finding) {
    let severity = if finding.severity == Severity::Error { "error" } else { "warning" };
    let _ = writeln!(out, "\n## {} {severity}: {}\n\n{}", finding.id, code(&finding.subject), escape(&finding.message));
    if let Some(sees) = &finding.user_sees {
        let _ = writeln!(out, "\nWhat you see:\n\n{}", fence("text", sees));
    }
    if !finding.evidence.is_empty() {
        out.push('\n');
    }
    for evidence in &finding.evidence {
        let source = evidence.source.as_ref().map_or_else(String::new, |s| format!(" ({})", code(s)));
        let _ = writeln!(out, "- {}: {}{source}", escape(&evidence.label), code(&evidence.value));
    }
    let fix = &finding.fix;
    if !fix.summary.is_empty() {
        let _ = writeln!(out, "\nFix: {}", escape(&fix.summary));
    }
    for (language, lines) in [("dockerfile", &fix.dockerfile), ("sh", &fix.docker_run), ("yaml", &fix.kubernetes)] {
        if let Some(lines) = lines {
            let _ = writeln!(out, "\n{}", fence(language, lines));
        }
    }
}

/// The first line, no longer than the first line of any other format.
fn heading(verdict: &str) -> String {
    let mut bytes = text::VERDICT_BYTES;
    loop {
        let line = format!("# {}", escape(text::cut(verdict, bytes).trim()));
        if line.len() <= text::VERDICT_BYTES {
            return line;
        }
        bytes -= 1;
    }
}

/// Text without any meaning to Markdown. An underscore within a word has none.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '[' | ']' | '|' | '#' | '~' => out.extend(['\\', c]),
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '\n' => out.push(' '),
            // A mention tells somebody who has nothing to do with it.
            '@' => out.push_str("@\u{2060}"),
            c => out.push(c),
        }
    }
    out
}

/// A code span, with more backticks around it than there are in it.
fn code(text: &str) -> String {
    let text = text.replace('\n', " ");
    let ticks = "`".repeat(longest_run(&text) + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{ticks}{pad}{text}{pad}{ticks}")
}

/// A code block.
fn fence(language: &str, text: &str) -> String {
    let ticks = "`".repeat((longest_run(text) + 1).max(3));
    format!("{ticks}{language}\n{}\n{ticks}", text.trim_end())
}

fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// In a table, even code may not hold a bare `|` (GitHub Flavored Markdown, 4.10).
pub(super) fn cell(markdown: &str) -> String {
    let mut out = String::with_capacity(markdown.len());
    for c in markdown.chars() {
        if c == '|' && !out.ends_with('\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_holds_any_text() {
        assert_eq!(code("a`b"), "``a`b``");
        assert_eq!(code("`"), "`` ` ``");
        assert_eq!(fence("sh", "```\nx\n"), "````sh\n```\nx\n````");
        assert_eq!(cell(&escape("a|b")), "a\\|b");
        assert_eq!(cell(&code("a|b")), "`a\\|b`");
    }

    #[test]
    fn the_first_line_is_short_with_its_escapes() {
        let line = heading(&format!("NOT READY  {}", "[*]".repeat(40)));
        assert!(line.len() <= 80 && line.starts_with("# NOT READY"), "{line}");
    }
}
