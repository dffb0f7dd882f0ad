//! What the files promise, tried for real, each in a child process: libraries are loaded, the driver is asked, device
//! nodes are opened.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mldoctor_probes::library::Family;
use mldoctor_probes::{CallError, Job, Load};

use crate::facts::driver::Library;
use crate::facts::node::{Node, Platform};
use crate::facts::{Absence, Driver, How, Observed, Step, StepOutcome, Subject, Weight};
use crate::loader::{Environment, Failure, LoadError, Mode, ObjectId, Process};
use crate::parallel;
use crate::probe::{Call, Inside, Outcome, Probe, Run, locate, open_devices};

/// How things are tried for real.
#[derive(Debug, Clone)]
pub struct Live {
    /// `--probes`
    pub probe: Option<PathBuf>,
    /// `--deadline`: how long one child may take.
    pub deadline: Duration,
    /// When all of it is to be done, if there is such a time.
    pub until: Option<Instant>,
    /// How much is tried.
    pub depth: Depth,
    /// Root of `/proc`, `/sys` and `/dev`; another one in tests, and for another container.
    pub node: PathBuf,
    /// A process of another container, in which everything is tried.
    pub inside: Option<Inside>,
}

impl Live {
    /// How long the next child may take.
    fn left(&self) -> Duration {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        left.map_or(self.deadline, |left| left.min(self.deadline))
    }
}

/// How much is tried, from what may be done every few seconds to what takes the GPU away from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// NVML alone.
    Nvml,
    /// CUDA is initialised too.
    Driver,
    /// And each CUDA library of the workload is asked for its version.
    Check,
    /// And computes on every GPU.
    Deep,
}

/// The name by which everything asks for the driver.
const LIBCUDA: &str = "libcuda.so.1";
const LIBNVML: &str = "libnvidia-ml.so.1";

/// The driver's libraries as the workload would find them.
pub struct DriverPaths {
    /// Path of `libcuda.so.1`.
    pub libcuda: Result<String, Failure>,
    /// Path of `libnvidia-ml.so.1`.
    pub libnvml: Result<String, Failure>,
}

impl DriverPaths {
    /// In a copy of the workload's process. The runtime library opens the driver; where it is linked statically, or does
    /// not take part, the program does.
    pub fn in_process(process: &Process<'_>) -> Self {
        let runtime = process.objects().find(|(_, o)| Family::of_soname(&o.loaded().soname) == Some(Family::Cudart));
        let by = runtime.map_or(ObjectId(0), |(id, _)| id);
        let open = |name: &str, by: ObjectId| {
            let mut process = process.clone();
            process.dlopen(name.as_ref(), by, Mode::NOW).map(|id| process.object(id).display())
        };
        Self { libcuda: open(LIBCUDA, by), libnvml: open(LIBNVML, ObjectId(0)) }
    }
}

/// A CUDA library that a capability uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Which it is.
    pub family: Family,
    /// Paths of the libraries that it needs, and at last its own.
    pub paths: Vec<String>,
    /// The capability.
    pub capability: String,
}

/// The CUDA libraries that a process has mapped, without its first objects.
pub fn plans(process: &Process<'_>, without_first: usize, capability: &str) -> Vec<Plan> {
    let new = process.objects().filter(|(id, _)| id.0 >= without_first);
    new.filter_map(|(id, object)| {
        let family = Family::of_soname(&object.loaded().soname)?;
        Some(Plan { family, paths: with_dependencies(process, id), capability: capability.to_owned() })
    })
    .collect()
}

/// Paths of an object and of what it needs, dependencies first.
fn with_dependencies(process: &Process<'_>, root: ObjectId) -> Vec<String> {
    let mut paths = Vec::new();
    let mut seen = vec![false; process.count()];
    let mut stack = vec![(root, 0)];
    seen[root.0] = true;
    while let Some((id, next)) = stack.pop() {
        let object = process.object(id);
        let Some(edge) = object.edges.get(next) else {
            // The probe has the libraries of the C library itself, by their names.
            if !object.is_of_libc() {
                paths.push(object.display());
            }
            continue;
        };
        stack.push((id, next + 1));
        if let Some(to) = edge.to.filter(|to| !std::mem::replace(&mut seen[to.0], true)) {
            stack.push((to, 0));
        }
    }
    paths
}

