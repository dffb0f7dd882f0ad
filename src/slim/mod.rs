//! `mldoctor slim`: the smallest part of an image that can still do what is required of it.
//!
//! Two ways. *Safe* starts from everything and drops what no required capability can reach, each group with the reason.
//! *Recorded* starts from nothing and keeps what profiles of [`crate::record`] name, what the loader model says that the
//! required capabilities map, and the few files that every container wants. In both, what the model needs stays, and
//! nothing that stays is changed, but for the loader's cache, which lists what is left.

pub mod copy;
mod mentions;
mod recorded;
mod safe;
pub mod tar;
pub mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rustc_hash::FxHashSet;

use crate::facts::{Facts, Observed, StepOutcome};
use crate::image::elf::Machine;
use crate::image::{EntryKind, Rootfs, programs};
use crate::loader::Cache;
use crate::record::profile::Profile;
use tree::{NodeId, Tree};

/// How much goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Mode {
    /// Drop only what no required capability can reach
    #[default]
    Safe,
    /// Keep only what profiles recorded, and what the required capabilities load
    Recorded,
}

/// Why a group of files stays or goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason {
    /// Whether it stays.
    pub stays: bool,
    /// What it is.
    pub group: String,
    /// Why.
    pub why: String,
}

/// What stays and what goes.
pub struct Plan {
    /// The image.
    pub tree: Tree,
    /// For each node of the tree, why it stays or goes: index into `reasons`.
    of: Vec<usize>,
    reasons: Vec<Reason>,
    /// Files that are written anew.
    pub generated: BTreeMap<PathBuf, Vec<u8>>,
    /// What a reader must know.
    pub notes: BTreeSet<String>,
}

/// Files, bytes and reason of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Why it stays or goes.
    pub reason: Reason,
    /// Number of files and links.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Where glibc has it.
const CACHE: &str = "/etc/ld.so.cache";

/// What planning starts from.
pub struct Wanted<'w> {
    /// How much goes.
    pub mode: Mode,
    /// Judged before: what each capability maps.
    pub facts: &'w Facts,
    /// Runs of the workload.
    pub profile: &'w Profile,
    /// Directories that are no part of the image, such as the one that the result goes to.
    pub without: &'w [PathBuf],
}

impl Wanted<'_> {
    /// Whether a capability must still work: the named ones, or all where none is named. Compiling on the GPU behind the
    /// user's back (`torch.jit`) is no choice of his.
    fn is_required(&self, capability: &str) -> bool {
        let named = &self.facts.target.require;
        let always = ["import:", "load:"].iter().any(|p| capability.starts_with(p)) || capability.ends_with(".jit");
        named.is_empty() || always || named.iter().any(|n| n == capability)
    }

    /// Files that the required capabilities map, execute or read, with the capability.
    fn reached(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        for subject in self.facts.subjects.iter().filter(|s| self.is_required(&s.capability)) {
            let mapped = subject.mapped.iter().map(|m| m.path.as_str());
            let steps = subject.steps.iter().filter_map(|step| match &step.outcome {
                StepOutcome::Ok(path) => Some(path.as_str()),
                _ => None,
            });
            for path in mapped.chain(steps).filter(|p| p.starts_with('/')) {
                found.entry(PathBuf::from(path)).or_insert_with(|| subject.capability.clone());
            }
        }
        if let Some(Observed::Seen(python)) = &self.facts.python {
            for path in [&python.executable, &python.real] {
                found.insert(PathBuf::from(path), "the interpreter".into());
            }
        }
        if let Some(loader) = &self.facts.image.loader {
            found.insert(PathBuf::from(&loader.path), "the dynamic loader".into());
        }
        found
    }
}

/// Decides for every file of the image.
pub fn plan(rootfs: &Rootfs, wanted: &Wanted<'_>) -> Plan {
    let tree = Tree::walk(rootfs, wanted.without);
    let mut needed: BTreeMap<NodeId, String> = BTreeMap::new();
    for (path, capability) in wanted.reached() {
        let started = programs::interpreters(rootfs, &path);
        for file in std::iter::once(path).chain(started) {
            let real = rootfs.canonicalize(&file).ok();
            if let Some(id) = real.and_then(|real| tree.id(&real)) {
                needed.entry(id).or_insert_with(|| capability.clone());
            }
        }
    }
    let count = tree.nodes.len();
    let mut plan = Plan {
        tree,
        of: vec![usize::MAX; count],
        reasons: Vec::new(),
        generated: BTreeMap::new(),
        notes: wanted.profile.not_observed.iter().map(|what| format!("not observed: {what}")).collect(),
    };
    for path in &plan.tree.not_seen {
        plan.notes.insert(format!("not looked into: {}", path.display()));
    }
    match wanted.mode {
        Mode::Safe => safe::decide(&mut plan, rootfs, wanted, &needed),
        Mode::Recorded => recorded::decide(&mut plan, rootfs, wanted, &needed),
    }
    plan.keep_links(rootfs);
    plan.keep_directories();
    plan.rebuild_cache(rootfs);
    plan
}

