//! Observing: the only part that reads the image. What is found out goes into [`Facts`], without judgement.

mod environment;
mod features;
mod import;
mod kernels;
mod libcuda;
pub mod live;
mod modules;
mod places;
mod recorded;
mod scan;
pub mod size;
mod surroundings;
mod tools;
mod workload;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::driver::Cuda;
use crate::facts::driver::Library;
use crate::facts::surroundings::Surroundings;
use crate::facts::{
    Absence, Assumed, Driver, Facts, How, Image, Kernels, Libraries, LoaderFacts, Mapped, Node, Observed, Os, Python,
    SCHEMA, Scope, Step, StepOutcome, Subject, Target, Weight,
};
use crate::frameworks::{self, Framework};
use crate::image::archive::ArchiveError;
use crate::image::elf::{Elf, Machine};
use crate::image::{Credentials, Rootfs, programs};
use crate::loader::{DynamicLoader, Environment, Failure, Libc, LoadError, Loaded, Loader, Process};
use crate::node::{self, Processes};
use crate::parallel;
use crate::python::distributions::{Installed, installed};
use crate::python::site::{SysPath, sys_path};
use crate::python::{Finder, Interpreter};
use crate::record::profile::Profile;

use environment::shown_environment;
pub use kernels::CodeDepth;
pub use live::{Depth, Live};
use live::{DriverPaths, Plan, Prober};
use workload::Programs;

/// What to examine.
#[derive(Clone)]
pub struct Request {
    /// The root directory.
    pub root: PathBuf,
    /// Only the image, or the container too.
    pub scope: Scope,
    /// Targets as named; empty to find them.
    pub targets: Vec<String>,
    /// The command that is about to be started; empty to take that of the container's first process.
    pub command: Vec<OsString>,
    /// `--python`
    pub python: Option<PathBuf>,
    /// Environment of the workload.
    pub env: Environment,
    /// Working directory of the workload.
    pub cwd: PathBuf,
    /// The image, if it is open already.
    pub opened: Option<Rootfs>,
    /// User of the workload.
    pub user: Option<Credentials>,
    /// Levels of x86-64 of the processor that it runs on ([`isa_levels`]); nothing where that is not known.
    ///
    /// [`isa_levels`]: crate::loader::isa_levels
    pub isa: Option<u32>,
    /// `--require`
    pub require: Vec<String>,
    /// `--expect-gpus`
    pub expect_gpus: Option<u32>,
    /// `--min-free-memory`, in bytes.
    pub min_free_memory: Option<u64>,
    /// What runs of the workload used elsewhere, and must be here too.
    pub against: Option<Profile>,
    /// How things are tried for real; nothing is where only files are judged.
    pub live: Option<Live>,
    /// `--gpu` and `--driver`.
    pub assumed: Assumed,
    /// How much device code is read.
    pub code: CodeDepth,
    /// Of a framework whose import is about one extension module, only this is loaded: device code is nowhere else, and
    /// the Python code of its import takes longer to read than all the rest.
    pub only_core: bool,
}

/// What cannot be examined at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The root is no directory that can be searched, and no archive of an image.
    #[error("cannot open {0} as the root of an image: {1}")]
    Root(PathBuf, ArchiveError),
    /// A module is to be imported, and there is nothing to import it.
    #[error("no Python interpreter that works; name it with --python")]
    NoInterpreter,
    /// There is no module of this name.
    #[error("no module {0} in this environment")]
    NoModule(String),
    /// There is no dynamic loader, and nothing that would need one.
    #[error("no dynamic loader in the image")]
    NoLoader,
}

/// A target of the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workload {
    /// A Python module.
    Module(String),
    /// An executable or shared object.
    File(PathBuf),
}

impl Workload {
    /// `torch`, `python:vllm` or a path; what a report calls them too (`import:torch`, `load:/usr/bin/ffmpeg`).
    pub fn parse(text: &str, cwd: &Path) -> Self {
        if let Some(module) = ["python:", "import:"].iter().find_map(|kind| text.strip_prefix(kind)) {
            return Self::Module(module.to_owned());
        }
        let path = text.strip_prefix("load:").unwrap_or(text);
        // Components leave out every `.`.
        if path.contains('/') {
            Self::File(cwd.join(path).components().collect())
        } else {
            Self::Module(text.to_owned())
        }
    }
}