/// Starts children for one workload.
pub struct Prober {
    probe: Probe,
    live: Live,
    /// How the probe is started.
    pub way: String,
}

/// What is tried beside the loading of a target.
enum Task<'p> {
    Cuda,
    Nvml,
    Compute,
    /// Each needs those before it.
    Libraries(Vec<&'p Plan>),
}

/// Libraries that share a child. To load cuSOLVER is to load cuBLAS and cuSPARSE too, and loading is most of the work. The
/// child that takes longest comes first.
fn groups(mut wanted: Vec<&Plan>) -> Vec<Vec<&Plan>> {
    // NVRTC compiles meanwhile, and CUPTI changes what others do.
    let is_alone = |plan: &Plan| matches!(plan.family, Family::Nvrtc | Family::Cupti);
    wanted.sort_by_key(|plan| (Reverse(plan.paths.len()), plan.family));
    let mut groups: Vec<Vec<&Plan>> = Vec::new();
    for plan in wanted {
        let needs = |group: &&mut Vec<&Plan>| {
            !is_alone(plan) && !is_alone(group[0]) && plan.paths.iter().all(|path| group[0].paths.contains(path))
        };
        match groups.iter_mut().find(needs) {
            Some(group) => group.push(plan),
            None => groups.push(vec![plan]),
        }
    }
    groups.iter_mut().for_each(|group| group.reverse());
    groups.sort_by_key(|group| (Reverse(group.len()), !is_alone(group[0])));
    groups
}

impl Prober {
    /// `loader` is the dynamic loader of the workload.
    ///
    /// # Errors
    /// There is no probe.
    pub fn new(live: &Live, env: Environment, cwd: &Path, loader: Option<&Path>) -> Result<Self, String> {
        let source = locate(live.probe.as_deref()).map_err(|why| why.to_string())?;
        let way = source.describe();
        let probe = Probe {
            source,
            loader: loader.map(Path::to_owned),
            env,
            cwd: cwd.to_owned(),
            deadline: live.left(),
            inside: live.inside.clone(),
        };
        Ok(Self { probe, live: live.clone(), way })
    }

    /// Loads `path` in a child, and adds what came of it.
    ///
    /// # Errors
    /// The probe does not start.
    pub fn load(&self, path: &Path, subject: &mut Subject) -> Result<(), String> {
        let run = self.probe.run(Job::Load, &[Load::local(path)])?;
        let Some(call) = run.calls.into_iter().next() else { return Err("the probe made no call".into()) };
        let foretold = subject.steps.iter().any(|s| matches!(s.outcome, StepOutcome::Failed(_)));
        let outcome = match call.outcome {
            Outcome::Ok if foretold => {
                subject.unknown = Some("it loads in a child process, although by its files it should not".into());
                subject.steps.clear();
                return Ok(());
            }
            Outcome::Ok => StepOutcome::Ok(path.to_string_lossy().into_owned()),
            // The files say more about the cause than the message does.
            Outcome::Error(_) if foretold => return Ok(()),
            Outcome::Error(error) => {
                StepOutcome::Failed(Failure { errors: vec![refusal(path, &error)], loaded: Vec::new() })
            }
            Outcome::Died(_) | Outcome::TimedOut(_) => StepOutcome::Call(call),
        };
        let file = path.to_string_lossy().into_owned();
        subject.steps.push(Step {
            what: format!("load {file} in a child process"),
            how: How::Dlopen,
            file,
            because: Vec::new(),
            weight: Weight::Required,
            outcome,
            user_sees: None,
        });
        Ok(())
    }

