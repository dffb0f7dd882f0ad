//! `explain` and `list`: what the finding ids mean.

use std::fmt::Write;

use colored::Colorize;
use serde::Serialize;

use super::text;
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

/// The page of one id, laid out anew: paragraphs and items of lists are filled, what a user sees or copies stays as it is.
pub fn explain(page: &Page, width: usize) -> String {
    let mut out = String::new();
    for row in text::rows(page.title, width) {
        let _ = writeln!(out, "{}", row.bold());
    }
    let mut paragraph = String::new();
    let mut is_code = false;
    for line in page.body().lines().skip(1) {
        if line.starts_with("```") {
            fill(&mut out, &mut paragraph, width);
            is_code = !is_code;
            continue;
        }
        let is_heading = !is_code && line.starts_with("## ");
        if is_code || is_heading || line.is_empty() || line.starts_with("    ") {
            fill(&mut out, &mut paragraph, width);
            let heading = line.strip_prefix("## ").filter(|_| is_heading).map(|heading| heading.cyan().bold());
            let _ = writeln!(out, "{}", heading.unwrap_or_else(|| line.normal()));
            continue;
        }
        if hanging(line) > 0 {
            fill(&mut out, &mut paragraph, width);
        }
        if !paragraph.is_empty() {
            paragraph.push(' ');
        }
        paragraph += if paragraph.is_empty() { line } else { line.trim_start() };
    }
    fill(&mut out, &mut paragraph, width);
    out
}

/// Puts a paragraph down; the rows after the first of an item stand below its text.
fn fill(out: &mut String, paragraph: &mut String, width: usize) {
    let indent = hanging(paragraph);
    if !paragraph.is_empty() {
        for (at, row) in text::rows(&paragraph[indent..], width - indent).iter().enumerate() {
            let before = if at == 0 { &paragraph[..indent] } else { &"    "[..indent] };
            let _ = writeln!(out, "{before}{row}");
        }
    }
    paragraph.clear();
}

/// Length of the mark of a list's item, if the line begins one.
fn hanging(line: &str) -> usize {
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    match &line[digits..] {
        rest if digits == 0 && (rest.starts_with("- ") || rest.starts_with("* ")) => 2,
        rest if digits == 1 && rest.starts_with(". ") => 3,
        _ => 0,
    }
}

/// All ids, each with its title in the last columns.
pub fn list_text(pages: &[Page], width: usize) -> String {
    let ids = pages.iter().map(|page| page.id.len()).max().unwrap_or(0);
    let before = ids + " warning  S  ".len();
    let mut out = String::new();
    for page in pages {
        let severity = match page.severity {
            Severity::Error => "error".red(),
            Severity::Warning => "warning".yellow(),
            Severity::Note => "note".cyan(),
        };
        let pad = " ".repeat(9usize.saturating_sub(severity.chars().count()));
        let _ = write!(out, "{:<ids$} {severity}{pad}{:?}  ", page.id, page.tier);
        let title = text::rows(page.title, width.saturating_sub(before));
        let _ = writeln!(out, "{}", title.join(&format!("\n{:before$}", "")));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::pages;

    #[test]
    fn every_page_fits_a_terminal_but_for_what_is_copied() {
        colored::control::set_override(false);
        for page in pages::all() {
            let text = explain(page, 80);
            let given = page.body();
            let given: Vec<&str> = given.lines().collect();
            let long: Vec<&str> =
                text.lines().filter(|l| l.chars().count() > 80 && l.contains(' ') && !given.contains(l)).collect();
            assert!(long.is_empty(), "{}: {long:?}", page.id);
            // Nothing is lost, and nothing is said twice.
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let body: Vec<&str> = given.iter().copied().skip(1).filter(|l| !l.starts_with("```")).collect();
            let body = format!("{}\n{}", page.title, body.join("\n")).replace("\n## ", "\n");
            assert_eq!(words(&text), words(&body), "{}", page.id);
        }
    }

    #[test]
    fn a_list_has_its_titles_in_a_column() {
        colored::control::set_override(false);
        let text = list_text(pages::all(), 80);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let more = text.lines().filter(|line| line.starts_with(' ')).count();
        assert!(more > 0 && text.lines().count() == pages::all().len() + more);
        assert_eq!(list_text(pages::all(), usize::MAX).lines().count(), pages::all().len());
    }

    #[test]
    fn items_hang() {
        let mut out = String::new();
        fill(&mut out, &mut "- one two three".to_owned(), 9);
        assert_eq!(out, "- one two\n  three\n");
    }
}
