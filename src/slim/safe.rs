//! Everything stays but what no required capability can reach.
//!
//! Each rule drops one group, and says why nothing reaches it. What a required capability maps or reads by the loader model
//! and the framework data, and what a profile recorded, stays whatever the rules say. Programs of the system, its
//! shells and its libraries stay: what a workload starts as a child process cannot be known from files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rustc_hash::{FxHashMap, FxHashSet};

use super::mentions;
use super::tree::{Node, NodeId};
use super::{Plan, Wanted};
use crate::facts::Observed;
use crate::frameworks::{self, Feature};
use crate::image::elf::{Elf, Machine};
use crate::image::{EntryKind, Rootfs};

/// Which files a rule is about.
enum Which {
    /// All that is below a directory; `*` in the last part stands for anything.
    Below(&'static [&'static str]),
    /// What is in a directory of this name, but for modules of Python.
    In(&'static str),
    /// Files whose name ends so.
    Suffix(&'static [&'static str]),
}

/// A group that goes.
struct Rule {
    group: &'static str,
    why: &'static str,
    which: Which,
    /// It stays if a required capability compiles at run time.
    compiling: bool,
}

const RULES: &[Rule] = &[
    Rule {
        group: "package caches and lists",
        why: "only the package managers read them, and fetch them anew",
        which: Which::Below(&[
            "/var/cache/apt",
            "/var/lib/apt/lists",
            "/var/cache/debconf",
            "/var/cache/apk",
            "/var/cache/dnf",
            "/var/cache/yum",
            "/root/.cache/pip",
            "/root/.cache/uv",
            "/opt/conda/pkgs",
            "/root/.cargo/registry",
        ]),
        compiling: false,
    },
    Rule {
        group: "logs and temporary files",
        why: "left over from the build",
        which: Which::Below(&["/var/log", "/tmp", "/var/tmp"]),
        compiling: false,
    },
    Rule {
        group: "documentation",
        why: "people read it, programs do not",
        which: Which::Below(&[
            "/usr/share/doc",
            "/usr/share/doc-base",
            "/usr/share/man",
            "/usr/share/info",
            "/usr/share/lintian",
            "/usr/local/share/doc",
            "/usr/local/share/man",
            "/usr/local/man",
        ]),
        compiling: false,
    },
    Rule {
        group: "translated messages",
        why: "without them programs speak English",
        which: Which::Below(&["/usr/share/locale"]),
        compiling: false,
    },
    Rule {
        group: "CUDA toolkit",
        why: "compilers, debuggers and profilers; no required capability compiles or profiles",
        which: Which::Below(&[
            "/usr/local/cuda*/bin",
            "/usr/local/cuda*/nvvm",
            "/usr/local/cuda*/nvml",
            "/usr/local/cuda*/compute-sanitizer",
            "/usr/local/cuda*/extras",
            "/usr/local/cuda*/src",
            "/usr/local/cuda*/tools",
            "/usr/local/cuda*/doc",
            "/usr/local/cuda*/samples",
            "/usr/local/cuda*/libnvvp",
            "/usr/local/cuda*/nsight*",
            "/opt/nvidia/nsight*",
        ]),
        compiling: true,
    },
    Rule {
        group: "static libraries",
        why: "only a linker reads them, and no required capability compiles",
        which: Which::Suffix(&[".a", ".la"]),
        compiling: true,
    },
    Rule {
        group: "headers",
        why: "only a compiler reads them, and no required capability compiles",
        which: Which::In("include"),
        compiling: true,
    },
];

/// Packages of test code; the standard library has its own.
const TESTS: &[&str] = &["tests", "test"];
/// Parts that use an extension module of another package only where it is there.
const OPTIONAL_USERS: &[(&str, &str)] = &[("triton", "torch.sparse")];
/// Compilers for GPUs, as sources name them.
const COMPILERS: [&str; 2] = ["nvrtc", "nvcc"];
/// Sections of code for GPUs, in which no names of libraries are.
const GPU_SECTIONS: &[&[u8]] = &[b".nv_fatbin", b"__nv_relfatbin"];

