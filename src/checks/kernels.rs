//! Compiled device code and the GPUs that it is to run on.
//!
//! What decides is the code of the target itself, and that of the framework which it uses: if no file of either has code
//! for a GPU, its first kernel fails there. A file that lacks it beside others that do not may never be asked, so that
//! is a warning; NVIDIA's libraries choose among more kernels than are seen, and are not judged.

use std::collections::BTreeSet;

use super::hardware::{driver, gpus, source};
use super::{Check, Rule, Surveyed, file_name, finding};
use crate::driver::{
    Capability, Code, ComputeCapability, Cuda, Gpu, Isa, Reach, Release, Target, Variant, is_general, reach,
};
use crate::facts::{Facts, Kernels, Module, Role, Scope};
use crate::finding::{self, Finding, Fix, Status};

/// The check.
pub static CHECK: Check = Check {
    ids: &[
        "arch-a-suffix",
        "arch-ext-only",
        "arch-jetson-87",
        "arch-jit-slow",
        "arch-nokernel-new",
        "arch-too-old",
        "ver-ptx-222",
    ],
    rule: Rule::Survey(survey),
};

/// What comes of the code of one file on one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Runs,
    /// It runs once the driver has compiled PTX of this version.
    Compiled(Isa),
    /// The finding that tells why it does not run.
    Fails(&'static str),
    Unknown,
}

/// What comes of a target on one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlook<'k> {
    /// It has no device code.
    Nothing,
    /// Its machine code runs.
    Native,
    /// Some of it is compiled by the driver first, from PTX of this version.
    Compiled(Isa),
    /// These files of it do not run, for the reason that the finding tells.
    Fails(Vec<(&'static str, Vec<&'k Module>)>),
    /// It cannot be told, and why.
    Unknown(String),
}

/// The files that decide about a target: its own, and those of a framework, the largest first.
fn decisive(kernels: &Kernels) -> [Vec<&Module>; 2] {
    let of = |role: Role| kernels.modules.iter().filter(move |m| m.role == role);
    let mapped: Vec<&Module> = of(Role::Own).filter(|m| m.mapped).collect();
    // What loads its files by itself, or does not import, is judged by all that it has.
    let own = if mapped.is_empty() { of(Role::Own).collect() } else { mapped };
    [own, of(Role::Framework).filter(|m| m.mapped).collect()].map(|mut set: Vec<&Module>| {
        let size = |m: &Module| m.code.amounts().iter().map(|a| a.bytes).sum::<u64>();
        if let Some(largest) = (0..set.len()).max_by_key(|at| size(set[*at])) {
            set.swap(0, largest);
        }
        set
    })
}

/// What comes of a target on a GPU.
pub fn outlook<'k>(facts: &Facts, kernels: &'k Kernels, gpu: &Gpu) -> Outlook<'k> {
    let mut outlook = Outlook::Nothing;
    let (mut fails, mut unknown) = (Vec::new(), None);
    for set in decisive(kernels).into_iter().filter(|s| !s.is_empty()) {
        let fates: Vec<Fate> = set.iter().map(|m| fate(facts, kernels, m, gpu)).collect();
        if let Some(id) = all_fail(&fates) {
            fails.push((id, set));
            continue;
        }
        for fate in fates.iter() {
            outlook = match (outlook, fate) {
                (Outlook::Compiled(known), Fate::Compiled(isa)) => Outlook::Compiled(known.max(*isa)),
                (_, Fate::Compiled(isa)) => Outlook::Compiled(*isa),
                (Outlook::Nothing, Fate::Runs) => Outlook::Native,
                (before, _) => before,
            };
        }
        if !fates.iter().any(|f| matches!(f, Fate::Runs | Fate::Compiled(_))) {
            let why = set.iter().find_map(|m| m.code.unread.as_deref());
            unknown = Some(format!("{}: {}", short(&set[0].path), why.unwrap_or("it depends on driver and CUDA")));
        }
    }
    if fails.is_empty() { unknown.map_or(outlook, Outlook::Unknown) } else { Outlook::Fails(fails) }
}

