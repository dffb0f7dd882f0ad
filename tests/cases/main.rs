//! What is found in images that are described in TOML: a file per finding id, with a case where it fires and one where
//! it must not. The whole report is compared, so that every check runs on every case.
//!
//! ```toml
//! [base]                                    # a tree, see tests/support/tree.rs; all cases of the file start from it
//! from = ["torch"]
//! [[case]]
//! name = "the file is gone"
//! targets = ["torch"]
//! verdict = "not-ready"
//! findings = ["error lib-cupti"]            # exactly these
//! broken = ["import:torch"]                 # exactly these, where it is given; also unknown = [] and not_applicable = []
//! assume_gpu = ["L4", "sm_90"]              # --gpu and --driver
//! assume_driver = "535.104.05"
//! sees = "ImportError: libcupti.so.12"      # parts of what the finding with the file's id tells:
//! proof = "libtorch_cpu.so"                 # its message and evidence,
//! fix = "pip install"                       # its cure
//! [case.tree]                               # changes to the tree
//! remove = ["/opt/…"]
//! ```
//!
//! `[case.mounts] "/tmp" = "noexec"` puts what lies there on such a mount: `ro`, `noexec` or `full`.
//!
//! A case with `[case.node]`, `[case.driver]` or `[case.library]` is one of a running container: see live.rs.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../support/mod.rs"]
mod support;

mod formats;
mod live;
mod size;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::{Arguments, Failed, Trial};
use mldoctor::checks::pages;
use mldoctor::driver::Gpu;
use mldoctor::facts::surroundings::{Access as WriteAccess, Space};
use mldoctor::facts::{Assumed, Facts, Scope};
use mldoctor::finding::{Finding, Report, Severity, Status};
use mldoctor::image::Credentials;
use mldoctor::judge::judge;
use mldoctor::loader::Environment;
use mldoctor::observe::{CodeDepth, Examination, Request};
use mldoctor::record::profile::Profile;
use mldoctor::report::pages::list_json;
use serde::Deserialize;

use support::schema::schema;
use support::tree::{Built, Tree, expand};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
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
    /// User and group.
    user: Option<(u32, u32)>,
    /// Levels of x86-64 that the processor has.
    isa: Option<u32>,
    #[serde(default)]
    assume_gpu: Vec<String>,
    assume_driver: Option<String>,
    verdict: String,
    findings: Vec<String>,
    broken: Option<Vec<String>>,
    unknown: Option<Vec<String>>,
    not_applicable: Option<Vec<String>>,
    sees: Option<String>,
    proof: Option<String>,
    fix: Option<String>,
    #[serde(default)]
    tree: Tree,
    expect_gpus: Option<u32>,
    min_free_memory: Option<u64>,
    /// Mount points, with `ro`, `noexec` or `full`: what the kernel says of them in a running container.
    #[serde(default)]
    mounts: BTreeMap<String, String>,
    /// Compute too.
    #[serde(default)]
    deep: bool,
    /// What a run used elsewhere: files as `mldoctor.profile/1` has them.
    profile: Option<toml::Table>,
    node: Option<toml::Table>,
    driver: Option<live::Driver>,
    library: Option<live::Library>,
}

impl Case {
    /// It is one of a running container.
    fn is_live(&self) -> bool {
        self.node.is_some() || self.driver.is_some() || self.library.is_some()
    }
}

/// An image, by its files alone.
fn request(root: PathBuf, targets: &[String], env: Environment) -> Request {
    Request {
        root,
        scope: Scope::Image,
        targets: targets.to_owned(),
        python: None,
        env,
        cwd: PathBuf::from("/"),
        command: Vec::new(),
        opened: None,
        user: None,
        isa: None,
        require: Vec::new(),
        expect_gpus: None,
        min_free_memory: None,
        against: None,
        live: None,
        assumed: Assumed::default(),
        code: CodeDepth::Nothing,
        only_core: false,
    }
}

