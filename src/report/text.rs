//! The report for a person under pressure: the verdict, what works, what does not, why, and the line that fixes it.

use std::fmt::Write;

use colored::{ColoredString, Colorize};

use crate::facts::{Facts, Observed};
use crate::finding::{Capability, CheckOutcome, Finding, Report, Severity, Status, Verdict};

/// Observations of one kind that are shown one by one.
const MOST_ALIKE: usize = 4;
/// Longest first line, in bytes: node-problem-detector cuts there.
pub const VERDICT_BYTES: usize = 80;

/// Renders a report for `width` columns. With `verbose`, also what passed and all proof.
pub fn render(facts: &Facts, report: &Report, width: usize, verbose: bool) -> String {
    let mut out = String::new();
    let line = verdict_line(facts, report);
    let (word, rest) = line.split_at(word(report.verdict).len());
    let _ = writeln!(out, "{}{rest}", paint(report.verdict, word));
    capabilities(&mut out, report, width);
    gpus(&mut out, facts, width);
    unknown(&mut out, report, width);
    for finding in &report.findings {
        if finding.severity != Severity::Note || verbose {
            describe(&mut out, finding, width, verbose);
        }
    }
    let notes = report.findings.iter().filter(|f| f.severity == Severity::Note).count();
    if notes > 0 && !verbose {
        let _ = writeln!(out, "\n{} (mldoctor check -v)", plural(notes, "note"));
    }
    if verbose {
        checks(&mut out, report, width);
        match &facts.probe {
            Observed::Seen(way) => _ = writeln!(out, "\nTried for real by {way}."),
            Observed::Absent(why) | Observed::Failed(why) => {
                _ = writeln!(out, "\nNothing was tried for real: {why}.");
            }
            Observed::NotAsked => {}
        }
    }
    out
}

/// A self-contained verdict of at most [`VERDICT_BYTES`] bytes.
pub fn verdict_line(facts: &Facts, report: &Report) -> String {
    let workload =
        if facts.target.workload.is_empty() { "no workload".into() } else { facts.target.workload.join(", ") };
    let broken: Vec<&Capability> =
        report.capabilities.iter().filter(|c| c.required && c.status == Status::Broken).collect();
    let what = match report.verdict {
        Verdict::Ready => workload,
        Verdict::Degraded => {
            let parts: Vec<&str> =
                report.capabilities.iter().filter(|c| c.status == Status::Broken).map(|c| c.id.as_str()).collect();
            if parts.is_empty() {
                format!("{workload}, with warnings")
            } else {
                format!("{workload}, but not {}", parts.join(", "))
            }
        }
        Verdict::NotReady => broken.first().map_or_else(String::new, |c| {
            let what = c.blockers.first().unwrap_or(&c.id);
            format!("{what}: {}", c.summary)
        }),
        Verdict::Undetermined => match report.capabilities.iter().find(|c| c.required && c.status == Status::Unknown) {
            Some(c) => format!("{}: {}", c.id, c.summary),
            None => "nothing to judge".into(),
        },
    };
    cut(&format!("{}  {what}", word(report.verdict)), VERDICT_BYTES)
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ready => "READY",
        Verdict::Degraded => "DEGRADED",
        Verdict::NotReady => "NOT READY",
        Verdict::Undetermined => "UNDETERMINED",
    }
}

fn paint(verdict: Verdict, text: &str) -> ColoredString {
    match verdict {
        Verdict::Ready => text.green().bold(),
        Verdict::Degraded | Verdict::Undetermined => text.yellow().bold(),
        Verdict::NotReady => text.red().bold(),
    }
}