fn survey(facts: &Facts) -> Surveyed {
    let gpus = gpus(facts);
    let mut surveyed = if gpus.is_empty() {
        Surveyed::not_applicable("no GPU is known; --gpu names one")
    } else {
        Surveyed::found(facts.kernels.iter().flat_map(|k| findings(facts, k, &gpus)).collect())
    };
    surveyed.capabilities = facts.kernels.iter().filter_map(|k| capability(facts, k, &gpus)).collect();
    surveyed
}

/// The capability, before anything that was found breaks it.
fn capability(facts: &Facts, kernels: &Kernels, gpus: &[Gpu]) -> Option<finding::Capability> {
    let is_asked = facts.target.scope == Scope::Container || facts.target.require.contains(&id(kernels));
    let (status, summary) = if decisive(kernels).iter().all(Vec::is_empty) {
        // Without a GPU, nobody has asked for what is not there.
        if gpus.is_empty() && !is_asked {
            return None;
        }
        (Status::NotApplicable, "no compiled device code among its files".to_owned())
    } else if gpus.is_empty() {
        let compiled = format!("compiled for {}; --gpu names one to judge for", targets(kernels));
        (if is_asked { Status::Unknown } else { Status::NotApplicable }, compiled)
    } else {
        let unknown = gpus.iter().find_map(|gpu| match outlook(facts, kernels, gpu) {
            Outlook::Unknown(why) => Some(why),
            _ => None,
        });
        unknown.map_or((Status::Ok, String::new()), |why| (Status::Unknown, why))
    };
    Some(finding::Capability::new(id(kernels), status, summary))
}

fn id(kernels: &Kernels) -> String {
    format!("kernels:{}", kernels.target)
}

/// What its own code is compiled for: `sm_80 sm_90 compute_90`.
fn targets(kernels: &Kernels) -> String {
    let [own, framework] = decisive(kernels);
    let set = if own.is_empty() { framework } else { own };
    let codes: BTreeSet<Code> = set.iter().flat_map(|m| m.code.amounts()).map(|a| a.code).collect();
    codes.into_iter().map(Code::target_name).collect::<Vec<_>>().join(" ")
}

/// What breaks the first file, if none of a set runs.
fn all_fail(fates: &[Fate]) -> Option<&'static str> {
    let fails = |fate: &Fate| match fate {
        Fate::Fails(id) => Some(*id),
        _ => None,
    };
    fates.iter().map(fails).collect::<Option<Vec<_>>>()?.first().copied()
}

/// File name up to its first dot: `flash_attn_2_cuda` of `flash_attn_2_cuda.cpython-311-x86_64-linux-gnu.so`.
fn short(path: &str) -> &str {
    let name = file_name(path);
    name.split('.').next().filter(|n| !n.is_empty()).unwrap_or(name)
}

fn fate(facts: &Facts, kernels: &Kernels, module: &Module, gpu: &Gpu) -> Fate {
    match reach(&module.code, gpu.cc, kernels.cuda) {
        Reach::Native => Fate::Runs,
        Reach::Unknown => Fate::Unknown,
        // Whether Tegra takes the code of other GPUs depends on the release of CUDA.
        Reach::No if gpu.cc.is_tegra() && kernels.cuda.is_none() => Fate::Unknown,
        Reach::No => {
            let [_, framework] = decisive(kernels);
            let framework_runs = framework.iter().any(|m| reach(&m.code, gpu.cc, kernels.cuda) == Reach::Native);
            Fate::Fails(why(module, gpu.cc, module.role != Role::Framework && framework_runs))
        }
        Reach::Ptx(isa) => match driver(facts).map(|driver| driver.compiles(isa)) {
            None | Some(Some(true)) => Fate::Compiled(isa),
            Some(Some(false)) => Fate::Fails("ver-ptx-222"),
            Some(None) => Fate::Unknown,
        },
    }
}

