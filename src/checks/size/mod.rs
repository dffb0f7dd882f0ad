//! What of an image can go, and what must not lie in it. Pure, as all checks are.
//!
//! A rule finds candidates by name and place; what the workload may touch stays, and the report says why. Everything that
//! some process of the workload maps stays without asking. Without `--require`, all that the frameworks can do counts as
//! needed.

mod base;
mod building;
mod caches;
mod cuda;
mod hygiene;
mod layers;
mod surplus;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytesize::ByteSize;

use super::finding;
use crate::facts::Facts;
use crate::facts::size::{Kind, Package, Size};
use crate::finding::{Finding, Fix};
use crate::image::tree::File;

pub use base::Base;

/// A finding with what it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What was found.
    pub finding: Finding,
    /// Bytes that its cure gives back, or that it occupies where nothing goes.
    pub bytes: u64,
    /// Number of files.
    pub files: usize,
    /// Whether these bytes can go.
    pub goes: bool,
}

/// Something that looks superfluous and is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stays {
    /// The finding that it would be.
    pub id: &'static str,
    /// Bytes.
    pub bytes: u64,
    /// Number of files.
    pub files: usize,
    /// What may touch it.
    pub why: String,
}

/// Bytes and files of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// Bytes occupied.
    pub bytes: u64,
    /// Number of files.
    pub files: usize,
}

impl Sum {
    fn add(&mut self, file: &File) {
        self.bytes += file.bytes();
        self.files += 1;
    }
}

/// Where the bytes are, and which can go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SizeReport {
    /// Bytes occupied, as `du` counts.
    pub bytes: u64,
    /// Bytes in files, as an archive of the image counts.
    pub apparent: u64,
    /// Bytes that can go, each counted once.
    pub can_go: u64,
    /// What the image stands on.
    pub base: Base,
    /// Packages, largest first.
    pub packages: Vec<(Package, Sum)>,
    /// What no package brought.
    pub unowned: Sum,
    /// Kinds of files, largest first.
    pub kinds: Vec<(Kind, Sum)>,
    /// Directories, largest first.
    pub directories: Vec<(String, u64)>,
    /// Findings: what can go, largest first, then the others.
    pub items: Vec<Item>,
    /// What stays, largest first.
    pub stays: Vec<Stays>,
}

/// Candidates of one rule.
struct Candidate {
    subject: String,
    message: String,
    /// Place → files.
    places: BTreeMap<String, Vec<usize>>,
    /// Files of which a part goes → bytes of that part.
    parts: BTreeMap<String, u64>,
    /// What may touch them.
    stays: Option<String>,
    /// Whether there is nothing that should go: a note.
    note: bool,
    fix: Fix,
}

impl Candidate {
    /// Nothing yet.
    fn new(subject: &str, message: impl Into<String>) -> Self {
        Self {
            subject: subject.to_owned(),
            message: message.into(),
            places: BTreeMap::new(),
            parts: BTreeMap::new(),
            stays: None,
            note: false,
            fix: Fix::default(),
        }
    }

    fn add(&mut self, place: impl Into<String>, file: usize) {
        self.add_all(place, [file]);
    }

    fn add_all(&mut self, place: impl Into<String>, files: impl IntoIterator<Item = usize>) {
        self.places.entry(place.into()).or_default().extend(files);
    }

    fn files(&self) -> impl Iterator<Item = usize> + '_ {
        self.places.values().flatten().copied()
    }
}

/// How candidates are found.
struct Rule {
    id: &'static str,
    find: fn(&Seen<'_>) -> Vec<Candidate>,
}

/// In this order: a file that one rule has is left out by those after it.
static RULES: &[Rule] = &[
    Rule { id: "size-cache-pip", find: caches::pip },
    Rule { id: "size-cache-uv", find: caches::uv },
    Rule { id: "size-cache-conda", find: caches::conda },
    Rule { id: "size-cache-packages", find: caches::packages },
    Rule { id: "size-left-packages", find: caches::left },
    Rule { id: "drv-baked-libs", find: cuda::driver },
    Rule { id: "size-profilers", find: cuda::profilers },
    Rule { id: "size-cuda-twice", find: cuda::twice },
    Rule { id: "size-compilers", find: building::compilers },
    Rule { id: "size-static-libs", find: building::static_libraries },
    Rule { id: "size-headers", find: building::headers },
    Rule { id: "size-tests", find: surplus::tests },
    Rule { id: "size-docs", find: surplus::documentation },
    Rule { id: "size-debug", find: surplus::debug },
    Rule { id: "size-duplicates", find: surplus::duplicates },
    Rule { id: "size-bytecode", find: surplus::bytecode },
    Rule { id: "size-device-code", find: cuda::other_gpus },
    Rule { id: "size-lower-layers", find: layers::hidden },
    Rule { id: "sec-credentials", find: hygiene::credentials },
    Rule { id: "sec-no-healthcheck", find: hygiene::healthcheck },
    Rule { id: "sec-root", find: hygiene::root },
    Rule { id: "sec-setuid", find: hygiene::setuid },
    Rule { id: "sec-world-writable", find: hygiene::world_writable },
];

/// The ids of all rules.
pub fn ids() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|r| r.id)
}

