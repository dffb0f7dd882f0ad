//! What was observed: everything that judging needs, and nothing that has to be read again.
//!
//! Facts can be written to a file and judged elsewhere (`mldoctor facts`, `check --facts`), so a broken node's facts
//! are a regression test. Paths are those inside the image. Nothing here is an opinion.

pub mod driver;
pub mod kernels;
pub mod node;
pub mod size;
pub mod surroundings;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use driver::Driver;
pub use kernels::{Kernels, Module, Role};
pub use node::Node;
pub use surroundings::Surroundings;

use crate::driver::{Cuda, Gpu, Version};
use crate::loader::Failure;
use crate::probe::Call;
use crate::python::distributions::RecordProblem;

/// Schema of a facts file.
pub const SCHEMA: &str = "mldoctor.facts/1";

/// An observation that may not have been possible.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observed<T> {
    /// It was seen.
    Seen(T),
    /// It was looked for and is not there.
    Absent(String),
    /// Reading it was refused or failed, so nothing is known.
    Failed(String),
    /// It was not asked for.
    #[default]
    NotAsked,
}

impl<T> Observed<T> {
    /// The value, if seen.
    pub fn seen(&self) -> Option<&T> {
        match self {
            Self::Seen(value) => Some(value),
            Self::Absent(_) | Self::Failed(_) | Self::NotAsked => None,
        }
    }
}

/// Everything that was observed in one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// [`SCHEMA`]
    pub schema: String,
    /// What was examined.
    pub target: Target,
    /// The image around the workload.
    pub image: Image,
    /// The interpreter, for workloads that need one.
    pub python: Option<Observed<Python>>,
    /// How the probe was started, or why it was not, if anything was to be tried for real.
    #[serde(default)]
    pub probe: Observed<String>,
    /// The container and the node.
    #[serde(default)]
    pub node: Option<Node>,
    /// The driver.
    #[serde(default)]
    pub driver: Option<Driver>,
    /// The CUDA libraries of the workload.
    #[serde(default)]
    pub libraries: Vec<driver::Library>,
    /// What recorded runs used elsewhere, compared with this image.
    #[serde(default)]
    pub recorded: Option<Recorded>,
    /// What was tried, one entry per capability.
    pub subjects: Vec<Subject>,
    /// The GPUs and the driver that the workload is to be judged for, where they are not those of this node.
    #[serde(default)]
    pub assumed: Assumed,
    /// The device code of each target, where it was asked for.
    #[serde(default)]
    pub kernels: Vec<Kernels>,
    /// Triton's assemblers and the CUDA releases that they are of, where device code was asked for.
    #[serde(default)]
    pub assemblers: Vec<(String, Cuda)>,
}

/// A node that the user names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assumed {
    /// `--gpu`; empty where those count that are seen.
    pub gpus: Vec<Gpu>,
    /// `--driver`
    pub driver: Option<Version>,
}

impl Assumed {
    /// Whether anything is.
    pub fn is_named(&self) -> bool {
        !self.gpus.is_empty() || self.driver.is_some()
    }

    /// The GPUs that are named, or those that the driver tells of.
    pub fn gpus(&self, driver: Option<&Driver>) -> Vec<Gpu> {
        match (self.gpus.as_slice(), driver) {
            ([], Some(driver)) => driver.to_compute_on(),
            (named, _) => named.to_vec(),
        }
    }
}

/// What recorded runs used, compared with the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Things that were compared.
    pub compared: usize,
    /// Things that are not there.
    pub missing: Vec<RecordedMissing>,
    /// Libraries that are there, but are not the recorded ones.
    pub differs: Vec<RecordedDiffers>,
    /// What the profile says that it does not know.
    pub not_observed: Vec<String>,
}

/// Something that a recorded run used and that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedMissing {
    /// `program`, `library`, `module` or `file`.
    pub kind: String,
    /// Its path in the recorded image.
    pub path: String,
    /// Programs that used it.
    pub by: Vec<String>,
}

/// A library that is there, but is not the recorded one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedDiffers {
    /// Its path.
    pub path: String,
    /// SONAME and build id as recorded.
    pub recorded: String,
    /// Those that it has here.
    pub found: String,
    /// Whether the SONAME is another, so that nothing which needs the old one finds it.
    pub other_soname: bool,
}

