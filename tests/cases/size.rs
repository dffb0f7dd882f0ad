//! What `mldoctor size` says of images that are described in TOML: `size/*.toml`, a file per finding id.
//!
//! ```toml
//! [base]                                    # as for the other cases
//! from = ["torch"]
//! [[case]]
//! name = "pip's cache"
//! targets = ["torch"]
//! findings = ["size-cache-pip"]             # exactly these can go, or are told
//! stays = ["size-headers"]                  # exactly these stay, where it is given
//! can_go = 4096                             # in bytes, where it is given
//! proof = "/root/.cache/pip"                # parts of what the finding with the file's id tells
//! fix = "--no-cache-dir"
//! why = "torch.compile"                     # part of why it stays
//! not = "hunter2"                           # what no form of the report may hold
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::{Failed, Trial};
use mldoctor::checks::{pages, size as checks};
use mldoctor::driver::Gpu;
use mldoctor::image::Credentials;
use mldoctor::observe::size as observe;
use mldoctor::report::size::Whole;
use serde::Deserialize;

use crate::support::schema::schema;
use crate::support::tree::{Built, Tree, expand};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cases {
    base: Tree,
    case: Vec<Case>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    targets: Vec<String>,
    #[serde(default)]
    require: Vec<String>,
    user: Option<(u32, u32)>,
    findings: Vec<String>,
    stays: Option<Vec<String>>,
    can_go: Option<u64>,
    proof: Option<String>,
    fix: Option<String>,
    why: Option<String>,
    not: Option<String>,
    #[serde(default)]
    tree: Tree,
    #[serde(default)]
    gpu: Vec<String>,
    /// Files of a layer below, which is removed again, with their bytes: then the image is in an archive.
    #[serde(default)]
    lower: BTreeMap<String, usize>,
    /// How the image is started, as its configuration has it: then too.
    config: Option<toml::Table>,
}

/// All files, by the id that they are for.
pub fn read() -> BTreeMap<String, Cases> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/size");
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let cases = toml::from_str(&expand(&fs::read_to_string(&path).unwrap()))
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        files.insert(path.file_stem().unwrap().to_str().unwrap().to_owned(), cases);
    }
    files
}

/// A trial for each case.
pub fn trials(files: &BTreeMap<String, Cases>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (id, cases) in files {
        for case in &cases.case {
            let (own, base, case) = (id.clone(), cases.base.clone(), case.clone());
            trials.push(Trial::test(format!("{id}: {}", case.name), move || run(&own, &base, &case)));
        }
    }
    trials
}

/// Whether an id of `size` has a case where it fires and one where it does not.
pub fn lacking(files: &BTreeMap<String, Cases>, id: &str) -> Option<String> {
    let fires = |case: &Case| case.findings.iter().any(|f| f == id);
    match files.get(id) {
        None => Some(format!("{id}: no file below size")),
        Some(cases) if !cases.case.iter().any(fires) => Some(format!("{id}: no case where it fires")),
        Some(cases) if cases.case.iter().all(fires) => Some(format!("{id}: no case where it must not")),
        Some(_) => None,
    }
}

/// The image as `docker save` writes it, in two layers.
fn archive(dir: &Path, built: &Built, case: &Case) -> PathBuf {
    let append = |tar: &mut tar::Builder<Vec<u8>>, path: &Path, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, data).unwrap();
    };
    let tar = || tar::Builder::new(Vec::new());
    let (mut lower, mut upper, mut image) = (tar(), tar(), tar());
    upper.follow_symlinks(false);
    upper.append_dir_all(".", built.root()).unwrap();
    for (path, bytes) in &case.lower {
        let path = Path::new(path);
        append(&mut lower, path, &vec![0; *bytes]);
        append(&mut upper, &path.with_file_name(format!(".wh.{}", path.file_name().unwrap().to_str().unwrap())), b"");
    }
    append(&mut image, "lower.tar".as_ref(), &lower.into_inner().unwrap());
    append(&mut image, "upper.tar".as_ref(), &upper.into_inner().unwrap());
    let config = serde_json::json!({ "config": case.config.clone().unwrap_or_default() });
    append(&mut image, "config.json".as_ref(), config.to_string().as_bytes());
    let manifest = serde_json::json!([{ "Config": "config.json", "Layers": ["lower.tar", "upper.tar"] }]);
    append(&mut image, "manifest.json".as_ref(), manifest.to_string().as_bytes());
    let path = dir.join("image.tar");
    fs::write(&path, image.into_inner().unwrap()).unwrap();
    path
}

