//! Embeds what the program carries with it, compressed: the probe (the file named by `MLDOCTOR_PROBES_BIN`, or one built
//! here for the host; `{arch}` in its name is the target's), the pages of the finding ids, and what is known of frameworks.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Slow and small: it happens once, and the shipped file has a size to keep.
const LEVEL: u8 = 10;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    pages(&out);
    frameworks(&out);
    println!("cargo::rerun-if-env-changed=MLDOCTOR_PROBES_BIN");
    println!("cargo::rerun-if-changed=probes");
    let probe = match env::var("MLDOCTOR_PROBES_BIN") {
        Ok(file) => {
            let file = PathBuf::from(file.replace("{arch}", &architecture("TARGET")));
            println!("cargo::rerun-if-changed={}", file.display());
            file
        }
        // Not one to watch: it is newer than the start of this build, after which all would be built again.
        Err(_) if architecture("TARGET") == architecture("HOST") => build(&out),
        // A probe for the host would be of no use to the target: none is embedded.
        Err(_) => return embed(&out, "mldoctor-probes", &[]),
    };
    let bytes = fs::read(&probe).unwrap_or_else(|e| panic!("cannot read {}: {e}", probe.display()));
    embed(&out, "mldoctor-probes", &bytes);
}

fn embed(out: &Path, name: &str, bytes: &[u8]) {
    let compressed = if bytes.is_empty() { Vec::new() } else { miniz_oxide::deflate::compress_to_vec(bytes, LEVEL) };
    fs::write(out.join(name), compressed).expect("OUT_DIR can be written");
}

/// Every `src/frameworks/*.toml`, by its name, as JSON: that is read in a third of the time.
fn frameworks(out: &Path) {
    let mut all = serde_json::Map::new();
    for path in sources("src/frameworks", "toml") {
        let value = toml::from_str(&read(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        all.insert(path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_owned(), value);
    }
    embed(out, "frameworks", serde_json::Value::Object(all).to_string().as_bytes());
}

/// The files with an extension in a directory of the sources, in order.
fn sources(dir: &str, extension: &str) -> Vec<PathBuf> {
    println!("cargo::rerun-if-changed={dir}");
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{dir}: {e}"));
    let paths = entries.map(|entry| entry.unwrap_or_else(|e| panic!("{dir}: {e}")).path());
    let mut files: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

/// Every `src/checks/*.md`: what its header says becomes a table of Rust, the texts one compressed file. `checks::pages`
/// holds the meaning, and the tests of the form.
fn pages(out: &Path) {
    let (mut table, mut texts) = (String::from("&[\n"), String::new());
    for path in sources("src/checks", "md") {
        let text = read(&path);
        let bad = |what: &str| panic!("{}: {what}", path.display());
        let Some((header, body)) = text.strip_prefix("---\n").and_then(|t| t.split_once("\n---\n")) else {
            bad("no header between two lines ---")
        };
        let field = |key: &str| {
            let line = header.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(": "));
            line.unwrap_or_else(|| bad(&format!("no {key} in the header")))
        };
        let (severity, tier) = (field("severity"), field("tier"));
        let (first, rest) = severity.split_at(1);
        let id = body.lines().next().and_then(|l| l.strip_prefix("# ")).unwrap_or_else(|| bad("no # id"));
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        if stem.replace('_', "-") != id {
            bad(&format!("it explains {id}"));
        }
        let title = field("title");
        let severity = format!("Severity::{}{rest}", first.to_uppercase());
        writeln!(table, "Page {{ id: {id:?}, severity: {severity}, tier: Tier::{tier}, title: {title:?} }},")
            .expect("a string can be written");
        texts += body;
        texts.push('\0');
    }
    table.push(']');
    fs::write(out.join("pages.rs"), table).expect("OUT_DIR can be written");
    embed(out, "pages", texts.as_bytes());
}

fn architecture(triple: &str) -> String {
    let triple = env::var(triple).expect("cargo sets it");
    triple.split('-').next().unwrap_or_default().to_owned()
}

/// Its own target directory, for the one of this build is locked; without the flags of this build, which may be for
/// another target or for a linter.
fn build(out: &Path) -> PathBuf {
    let target = out.join("probes-target");
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    cargo.args(["build", "--release", "--package", "mldoctor-probes", "--target-dir"]).arg(&target);
    for name in ["RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "the probe does not build");
    target.join("release/mldoctor-probes")
}