/// Where programs and libraries that name no loader of their own find one.
const LOADERS: &[&str] = &[
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];

/// Everything that observing works with.
pub struct Examination {
    /// The image.
    pub rootfs: Rootfs,
    request: Request,
    /// The interpreter.
    pub python: Option<Result<Interpreter, crate::python::NoInterpreter>>,
    /// `sys.path` of the interpreter.
    pub sys_path: SysPath,
    installed: Vec<Installed>,
}

/// What came of trying.
#[derive(Default)]
struct Tried {
    subjects: Vec<Subject>,
    /// The dynamic loader of the workload.
    loader: Option<LoaderFacts>,
    /// The driver's libraries as the workload would find them.
    driver: Option<DriverPaths>,
    /// CUDA libraries to be tried for real.
    plans: Vec<Plan>,
    /// Targets that are shared objects.
    shared_objects: Vec<PathBuf>,
}

/// What an image was found to be, that does not change while its files do not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Known {
    /// The targets.
    pub workload: Vec<String>,
    /// What works.
    pub capabilities: Vec<String>,
    /// The dynamic loader of the workload.
    pub loader: Option<LoaderFacts>,
    /// The driver's libraries as the workload finds them.
    pub libcuda: Option<String>,
    /// As `libcuda`.
    pub libnvml: Option<String>,
    /// NVML tells the state of the GPUs, so that CUDA need not be initialised for it.
    pub nvml_works: bool,
}

/// What is known beyond the files.
#[derive(Default)]
struct LiveFacts {
    /// How the probe was started.
    probe: Observed<String>,
    node: Option<Node>,
    driver: Option<Driver>,
    libraries: Vec<Library>,
    gpu: Option<Subject>,
}

impl LiveFacts {
    /// There is nothing that could ask the driver.
    fn without_probe(node: Node, why: String) -> Self {
        let mut gpu = Subject::new("gpu");
        gpu.unknown = Some(why.clone());
        Self { probe: Observed::Failed(why), node: Some(node), gpu: Some(gpu), ..Self::default() }
    }

    /// What the driver says, what the libraries of `plans` say, and what opening each device node says.
    fn asked(prober: &Prober, mut node: Node, paths: Option<&DriverPaths>, plans: &[Plan]) -> Self {
        let ((driver, libraries), opened) = parallel::join(|| prober.ask(paths, plans), || prober.open_nodes(&node));
        for (path, said) in opened {
            node.devices.entry(path).or_default().open = said;
        }
        let gpu = live::gpu(paths, &driver, &node);
        let probe = Observed::Seen(prober.way.clone());
        Self { probe, node: Some(node), driver: Some(driver), libraries, gpu: Some(gpu) }
    }
}

fn observe_node(live: &Live) -> Node {
    let (Ok(around), Ok(own)) = (Rootfs::open_root(&live.node), Rootfs::open_root(Path::new("/"))) else {
        return Node::default();
    };
    let processes = match &live.inside {
        Some(inside) => Processes::of(&own, inside.pid),
        None => Processes::here(&around),
    };
    node::observe(&around, &processes)
}

impl Examination {
    /// Opens the image and finds what the targets need.
    ///
    /// # Errors
    /// The root cannot be opened.
    pub fn open(mut request: Request) -> Result<Self, Error> {
        let rootfs = match request.opened.take() {
            Some(rootfs) => rootfs,
            None => Rootfs::open_image(&request.root).map_err(|e| Error::Root(request.root.clone(), e))?,
        };
        Ok(Self { rootfs, request, python: None, sys_path: SysPath::default(), installed: Vec::new() })
    }