fn run(id: &str, base: &Tree, case: &Case) -> Result<(), Failed> {
    let built = Built::new(base);
    let mut env = built.env.clone();
    env.extend(case.tree.build(&built.root()));
    let env = env.into_iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect();
    let dir = tempfile::tempdir().unwrap();
    let root =
        if case.config.is_some() || !case.lower.is_empty() { archive(dir.path(), &built, case) } else { built.root() };
    let mut request = crate::request(root, &case.targets, env);
    request.user = case.user.map(|(uid, gid)| Credentials { uid, gids: vec![gid] });
    request.require.clone_from(&case.require);
    request.assumed.gpus = case.gpu.iter().map(|name| Gpu::parse(name).unwrap()).collect();
    let (facts, size) = observe::observe(request).unwrap();
    let report = checks::judge(&facts, &size);
    let mut wrong = Vec::new();
    let mut compare = |what: &str, mut own: Vec<&str>, expected: &[String]| {
        own.sort_unstable();
        own.dedup();
        let mut expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        expected.sort_unstable();
        if own != expected {
            wrong.push(format!("{what}: {own:?}, not {expected:?}"));
        }
    };
    compare("findings", report.items.iter().map(|i| i.finding.id.as_str()).collect(), &case.findings);
    if let Some(stays) = &case.stays {
        compare("stays", report.stays.iter().map(|s| s.id).collect(), stays);
    }
    if let Some(expected) = case.can_go.filter(|e| *e != report.can_go) {
        wrong.push(format!("can go: {}, not {expected}", report.can_go));
    }
    let ours = || report.items.iter().filter(|i| i.finding.id == id).map(|i| &i.finding);
    let proofs: Vec<String> = ours().flat_map(|f| f.evidence.iter().map(|e| e.value.clone())).collect();
    let cures: Vec<String> = ours().filter_map(|f| f.fix.dockerfile.clone()).collect();
    let reasons: Vec<String> = report.stays.iter().filter(|s| s.id == id).map(|s| s.why.clone()).collect();
    for (name, expected, own) in
        [("proof", &case.proof, proofs), ("fix", &case.fix, cures), ("why", &case.why, reasons)]
    {
        if let Some(expected) = expected
            && !own.iter().any(|text| text.contains(expected.as_str()))
        {
            wrong.push(format!("{name}: {expected:?} is not in {own:#?}"));
        }
    }
    for item in &report.items {
        let f = &item.finding;
        if f.evidence.is_empty()
            || f.fix.summary.is_empty()
            || f.fix.dockerfile.is_none()
            || pages::find(&f.id).is_none()
        {
            wrong.push(format!("{} comes without its proof, its cure or its page", f.id));
        }
    }
    let whole = Whole { facts: &facts, size: &size, report: &report, top: 10 };
    wrong.extend(schema("size", &whole.json().unwrap()));
    let forms = [whole.text(80, true), whole.markdown(), whole.json().unwrap()];
    if whole.verdict_line().len() > 80 {
        wrong.push(format!("the first line is too long: {}", whole.verdict_line()));
    }
    if let Some(secret) = &case.not
        && forms.iter().any(|form| form.contains(secret.as_str()))
    {
        wrong.push(format!("{secret} is told"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}