fn report(base: &Tree, case: &Case) -> (Facts, Report) {
    let built = Built::new(base);
    let mut env = built.env.clone();
    env.extend(case.tree.build(&built.root()));
    let env: Environment = env.into_iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect();
    let mut request = request(built.root(), &case.targets, env);
    if case.is_live() {
        request.scope = Scope::Container;
    }
    request.against = case.profile.as_ref().map(profile);
    request.user = case.user.map(|(uid, gid)| Credentials { uid, gids: vec![gid] });
    request.isa = case.isa;
    request.require.clone_from(&case.require);
    request.expect_gpus = case.expect_gpus;
    request.min_free_memory = case.min_free_memory;
    let gpus: Vec<Gpu> = case.assume_gpu.iter().map(|name| Gpu::parse(name).unwrap()).collect();
    let driver = case.assume_driver.as_ref().map(|version| version.parse().unwrap());
    (request.assumed, request.code) = (Assumed { gpus, driver }, CodeDepth::Everything);
    let mut facts = Examination::open(request).unwrap().observe();
    if case.is_live() {
        live::add(&mut facts, case);
    }
    mount(&mut facts, &case.mounts);
    // What is written to a file must be judged as what was seen.
    let told = serde_json::to_string(&facts).unwrap();
    let read = serde_json::from_str(&told).unwrap();
    assert_eq!(facts, read);
    let report = judge(&facts);
    (facts, report)
}

/// Gives the folders and libraries below a mount point what its options bring about.
fn mount(facts: &mut Facts, mounts: &BTreeMap<String, String>) {
    let mapped = facts.subjects.iter().flat_map(|s| &s.mapped).map(|m| m.path.clone()).collect::<Vec<_>>();
    let here = &mut facts.image.surroundings;
    for (point, option) in mounts {
        for folder in here.folders.iter_mut().filter(|f| Path::new(&f.at).starts_with(point)) {
            match option.as_str() {
                "ro" => folder.access = WriteAccess::ReadOnly,
                "noexec" => folder.noexec = true,
                "full" => folder.space = Some(Space { total: 1 << 20, free: 4096 }),
                other => panic!("{point}: {other}"),
            }
        }
        if option == "noexec" {
            let below = mapped.iter().map(Path::new).filter(|path| path.starts_with(point));
            let dirs: BTreeSet<&Path> = below.filter_map(Path::parent).collect();
            here.noexec.extend(dirs.iter().map(|dir| dir.to_str().unwrap().to_owned()));
        }
    }
}