    /// What opening each device node says: `ok`, or the name of the error.
    pub fn open_nodes(&self, node: &Node) -> Vec<(String, String)> {
        let there = node.devices.iter().filter(|(_, d)| d.number.is_some());
        let paths: Vec<PathBuf> = there.map(|(path, _)| PathBuf::from(path)).collect();
        if paths.is_empty() {
            return Vec::new();
        }
        let calls =
            open_devices(&paths, self.live.left(), self.live.inside.as_ref()).map(|run| run.calls).unwrap_or_default();
        let said = calls.into_iter().map(|call| match call.outcome {
            Outcome::Ok => "ok".into(),
            Outcome::Error(error) => error.name,
            Outcome::Died(death) => death.to_string(),
            Outcome::TimedOut(_) => "no answer".into(),
        });
        paths.into_iter().map(|path| path.to_string_lossy().into_owned()).zip(said).collect()
    }

    /// Asks the driver and tries the libraries, all at once.
    pub fn ask(&self, paths: Option<&DriverPaths>, plans: &[Plan]) -> (Driver, Vec<Library>) {
        let depth = self.live.depth;
        let mut tasks = vec![Task::Nvml];
        if depth >= Depth::Driver {
            tasks.push(Task::Cuda);
        }
        if depth >= Depth::Deep {
            tasks.push(Task::Compute);
        }
        // One child for each library, however many capabilities use it.
        let mut wanted: Vec<&Plan> = Vec::new();
        for plan in plans.iter().filter(|_| depth >= Depth::Check) {
            if !wanted.iter().any(|known| known.paths == plan.paths) {
                wanted.push(plan);
            }
        }
        tasks.extend(groups(wanted).into_iter().map(Task::Libraries));
        let libcuda = paths.and_then(|p| p.libcuda.as_ref().ok());
        let libnvml = paths.and_then(|p| p.libnvml.as_ref().ok());
        let driver = |job: Job, path: Option<&String>, name: &str| {
            if paths.is_some() && path.is_none() {
                return Observed::Absent(format!("nothing finds {name}"));
            }
            observed(self.probe.run(job, &[Load::local(path.map_or(name, String::as_str))]))
        };
        // CUPTI 13 calls itself without end where it does not find the driver (13.2, cuptiGetVersion).
        let lacks_driver = paths.is_some() && libcuda.is_none();
        let job = |family: Family| match family {
            Family::Cupti if lacks_driver => Job::Load,
            Family::Nvrtc if depth >= Depth::Deep => Job::CompileAll,
            family => Job::Library(family),
        };
        let runs = parallel::map(&tasks, |task| match task {
            Task::Cuda => vec![driver(Job::Cuda, libcuda, LIBCUDA)],
            Task::Nvml => vec![driver(Job::Nvml, libnvml, LIBNVML)],
            Task::Compute => vec![driver(Job::Compute, libcuda, LIBCUDA)],
            Task::Libraries(plans) => self.libraries(plans, job),
        });
        let mut runs = runs.into_iter().flatten();
        let mut next = || runs.next().unwrap_or_default();
        let driver = Driver {
            libcuda: libcuda.cloned(),
            libnvml: libnvml.cloned(),
            libcuda_file: None,
            libnvml_file: None,
            nvml: next(),
            cuda: if depth >= Depth::Driver { next() } else { Observed::NotAsked },
            computed: (depth >= Depth::Deep).then(&mut next),
        };
        let plans = tasks.iter().flat_map(|task| match task {
            Task::Libraries(plans) => plans.as_slice(),
            _ => &[],
        });
        let mut libraries: Vec<Library> =
            plans.map(|plan| Library { family: plan.family, paths: plan.paths.clone(), run: next() }).collect();
        libraries.sort_by_key(|library| library.family);
        (driver, libraries)
    }

