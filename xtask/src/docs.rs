//! `cargo xtask docs`: the map of the source tree, made from what each file says of itself.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// The folders that are described, with what they are for.
const FOLDERS: &[(&str, &str)] = &[
    ("src", "the program: observe → judge → report"),
    ("probes/src", "the executable that does what may crash or hang"),
    ("tests", "against the real loader, the real Python, the real wheels, and described images"),
    ("xtask/src", "what is built and measured"),
];

/// Writes `ARCHITECTURE.md`, or only tells whether it is as it should be.
pub fn run(check: bool) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?.to_owned();
    let mut page = String::from(
        "# Architecture\n\nMade by `cargo xtask docs` from the first sentence of every file. Only observing reads the \
         machine, judging is a pure\nfunction from facts to a report, and only `report/` prints.\n",
    );
    for (folder, what) in FOLDERS {
        write!(page, "\n## {folder}: {what}\n")?;
        describe(&root, &root.join(folder), &mut page)?;
    }
    let file = root.join("ARCHITECTURE.md");
    if check {
        ensure!(fs::read_to_string(&file).is_ok_and(|old| old == page), "ARCHITECTURE.md is old: cargo xtask docs");
        return Ok(());
    }
    Ok(fs::write(file, page)?)
}

fn describe(root: &Path, dir: &Path, page: &mut String) -> anyhow::Result<()> {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)?.map(|e| Ok(e?.path())).collect::<anyhow::Result<_>>()?;
    // What explains a folder comes first, folders last.
    let first = ["lib.rs", "main.rs", "mod.rs"];
    entries.sort_by_key(|p| (p.is_dir(), !first.iter().any(|f| p.ends_with(f)), p.clone()));
    let mut rows = String::new();
    for path in entries.iter().filter(|p| p.extension().is_some_and(|e| e == "rs")) {
        let shown = path.strip_prefix(root)?.display().to_string();
        let sentence = first_sentence(&fs::read_to_string(path)?).with_context(|| format!("{shown} has no header"))?;
        writeln!(rows, "- [`{}`]({shown}) – {sentence}", path.file_name().unwrap_or_default().to_string_lossy())?;
    }
    if !rows.is_empty() {
        write!(page, "\n### {}\n\n{rows}", dir.strip_prefix(root)?.display())?;
    }
    for path in entries.iter().filter(|p| p.is_dir()) {
        describe(root, path, page)?;
    }
    Ok(())
}

/// The first sentence of the `//!` lines.
fn first_sentence(source: &str) -> Option<String> {
    let header: Vec<&str> =
        source.lines().map_while(|l| l.strip_prefix("//!")).map(str::trim).take_while(|l| !l.is_empty()).collect();
    let text = header.join(" ");
    let end = text.find(". ").map_or(text.len(), |at| at + 1);
    (!text.is_empty()).then(|| text[..end].to_owned())
}
