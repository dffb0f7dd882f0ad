//! The device code of the workload: the files that its process maps, and what else its own package holds.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::{Examination, Workload};
use crate::driver::{ComputeCapability, Cuda, Gpu};
use crate::facts::{Kernels, Module, Role, StepOutcome, Subject};
use crate::frameworks;
use crate::image::fatbin;
use crate::image::packages;
use crate::parallel;
use crate::python::distributions::{Installed, Record, normalise};

/// How much device code is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeDepth {
    /// None.
    Nothing,
    /// What decides whether the workload runs.
    Workload,
    /// That of all libraries, but not of compilers.
    Libraries,
    /// Everything that a later judgement may ask for.
    Everything,
}

/// Kinds of files that hold device code by themselves.
const BARE: &[&str] = &["cubin", "fatbin", "ptx"];
/// Directories below the user's home in which compiled device code is kept, with the variable that names another.
const CACHES: &[(&str, &str)] = &[("CUDA_CACHE_PATH", ".nv/ComputeCache"), ("TRITON_CACHE_DIR", ".triton/cache")];
/// What `ptxas` says of itself before its release.
const PTXAS: &[u8] = b"Cuda compilation tools, release ";
/// GPUs that every `ptxas` in a wheel of Triton knows.
const KNOWN_TO_PTXAS: ComputeCapability = ComputeCapability::from_sm(87);

/// A target, and the files that may hold its code.
pub struct Candidates {
    kernels: Kernels,
    /// Path, whose it is, and whether the process maps it.
    files: Vec<(PathBuf, Role, bool)>,
}

/// What a target belongs to.
#[derive(Default)]
pub struct Package<'e> {
    /// The distribution that brings it, if it is a module.
    pub distribution: Option<&'e Installed>,
    /// The shared objects of that, or the file itself.
    own: Vec<PathBuf>,
    unexamined: Vec<(String, String)>,
}

/// The files of every target that may hold code to be read; `packages` are those of the targets.
pub fn candidates(
    examination: &Examination,
    workload: &[Workload],
    subjects: &[Subject],
    packages: Vec<Package<'_>>,
) -> Vec<Candidates> {
    match examination.request.code {
        CodeDepth::Nothing => Vec::new(),
        _ => workload.iter().zip(packages).map(|(w, package)| of_target(examination, w, subjects, package)).collect(),
    }
}

/// Reads the device code of every target.
pub fn read(examination: &Examination, candidates: &[Candidates]) -> Vec<Kernels> {
    let of_target = |Candidates { kernels, files }: &Candidates| {
        let read = parallel::map(files, |(path, role, mapped)| {
            let code = fatbin::read(examination.rootfs.open(path).ok()?.into())?;
            Some(Module { path: path.to_string_lossy().into_owned(), role: *role, mapped: *mapped, code })
        });
        Kernels { modules: read.into_iter().flatten().collect(), ..kernels.clone() }
    };
    candidates.iter().map(of_target).collect()
}

fn of_target(examination: &Examination, workload: &Workload, subjects: &[Subject], package: Package<'_>) -> Candidates {
    let (target, capability) = match workload {
        Workload::Module(name) => (name.clone(), format!("import:{name}")),
        Workload::File(path) => (path.to_string_lossy().into_owned(), format!("load:{}", path.display())),
    };
    let of_target = |s: &&Subject| s.capability == capability || s.needs.as_deref() == Some(&capability);
    let mut known = HashSet::new();
    let mapped = subjects.iter().filter(of_target).flat_map(|s| &s.mapped).map(|m| m.path.as_str());
    let mapped: Vec<&str> = mapped.filter(|path| known.insert(*path)).collect();
    let kernels = Kernels {
        target,
        distribution: package.distribution.map(|distribution| distribution.name.clone()),
        cuda: mapped.iter().find_map(|p| runtime(examination, Path::new(p))),
        modules: Vec::new(),
        unexamined: package.unexamined,
    };
    let is_file = matches!(workload, Workload::File(_));
    let with_use = |path: PathBuf| {
        let is_mapped = path.to_str().is_some_and(|path| known.remove(path));
        (path, Role::Own, is_mapped || is_file)
    };
    let mut files: Vec<(PathBuf, Role, bool)> = package.own.into_iter().map(with_use).collect();
    // Python's own modules have no device code.
    let others = mapped.into_iter().filter(|path| known.contains(path) && !path.contains("/lib-dynload/"));
    for path in others.map(Path::new) {
        let role = match role(examination, path) {
            // What a program links that is nobody else's is its own, and what lies with a module though no RECORD lists it.
            Role::Other if is_file || lies_with(examination, workload, path) => Role::Own,
            role => role,
        };
        files.push((path.to_owned(), role, true));
    }
    if examination.request.code == CodeDepth::Workload {
        // Where the process maps some of its own files, the others do not count.
        let is_mapped = files.iter().any(|(_, role, mapped)| *role == Role::Own && *mapped);
        files.retain(|(_, role, mapped)| *role != Role::Nvidia && (*mapped || !is_mapped));
    }
    Candidates { kernels, files }
}