/// What the rules work with.
struct Seen<'s> {
    facts: &'s Facts,
    size: &'s Size,
    /// Files that some process of the workload maps or starts.
    used: Vec<bool>,
    /// Files that a rule before has.
    gone: Vec<bool>,
    /// What compiles at run time.
    compiles: Option<String>,
}

impl Seen<'_> {
    /// The path of a file as text.
    fn path(&self, file: usize) -> String {
        self.size.tree.path(file).to_string_lossy().into_owned()
    }

    /// The directory of a file.
    fn dir(&self, file: usize) -> &Path {
        &self.size.tree.dirs[self.size.tree.files[file].dir].path
    }

    /// The name of a file.
    fn name(&self, file: usize) -> &[u8] {
        self.size.tree.files[file].entry.name.as_bytes()
    }

    /// Files that no rule before has and no process maps.
    fn files(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.size.tree.files.len()).filter(|at| self.is_left(*at))
    }

    /// Whether no rule before has a file and no process maps it.
    fn is_left(&self, file: usize) -> bool {
        !self.gone[file] && !self.used[file]
    }

    /// Those of one kind.
    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = usize> + '_ {
        self.files().filter(move |at| self.size.kinds[*at] == kind)
    }

    /// Files below a directory, used ones too.
    fn below(&self, dir: usize) -> impl Iterator<Item = usize> + '_ {
        let tree = &self.size.tree;
        tree.below(dir).into_iter().flat_map(|d| tree.dirs[d].files.clone()).filter(|at| !self.gone[*at])
    }

    /// A used file, if some of these are.
    fn first_used(&self, files: impl Iterator<Item = usize>) -> Option<String> {
        files.into_iter().find(|at| self.used[*at]).map(|at| format!("the workload uses {}", self.path(at)))
    }

    /// Whether a distribution is installed.
    fn has_distribution(&self, name: &str) -> bool {
        self.size.packages.iter().any(|p| p.name == name)
    }
}

/// Distributions that compile when they are used, whatever the workload asks of PyTorch: they start nvcc or a C
/// compiler, or give CUDA's headers and libdevice to NVRTC and libNVVM.
const COMPILING: &[&str] = &[
    "apache-tvm",
    "cupy-cuda11x",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "deepspeed",
    "deep-gemm",
    "flashinfer-python",
    "jax",
    "jaxlib",
    "numba",
    "numba-cuda",
    "pycuda",
    "pyopencl",
    "pyximport",
    "sglang",
    "taichi",
    "tensorflow",
    "tilelang",
    "transformer-engine",
    "vllm",
];

/// Why compilers, headers and static libraries stay, if they do.
fn compiles(facts: &Facts, size: &Size) -> Option<String> {
    let has = |name: &str| size.packages.iter().any(|p| p.name == name);
    let required = &facts.target.require;
    let compiling = |cap: &str| {
        // torch.sparse: its block-sparse products are kernels of Triton (torch/sparse/_triton_ops.py).
        cap.ends_with(".compile") || cap.ends_with(".extensions") || (cap.ends_with(".sparse") && has("triton"))
    };
    if let Some(cap) = required.iter().find(|c| compiling(c)) {
        return Some(format!("{cap} is required, and compiles"));
    }
    if let Some(name) = COMPILING.iter().find(|n| has(n)) {
        return Some(format!("{name} compiles when it is used"));
    }
    if let Some((at, what)) = size.sources.compiling.first() {
        return Some(format!("{} {what}", size.tree.path(*at).display()));
    }
    if required.is_empty() && has("torch") {
        return Some("torch.compile and torch.extensions may use it; --require tells what is needed".into());
    }
    facts.target.workload.is_empty().then(|| "no workload is known; name it".into())
}