    /// Tries libraries, of which each needs those before it, in one child. What does not go well there is tried alone, so
    /// that nothing is told of one library that another did; and so is what was not reached.
    fn libraries(&self, plans: &[&Plan], job: impl Fn(Family) -> Job) -> Vec<Observed<Run>> {
        let loads: Vec<Vec<Load>> = plans.iter().map(|plan| plan.paths.iter().map(Load::local).collect()).collect();
        let jobs: Vec<(Job, &[Load])> =
            plans.iter().zip(&loads).map(|(plan, loads)| (job(plan.family), loads.as_slice())).collect();
        if let [(job, loads)] = jobs[..] {
            return vec![observed(self.probe.run(job, loads))];
        }
        let mut together = self.probe.run_all(&jobs).unwrap_or_default().into_iter();
        let is_told =
            |run: &Run| run.is_well() || matches!(run.unfinished(), Some(Call { outcome: Outcome::TimedOut(_), .. }));
        jobs.iter()
            .map(|(job, loads)| match together.next().filter(is_told) {
                Some(run) => Observed::Seen(run),
                None => observed(self.probe.run(*job, loads)),
            })
            .collect()
    }
}

fn observed(run: Result<Run, String>) -> Observed<Run> {
    match run {
        Ok(run) => Observed::Seen(run),
        Err(why) => Observed::Failed(why),
    }
}

/// The capability `gpu`: what the driver said when CUDA was initialised, and when NVML was.
pub fn gpu(paths: Option<&DriverPaths>, driver: &Driver, node: &Node) -> Subject {
    let mut subject = Subject::new("gpu");
    // The driver of Tegra came without NVML for long, and has one that tells little today.
    let may_lack_nvml = node.platform.contains(&Platform::Tegra);
    for (name, path, weight) in
        [(LIBCUDA, paths.map(|p| &p.libcuda), Weight::Required), (LIBNVML, paths.map(|p| &p.libnvml), Weight::Optional)]
    {
        if let Some(Err(failure)) = path.filter(|_| name != LIBNVML || !may_lack_nvml) {
            subject.steps.push(step(format!("open {name}"), name, weight, StepOutcome::Failed(failure.clone())));
        }
    }
    // Where nobody else was asked, the word of NVML counts.
    let nvml_counts = driver.cuda == Observed::NotAsked;
    if let Observed::Seen(run) = &driver.cuda {
        calls(&mut subject, run, driver.libcuda.as_deref().unwrap_or(LIBCUDA), Weight::Required);
    }
    if let Observed::Seen(run) = &driver.nvml
        && !(may_lack_nvml && run.unfinished().is_none())
    {
        let weight = if nvml_counts { Weight::Required } else { Weight::Optional };
        calls(&mut subject, run, driver.libnvml.as_deref().unwrap_or(LIBNVML), weight);
    }
    if let Observed::Failed(why) = if nvml_counts { &driver.nvml } else { &driver.cuda } {
        subject.unknown = Some(format!("the driver could not be asked: {why}"));
    }
    if driver.count() == Some(0) {
        let absence = Absence { kind: "gpu".into(), name: "GPU".into(), searched: Vec::new(), notes: Vec::new() };
        subject.steps.push(step("find a GPU".into(), LIBCUDA, Weight::Required, StepOutcome::NotFound(absence)));
    }
    match &driver.computed {
        Some(Observed::Seen(run)) => {
            calls(&mut subject, run, driver.libcuda.as_deref().unwrap_or(LIBCUDA), Weight::Required);
        }
        Some(Observed::Failed(why)) => subject.unknown = Some(format!("nothing could be computed: {why}")),
        _ => {}
    }
    subject
}

/// Calls that something cannot do without. Of all others an error is a field without a value.
const DECISIVE: &[&str] = &[
    "dlopen ",
    "cuInit",
    "cuDeviceGetCount",
    "cuDeviceGet(",
    "cuDevicePrimaryCtxRetain(",
    "cuCtx",
    "cuMem",
    "cuModule",
    "cuLaunchKernel(",
    "nvmlInit_v2",
    "nvmlDeviceGetHandleByIndex_v2(",
];

/// What `dlopen` says where nothing was to say beforehand which file it would find.
const NOT_FOUND: &str = ": cannot open shared object file: No such file or directory";

fn not_found(name: &str) -> Failure {
    let missing = LoadError::Missing {
        name: name.to_owned(),
        requested_by: "dlopen in a child process".into(),
        searched: Vec::new(),
        reason: "No such file or directory".into(),
        other_class: false,
    };
    Failure { errors: vec![missing], loaded: Vec::new() }
}