    /// The targets: those named, or the frameworks that are installed and the program that is started, if it uses CUDA, or
    /// all programs that do.
    pub fn workload(&mut self) -> Vec<Workload> {
        let named: Vec<Workload> = self.request.targets.iter().map(|t| Workload::parse(t, &self.request.cwd)).collect();
        let command = self.command();
        if named.is_empty() || named.iter().any(|w| matches!(w, Workload::Module(_))) {
            self.find_python(&command);
        }
        if !named.is_empty() {
            return named;
        }
        let is_installed = |f: &&Framework| self.installed.iter().any(|d| f.distributions.contains(&d.name));
        let mut found: Vec<Workload> =
            frameworks::all().iter().filter(is_installed).map(|f| Workload::Module(f.module.clone())).collect();
        found.extend(self.programs().with_cuda(&command).map(Workload::File));
        if found.is_empty() {
            found = self.programs().all_with_cuda().into_iter().map(Workload::File).collect();
        }
        found
    }

    /// The command line of the workload, as far as it is known.
    fn command(&self) -> Vec<OsString> {
        let node = self.request.live.as_ref().filter(|_| self.request.command.is_empty());
        match node.and_then(|live| Rootfs::open_root(&live.node).ok()) {
            Some(node) => workload::first_process(&node),
            None => self.request.command.clone(),
        }
    }

    /// Where the container runtime mounted something into the image.
    fn mount_points(&self) -> String {
        let pid = match &self.request.live {
            Some(Live { inside: Some(inside), .. }) => inside.pid.to_string(),
            _ if self.rootfs.is_host() => "self".to_owned(),
            _ => return String::new(),
        };
        std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default()
    }