/// What was examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The root directory as given.
    pub root: String,
    /// Processor, as `uname -m` prints it.
    pub arch: String,
    /// `image` or `container`.
    pub scope: Scope,
    /// The targets that were named or found.
    pub workload: Vec<String>,
    /// Capabilities named with `--require`.
    pub require: Vec<String>,
    /// GPUs that the workload must see, if that was named.
    #[serde(default)]
    pub expect_gpus: Option<u32>,
    /// Bytes that must be free on each GPU, if that was named.
    #[serde(default)]
    pub min_free_memory: Option<u64>,
}

/// How much is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The image alone: no driver is expected.
    Image,
    /// The running container.
    Container,
}

/// The image around the workload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `ID`, `VERSION_ID` of `os-release`, such as `debian` and `12`.
    pub os: Option<Os>,
    /// The dynamic loader that the workload uses.
    pub loader: Option<LoaderFacts>,
    /// Environment variables that bear on loading, without anything that looks like a credential.
    pub env: Vec<(String, String)>,
    /// The user that the workload runs as.
    pub uid: Option<u32>,
    /// What lies in the directories of libraries.
    pub libraries: Libraries,
    /// Where the workload writes and builds.
    #[serde(default)]
    pub surroundings: Surroundings,
}

/// What lies in the directories that a loader or a framework searches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Libraries {
    /// Files with the names of driver libraries.
    pub driver_files: Vec<DriverFile>,
    /// Copies of NVIDIA's libraries, by SONAME.
    pub cuda_copies: Vec<LibraryCopy>,
    /// Links with the name of a library that lead nowhere.
    pub broken_links: Vec<BrokenLink>,
    /// Whether the scan for the three lists above was cut short, and why.
    pub scan_cut: Option<String>,
}

impl Libraries {
    /// Marks what something that was tried has mapped, and what the name of the driver leads to.
    pub fn mark_used(&mut self, subjects: &[Subject], libcuda: Option<&str>) {
        let mapped = subjects.iter().flat_map(|s| &s.mapped).map(|m| m.path.as_str());
        let mapped: BTreeSet<&str> = mapped.chain(libcuda).collect();
        for copy in &mut self.cuda_copies {
            copy.used = mapped.contains(copy.path.as_str());
        }
        for file in &mut self.driver_files {
            file.used = mapped.contains(file.path.as_str());
        }
    }
}

/// From `os-release`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Os {
    /// `ID`
    pub id: String,
    /// `ID_LIKE`
    pub like: String,
    /// `VERSION_ID`
    pub version: String,
}

/// The dynamic loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoaderFacts {
    /// Its path.
    pub path: String,
    /// `glibc` or `musl`.
    pub libc: String,
    /// Release of glibc, such as `2.36`.
    pub release: Option<String>,
}

/// A file with the name of a driver library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverFile {
    /// Its path.
    pub path: String,
    /// What it is.
    pub kind: DriverFileKind,
    /// Size in bytes.
    pub size: u64,
    /// Branches of the host's driver that one from a `cuda-compat` package works with, where it says so
    /// (`.note.cuda.fwd_compatibility`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branches: Option<Vec<u32>>,
    /// Whether it was mounted into the container rather than being part of the image.
    pub mounted: bool,
    /// Whether something that was tried has mapped it.
    pub used: bool,
}

/// What a file with the name of a driver library is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriverFileKind {
    /// A driver library.
    Driver,
    /// A linker stub from the CUDA toolkit.
    Stub,
    /// From a `cuda-compat` package.
    Compat,
    /// No bytes: the mount target of an earlier injection.
    Empty,
}

/// A copy of a library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibraryCopy {
    /// Its SONAME.
    pub soname: String,
    /// Its path, links resolved.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Whether something that was tried has mapped it.
    pub used: bool,
}

/// A link that leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokenLink {
    /// The link.
    pub path: String,
    /// Its target as written.
    pub to: String,
}

/// The interpreter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Python {
    /// As named or found.
    pub executable: String,
    /// The executable behind links.
    pub real: String,
    /// Such as `3.11`.
    pub version: String,
    /// `sys.path` of `python -c`.
    pub sys_path: Vec<String>,
    /// Suffixes of extension modules, in the order tried.
    pub suffixes: Vec<String>,
    /// Installed distributions that matter to what was tried.
    pub distributions: Vec<Distribution>,
    /// Distributions that the targets' own require, directly or not, with those themselves; none where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<Vec<String>>,
}

