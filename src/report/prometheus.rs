//! Metrics for Prometheus in its text format 0.0.4, such that node_exporter's textfile collector takes them: gauges only,
//! no timestamps (one would make it refuse the file), the same series in every run of one workload.
//!
//! Written here and not with prometheus-client: that crate writes OpenMetrics, whose types `info` and `stateset` the
//! textfile collector rejects, and would be 41 KB of the shipped file for what is one function below.

use std::fmt::Write;

use super::{Answer, text};
use crate::facts::Scope;
use crate::finding::{CheckOutcome, Status, Verdict};

/// Renders a report.
pub fn render(answer: &Answer<'_>) -> String {
    let Answer { facts, report, .. } = answer;
    let mut out = Exposition(format!("# {}\n", text::cut(&text::verdict_line(facts, report), text::VERDICT_BYTES - 2)));
    let scope = if facts.target.scope == Scope::Image { "image" } else { "container" };
    let workload = facts.target.workload.join(" ");
    out.family("mldoctor_target_info", "What was examined, and by which version of mldoctor.");
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("workload", &workload),
        ("root", &facts.target.root),
        ("scope", scope),
        ("arch", &facts.target.arch),
    ];
    out.sample("mldoctor_target_info", &labels, 1);

    out.family("mldoctor_verdict", "Whether the workload can run: 1 for the verdict that was given, 0 for the others.");
    for (verdict, name) in [
        (Verdict::Ready, "ready"),
        (Verdict::Degraded, "degraded"),
        (Verdict::NotReady, "not-ready"),
        (Verdict::Undetermined, "undetermined"),
    ] {
        out.sample("mldoctor_verdict", &[("verdict", name)], (report.verdict == verdict).into());
    }

    out.family("mldoctor_capability_status", "What the workload can do: 1 for the status of the capability, else 0.");
    for capability in &report.capabilities {
        let required = if capability.required { "true" } else { "false" };
        for (status, name) in [
            (Status::Ok, "ok"),
            (Status::Broken, "broken"),
            (Status::Unknown, "unknown"),
            (Status::NotApplicable, "not-applicable"),
        ] {
            let labels = [("capability", capability.id.as_str()), ("required", required), ("status", name)];
            out.sample("mldoctor_capability_status", &labels, (capability.status == status).into());
        }
    }

    out.family("mldoctor_check_findings", "How often the check found what its id says.");
    for check in &report.checks {
        let findings = report.findings.iter().filter(|f| f.id == check.id).count();
        out.sample("mldoctor_check_findings", &[("id", &check.id)], findings);
    }
    out.family("mldoctor_check_unknown", "Whether the check could not look, so that no finding means nothing.");
    for check in &report.checks {
        let unknown = check.outcome == CheckOutcome::Unknown;
        out.sample("mldoctor_check_unknown", &[("id", &check.id)], unknown.into());
    }
    out.family("mldoctor_run_duration_seconds", "How long the examination took.");
    let _ = writeln!(out.0, "mldoctor_run_duration_seconds {}", answer.timing.total as f64 / 1000.0);
    out.0
}

struct Exposition(String);

impl Exposition {
    /// All samples of a metric must follow its header.
    fn family(&mut self, name: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: usize) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
    }
}

/// A label value: backslash, quote and line feed are escaped (exposition_formats.md of Prometheus).
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let mut out = Exposition(String::new());
        out.sample("m", &[("a", "x\\\"\n"), ("b", "é")], 1);
        assert_eq!(out.0, "m{a=\"x\\\\\\\"\\n\",b=\"é\"} 1\n");
    }
}