/// Why a file has no code for a GPU.
fn why(module: &Module, gpu: ComputeCapability, framework_runs: bool) -> &'static str {
    let code = || module.code.regions.iter().flat_map(|r| &r.code).map(|a| a.code);
    let plain = |t: Target| Target { variant: Variant::Plain, ..t };
    // The letter alone keeps it from running.
    let would_run = |c: Code| match c {
        Code::Sass(t) => plain(t).runs_on(gpu, None) && !t.runs_on(gpu, None),
        Code::Ptx(t, _) => plain(t).compiles_for(gpu) && !t.compiles_for(gpu),
    };
    let newer = |c: Code| c.target().cc > gpu;
    let desktop = |c: Code| matches!(c, Code::Sass(t) if t.cc.major == gpu.major && t.cc.minor <= gpu.minor);
    if gpu.is_tegra() && code().any(desktop) {
        "arch-jetson-87"
    } else if code().any(would_run) {
        "arch-a-suffix"
    } else if framework_runs {
        "arch-ext-only"
    } else if code().all(newer) {
        "arch-too-old"
    } else {
        "arch-nokernel-new"
    }
}

fn findings(facts: &Facts, kernels: &Kernels, gpus: &[Gpu]) -> Vec<Finding> {
    let mut found = Vec::new();
    for gpu in gpus {
        let fate = |m: &Module| fate(facts, kernels, m, gpu);
        for set in decisive(kernels) {
            let fates: Vec<Fate> = set.iter().map(|m| fate(m)).collect();
            if let Some(cause) = all_fail(&fates) {
                let first = lacks(facts, kernels, set[0], gpu, cause).breaks(&id(kernels));
                found.push(set[1..].iter().fold(first, |f, m| f.proof("as well", &m.path, None)));
                continue;
            }
            for (module, fate) in set.iter().zip(fates) {
                match fate {
                    Fate::Fails(_) => found.extend(perhaps(facts, kernels, module, gpu)),
                    Fate::Compiled(isa) => found.push(slow(module, gpu, isa)),
                    Fate::Runs | Fate::Unknown => {}
                }
            }
        }
        let others = kernels.modules.iter().filter(|m| m.role == Role::Other && m.mapped);
        for module in others.filter(|m| matches!(fate(m), Fate::Fails(_))) {
            found.extend(perhaps(facts, kernels, module, gpu));
        }
    }
    found
}

/// A file without code for the GPU that the workload may never ask. Code for one architecture alone is there to be
/// chosen, and its absence elsewhere is meant.
fn perhaps(facts: &Facts, kernels: &Kernels, module: &Module, gpu: &Gpu) -> Option<Finding> {
    let found = lacks(facts, kernels, module, gpu, "arch-ext-only");
    let warning = Finding { severity: super::pages::Severity::Warning, ..found };
    module.code.regions.iter().any(is_general).then_some(warning)
}

/// A file does not run on a GPU.
fn lacks(facts: &Facts, kernels: &Kernels, module: &Module, gpu: &Gpu, id: &str) -> Finding {
    let name = short(&module.path);
    let amounts = module.code.amounts();
    let has = list(&amounts.iter().map(|a| a.code.target_name()).collect::<Vec<_>>());
    let driver = driver(facts);
    let message = match (id, &driver) {
        ("ver-ptx-222", Some(driver)) => {
            format!(
                "{name} has only PTX for {}, of a version that driver {} does not compile",
                gpu.describe(),
                driver.name()
            )
        }
        ("arch-a-suffix", _) => {
            format!("{name} has nothing for a {}: its code is for one architecture alone, {has}", gpu.describe())
        }
        _ => format!("{name} has no code for a {}, only {has}", gpu.describe()),
    };
    let mut found = finding(id, &module.path, message);
    found.user_sees = Some(match id {
        "ver-ptx-222" => "CUDA error: the provided PTX was compiled with an unsupported toolchain.".into(),
        _ => "CUDA error: no kernel image is available for execution on the device".into(),
    });
    let entries: Vec<String> = amounts.iter().map(|a| format!("{} ×{}", a.code, a.entries)).collect();
    found = found.proof("holds", entries.join(", "), Some(".nv_fatbin".into()));
    if let ("ver-ptx-222", Some(driver)) = (id, &driver) {
        found = found.proof("driver", driver.name(), driver.brings());
    }
    let fix = fix(kernels, module, gpu, id, driver.is_some());
    found.proof("GPU", gpu.describe(), Some(source(facts).into())).cure(fix)
}