/// Decides for every file.
pub fn decide(plan: &mut Plan, rootfs: &Rootfs, wanted: &Wanted<'_>, needed: &BTreeMap<NodeId, String>) {
    let site: Vec<PathBuf> = site_packages(wanted);
    everything(plan, &site);
    let compiles =
        features().any(|f| !f.tools.is_empty() && wanted.is_required(&f.id)) || compiles_by_itself(plan, rootfs, &site);
    let mut dropped: Vec<(NodeId, usize)> = Vec::new();
    for rule in RULES.iter().filter(|r| !(r.compiling && compiles)) {
        let reason = plan.reason(false, rule.group, rule.why);
        let nodes = plan.tree.nodes.iter().enumerate();
        dropped.extend(nodes.filter(|(_, n)| rule.which.is(n)).map(|(id, _)| (id, reason)));
    }
    for (id, reason) in dropped {
        plan.set(id, reason);
    }
    packages_of_features(plan, rootfs, wanted, &site);
    tests(plan, rootfs, &site);
    for (&id, capability) in needed {
        let reason = plan.reason(true, "loaded", &format!("{capability} needs it"));
        plan.set(id, reason);
    }
    let recorded = plan.reason(true, "recorded", "a recorded run opened it");
    for (path, used) in &wanted.profile.files {
        let real = rootfs.canonicalize(Path::new(path)).ok();
        if used.opened
            && let Some(id) = real.and_then(|real| plan.tree.id(&real))
        {
            plan.set(id, recorded);
        }
    }
    libraries(plan, rootfs, wanted, &site, &needed.keys().copied().collect());
}

fn features() -> impl Iterator<Item = &'static Feature> {
    frameworks::all().iter().flat_map(|f| &f.feature)
}

fn site_packages(wanted: &Wanted<'_>) -> Vec<PathBuf> {
    let Some(Observed::Seen(python)) = &wanted.facts.python else { return Vec::new() };
    let of_packages = |p: &&String| p.ends_with("/site-packages") || p.ends_with("/dist-packages");
    python.sys_path.iter().filter(of_packages).map(PathBuf::from).collect()
}

impl Which {
    fn is(&self, node: &Node) -> bool {
        if node.kind == EntryKind::Special {
            return true;
        }
        match self {
            Self::Below(dirs) => dirs.iter().any(|dir| is_below(&node.path, dir)),
            Self::In(dir) => {
                let suffix = node.path.extension().and_then(|e| e.to_str()).unwrap_or_default();
                let within = |p: &Path| p.iter().any(|part| part == *dir);
                node.path.parent().is_some_and(within) && !["py", "pyc", "so"].contains(&suffix)
            }
            Self::Suffix(suffixes) => {
                let name = node.path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                node.kind != EntryKind::Dir && suffixes.iter().any(|s| name.ends_with(s))
            }
        }
    }
}

/// Whether a path is inside the directory `dir`, in whose parts a `*` at the end stands for anything.
fn is_below(path: &Path, dir: &str) -> bool {
    let mut parts = path.components();
    let begins = Path::new(dir).components().all(|expected| {
        let Some(part) = parts.next() else { return false };
        match expected.as_os_str().to_str().and_then(|e| e.strip_suffix('*')) {
            Some(prefix) => part.as_os_str().to_str().is_some_and(|p| p.starts_with(prefix)),
            None => part == expected,
        }
    });
    begins && parts.next().is_some()
}

/// Everything stays at first, in groups that tell what is big.
fn everything(plan: &mut Plan, site: &[PathBuf]) {
    for id in 0..plan.tree.nodes.len() {
        let path = &plan.tree.nodes[id].path;
        let package = site.iter().find_map(|s| path.strip_prefix(s).ok()).and_then(|r| r.iter().next());
        let (group, why) = match package.and_then(|p| p.to_str()) {
            Some(package) => (format!("Python package {package}"), "it is installed for the workload"),
            None => ("system".to_owned(), "programs may start programs, which no file tells"),
        };
        let special = plan.tree.nodes[id].kind == EntryKind::Special;
        let reason = match special {
            true => plan.reason(false, "devices and sockets", "made anew when a container starts"),
            false => plan.reason(true, &group, why),
        };
        plan.set(id, reason);
    }
}