impl Plan {
    fn reason(&mut self, stays: bool, group: &str, why: &str) -> usize {
        let known = self.reasons.iter().position(|r| r.stays == stays && r.group == group && r.why == why);
        known.unwrap_or_else(|| {
            self.reasons.push(Reason { stays, group: group.to_owned(), why: why.to_owned() });
            self.reasons.len() - 1
        })
    }

    fn set(&mut self, id: NodeId, reason: usize) {
        self.of[id] = reason;
    }

    /// Whether a node stays; what was not decided goes.
    pub fn stays(&self, id: NodeId) -> bool {
        self.reasons.get(self.of[id]).is_some_and(|r| r.stays)
    }

    /// A link stays where what it leads to stays, and goes with it.
    fn keep_links(&mut self, rootfs: &Rootfs) {
        let stays = self.reason(true, "links", "they lead to files that stay");
        let goes = self.reason(false, "links", "they lead to files that go");
        let mut kept: FxHashSet<PathBuf> = FxHashSet::default();
        for (id, node) in self.tree.nodes.iter().enumerate() {
            if self.stays(id) {
                kept.extend(node.path.ancestors().map(Path::to_owned));
            }
        }
        let mut links: Vec<(NodeId, PathBuf)> = Vec::new();
        for (id, node) in self.tree.nodes.iter().enumerate().filter(|(_, n)| n.kind == EntryKind::Link) {
            match rootfs.canonicalize(&node.path) {
                // What lies outside of what was walked, such as /proc, is not decided here.
                Ok(target) if self.tree.id(&target).is_some() => links.push((id, target)),
                _ => {}
            }
        }
        // A link that stays makes its directory stay, to which another link may lead.
        loop {
            let before = links.len();
            links.retain(|(id, target)| {
                let leads = kept.contains(target);
                if leads {
                    self.of[*id] = stays;
                    kept.extend(self.tree.nodes[*id].path.ancestors().map(Path::to_owned));
                }
                !leads
            });
            if links.len() == before {
                break;
            }
        }
        for (id, _) in links {
            self.of[id] = goes;
        }
    }

    /// The directories on the way to what stays.
    fn keep_directories(&mut self) {
        let reason = self.reason(true, "directories", "they hold files that stay");
        let mut above: Vec<NodeId> = Vec::new();
        for (id, node) in self.tree.nodes.iter().enumerate() {
            if self.stays(id) {
                above.extend(node.path.ancestors().skip(1).filter_map(|p| self.tree.id(p)));
            }
        }
        for id in above {
            if !self.stays(id) {
                self.of[id] = reason;
            }
        }
    }

    /// The loader's cache, with the libraries that are left. It would be harmless as it is, but for the entries that lead
    /// nowhere and hide what is in a default directory.
    fn rebuild_cache(&mut self, rootfs: &Rootfs) {
        let Some(cache) = Cache::read(rootfs, Path::new(CACHE), Machine::host()) else { return };
        let left = cache.rewritten(|path| {
            let real = rootfs.canonicalize(path).ok();
            real.and_then(|real| self.tree.id(&real)).is_some_and(|id| self.stays(id))
        });
        let reason = self.reason(true, "loader cache", "written anew for the libraries that stay");
        if let Some(id) = self.tree.id(Path::new(CACHE)) {
            self.of[id] = reason;
            self.generated.insert(PathBuf::from(CACHE), left);
        }
    }

    /// What stays, in the order in which it can be made.
    pub fn kept(&self) -> impl Iterator<Item = &tree::Node> {
        let ids = 0..self.tree.nodes.len();
        let mut kept: Vec<NodeId> = ids.filter(|id| self.stays(*id)).collect();
        kept.sort_by(|a, b| self.tree.nodes[*a].path.cmp(&self.tree.nodes[*b].path));
        kept.into_iter().map(|id| &self.tree.nodes[id])
    }

    /// Bytes of all that stays.
    pub fn kept_bytes(&self) -> u64 {
        self.groups().iter().filter(|g| g.reason.stays).map(|g| g.bytes).sum()
    }

    /// Everything by reason: what goes first, the largest first.
    pub fn groups(&self) -> Vec<Group> {
        let none =
            Reason { stays: false, group: "not used".into(), why: "no profile and no capability names it".into() };
        let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
        for (id, node) in self.tree.nodes.iter().enumerate() {
            let reason = self.of[id];
            let new = || Group { reason: self.reasons.get(reason).unwrap_or(&none).clone(), files: 0, bytes: 0 };
            let group = groups.entry(reason).or_insert_with(new);
            group.files += u64::from(node.kind != EntryKind::Dir);
            group.bytes += node.bytes;
        }
        let mut groups: Vec<Group> = groups.into_values().filter(|g| g.files > 0).collect();
        groups.sort_by(|a, b| (a.reason.stays, b.bytes, &a.reason).cmp(&(b.reason.stays, a.bytes, &b.reason)));
        groups
    }
}