fn profile(table: &toml::Table) -> Profile {
    let mut whole = serde_json::to_value(Profile::default()).unwrap();
    for (key, value) in serde_json::to_value(table).unwrap().as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

fn severity(finding: &Finding) -> &'static str {
    match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

fn run(id: &str, base: &Tree, case: &Case) -> Result<(), Failed> {
    let (facts, report) = report(base, case);
    let mut wrong = formats::check(&facts, &report);
    let verdict = serde_json::to_value(report.verdict).unwrap();
    if verdict != case.verdict.as_str() {
        wrong.push(format!("verdict: {verdict}, not {:?}", case.verdict));
    }
    let found: BTreeSet<String> = report.findings.iter().map(|f| format!("{} {}", severity(f), f.id)).collect();
    let expected: BTreeSet<String> = case.findings.iter().cloned().collect();
    if found != expected {
        wrong.push(format!("findings: {found:?}, not {expected:?}"));
    }
    let by_status = [
        (Status::Broken, &case.broken, "broken"),
        (Status::Unknown, &case.unknown, "unknown"),
        (Status::NotApplicable, &case.not_applicable, "not applicable"),
    ];
    for (status, expected, name) in by_status {
        let Some(expected) = expected else { continue };
        let own: Vec<&str> = report.capabilities.iter().filter(|c| c.status == status).map(|c| c.id.as_str()).collect();
        if own != *expected {
            wrong.push(format!("{name}: {own:?}, not {expected:?}"));
        }
    }
    let ours: Vec<&Finding> = report.findings.iter().filter(|f| f.id == id).collect();
    let sees = ours.iter().filter_map(|f| f.user_sees.clone());
    let proofs = ours.iter().flat_map(|f| {
        let evidence =
            f.evidence.iter().map(|e| format!("{}: {} ({})", e.label, e.value, e.source.as_deref().unwrap_or("")));
        evidence.chain([f.message.clone(), f.subject.clone()])
    });
    let cures = ours.iter().flat_map(|f| {
        let lines = [&f.fix.dockerfile, &f.fix.docker_run, &f.fix.kubernetes];
        lines.into_iter().flatten().cloned().chain([f.fix.summary.clone()])
    });
    let parts: [(&str, &Option<String>, Vec<String>); 3] = [
        ("sees", &case.sees, sees.collect()),
        ("proof", &case.proof, proofs.collect()),
        ("fix", &case.fix, cures.collect()),
    ];
    for (name, expected, own) in parts {
        if let Some(expected) = expected
            && !own.iter().any(|text| text.contains(expected.as_str()))
        {
            wrong.push(format!("{name}: {expected:?} is not in {own:#?}"));
        }
    }
    for finding in &report.findings {
        let has_fix = !finding.fix.summary.is_empty();
        if finding.evidence.is_empty() || (!has_fix && finding.severity != Severity::Note) {
            wrong.push(format!("{} comes without its proof or its cure", finding.id));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// Every finding id has a file with a case where it fires and one where it does not.
fn is_complete(files: &BTreeMap<String, Cases>, of_size: &BTreeMap<String, size::Cases>) -> Result<(), Failed> {
    let fires = |case: &Case, id: &str| case.findings.iter().any(|f| f.ends_with(&format!(" {id}")));
    let lacking = |id: &str| match files.get(id) {
        None => Some(format!("{id}: no file")),
        Some(cases) if !cases.case.iter().any(|c| fires(c, id)) => Some(format!("{id}: no case where it fires")),
        Some(cases) if cases.case.iter().all(|c| fires(c, id)) => Some(format!("{id}: no case where it must not")),
        Some(_) => None,
    };
    let is_of_size = |id: &str| id.starts_with("size-") || id.starts_with("sec-");
    let lacking: Vec<String> = pages::all()
        .iter()
        .filter_map(|page| if is_of_size(page.id) { size::lacking(of_size, page.id) } else { lacking(page.id) })
        .collect();
    if lacking.is_empty() { Ok(()) } else { Err(lacking.join("\n").into()) }
}

/// Of a process that loads, and of one with each kind of error.
fn libs() -> Result<(), Failed> {
    let text = "from = ['torch']\n[elf]\n'/app' = { program = true, needed = ['libx.so', 'liby.so', 'libz.so', 'libc.so.6'], \
                wants = ['libz.so@V2'], refers = ['nowhere'] }\n'/usr/lib/libz.so' = { versions = ['V1'] }\n\
                '/usr/lib/liby.so' = { cut = 70 }\n";
    let built = Built::new(&toml::from_str(&expand(text)).unwrap());
    let mut wrong = Vec::new();
    let mut kinds = 0;
    for target in ["torch", "/app"] {
        let request = request(built.root(), &[target.to_owned()], Environment::default());
        let mut examination = Examination::open(request).unwrap();
        let workload = examination.workload();
        let json = examination.with_process(&workload[0], |process, errors| {
            kinds += errors.len();
            mldoctor::report::libs::json(process, errors).unwrap()
        });
        wrong.extend(schema("libs", &json.unwrap()));
    }
    if kinds < 2 {
        wrong.push(format!("only {kinds} errors"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn main() {
    let arguments = Arguments::from_args();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut files: BTreeMap<String, Cases> = BTreeMap::new();
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let text = expand(&fs::read_to_string(&path).unwrap());
            let cases = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            files.insert(path.file_stem().unwrap().to_str().unwrap().to_owned(), cases);
        }
    }
    let mut trials = Vec::new();
    for (id, cases) in &files {
        for case in &cases.case {
            let (own, base, case) = (id.clone(), cases.base.clone(), case.clone());
            trials.push(Trial::test(format!("{id}: {}", case.name), move || run(&own, &base, &case)));
        }
    }
    let of_size = size::read();
    trials.extend(size::trials(&of_size));
    trials.push(Trial::test("every finding id has its cases", move || is_complete(&files, &of_size)));
    trials.push(Trial::test("the list is as its schema says", || {
        let wrong = schema("list", &list_json(pages::all()).unwrap());
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
    }));
    trials.push(Trial::test("libs are as their schema says", libs));
    libtest_mimic::run(&arguments, trials).exit();
}