/// Sources of Python that stay, by the top directory below site-packages.
fn sources(plan: &Plan, site: &[PathBuf]) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for (id, node) in plan.tree.nodes.iter().enumerate() {
        if node.kind != EntryKind::File || node.path.extension().is_none_or(|e| e != "py") || !plan.stays(id) {
            continue;
        }
        // Code of the workload outside of site-packages mentions what it needs, too.
        let top = site.iter().find_map(|s| node.path.strip_prefix(s).ok()?.iter().next()?.to_str());
        found.push((top.unwrap_or_default().to_owned(), node.path.clone()));
    }
    found
}

/// Whether a package compiles for the GPU when it runs, as CuPy and Numba do, whatever the frameworks' parts need.
fn compiles_by_itself(plan: &mut Plan, rootfs: &Rootfs, site: &[PathBuf]) -> bool {
    let of_framework = |top: &str| {
        top == "nvidia" || frameworks::all().iter().any(|f| f.module == top || f.feature.iter().any(|f| uses(f, top)))
    };
    let (tops, paths): (Vec<String>, Vec<PathBuf>) =
        sources(plan, site).into_iter().filter(|(top, _)| !top.is_empty() && !of_framework(top)).unzip();
    let words = COMPILERS.map(str::to_owned);
    let mentions = mentions::read(rootfs, &paths, &words, &BTreeSet::new());
    let Some(at) = mentions.iter().position(|m| !m.words.is_empty()) else { return false };
    plan.notes.insert(format!("headers and compilers stay: {} mentions one ({})", tops[at], paths[at].display()));
    true
}

fn uses(feature: &Feature, package: &str) -> bool {
    feature.imports().any(|module| module.split('.').next() == Some(package))
}

/// A package that only a part of a framework imports, where that part is not required: Triton without `torch.compile`.
fn packages_of_features(plan: &mut Plan, rootfs: &Rootfs, wanted: &Wanted<'_>, site: &[PathBuf]) {
    let mut users: BTreeMap<&str, Vec<&'static Feature>> = BTreeMap::new();
    for feature in features() {
        for module in feature.imports() {
            users.entry(module.split('.').next().unwrap_or(module)).or_default().push(feature);
        }
    }
    for (package, users) in users {
        let optional = OPTIONAL_USERS.iter().filter(|(p, _)| *p == package);
        let is_used = users.iter().any(|f| wanted.is_required(&f.id))
            || optional.clone().any(|(_, user)| wanted.is_required(user))
            || wanted.facts.target.workload.iter().any(|w| w == package)
            || wanted.profile.modules.contains_key(package);
        let tops: BTreeSet<&str> = users.iter().filter_map(|f| f.id.split('.').next()).collect();
        if is_used {
            continue;
        }
        let asked = BTreeSet::from([package.to_owned()]);
        let (names, paths): (Vec<String>, Vec<PathBuf>) =
            sources(plan, site).into_iter().filter(|(top, _)| top != package && !tops.contains(top.as_str())).unzip();
        let mentions = mentions::read(rootfs, &paths, &[], &asked);
        if let Some(at) = mentions.iter().position(|m| !m.imported.is_empty()) {
            let by = if names[at].is_empty() { "code of the workload" } else { &names[at] };
            plan.notes.insert(format!("{package} stays: {by} mentions it ({})", paths[at].display()));
            continue;
        }
        let whose: Vec<&str> = users.iter().map(|f| f.id.as_str()).collect();
        let why = format!("only {} imports it, which is not required", whose.join(", "));
        let reason = plan.reason(false, &format!("Python package {package}"), &why);
        for id in 0..plan.tree.nodes.len() {
            if site.iter().any(|s| plan.tree.nodes[id].path.starts_with(s.join(package))) {
                plan.set(id, reason);
            }
        }
    }
}