fn fix(kernels: &Kernels, module: &Module, gpu: &Gpu, id: &str, driver_known: bool) -> Fix {
    let sm = gpu.cc.sm();
    if id == "ver-ptx-222" && driver_known {
        let driver = module
            .code
            .amounts()
            .iter()
            .filter_map(|a| a.code.isa())
            .max()
            .and_then(Release::of_ptx)
            .and_then(|r| r.driver.as_ref());
        let newer = driver.map_or_else(|| "a newer driver".to_owned(), |d| format!("driver {d} or later"));
        return Fix::words(format!("use {newer}, or compile machine code for sm_{sm} in"));
    }
    if id == "arch-jetson-87" {
        return Fix::words("use the wheels of JetPack for this board, or a build with CUDA 13.2 or later");
    }
    let is_torch = module.role == Role::Framework || kernels.distribution.as_deref() == Some("torch");
    if is_torch {
        return match index(gpu.cc) {
            Some(index) => Fix::dockerfile(
                format!("install a torch that is built for sm_{sm}"),
                format!("RUN pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{index}"),
            ),
            None => Fix::words(format!("install a torch that is built for sm_{sm}")),
        };
    }
    let package = kernels.distribution.as_deref().unwrap_or("<extension>");
    Fix::dockerfile(
        format!("take a release that is built for sm_{sm}, or build it here for the GPUs that it is for"),
        format!(
            "RUN TORCH_CUDA_ARCH_LIST=\"{}+PTX\" pip install --no-build-isolation --no-binary {package} {package}",
            gpu.cc
        ),
    )
}

/// The newest of PyTorch's wheel indexes that its releases share whose CUDA has a compute capability.
fn index(gpu: ComputeCapability) -> Option<&'static str> {
    let known = Capability::of(gpu)?;
    match (known.first, known.last) {
        (_, Some(last)) if last < (Cuda { major: 13, minor: 0 }) => Some("cu126"),
        (Some(first), _) if first <= (Cuda { major: 12, minor: 6 }) => Some("cu126"),
        (Some(first), _) if first.major == 12 => Some("cu128"),
        _ => Some("cu130"),
    }
}

/// A file runs only after the driver has compiled it.
fn slow(module: &Module, gpu: &Gpu, isa: Isa) -> Finding {
    let driver = Release::of_ptx(isa).and_then(|r| Some((r.driver.as_ref()?, r.cuda)));
    let from = driver.map_or_else(String::new, |(d, cuda)| format!(", which takes driver {d} (CUDA {cuda}) or later"));
    let message =
        format!("{} has only PTX for {}: it is compiled at first use{from}", short(&module.path), gpu.describe());
    let ptx: Vec<String> = module.code.amounts().iter().map(|a| a.code.to_string()).collect();
    finding("arch-jit-slow", &module.path, message).proof("holds", ptx.join(", "), None).cure(Fix {
        summary: "keep what is compiled, or compile machine code in".into(),
        dockerfile: Some("ENV CUDA_CACHE_PATH=/var/cache/cuda CUDA_CACHE_MAXSIZE=4294967296".into()),
        docker_run: Some("docker run -v cuda-cache:/var/cache/cuda …".into()),
        kubernetes: None,
    })
}

/// `sm_80`, `sm_80 and sm_90`, `sm_80, sm_86 and sm_90`.
fn list(names: &[String]) -> String {
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "no code that was read".into(),
    }
}
