//! `mldoctor matrix`: a table of files and GPUs, for people, for a README, and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use colored::{ColoredString, Colorize};

use super::text::{VERDICT_BYTES, cut, paragraph};
use crate::driver::Reach;
use crate::facts::{Facts, Role};
use crate::matrix::{Driver, Matrix, Module, Row, matrix};
use crate::structured;

/// Columns of a GPU.
const COLUMN: usize = 5;

/// Renders the table for `width` columns.
pub fn text(facts: &Facts, width: usize) -> String {
    let matrix = matrix(facts);
    let mut out = String::new();
    let _ = writeln!(out, "{}", cut(&summary(facts, &matrix), VERDICT_BYTES).bold());
    let gpus = &matrix.gpus[..matrix.gpus.len().min((width - width / 3) / COLUMN)];
    let label = width - gpus.len() * COLUMN;
    let head: String = gpus.iter().map(|g| format!("{:>COLUMN$}", g.cc.to_string())).collect();
    for (of_nvidia, title) in [(false, "code for"), (true, "of NVIDIA")] {
        let rows = || matrix.modules.iter().filter(|m| (m.role == Role::Nvidia) == of_nvidia);
        if rows().next().is_none() {
            continue;
        }
        let _ = writeln!(out, "\n{title:<label$}{}", head.bold());
        for module in rows() {
            let name = cut(module.path.rsplit('/').next().unwrap_or_default(), label - 4);
            let cells: String = module.reach.iter().take(gpus.len()).map(|r| cell(module, *r).to_string()).collect();
            let _ = writeln!(out, "  {name}{}{cells}", " ".repeat(label - 2 - name.chars().count()));
        }
    }
    out.push('\n');
    for (status, label) in [("native", "runs on"), ("ptx", "compiled on"), ("no", "not on"), ("unknown", "unknown")] {
        let names: Vec<String> = matrix.gpus.iter().filter(|g| g.status == status).map(Row::told).collect();
        if !names.is_empty() {
            paragraph(&mut out, label, &names.join(", "), width);
        }
    }
    paragraph(&mut out, "driver", &drivers(&matrix.driver), width);
    if let Some(compat) = &matrix.driver.compat {
        paragraph(&mut out, "", &format!("cuda-compat {} is in the image", compat.version), width);
    }
    let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
    for (target, size) in matrix.modules.iter().flat_map(|m| &m.bytes_per_target) {
        *bytes.entry(target).or_default() += size;
    }
    let sizes: Vec<String> = bytes.iter().map(|(t, size)| format!("{t} {} MB", size.div_ceil(1_000_000))).collect();
    if !sizes.is_empty() {
        paragraph(&mut out, "size", &sizes.join(", "), width);
    }
    for unexamined in &matrix.not_examined {
        let what = unexamined.what.rsplit('/').next().unwrap_or_default();
        paragraph(&mut out, "not read", &format!("{what}: {}", unexamined.why), width);
    }
    out
}

impl Row<'_> {
    /// `L4 (8.9)`, with the driver where the workload wants a newer one for it than elsewhere.
    fn told(&self) -> String {
        match &self.needs_driver {
            Some(driver) if self.status == "ptx" => format!("{} ({}, driver {driver})", self.name, self.cc),
            _ => format!("{} ({})", self.name, self.cc),
        }
    }
}

fn summary(facts: &Facts, matrix: &Matrix<'_>) -> String {
    let of = |status: &str| {
        let gpus = matrix.gpus.iter().filter(|g| g.status == status);
        gpus.map(|g| g.cc.to_string()).collect::<Vec<_>>().join(" ")
    };
    let parts = [("runs on", of("native")), ("compiled on", of("ptx")), ("not on", of("no"))];
    let parts = parts.iter().filter(|(_, gpus)| !gpus.is_empty()).map(|(what, gpus)| format!("{what} {gpus}"));
    let parts: Vec<String> = parts.collect();
    let what = if parts.is_empty() { "no device code that tells".to_owned() } else { parts.join("; ") };
    format!("{}: {what}", facts.target.workload.join(", "))
}

/// NVIDIA's libraries keep more kernels than those that are seen, so nothing is ever certain to be missing.
fn word(module: &Module<'_>, reach: Reach) -> &'static str {
    match reach {
        Reach::Native => "yes",
        Reach::Ptx(_) => "ptx",
        Reach::No if module.role != Role::Nvidia => "-",
        Reach::No | Reach::Unknown => "?",
    }
}

fn cell(module: &Module<'_>, reach: Reach) -> ColoredString {
    let text = format!("{:>COLUMN$}", word(module, reach));
    match word(module, reach) {
        "yes" => text.green(),
        "-" => text.red(),
        _ => text.yellow(),
    }
}

fn drivers(driver: &Driver<'_>) -> String {
    let built = driver.cuda.map_or_else(String::new, |cuda| format!(" of CUDA {cuda}"));
    match (driver.min, driver.recommended) {
        (Some(min), Some(full)) if min == full => format!("{min} or later"),
        (Some(min), Some(full)) => format!("{min} or later; {full} for PTX and everything else{built}"),
        (Some(min), None) => format!("{min} or later"),
        (None, Some(full)) => format!("{full} or later for PTX and everything else{built}"),
        (None, None) => "unknown: no CUDA runtime is among the loaded libraries".into(),
    }
}

/// Renders the table in Markdown.
pub fn markdown(facts: &Facts) -> String {
    let matrix = matrix(facts);
    let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
    let mut out = row("code for", matrix.gpus.iter().map(|g| format!("{} ({})", g.name, g.cc)).collect());
    out += &format!("|---|{}\n", ":-:|".repeat(matrix.gpus.len()));
    for module in matrix.modules.iter().filter(|m| m.role != Role::Nvidia) {
        let name = module.path.rsplit('/').next().unwrap_or_default();
        out += &row(&format!("`{name}`"), module.reach.iter().map(|r| word(module, *r).to_owned()).collect());
    }
    out += &row("**workload**", matrix.gpus.iter().map(|g| g.status.to_owned()).collect());
    let _ = writeln!(out, "\nDriver: {}.", drivers(&matrix.driver));
    out
}

/// Renders `mldoctor.matrix/1`.
///
/// # Errors
/// Never in practice: every part is serialisable.
pub fn json(facts: &Facts) -> serde_json::Result<String> {
    structured::to_json(&matrix(facts))
}