fn calls(subject: &mut Subject, run: &Run, file: &str, weight: Weight) {
    for call in &run.calls {
        let is_decisive = DECISIVE.iter().any(|d| call.name.starts_with(d));
        let outcome = match &call.outcome {
            Outcome::Ok if is_decisive => StepOutcome::Ok(file.to_owned()),
            Outcome::Ok => continue,
            Outcome::Error(_) if !is_decisive => continue,
            Outcome::Error(error) if error.name.ends_with(NOT_FOUND) => StepOutcome::Failed(not_found(file)),
            _ => StepOutcome::Call(call.clone()),
        };
        // A call that did not come back says more than that one field is missing.
        subject.steps.push(step(call.name.clone(), file, weight, outcome));
    }
}

/// What came of trying the libraries of each capability. What cannot be loaded, an import fails at; what fails when it is
/// called, the part of the framework that calls it.
pub fn add_libraries(subjects: &mut [Subject], plans: &[Plan], libraries: &[Library]) {
    for plan in plans {
        let Some(subject) = subjects.iter_mut().find(|s| s.capability == plan.capability) else { continue };
        let Some(library) = libraries.iter().find(|l| l.paths == plan.paths) else { continue };
        let file = plan.paths.last().map_or("", String::as_str);
        let is_of_part = |plan: &Plan| !plan.capability.contains(':');
        let run = match &library.run {
            Observed::Seen(run) => run,
            // An import is known by its files; whether a part works is what was to be tried.
            Observed::Failed(why) if is_of_part(plan) => {
                subject.unknown.get_or_insert_with(|| format!("{file} was not tried: {why}"));
                continue;
            }
            _ => continue,
        };
        let has_part = || plans.iter().any(|other| other.paths == plan.paths && is_of_part(other));
        let counts = |call: &Call| is_of_part(plan) || call.name.starts_with("dlopen ") || !has_part();
        let outcome = match run.calls.iter().find(|call| call.outcome != Outcome::Ok) {
            Some(call) if counts(call) => StepOutcome::Call(call.clone()),
            _ => StepOutcome::Ok(file.to_owned()),
        };
        subject.steps.push(step(format!("ask {file}"), file, Weight::Required, outcome));
    }
}

fn step(what: String, file: &str, weight: Weight, outcome: StepOutcome) -> Step {
    Step { what, how: How::Call, file: file.to_owned(), because: Vec::new(), weight, outcome, user_sees: None }
}

/// What `dlopen` said, as the loader model says it: the object, then what is wrong with it.
fn refusal(path: &Path, error: &CallError) -> LoadError {
    let shown = path.display().to_string();
    let (subject, reason) = error.name.split_once(": ").unwrap_or((shown.as_str(), &error.name));
    LoadError::Rejected {
        path: shown.clone(),
        subject: subject.to_owned(),
        requested_by: "dlopen in a child process".into(),
        reason: reason.to_owned(),
        truncated: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_share_a_child_with_what_needs_them() {
        let plan = |family: Family, paths: &[&str]| Plan {
            family,
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            capability: "import:torch".into(),
        };
        let plans = [
            plan(Family::Nvrtc, &["/nvrtc"]),
            plan(Family::Cublas, &["/lt", "/blas"]),
            plan(Family::CublasLt, &["/lt"]),
            plan(Family::Cusolver, &["/lt", "/blas", "/solver"]),
            plan(Family::CublasLt, &["/other/lt"]),
            plan(Family::Cudnn, &["/nvrtc", "/dnn"]),
        ];
        let groups = groups(plans.iter().collect());
        let names: Vec<Vec<&str>> = groups
            .iter()
            .map(|group| group.iter().filter_map(|p| p.paths.last()).map(String::as_str).collect())
            .collect();
        assert_eq!(names, [vec!["/lt", "/blas", "/solver"], vec!["/nvrtc"], vec!["/dnn"], vec!["/other/lt"]]);
    }
}