impl Python {
    /// Whether a distribution is installed.
    pub fn has(&self, name: &str) -> bool {
        self.distributions.iter().any(|d| d.name == name)
    }
}

/// An installed distribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// Normalised name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Directory that it is installed in.
    pub location: String,
    /// Files that RECORD lists and that are missing or have another size.
    pub problems: Vec<RecordProblem>,
}

/// One capability, and what was tried to find out about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// Capability id, such as `import:torch`.
    pub capability: String,
    /// What was tried, in the order in which the workload does it.
    pub steps: Vec<Step>,
    /// Why it does not apply here, if so.
    pub not_applicable: Option<String>,
    /// Why nothing could be found out, if so.
    pub unknown: Option<String>,
    /// A capability without which this one cannot work.
    pub needs: Option<String>,
    /// What the process had mapped at the end.
    pub mapped: Vec<Mapped>,
}

impl Subject {
    /// The module that was to be imported, if there is none of that name.
    pub fn lost_module(&self) -> Option<&str> {
        let module = self.capability.strip_prefix("import:")?;
        let is_lost = |step: &Step| matches!(&step.outcome, StepOutcome::NotFound(absence) if absence.kind == "module" && absence.name == module);
        self.steps.iter().any(is_lost).then_some(module)
    }

    /// A capability about which nothing is known yet.
    pub fn new(capability: impl Into<String>) -> Self {
        Self {
            capability: capability.into(),
            steps: Vec::new(),
            not_applicable: None,
            unknown: None,
            needs: None,
            mapped: Vec::new(),
        }
    }
}

/// A mapped library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapped {
    /// Its SONAME, or file name where it has none.
    pub soname: String,
    /// Its path, links resolved.
    pub path: String,
    /// The rule that found it.
    pub via: String,
    /// Where it would come from without `LD_LIBRARY_PATH`, if from elsewhere.
    pub without_ld_library_path: Option<String>,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What, such as `import torch._C`.
    pub what: String,
    /// How the workload does it, which decides the message.
    pub how: How,
    /// The path or name.
    pub file: String,
    /// Import chain or caller that leads there, outermost first.
    pub because: Vec<String>,
    /// Whether the capability depends on it.
    pub weight: Weight,
    /// What came of it.
    pub outcome: StepOutcome,
    /// The whole message where it is not just the loader's.
    pub user_sees: Option<String>,
}

impl Step {
    /// Whether it did what it was for.
    pub fn is_ok(&self) -> bool {
        matches!(self.outcome, StepOutcome::Ok(_))
    }

    /// Whether the capability fails with it.
    pub fn breaks(&self) -> bool {
        self.weight == Weight::Required && !self.is_ok()
    }

    /// The import statement that led to it last, as `file:line`.
    pub fn importer(&self) -> Option<&String> {
        self.because.iter().rev().find(|by| by.contains(".py:") || by.contains(".pyx:"))
    }
}

/// How a step loads something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// The kernel starts a program.
    Exec,
    /// Python imports an extension module.
    Import,
    /// Python's `ctypes`.
    Ctypes,
    /// A library calls `dlopen`.
    Dlopen,
    /// A function is called in a child process.
    Call,
    /// A file, program or header is looked for.
    File,
}

/// What depends on a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// The capability fails without it.
    Required,
    /// The workload goes on without it.
    Optional,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepOutcome {
    /// It works; the path that was mapped or found.
    Ok(String),
    /// It does not load.
    Failed(Failure),
    /// A file, program or module is not there.
    NotFound(Absence),
    /// A call that was made in a child process.
    Call(Call),
}

/// The note of an [`Absence`] that tells of a directory which an editable installation leads to, and which is not there.
pub const LOST: &str = "does not exist";

/// Something that is not there and that the loader has no part in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    /// What kind of thing, such as `c-compiler`, `python-header`, `module`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Places that were looked at.
    pub searched: Vec<String>,
    /// More to show as proof: label, value.
    pub notes: Vec<(String, String)>,
}