/// Test packages that nothing outside of them imports, by the name of the package that they are in.
fn tests(plan: &mut Plan, rootfs: &Rootfs, site: &[PathBuf]) {
    let is_test = |path: &Path| path.iter().any(|part| TESTS.iter().any(|t| part == *t));
    let (used, rest): (Vec<_>, Vec<_>) = sources(plan, site).into_iter().partition(|(_, p)| !is_test(p));
    if rest.is_empty() {
        return;
    }
    let asked: BTreeSet<String> = TESTS.iter().map(|t| (*t).to_owned()).collect();
    let (tops, paths): (Vec<String>, Vec<PathBuf>) = used.into_iter().unzip();
    let found = mentions::read(rootfs, &paths, &[], &asked);
    let mut needed: FxHashMap<String, PathBuf> = FxHashMap::default();
    for ((top, path), mentions) in tops.into_iter().zip(paths).zip(found) {
        if !mentions.imported.is_empty() {
            needed.entry(top).or_insert(path);
        }
    }
    let reason = plan.reason(false, "tests", "no source outside of them imports them");
    for id in 0..plan.tree.nodes.len() {
        let path = &plan.tree.nodes[id].path;
        let Some(inside) = site.iter().find_map(|s| path.strip_prefix(s).ok()) else { continue };
        let top = inside.iter().next().and_then(|t| t.to_str()).unwrap_or_default();
        if is_test(inside) && !needed.contains_key(top) && plan.stays(id) {
            plan.set(id, reason);
        }
    }
    for (top, path) in needed.into_iter().filter(|(top, _)| !top.is_empty()) {
        plan.notes.insert(format!("tests of {top} stay: {} imports them", path.display()));
    }
}

/// A shared object that nothing names.
struct Candidate {
    id: NodeId,
    /// File name up to `.so`.
    stem: String,
    /// Names that a `DT_NEEDED` may have for it.
    names: BTreeSet<String>,
    /// Features that open it, all of them not required; empty where none is known.
    opened_by: Vec<&'static str>,
}

/// NVIDIA's libraries that no file names, or that only parts open which are not required.
fn libraries(plan: &mut Plan, rootfs: &Rootfs, wanted: &Wanted<'_>, site: &[PathBuf], needed: &FxHashSet<NodeId>) {
    let mut candidates = candidates(plan, wanted, site, needed);
    let mut needed_names: FxHashSet<String> = FxHashSet::default();
    let ids: Vec<NodeId> = (0..plan.tree.nodes.len()).filter(|id| plan.stays(*id)).collect();
    let objects: Vec<&Path> = ids
        .iter()
        .filter(|id| plan.tree.nodes[**id].kind == EntryKind::File)
        .map(|id| plan.tree.nodes[*id].path.as_path())
        .filter(|p| is_object(p))
        .collect();
    let going: FxHashSet<PathBuf> = candidates.iter().map(|c| plan.tree.nodes[c.id].path.clone()).collect();
    let unknown: Vec<String> = candidates.iter().filter(|c| c.opened_by.is_empty()).map(|c| c.stem.clone()).collect();
    let read = |path: &&Path| names_in(rootfs, path, if going.contains(*path) { &[] } else { &unknown });
    let named = crate::parallel::map(&objects, read);
    let sources: Vec<PathBuf> = sources(plan, site).into_iter().map(|(_, path)| path).collect();
    let mut words: FxHashSet<String> = FxHashSet::default();
    for mentions in mentions::read(rootfs, &sources, &unknown, &BTreeSet::new()) {
        words.extend(mentions.words);
    }
    for (path, names) in objects.iter().zip(named) {
        words.extend(names.words);
        if !going.contains(*path) {
            needed_names.extend(names.needed);
        }
    }
    candidates.retain(|c| !c.names.iter().any(|n| needed_names.contains(n)) && !words.contains(&c.stem));
    for candidate in candidates {
        let why = match candidate.opened_by.as_slice() {
            [] => "no file that stays names them".to_owned(),
            parts => format!("only {} opens them, which is not required", parts.join(", ")),
        };
        let reason = plan.reason(false, "NVIDIA libraries", &why);
        plan.set(candidate.id, reason);
    }
}

