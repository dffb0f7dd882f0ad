//! Which GPUs the compiled code of a workload runs on, and which drivers it wants: `mldoctor.matrix/1`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::checks::driver_age::runtimes;
use crate::checks::hardware::{self, in_image};
use crate::checks::kernels::{Outlook, outlook};
use crate::driver::{
    CAPABILITIES, Capability, Code, ComputeCapability, Cuda, Gpu, Reach, Release, Version, minimum, reach,
};
use crate::facts::{Facts, Role};

/// The whole answer. Its shape is a contract.
#[derive(Debug, Serialize)]
pub struct Matrix<'f> {
    schema: &'static str,
    /// Files with device code.
    pub modules: Vec<Module<'f>>,
    /// GPUs: those named, or the current ones.
    pub gpus: Vec<Row<'f>>,
    /// Drivers.
    pub driver: Driver<'f>,
    /// Device code that was not examined.
    pub not_examined: Vec<Unexamined<'f>>,
}

/// A file with device code.
#[derive(Debug, Serialize)]
pub struct Module<'f> {
    /// Its path.
    pub path: &'f str,
    /// Targets of its machine code.
    pub sass: Vec<String>,
    /// Its PTX.
    pub ptx: Vec<Ptx>,
    /// Bytes in the file for each target.
    pub bytes_per_target: BTreeMap<String, u64>,
    /// Whose it is.
    #[serde(skip)]
    pub role: Role,
    /// How it gets to each of the GPUs.
    #[serde(skip)]
    pub reach: Vec<Reach>,
}

/// PTX for one target.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Ptx {
    target: String,
    isa: String,
}

/// What comes of the workload on one GPU.
#[derive(Debug, Serialize)]
pub struct Row<'f> {
    /// Its name.
    pub name: String,
    /// Its compute capability.
    pub cc: ComputeCapability,
    /// `native`, `ptx`, `no`, or `unknown` where not everything was read.
    pub status: &'static str,
    /// The oldest driver that runs the workload on it, where that is known.
    pub needs_driver: Option<String>,
    /// Files without code for it that keep the workload from running.
    pub blockers: Vec<&'f str>,
}

/// Drivers that the workload runs with.
#[derive(Debug, Serialize)]
pub struct Driver<'f> {
    /// The oldest that runs it, by the runtime that it loads.
    pub min: Option<&'f Version>,
    /// The one that came with the CUDA that it is built with, which also compiles its PTX.
    pub recommended: Option<&'f Version>,
    /// `cuda-compat` in the image.
    pub compat: Option<Compat<'f>>,
    /// The release of CUDA that it is built with.
    #[serde(skip)]
    pub cuda: Option<Cuda>,
}

/// A driver in the image that the container toolkit may use instead of the host's.
#[derive(Debug, Serialize)]
pub struct Compat<'f> {
    /// Its version.
    pub version: Version,
    /// Branches of the host's driver that it works with, where it says so.
    pub branches: Option<&'f [u32]>,
}

/// Something that was not examined.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Unexamined<'f> {
    /// What.
    pub what: &'f str,
    /// Why.
    pub why: &'f str,
}

/// Compares the device code in the facts with the GPUs in them, or with the current ones.
pub fn matrix(facts: &Facts) -> Matrix<'_> {
    let named = hardware::gpus(facts);
    let gpus = if named.is_empty() { current(&facts.target.arch) } else { named };
    let driver = driver(facts);
    let mut modules: Vec<Module<'_>> = Vec::new();
    let mut not_examined: Vec<Unexamined<'_>> = Vec::new();
    let mut unexamined = |what, why| {
        let new = Unexamined { what, why };
        if !not_examined.contains(&new) {
            not_examined.push(new);
        }
    };
    for kernels in &facts.kernels {
        for module in &kernels.modules {
            if modules.iter().all(|known| known.path != module.path) {
                let before = modules.partition_point(|known| known.role <= module.role);
                modules.insert(before, of_module(module, &gpus, kernels.cuda));
            }
            if let Some(why) = &module.code.unread {
                unexamined(&module.path, why);
            }
        }
        kernels.unexamined.iter().for_each(|(what, why)| unexamined(what, why));
    }
    let gpus = gpus.into_iter().map(|gpu| row(facts, gpu, driver.min)).collect();
    Matrix { schema: "mldoctor.matrix/1", modules, gpus, driver, not_examined }
}