/// What a target belongs to, with the shared objects of that, if code is to be read.
pub fn package<'e>(examination: &'e Examination, target: &Workload) -> Package<'e> {
    let module = match target {
        Workload::Module(module) => module,
        Workload::File(path) => {
            let own = vec![examination.rootfs.canonicalize(path).unwrap_or_else(|_| path.clone())];
            return Package { own, ..Package::default() };
        }
    };
    let top = module.split('.').next().unwrap_or(module);
    let (mut own, mut unexamined) = (Vec::new(), Vec::new());
    let found = distribution(examination, top);
    let depth = examination.request.code;
    match &found {
        _ if depth == CodeDepth::Nothing => {}
        Some((distribution, record)) => {
            for listed in distribution.shared_objects(&examination.rootfs) {
                own.extend(examination.rootfs.canonicalize(&distribution.location.join(&listed.path)));
            }
            if depth != CodeDepth::Workload {
                for (kind, count) in record.count(BARE) {
                    let what = format!("{count} .{kind} files of {}", distribution.name);
                    unexamined.push((what, "the package chooses among them at run time".into()));
                }
            }
        }
        None => unexamined.push((top.to_owned(), "no RECORD tells which files are its own".into())),
    }
    if depth != CodeDepth::Nothing {
        unexamined.extend(caches(examination));
    }
    Package { distribution: found.map(|(distribution, _)| distribution), own, unexamined }
}

/// Whether a file lies where the module does, in its package or beside it.
fn lies_with(examination: &Examination, workload: &Workload, path: &Path) -> bool {
    let Workload::Module(module) = workload else { return false };
    top(examination, path).and_then(|top| top.split('.').next()) == module.split('.').next()
}

/// What a file is part of in the directory of `sys.path` that has it: a package, or a module by itself.
fn top<'p>(examination: &Examination, path: &'p Path) -> Option<&'p str> {
    let inside = examination.sys_path.entries.iter().find_map(|entry| path.strip_prefix(entry).ok())?;
    inside.components().next()?.as_os_str().to_str()
}

/// Whose code a file holds that is not the target's own.
fn role(examination: &Examination, path: &Path) -> Role {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match top(examination, path) {
        Some("nvidia") => Role::Nvidia,
        _ if packages::providers(&name).is_some_and(|p| p.are_nvidia()) => Role::Nvidia,
        Some(top) if frameworks::of_module(top).is_some() => Role::Framework,
        _ => Role::Other,
    }
}

/// The distribution that brings a top-level module: the one of its name, or whichever lists it.
fn distribution<'e>(examination: &'e Examination, top: &str) -> Option<(&'e Installed, Record)> {
    let named = normalise(top);
    let framework = frameworks::of_module(top);
    let is_likely = |d: &&Installed| d.name == named || framework.is_some_and(|f| f.distributions.contains(&d.name));
    let (likely, others): (Vec<_>, Vec<_>) = examination.installed.iter().partition(is_likely);
    likely.into_iter().chain(others).find_map(|distribution| {
        let record = distribution.record(&examination.rootfs);
        record.brings(top).then_some((distribution, record))
    })
}

/// The release of CUDA that a mapped `libcudart` is of: its file name tells, or the distribution that brings it.
fn runtime(examination: &Examination, path: &Path) -> Option<Cuda> {
    let version = path.file_name()?.to_str()?.strip_prefix("libcudart.so.")?;
    let of_wheel = |d: &&Installed| d.name.starts_with("nvidia-cuda-runtime") && path.starts_with(&d.location);
    let wheel = examination.installed.iter().find(of_wheel).map(|d| d.version.as_str());
    // `libcudart.so.11.0` is the name of every release of CUDA 11.
    wheel.or_else(|| Some(version).filter(|v| v.split('.').count() > 2))?.parse().ok()
}

/// Caches of compiled code that are part of the image.
fn caches(examination: &Examination) -> impl Iterator<Item = (String, String)> + '_ {
    let env = &examination.request.env;
    let home = PathBuf::from(env.non_empty("HOME").unwrap_or("/root".as_ref()));
    CACHES.iter().filter_map(move |(variable, below)| {
        let dir = env.non_empty(variable).map_or_else(|| home.join(below), PathBuf::from);
        let is_filled = examination.rootfs.read_dir_unsorted(&dir).is_ok_and(|entries| !entries.is_empty());
        is_filled.then(|| (dir.to_string_lossy().into_owned(), "a cache holds what was run before".into()))
    })
}

/// The assemblers of Triton that the workload's parts were found to use. Recent releases have a second one beside the
/// first, and choose by the GPU.
///
/// To find the release takes reading a program of many megabytes, so without need it is not done.
pub fn assemblers(examination: &Examination, subjects: &[Subject], gpus: &[Gpu]) -> Vec<(String, Cuda)> {
    let is_wanted = match examination.request.code {
        CodeDepth::Nothing | CodeDepth::Libraries => false,
        CodeDepth::Workload => gpus.iter().any(|g| g.cc > KNOWN_TO_PTXAS),
        CodeDepth::Everything => true,
    };
    let mut found = Vec::new();
    if !is_wanted {
        return found;
    }
    for step in subjects.iter().flat_map(|s| &s.steps).filter(|s| s.what == "find ptxas") {
        if let StepOutcome::Ok(path) = &step.outcome {
            for path in [path.clone(), format!("{path}-blackwell")] {
                found.extend(release(examination, &path).map(|cuda| (path, cuda)));
            }
        }
    }
    found
}

/// The release of CUDA that a `ptxas` is of.
fn release(examination: &Examination, path: &str) -> Option<Cuda> {
    let (map, _) = examination.rootfs.map(Path::new(path)).ok()?;
    memchr::memmem::find_iter(&map, PTXAS).find_map(|at| {
        let rest = &map[at + PTXAS.len()..];
        std::str::from_utf8(rest.split(|b| *b == b',').next()?).ok()?.parse().ok()
    })
}