/// Judges.
pub fn judge(facts: &Facts, size: &Size) -> SizeReport {
    let tree = &size.tree;
    let mapped = facts.subjects.iter().flat_map(|s| &s.mapped).map(|m| m.path.as_str());
    let program = facts.python.as_ref().and_then(|p| p.seen()).map(|p| p.real.as_str());
    let none = vec![false; tree.files.len()];
    let mut seen = Seen { facts, size, used: none.clone(), gone: none, compiles: compiles(facts, size) };
    for at in mapped.chain(program).filter_map(|path| tree.file_at(Path::new(path))) {
        seen.used[at] = true;
    }
    let (mut items, mut stays, mut within) = (Vec::new(), Vec::new(), 0);
    for rule in RULES {
        for candidate in (rule.find)(&seen) {
            let files = candidate.files().count();
            let bytes = tree.freed(candidate.files()) + candidate.parts.values().sum::<u64>();
            if let Some(why) = candidate.stays {
                stays.push(Stays { id: rule.id, bytes, files, why });
                continue;
            }
            let goes = !rule.id.starts_with("sec-") && !candidate.note;
            if goes {
                within += candidate.parts.values().sum::<u64>();
                for at in candidate.files() {
                    seen.gone[at] = true;
                }
            }
            items.push(item(rule.id, candidate, &seen, bytes, files, goes));
        }
    }
    items.retain(|i: &Item| !i.goes || i.bytes > 0);
    stays.retain(|s| s.bytes > 0);
    items.sort_by(|a, b| (b.goes, b.bytes, &a.finding.id).cmp(&(a.goes, a.bytes, &b.finding.id)));
    stays.sort_by_key(|s| Reverse(s.bytes));
    let (packages, unowned) = packages(size);
    SizeReport {
        bytes: tree.allocated(),
        apparent: tree.apparent(),
        can_go: tree.freed((0..tree.files.len()).filter(|at| seen.gone[*at])) + within,
        base: base::of(facts, size),
        packages,
        unowned,
        kinds: kinds(size),
        directories: directories(size),
        items,
        stays,
    }
}

/// `5.7 GB`, as registries and `docker images` count.
pub fn human(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

fn item(id: &str, candidate: Candidate, seen: &Seen<'_>, bytes: u64, files: usize, goes: bool) -> Item {
    let whole = candidate.places.iter().map(|(place, files)| {
        let bytes = seen.size.tree.freed(files.iter().copied());
        let count = if files.len() == 1 { "1 file".to_owned() } else { format!("{} files", files.len()) };
        (place, bytes, format!("{}, {count}", human(bytes)))
    });
    let parts = candidate.parts.iter().map(|(place, bytes)| (place, *bytes, human(*bytes)));
    let mut places: Vec<(&String, u64, String)> = whole.chain(parts).collect();
    places.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let mut found = finding(id, candidate.subject, candidate.message).cure(candidate.fix);
    for (place, _, weight) in places {
        found = found.proof("place", place, goes.then_some(weight));
    }
    Item { finding: found, bytes, files: files + candidate.parts.len(), goes }
}

fn packages(size: &Size) -> (Vec<(Package, Sum)>, Sum) {
    let mut sums = vec![Sum::default(); size.packages.len()];
    let mut unowned = Sum::default();
    for (file, owner) in size.tree.files.iter().zip(&size.owners) {
        owner.map_or(&mut unowned, |o| &mut sums[o]).add(file);
    }
    let mut packages: Vec<_> = size.packages.iter().cloned().zip(sums).collect();
    packages.sort_by(|a, b| b.1.bytes.cmp(&a.1.bytes).then(a.0.name.cmp(&b.0.name)));
    (packages, unowned)
}

fn kinds(size: &Size) -> Vec<(Kind, Sum)> {
    let mut sums: BTreeMap<Kind, Sum> = BTreeMap::new();
    for (file, kind) in size.tree.files.iter().zip(&size.kinds) {
        sums.entry(*kind).or_default().add(file);
    }
    let mut kinds: Vec<_> = sums.into_iter().collect();
    kinds.sort_by_key(|(_, sum)| Reverse(sum.bytes));
    kinds
}

/// Entries of the list of directories before the largest is no longer split.
const DIRECTORIES: usize = 40;

/// The image in parts: again and again the largest directory is replaced by those that it holds.
fn directories(size: &Size) -> Vec<(String, u64)> {
    let tree = &size.tree;
    let totals = tree.totals();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); tree.dirs.len()];
    for at in 1..tree.dirs.len() {
        children[tree.dirs[at].parent].push(at);
    }
    let own = |at: usize| totals[at] - children[at].iter().map(|c| totals[*c]).sum::<u64>();
    let (mut whole, mut rest) = (vec![0], Vec::new());
    while whole.len() + rest.len() < DIRECTORIES {
        let Some(largest) =
            (0..whole.len()).filter(|n| !children[whole[*n]].is_empty()).max_by_key(|n| totals[whole[*n]])
        else {
            break;
        };
        let split = whole.swap_remove(largest);
        rest.push(split);
        whole.extend(&children[split]);
    }
    let shown = |at: usize| tree.dirs[at].path.to_string_lossy().into_owned();
    let mut parts: Vec<(String, u64)> = whole.into_iter().map(|at| (shown(at), totals[at])).collect();
    parts.extend(rest.into_iter().map(|at| (format!("{}/*", shown(at).trim_end_matches('/')), own(at))));
    parts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    parts
}

/// `RUN rm -rf` of some paths, in lines that can be read.
fn remove<'p>(paths: impl IntoIterator<Item = &'p String>) -> String {
    let paths: Vec<String> = paths.into_iter().map(|p| quoted(p)).collect();
    format!("RUN rm -rf {}", paths.join(" \\\n    "))
}

/// A path as a shell takes it.
fn quoted(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._+-@%:,=".contains(&b);
    if path.bytes().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', "'\\''")) }
}