/// GPUs that are sold now. Boards with an integrated one have processors of their own.
fn current(arch: &str) -> Vec<Gpu> {
    let shown = CAPABILITIES.iter().filter(|c| !c.is_tegra || arch == "aarch64");
    shown.filter_map(|c| Some(Gpu { name: c.shown?.to_owned(), cc: c.cc })).collect()
}

fn of_module<'f>(module: &'f crate::facts::Module, gpus: &[Gpu], cuda: Option<Cuda>) -> Module<'f> {
    let amounts = module.code.amounts();
    let mut bytes_per_target = BTreeMap::new();
    for amount in &amounts {
        *bytes_per_target.entry(amount.code.target_name()).or_default() += amount.bytes;
    }
    let sass = amounts.iter().map(|a| a.code).filter(|c| c.isa().is_none());
    let mut ptx: Vec<Ptx> = Vec::new();
    // PTX that was linked is linked again from its parts.
    for code in module.code.regions.iter().flat_map(|r| &r.code).map(|a| a.code) {
        let entry = code.isa().map(|isa| Ptx { target: code.target_name(), isa: isa.to_string() });
        ptx.extend(entry.filter(|new| !ptx.contains(new)));
    }
    let reach = gpus.iter().map(|gpu| reach(&module.code, gpu.cc, cuda));
    Module {
        path: &module.path,
        sass: sass.map(Code::target_name).collect(),
        ptx,
        bytes_per_target,
        role: module.role,
        reach: reach.collect(),
    }
}

fn row<'f>(facts: &'f Facts, gpu: Gpu, min: Option<&Version>) -> Row<'f> {
    let mut blockers: Vec<&str> = Vec::new();
    let (mut native, mut isa, mut unknown) = (false, None, false);
    for kernels in &facts.kernels {
        match outlook(facts, kernels, &gpu) {
            Outlook::Nothing => {}
            Outlook::Native => native = true,
            Outlook::Compiled(version) => isa = isa.max(Some(version)),
            Outlook::Fails(sets) => {
                for path in sets.iter().flat_map(|(_, set)| set).map(|m| m.path.as_str()) {
                    if !blockers.contains(&path) {
                        blockers.push(path);
                    }
                }
            }
            Outlook::Unknown(_) => unknown = true,
        }
    }
    let status = match (blockers.is_empty(), isa) {
        (false, _) => "no",
        _ if unknown => "unknown",
        (_, Some(_)) => "ptx",
        _ if native => "native",
        _ => "unknown",
    };
    // The driver has to know the runtime, the GPU and the PTX.
    let knows_gpu = Capability::of(gpu.cc).and_then(|c| Release::of(c.first?)?.driver.as_ref());
    let compiles = isa.and_then(Release::of_ptx).and_then(|r| r.driver.as_ref());
    let wants = [min, knows_gpu, compiles].into_iter().flatten();
    let newest = wants.reduce(|a, b| if a.reaches(b) { a } else { b });
    let unknown_ptx = isa.is_some() && compiles.is_none();
    let needs_driver = newest.filter(|_| matches!(status, "native" | "ptx") && !unknown_ptx).map(Version::to_string);
    Row { name: gpu.name, cc: gpu.cc, status, needs_driver, blockers }
}

fn driver(facts: &Facts) -> Driver<'_> {
    let runtime = runtimes(facts).map(|(cuda, _)| cuda).max();
    // NVIDIA's libraries may be of another release.
    let modules = facts.kernels.iter().flat_map(|k| &k.modules).filter(|m| m.role != Role::Nvidia);
    let regions = modules.flat_map(|m| &m.code.regions);
    let newest = regions.flat_map(|r| &r.code).filter_map(|a| a.code.isa()).max();
    let of_ptx = newest.and_then(Release::of_ptx).map(|r| r.cuda);
    let cuda = facts.kernels.iter().filter_map(|k| k.cuda).max().max(of_ptx);
    Driver {
        min: runtime.and_then(minimum),
        recommended: cuda.and_then(Release::of).and_then(|r| r.driver.as_ref()),
        compat: in_image(facts).map(|(version, branches)| Compat { version, branches }),
        cuda,
    }
}