fn is_object(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    name.contains(".so") || path.extension().is_none()
}

fn candidates(plan: &Plan, wanted: &Wanted<'_>, site: &[PathBuf], needed: &FxHashSet<NodeId>) -> Vec<Candidate> {
    let mut found = Vec::new();
    for (id, node) in plan.tree.nodes.iter().enumerate() {
        let name = node.path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let Some((stem, _)) = name.split_once(".so").filter(|(stem, _)| stem.starts_with("lib")) else { continue };
        if node.kind != EntryKind::File || needed.contains(&id) || !plan.stays(id) {
            continue;
        }
        let opens = |f: &&Feature| {
            f.opens.iter().flat_map(|o| &o.names).any(|n| n.split_once(".so").is_some_and(|(s, _)| s == stem))
        };
        let users: Vec<&'static Feature> = features().filter(opens).collect();
        let is_nvidia = site.iter().any(|s| node.path.starts_with(s.join("nvidia")))
            || is_below(&node.path, "/usr/local/cuda*")
            || (is_below(&node.path, "/usr/lib") && ["libcu", "libnv", "libnpp"].iter().any(|p| stem.starts_with(p)));
        if !is_nvidia && users.is_empty() || users.iter().any(|f| wanted.is_required(&f.id)) {
            continue;
        }
        let mut names = BTreeSet::from([name.to_owned()]);
        // The SONAME of a file libx.so.1.2.3 is one of its beginnings.
        names.extend(name.match_indices('.').map(|(at, _)| name[..at].to_owned()).filter(|n| n.contains(".so")));
        let opened_by = users.iter().map(|f| f.id.as_str()).collect();
        found.push(Candidate { id, stem: stem.to_owned(), names, opened_by });
    }
    found
}

#[derive(Default)]
struct Named {
    needed: BTreeSet<String>,
    words: BTreeSet<String>,
}

/// `DT_NEEDED` of an ELF file, and those of `words` that are in its bytes, outside of code for GPUs.
fn names_in(rootfs: &Rootfs, path: &Path, words: &[String]) -> Named {
    let mut named = Named::default();
    let Ok((map, _)) = rootfs.map(path) else {
        // What cannot be read may name everything.
        named.words.extend(words.iter().cloned());
        return named;
    };
    if !map.starts_with(b"\x7fELF") {
        return named;
    }
    let Ok(elf) = Elf::parse(map, Machine::host()) else { return named };
    named.needed = elf.needed().map(|n| n.to_string_lossy().into_owned()).collect();
    let own = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    for part in elf.data_without(GPU_SECTIONS) {
        for word in words.iter().filter(|w| !own.starts_with(w.as_str())) {
            if !named.words.contains(word) && contains_name(part, word) {
                named.words.insert(word.clone());
            }
        }
    }
    named
}

/// Whether `word` stands in `data`, not as the beginning of a longer name.
fn contains_name(data: &[u8], word: &str) -> bool {
    memchr::memmem::find_iter(data, word.as_bytes())
        .any(|at| data.get(at + word.len()).is_none_or(|b| !(b.is_ascii_alphanumeric() || *b == b'_')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_with_any_version() {
        assert!(is_below(Path::new("/usr/local/cuda-12.4/bin/nvcc"), "/usr/local/cuda*/bin"));
        assert!(!is_below(Path::new("/usr/local/cuda-12.4/bin"), "/usr/local/cuda*/bin"), "the directory itself");
        assert!(!is_below(Path::new("/usr/local/cuda-12.4/lib64/x"), "/usr/local/cuda*/bin"));
        assert!(is_below(Path::new("/usr/share/doc/x"), "/usr/share/doc"));
        assert!(!is_below(Path::new("/usr/share/doc-base/x"), "/usr/share/doc"));
    }

    #[test]
    fn a_longer_name_is_another_library() {
        assert!(contains_name(b"\0libcusolver.so.11\0", "libcusolver"));
        assert!(!contains_name(b"\0libcusolverMg.so.11\0", "libcusolver"));
        assert!(contains_name(b"libcusolverMg and libcusolver", "libcusolver"));
    }
}
