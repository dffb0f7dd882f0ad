//! `explain` and `list`: what the finding ids mean.

use std::fmt::Write;

use colored::Colorize;
use serde::Serialize;

use crate::checks::pages::{Page, Severity, Tier};
use crate::structured;

#[derive(Serialize)]
struct List<'p> {
    schema: &'static str,
    findings: Vec<Row<'p>>,
}

#[derive(Serialize)]
struct Row<'p> {
    id: &'p str,
    severity: Severity,
    tier: Tier,
    title: &'p str,
}

/// The page of one id.
pub fn explain(page: &Page) -> String {
    let mut out = format!("{}\n", page.title.bold());
    for line in page.body().lines().skip(1) {
        if line.starts_with("```") {
            continue;
        }
        match line.strip_prefix("## ") {
            Some(heading) => {
                let _ = writeln!(out, "{}", heading.cyan().bold());
            }
            None => {
                let _ = writeln!(out, "{line}");
            }
        }
    }
    out
}

/// All ids, a line each.
pub fn list_text(pages: &[Page]) -> String {
    let mut out = String::new();
    for page in pages {
        let severity = match page.severity {
            Severity::Error => "error".red(),
            Severity::Warning => "warning".yellow(),
            Severity::Note => "note".cyan(),
        };
        let pad = " ".repeat(8usize.saturating_sub(severity.chars().count()));
        let _ = writeln!(out, "{:<22} {severity}{pad}{:?}  {}", page.id, page.tier, page.title);
    }
    out
}

/// All ids as JSON.
///
/// # Errors
/// Never in practice: every part is serialisable.
pub fn list_json(pages: &[Page]) -> serde_json::Result<String> {
    let findings = pages.iter().map(|p| Row { id: p.id, severity: p.severity, tier: p.tier, title: p.title }).collect();
    structured::to_json(&List { schema: "mldoctor.list/1", findings })
}
