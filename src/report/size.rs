//! Where the bytes are and which can go: for a person, for a comment on a change, and as `mldoctor.size/1`.

use std::fmt::Write;

use colored::Colorize;
use serde_json::{Value, json};

use super::json::Tool;
use super::markdown::{cell, escape};
use super::text::{cut, paragraph, plural, proof};
use crate::checks::size::{Base, Item, SizeReport, Sum, human};
use crate::facts::Facts;
use crate::facts::size::{Package, Size};
use crate::finding::Severity;
use crate::structured;

/// Everything that is told.
pub struct Whole<'r> {
    /// What was observed of the workload.
    pub facts: &'r Facts,
    /// What was observed of the files.
    pub size: &'r Size,
    /// What follows.
    pub report: &'r SizeReport,
    /// Length of each list.
    pub top: usize,
}

/// `5,654,433,792`
fn exact(bytes: u64) -> String {
    let digits = bytes.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|c| std::str::from_utf8(c).ok()).collect();
    groups.join(",")
}

/// A line of a list: name, bytes, note.
type Row = (String, u64, String);

fn package_name(package: &Package) -> String {
    format!("{} {} ({})", package.name, package.version, package.manager.name())
}

impl Base {
    /// In words: `debian 12, CUDA 12.4 devel with cuDNN (4.1 GB)`.
    fn words(&self) -> Option<String> {
        let cuda = self.cuda.as_ref().map(|c| {
            let release = c.release.as_deref().map(|r| format!(" {r}")).unwrap_or_default();
            let cudnn = if c.cudnn { " with cuDNN" } else { "" };
            format!("CUDA{release} {}{cudnn} ({})", c.flavour, human(c.bytes))
        });
        let conda = self.conda.as_ref().map(|(prefix, bytes)| format!("conda in {prefix} ({})", human(*bytes)));
        let ngc = self.ngc.then(|| "an NGC image".to_owned());
        let parts: Vec<String> = [self.os.clone(), ngc, cuda, conda].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

impl Whole<'_> {
    /// A self-contained verdict of at most 80 bytes.
    pub fn verdict_line(&self) -> String {
        let r = self.report;
        let least = if self.size.tree.unread.is_empty() { "" } else { "at least " };
        let can_go = if r.can_go == 0 { "nothing".to_owned() } else { human(r.can_go) };
        let of = |severity, noun| {
            let count = r.items.iter().filter(|i| !i.goes && i.finding.severity == severity).count();
            (count > 0).then(|| plural(count, noun))
        };
        let others: Vec<String> =
            [of(Severity::Error, "error"), of(Severity::Warning, "warning")].into_iter().flatten().collect();
        let others = if others.is_empty() { String::new() } else { format!("; {}", others.join(", ")) };
        format!("size: {least}{}, {can_go} can go{others}", human(r.bytes))
    }

    /// For a person, in `width` columns.
    pub fn text(&self, width: usize, verbose: bool) -> String {
        let r = self.report;
        let mut out = String::new();
        let line = self.verdict_line();
        let (start, rest) = line.split_once(',').unwrap_or((&line, ""));
        let _ = writeln!(out, "{},{rest}\n", start.bold());
        let files = plural(self.size.tree.files.len(), "file");
        let base = r.base.words().unwrap_or_else(|| "no distribution recognised".into());
        let about = match &self.size.layers {
            // An archive has no blocks.
            Some(layers) => {
                let layers = plural(layers.count, "layer");
                format!("{} bytes in {files} of {layers}; {base}", exact(r.apparent))
            }
            None => format!("{} bytes on disk, {} in {files}; {base}", exact(r.bytes), exact(r.apparent)),
        };
        paragraph(&mut out, "", &about, width);
        for (path, why) in &self.size.tree.unread {
            paragraph(&mut out, "not read", &format!("{}: {why}", path.display()), width);
        }
        for (heading, rows) in self.lists() {
            let _ = writeln!(out, "\n{}", heading.bold());
            for (name, bytes, note) in rows {
                let note = if note.is_empty() { String::new() } else { format!("  {note}") };
                let share = bytes.saturating_mul(100).checked_div(r.bytes).unwrap_or(0);
                let _ = writeln!(
                    out,
                    "  {:>9} {share:>3} %  {}",
                    human(bytes),
                    cut(&(name + &note), width.saturating_sub(18))
                );
            }
        }
        self.findings(&mut out, width, verbose);
        if !r.stays.is_empty() {
            let _ = writeln!(out, "\n{}", "stays".bold());
            for stays in r.stays.iter().take(self.top) {
                let _ = writeln!(out, "  {:>9}  {}", human(stays.bytes), stays.id.cyan());
                paragraph(&mut out, "because", &stays.why, width);
            }
        }
        out
    }

    fn findings(&self, out: &mut String, width: usize, verbose: bool) {
        let mut notes = 0;
        for item in &self.report.items {
            if !item.goes && item.finding.severity == Severity::Note && !verbose {
                notes += 1;
                continue;
            }
            let id = match item.finding.severity {
                Severity::Error => item.finding.id.red().bold(),
                Severity::Warning => item.finding.id.yellow().bold(),
                Severity::Note => item.finding.id.cyan().bold(),
            };
            let bytes = if item.bytes > 0 { human(item.bytes) } else { String::new() };
            let verb = if item.goes { "can go" } else { "" };
            let _ = writeln!(out, "\n{}", format!("{id}  {} {verb}", bytes.bold()).trim_end());
            paragraph(out, "", &item.finding.message, width);
            self.places(out, item, width, verbose);
            paragraph(out, "fix", &item.finding.fix.summary, width);
            for line in item.finding.fix.dockerfile.iter().flat_map(|l| l.lines()) {
                let _ = writeln!(out, "              {}", line.green());
            }
        }
        if notes > 0 {
            let _ = writeln!(out, "\n{} (mldoctor size -v)", plural(notes, "note"));
        }
    }

    /// The places of a finding; the largest alone, unless all are asked for.
    fn places(&self, out: &mut String, item: &Item, width: usize, verbose: bool) {
        let shown = if verbose { usize::MAX } else { MOST_PLACES };
        let mut short = item.finding.clone();
        short.evidence.truncate(shown);
        proof(out, &short, width, true);
        let more = item.finding.evidence.len().saturating_sub(shown);
        if more > 0 {
            paragraph(out, "…", &format!("and {more} more"), width);
        }
    }

    /// The lists, each with its heading.
    fn lists(&self) -> Vec<(&'static str, Vec<Row>)> {
        let r = self.report;
        let files = |sum: &Sum| plural(sum.files, "file");
        let directories = r.directories.iter().map(|(path, bytes)| (path.clone(), *bytes, String::new()));
        let kinds = r.kinds.iter().map(|(kind, sum)| (kind.name().to_owned(), sum.bytes, files(sum)));
        let packages = r.packages.iter().map(|(package, sum)| (package_name(package), sum.bytes, String::new()));
        let mut packages: Vec<_> = packages.filter(|(_, bytes, _)| *bytes > 0).take(self.top).collect();
        if !packages.is_empty() {
            let why = self.size.unread_packages.clone().unwrap_or_default();
            packages.push(("of no package".into(), r.unowned.bytes, why));
        }
        let lists = [
            ("directories", directories.filter(|(_, bytes, _)| *bytes > 0).take(self.top).collect()),
            ("kinds", kinds.take(self.top).collect()),
            ("packages", packages),
        ];
        lists.into_iter().filter(|(_, rows): &(_, Vec<_>)| !rows.is_empty()).collect()
    }

    /// For a comment on a change.
    pub fn markdown(&self) -> String {
        let r = self.report;
        let mut out = format!("**{}**\n\n", self.verdict_line());
        if let Some(base) = r.base.words() {
            let _ = writeln!(out, "{base}\n");
        }
        if !r.items.is_empty() {
            out += "| finding | bytes | what | fix |\n|---|---:|---|---|\n";
        }
        for item in &r.items {
            let f = &item.finding;
            let bytes = if item.bytes > 0 { human(item.bytes) } else { String::new() };
            let _ = writeln!(
                out,
                "| `{}` | {bytes} | {} | {} |",
                f.id,
                cell(&escape(&f.message)),
                cell(&escape(&f.fix.summary))
            );
        }
        for (heading, rows) in self.lists() {
            let _ = writeln!(out, "\n| {heading} | bytes |\n|---|---:|");
            for (name, bytes, _) in rows {
                let _ = writeln!(out, "| {} | {} |", cell(&escape(&name)), human(bytes));
            }
        }
        if !r.stays.is_empty() {
            out += "\n| stays | bytes | why |\n|---|---:|---|\n";
        }
        for stays in &r.stays {
            let _ = writeln!(out, "| `{}` | {} | {} |", stays.id, human(stays.bytes), cell(&escape(&stays.why)));
        }
        out
    }

    /// `mldoctor.size/1`, with everything.
    ///
    /// # Errors
    /// Never in practice: every part is serialisable.
    pub fn json(&self) -> serde_json::Result<String> {
        let (r, tree) = (self.report, &self.size.tree);
        let shown = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
        let with = |sum: &Sum, mut value: Value| {
            value["bytes"] = sum.bytes.into();
            value["files"] = sum.files.into();
            value
        };
        let finding = |item: &Item| {
            let mut value = serde_json::to_value(&item.finding)?;
            value["bytes"] = item.bytes.into();
            value["files"] = item.files.into();
            value["can_go"] = item.goes.into();
            Ok(value)
        };
        let package = |(p, sum): &(Package, Sum)| {
            with(sum, json!({"manager": p.manager.name(), "name": p.name, "version": p.version}))
        };
        let cuda = r
            .base
            .cuda
            .as_ref()
            .map(|c| json!({"release": c.release, "flavour": c.flavour, "cudnn": c.cudnn, "bytes": c.bytes}));
        let conda = r.base.conda.as_ref().map(|(prefix, bytes)| json!({"prefix": prefix, "bytes": bytes}));
        let target = &self.facts.target;
        structured::to_json(&json!({
            "schema": "mldoctor.size/1",
            "tool": Tool::THIS,
            "target": {"root": target.root, "arch": target.arch, "workload": target.workload, "require": target.require},
            "bytes": r.bytes,
            "apparent_bytes": r.apparent,
            "can_go_bytes": r.can_go,
            "files": tree.files.len(),
            "directories": tree.dirs.len(),
            "unread": tree.unread.iter().map(|(path, why)| json!({"path": shown(path), "why": why})).collect::<Vec<_>>(),
            "mounts": tree.mounts.iter().map(shown).collect::<Vec<_>>(),
            "layers": self.size.layers.as_ref().map(|layers| json!({
                "count": layers.count,
                "bytes": layers.bytes,
                "hidden_bytes": layers.hidden(),
                "efficiency_percent": layers.efficiency(),
            })),
            "base": {"os": r.base.os, "cuda": cuda, "conda": conda, "ngc": r.base.ngc},
            "kinds": r.kinds.iter().map(|(k, sum)| with(sum, json!({"kind": k.name()}))).collect::<Vec<_>>(),
            "packages": r.packages.iter().map(package).collect::<Vec<_>>(),
            "unowned": with(&r.unowned, json!({"why": self.size.unread_packages})),
            "largest": r.directories.iter().map(|(path, bytes)| json!({"path": path, "bytes": bytes})).collect::<Vec<_>>(),
            "findings": r.items.iter().map(finding).collect::<serde_json::Result<Vec<_>>>()?,
            "stays": r.stays.iter()
                .map(|s| json!({"id": s.id, "bytes": s.bytes, "files": s.files, "why": s.why})).collect::<Vec<_>>(),
        }))
    }
}

/// Places of a finding that are shown where not all are asked for.
const MOST_PLACES: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(exact(0), "0");
        assert_eq!(exact(5_654_433_792), "5,654,433,792");
        assert_eq!(human(5_654_433_792), "5.7 GB");
    }
}