    fn programs(&self) -> Programs<'_> {
        Programs { rootfs: &self.rootfs, env: &self.request.env, cwd: &self.request.cwd }
    }

    fn find_python(&mut self, command: &[OsString]) {
        let named = self.request.python.clone().or_else(|| self.programs().python(command));
        let found = Interpreter::find(&self.rootfs, &self.request.env, named.as_deref());
        if let Ok(python) = &found {
            self.sys_path = sys_path(&self.rootfs, python, &self.request.env, &self.request.cwd);
            self.installed = installed(&self.rootfs, &self.sys_path.entries);
        }
        self.python = Some(found);
    }

    /// The dynamic loader: the one that the program names, else the image's usual one.
    ///
    /// # Errors
    /// [`Error::NoLoader`] where there is none; the path and the reason where a named one cannot be read.
    pub fn loader(&self, program: Option<&Path>) -> Result<Loader, (Option<PathBuf>, Error)> {
        let named = program.and_then(|p| programs::loader(self.rootfs.map(p).ok()?.0));
        let found = match &named {
            Some(path) => DynamicLoader::read(&self.rootfs, path, Machine::host()).ok(),
            None => LOADERS.iter().find_map(|p| DynamicLoader::read(&self.rootfs, Path::new(p), Machine::host()).ok()),
        };
        let dl = found.ok_or((named, Error::NoLoader))?;
        let r = &self.request;
        Ok(Loader::new(&self.rootfs, dl, r.env.clone(), r.cwd.clone(), r.user.clone()).on_processor(r.isa))
    }

    /// Observes everything.
    pub fn observe(mut self) -> Facts {
        // What is known of frameworks is unpacked meanwhile.
        let (workload, _) = parallel::join(|| self.workload(), frameworks::all);
        let modules: Vec<&str> = workload
            .iter()
            .filter_map(|w| match w {
                Workload::Module(name) => Some(name.as_str()),
                Workload::File(_) => None,
            })
            .collect();
        let beside = || {
            let packages: Vec<_> = workload.iter().map(|target| kernels::package(&self, target)).collect();
            let of_modules = workload.iter().zip(&packages).filter(|(w, _)| matches!(w, Workload::Module(_)));
            let own = of_modules.map(|(_, package)| package.distribution).collect();
            let python = self.python.as_ref().map(|p| self.python_facts(p, &modules, own));
            let libraries = scan::scan(&self.rootfs, &self.mount_points(), &self.request.env, &self.sys_path.entries);
            (packages, python, libraries)
        };
        let around = OnceLock::new();
        let look_around = || _ = around.get_or_init(&beside);
        // The import is what takes longest: of two processors one is its own, and the other first reads ahead of it.
        let has_time = modules.is_empty() || parallel::threads() > 2;
        let (mut tried, ()) = parallel::join(
            || self.subjects(&workload, &modules, &look_around),
            || {
                if has_time {
                    look_around();
                }
            },
        );
        let (packages, python, mut libraries) = around.into_inner().unwrap_or_else(beside);
        let candidates = kernels::candidates(&self, &workload, &tried.subjects, packages);
        let (live, kernels) =
            parallel::join(|| self.try_for_real(&workload, &mut tried), || kernels::read(&self, &candidates));
        let gpus = self.request.assumed.gpus(live.driver.as_ref());
        let assemblers = kernels::assemblers(&self, &tried.subjects, &gpus);
        let libcuda = tried.driver.as_ref().and_then(|d| self.real(d.libcuda.as_ref().ok()?));
        libraries.mark_used(&tried.subjects, libcuda.as_deref());
        let workload = workload
            .iter()
            .map(|w| match w {
                Workload::Module(name) => name.clone(),
                Workload::File(path) => path.to_string_lossy().into_owned(),
            })
            .collect();
        let surroundings = surroundings::observe(&self, &tried.subjects);
        self.facts(workload, tried, python, (libraries, surroundings), live, (kernels, assemblers))
    }

    fn facts(
        &self,
        workload: Vec<String>,
        mut tried: Tried,
        python: Option<Observed<Python>>,
        (libraries, surroundings): (Libraries, Surroundings),
        live: LiveFacts,
        (kernels, assemblers): (Vec<Kernels>, Vec<(String, Cuda)>),
    ) -> Facts {
        tried.subjects.extend(live.gpu);
        Facts {
            schema: SCHEMA.to_owned(),
            target: Target {
                root: self.request.root.to_string_lossy().into_owned(),
                arch: Machine::host().name(),
                scope: self.request.scope,
                workload,
                require: self.request.require.clone(),
                expect_gpus: self.request.expect_gpus,
                min_free_memory: self.request.min_free_memory,
            },
            image: Image {
                os: os_release(&self.rootfs),
                loader: tried.loader,
                env: shown_environment(&self.request.env),
                uid: self.request.user.as_ref().map(|u| u.uid),
                libraries,
                surroundings,
            },
            python,
            probe: live.probe,
            node: live.node,
            driver: live.driver,
            libraries: live.libraries,
            recorded: self.request.against.as_ref().map(|profile| recorded::compare(&self.rootfs, profile)),
            subjects: tried.subjects,
            assumed: self.request.assumed.clone(),
            kernels,
            assemblers,
        }
    }

    /// Tries everything that the workload does, by its files.
    fn subjects(&self, workload: &[Workload], modules: &[&str], beside: &(dyn Fn() + Sync)) -> Tried {
        let mut tried = Tried::default();
        if !modules.is_empty() {
            self.modules(modules, &mut tried, beside);
        }
        for target in workload {
            if let Workload::File(path) = target {
                self.file(path, &mut tried);
            }
        }
        tried
    }

    /// Looks around in the container, and lets child processes try what the files promise.
    fn try_for_real(&self, workload: &[Workload], tried: &mut Tried) -> LiveFacts {
        let Some(live) = &self.request.live else { return LiveFacts::default() };
        let node = observe_node(live);
        let loader = tried.loader.as_ref().map(|l| PathBuf::from(&l.path));
        let prober = match Prober::new(live, self.request.env.clone(), &self.request.cwd, loader.as_deref()) {
            Ok(prober) => prober,
            Err(why) => return LiveFacts::without_probe(node, why),
        };
        let mut probe = Observed::Seen(prober.way.clone());
        for target in workload {
            let Workload::File(path) = target else { continue };
            if !tried.shared_objects.contains(path) {
                continue;
            }
            let id = format!("load:{}", path.display());
            if let Some(subject) = tried.subjects.iter_mut().find(|s| s.capability == id)
                && let Err(why) = prober.load(path, subject)
            {
                probe = Observed::Failed(why);
            }
        }
        let mut live = LiveFacts::asked(&prober, node, tried.driver.as_ref(), &tried.plans);
        live.probe = probe;
        if let Some(driver) = &mut live.driver {
            let real = |path: &Option<String>| self.real(path.as_ref()?);
            (driver.libcuda_file, driver.libnvml_file) = (real(&driver.libcuda), real(&driver.libnvml));
        }
        live::add_libraries(&mut tried.subjects, &tried.plans, &live.libraries);
        live
    }

    /// Looks only at what changes while a container runs; the image is as it was `known` to be.
    pub fn observe_again(self, known: &Known) -> Facts {
        let live = match &self.request.live {
            None => LiveFacts::default(),
            Some(live) => {
                let node = observe_node(live);
                let live = Live { depth: if known.nvml_works { Depth::Nvml } else { Depth::Driver }, ..live.clone() };
                let loader = known.loader.as_ref().map(|l| PathBuf::from(&l.path));
                match Prober::new(&live, self.request.env.clone(), &self.request.cwd, loader.as_deref()) {
                    Ok(prober) => {
                        // Why a library was not found was told when it was looked for.
                        let lost = || Failure { errors: Vec::new(), loaded: Vec::new() };
                        let found = |path: &Option<String>| path.clone().ok_or_else(lost);
                        let paths = DriverPaths { libcuda: found(&known.libcuda), libnvml: found(&known.libnvml) };
                        LiveFacts::asked(&prober, node, Some(&paths), &[])
                    }
                    Err(why) => LiveFacts::without_probe(node, why),
                }
            }
        };
        let mut tried = Tried { loader: known.loader.clone(), ..Tried::default() };
        tried.subjects = known.capabilities.iter().map(Subject::new).collect();
        self.facts(known.workload.clone(), tried, None, Default::default(), live, Default::default())
    }

    /// The file behind links.
    fn real(&self, path: &str) -> Option<String> {
        Some(self.rootfs.canonicalize(Path::new(path)).ok()?.to_string_lossy().into_owned())
    }

    /// Gives the process of a target, with everything that does not load in it, to `show`.
    ///
    /// # Errors
    /// There is no interpreter or no dynamic loader.
    pub fn with_process<R>(
        &self,
        target: &Workload,
        show: impl FnOnce(Option<&Process<'_>>, &[LoadError]) -> R,
    ) -> Result<R, Error> {
        match target {
            Workload::File(path) => {
                let loader = self.loader(Some(path)).map_err(|(_, e)| e)?;
                let (process, errors) = Process::start(&loader, path);
                Ok(show(process.as_ref(), &errors))
            }
            Workload::Module(module) => {
                let Some(Ok(python)) = &self.python else { return Err(Error::NoInterpreter) };
                let loader = self.loader(Some(&python.real)).map_err(|(_, e)| e)?;
                let (process, mut errors) = Process::start(&loader, &python.executable);
                let Some(mut process) = process else { return Ok(show(None, &errors)) };
                let finder = Finder::new(&self.rootfs, python, &self.sys_path);
                let subject = import::Run::new(self, python, &finder).import(module, &mut process);
                if subject.lost_module().is_some() {
                    return Err(Error::NoModule(module.clone()));
                }
                for step in subject.steps {
                    if let StepOutcome::Failed(failure) = step.outcome {
                        errors.extend(failure.errors);
                    }
                }
                Ok(show(Some(&process), &errors))
            }
        }
    }

    /// What `process` has mapped, without its first objects; `bare` is the same process without `LD_LIBRARY_PATH`.
    fn mapped(&self, process: &Process<'_>, bare: Option<&Process<'_>>, without_first: usize) -> Vec<Mapped> {
        let real = |path: &Path| self.rootfs.canonicalize(path).unwrap_or_else(|_| path.to_owned());
        process
            .objects()
            .filter(|(id, _)| id.0 >= without_first)
            .map(|(_, o)| {
                let Loaded { soname, via, .. } = o.loaded();
                let path = real(&o.path);
                let elsewhere = bare.and_then(|b| {
                    let other = real(&b.object(b.loaded(soname.as_ref())?).path);
                    (other != path).then(|| other.to_string_lossy().into_owned())
                });
                Mapped { soname, path: path.to_string_lossy().into_owned(), via, without_ld_library_path: elsewhere }
            })
            .collect()
    }

    /// `load:PATH`: an executable is started, a shared object is loaded by a process of its own.
    fn file(&self, path: &Path, tried: &mut Tried) {
        let mut subject = Subject::new(format!("load:{}", path.display()));
        let (elf, is_static) = match self.rootfs.map(path).map(|(map, _)| Elf::parse(map, Machine::host())) {
            Ok(Ok(elf)) => {
                // A static executable that may lie anywhere (static-pie) relocates itself.
                let is_static = !elf.is_dynamic() || (elf.interpreter().is_none() && elf.is_pie());
                (Some(elf), is_static)
            }
            _ => (None, false),
        };
        if is_static {
            subject.steps.push(exec_step(path, Ok(())));
            return tried.subjects.push(subject);
        }
        match self.loader(elf.as_ref().and_then(Elf::interpreter).is_some().then_some(path)) {
            Ok(loader) => {
                let (process, errors) = Process::start(&loader, path);
                let errors: Vec<LoadError> = errors.into_iter().map(as_bound_now).collect();
                let loaded = process.as_ref().map(|p| p.loaded_since(0)).unwrap_or_default();
                let outcome = if errors.is_empty() { Ok(()) } else { Err(Failure { errors, loaded }) };
                subject.steps.push(exec_step(path, outcome));
                if let Some(process) = process {
                    subject.mapped = self.mapped(&process, None, 0);
                    tried.plans.extend(live::plans(&process, 0, &subject.capability));
                    tried.driver.get_or_insert_with(|| DriverPaths::in_process(&process));
                }
                if elf.is_some_and(|e| e.interpreter().is_none()) {
                    tried.shared_objects.push(path.to_owned());
                }
                tried.loader.get_or_insert_with(|| loader_facts(&loader));
            }
            Err((Some(named), _)) => {
                subject.steps.push(Step {
                    what: format!("start {}", path.display()),
                    how: How::Exec,
                    file: path.to_string_lossy().into_owned(),
                    because: Vec::new(),
                    weight: Weight::Required,
                    outcome: StepOutcome::NotFound(Absence {
                        kind: "program-interpreter".into(),
                        name: named.to_string_lossy().into_owned(),
                        searched: Vec::new(),
                        notes: Vec::new(),
                    }),
                    user_sees: Some(format!("{}: No such file or directory", path.display())),
                });
            }
            Err((None, _)) => subject.unknown = Some("no dynamic loader in the image".into()),
        }
        tried.subjects.push(subject);
    }
}