fn capabilities(out: &mut String, report: &Report, width: usize) {
    if report.capabilities.is_empty() {
        return;
    }
    out.push('\n');
    let id_width = report.capabilities.iter().map(|c| c.id.chars().count()).max().unwrap_or(0).min(32);
    for c in &report.capabilities {
        let (mark, status) = match c.status {
            Status::Ok => ("✓".green(), "ok".normal()),
            Status::Broken if c.required => ("✗".red(), "broken".red()),
            Status::Broken => ("✗".yellow(), "broken".yellow()),
            Status::Unknown => ("?".yellow(), "unknown".yellow()),
            Status::NotApplicable => ("-".dimmed(), "n/a".dimmed()),
        };
        let detail = match c.status {
            Status::Broken if !c.blockers.is_empty() && !c.inherited => c.blockers.join(", "),
            _ => c.summary.clone(),
        };
        let room = width.saturating_sub(id_width + 15);
        let pad = " ".repeat(id_width.saturating_sub(c.id.chars().count()));
        let status_pad = " ".repeat(8usize.saturating_sub(status.chars().count()));
        let line = format!("  {mark} {}{pad}  {status}{status_pad} {}", c.id, cut(&detail, room));
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// Why the verdict is open, in full: the table has room for the beginning only.
fn unknown(out: &mut String, report: &Report, width: usize) {
    for c in report.capabilities.iter().filter(|c| c.required && c.status == Status::Unknown && !c.inherited) {
        let _ = writeln!(out, "\n{}", c.id.yellow().bold());
        paragraph(out, "", &format!("unknown: {}", c.summary), width);
    }
}

/// What there is to compute on.
fn gpus(out: &mut String, facts: &Facts, width: usize) {
    let Some(driver) = &facts.driver else { return };
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let mut rows = Vec::new();
    for gpu in driver.gpus() {
        let mut row = vec![gpu.name.get().cloned().unwrap_or_else(|| "no answer".into())];
        row.extend(gpu.compute_capability.get().map(|(major, minor)| format!("sm_{major}{minor}")));
        row.extend(gpu.memory.get().map(|m| format!("{:.1} of {:.1} GiB free", gib(m.free), gib(m.total))));
        row.extend(gpu.temperature.get().map(|t| format!("{t} °C")));
        row.extend(gpu.mig.get().filter(|m| m.enabled).map(|m| plural(m.devices.len(), "MIG device")));
        rows.push((gpu.index.to_string(), row));
    }
    if rows.is_empty() {
        for device in driver.devices() {
            let mut row = vec![device.name.get().cloned().unwrap_or_else(|| "no answer".into())];
            row.extend(device.compute_capability.get().map(|(major, minor)| format!("sm_{major}{minor}")));
            row.extend(device.memory.get().map(|bytes| format!("{:.1} GiB", gib(*bytes))));
            rows.push((device.ordinal.to_string(), row));
        }
    }
    if rows.is_empty() {
        return;
    }
    let release = driver.system().and_then(|s| s.driver.get());
    let cuda = driver.cuda().and_then(|c| c.version.get()).map(|v| format!("CUDA {}.{}", v / 1000, v % 1000 / 10));
    let versions: Vec<String> = release.map(|r| format!("driver {r}")).into_iter().chain(cuda).collect();
    let _ = writeln!(out, "\n  {}", versions.join(", ").dimmed());
    for (index, row) in rows {
        let _ = writeln!(out, "  {}", cut(&format!("GPU {index}  {}", row.join("  ")), width.saturating_sub(2)));
    }
}

fn describe(out: &mut String, finding: &Finding, width: usize, verbose: bool) {
    let id = match finding.severity {
        Severity::Error => finding.id.red().bold(),
        Severity::Warning => finding.id.yellow().bold(),
        Severity::Note => finding.id.cyan().bold(),
    };
    let _ = writeln!(out, "\n{id}  {}", finding.subject.dimmed());
    paragraph(out, "", &finding.message, width);
    if let Some(sees) = &finding.user_sees {
        paragraph(out, "you see", sees, width);
    }
    proof(out, finding, width, verbose);
    let fix = &finding.fix;
    if !fix.summary.is_empty() {
        paragraph(out, "fix", &fix.summary, width);
    }
    for lines in [&fix.dockerfile, &fix.docker_run, &fix.kubernetes].into_iter().flatten() {
        for line in lines.lines() {
            let _ = writeln!(out, "              {}", line.green());
        }
    }
}

/// What was observed. Many places that one rule led to are one line, unless all are asked for.
pub(super) fn proof(out: &mut String, finding: &Finding, width: usize, verbose: bool) {
    let mut last = None;
    for evidence in &finding.evidence {
        let this = Some((&evidence.label, &evidence.source));
        let like_it = finding.evidence.iter().filter(|e| Some((&e.label, &e.source)) == this).count();
        if like_it > MOST_ALIKE && !verbose {
            if this != last {
                let source = evidence.source.as_ref().map_or(String::new(), |source| format!(" ({source})"));
                paragraph(out, &evidence.label, &format!("{like_it} places{source}"), width);
            }
        } else {
            let value = match &evidence.source {
                Some(source) => format!("{} ({source})", evidence.value),
                None => evidence.value.clone(),
            };
            paragraph(out, &evidence.label, &value, width);
        }
        last = this;
    }
}

/// Wraps `text` behind a label; a word longer than the line (a path) is left whole, so that it can be copied.
pub(super) fn paragraph(out: &mut String, label: &str, text: &str, width: usize) {
    let indent = if label.is_empty() { 2 } else { 14 };
    let mut prefix = if label.is_empty() { "  ".to_owned() } else { format!("  {label:<12}") };
    if prefix.chars().count() > indent || prefix.ends_with(|c| c != ' ') {
        let _ = writeln!(out, "{}", prefix.dimmed());
        prefix = " ".repeat(indent);
    }
    for row in text.lines().flat_map(|line| rows(line, width.saturating_sub(indent))) {
        let _ = writeln!(out, "{}{row}", prefix.dimmed());
        prefix = " ".repeat(indent);
    }
}

/// A line in rows of so many columns, at least one; a longer word is left whole.
pub(super) fn rows(line: &str, columns: usize) -> Vec<String> {
    let mut rows = Vec::new();
    let (mut row, mut at) = (String::new(), 0);
    for word in line.split(' ') {
        let len = word.chars().count();
        if at > 0 && at + 1 + len > columns {
            rows.push(std::mem::take(&mut row));
            at = 0;
        }
        if at > 0 {
            row.push(' ');
            at += 1;
        }
        row.push_str(word);
        at += len;
    }
    rows.push(row);
    rows
}

fn checks(out: &mut String, report: &Report, width: usize) {
    let _ = writeln!(out, "\nchecks");
    for check in &report.checks {
        let outcome = match check.outcome {
            CheckOutcome::Pass => "pass".green(),
            CheckOutcome::Found => "found".red(),
            CheckOutcome::NotApplicable => "n/a".dimmed(),
            CheckOutcome::Unknown => "unknown".yellow(),
        };
        let pad = " ".repeat(8usize.saturating_sub(outcome.chars().count()));
        let reason = check.reason.as_deref().unwrap_or("");
        let line = format!("  {outcome}{pad} {:<22} {}", check.id, cut(reason, width.saturating_sub(34)));
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

pub(super) fn plural(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// The first `bytes` bytes of `text` at most, up to the end of a clause or of a word where that leaves the half of them,
/// with an ellipsis where something was cut.
pub fn cut(text: &str, bytes: usize) -> String {
    let text = text.lines().next().unwrap_or("");
    if text.len() <= bytes {
        return text.to_owned();
    }
    let mut end = bytes.saturating_sub("…".len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let start = &text[..end];
    let half = |at: &usize| *at > bytes / 2;
    let clause = ["; ", ": "].iter().filter_map(|mark| start.rfind(mark)).max();
    let word = || start.rfind(' ').filter(half);
    let at = clause.filter(half).or_else(word).unwrap_or(end);
    format!("{}…", &start[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_label_has_a_line_of_its_own() {
        let mut out = String::new();
        paragraph(&mut out, "searched", "/lib", 80);
        paragraph(&mut out, "twelve chars", "x", 80);
        paragraph(&mut out, "NVIDIA_VISIBLE_DEVICES", "not set (environment)", 80);
        let blank = " ".repeat(14);
        let expected = format!(
            "  searched    /lib\n  twelve chars\n{blank}x\n  NVIDIA_VISIBLE_DEVICES\n{blank}not set (environment)\n"
        );
        assert_eq!(out, expected);
    }

    #[test]
    fn cut_respects_bytes_and_characters() {
        assert_eq!(cut("short", 80), "short");
        assert_eq!(cut(&"é".repeat(50), 80).len(), 79);
        assert_eq!(cut("first\nsecond", 80), "first");
        assert_eq!(
            cut("NOT READY  drv-absent: no GPU was given: neither a driver nor a node", 50),
            "NOT READY  drv-absent: no GPU was given…"
        );
        assert_eq!(cut("a path of several words that goes on", 30), "a path of several words…");
    }
}