/// A file is judged as if everything were bound when it is loaded.
fn as_bound_now(error: LoadError) -> LoadError {
    match error {
        LoadError::Undefined { object, symbol, version, file, .. } => {
            LoadError::Undefined { object, symbol, version, file, lazy: false }
        }
        other => other,
    }
}

fn exec_step(program: &Path, outcome: Result<(), Failure>) -> Step {
    let file = program.to_string_lossy().into_owned();
    Step {
        what: format!("start {file}"),
        how: How::Exec,
        because: Vec::new(),
        weight: Weight::Required,
        outcome: match outcome {
            Ok(()) => StepOutcome::Ok(file.clone()),
            Err(failure) => StepOutcome::Failed(failure),
        },
        user_sees: None,
        file,
    }
}

fn loader_facts(loader: &Loader) -> LoaderFacts {
    let dl = loader.dynamic_loader();
    let (libc, release) = match dl.libc() {
        Libc::Glibc(major, minor) => ("glibc", Some(format!("{major}.{minor}"))),
        Libc::Musl => ("musl", None),
    };
    LoaderFacts { path: dl.path().to_string_lossy().into_owned(), libc: libc.to_owned(), release }
}

fn os_release(rootfs: &Rootfs) -> Option<Os> {
    let text = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|p| rootfs.read_text(Path::new(p), 64 * 1024).ok())?;
    let value = |key: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
            .map(|v| v.trim().trim_matches(['"', '\'']).to_owned())
            .unwrap_or_default()
    };
    Some(Os { id: value("ID"), like: value("ID_LIKE"), version: value("VERSION_ID") })
}
