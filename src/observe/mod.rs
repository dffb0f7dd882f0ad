//! Observing: the only part that reads the image. What is found out goes into [`Facts`], without judgement.

mod features;
mod import;
mod live;
mod scan;
mod tools;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::facts::{
    Absence, Distribution, Facts, How, Image, LoaderFacts, Mapped, Observed, Os, Python, SCHEMA, Scope, Step,
    StepOutcome, Subject, Target, Weight,
};
use crate::frameworks;
use crate::image::elf::{Elf, Machine};
use crate::image::{Credentials, FileError, Rootfs};
use crate::loader::{DynamicLoader, Environment, Failure, Libc, LoadError, Loaded, Loader, Process};
use crate::parallel;
use crate::python::distributions::{Installed, installed};
use crate::python::site::{SysPath, sys_path};
use crate::python::{Finder, Interpreter};

pub use live::Live;

/// What to examine.
pub struct Request {
    /// The root directory.
    pub root: PathBuf,
    /// Only the image, or the container too.
    pub scope: Scope,
    /// Targets as named; empty to find them.
    pub targets: Vec<String>,
    /// `--python`
    pub python: Option<PathBuf>,
    /// Environment of the workload.
    pub env: Environment,
    /// Working directory of the workload.
    pub cwd: PathBuf,
    /// User of the workload.
    pub user: Option<Credentials>,
    /// `--require`
    pub require: Vec<String>,
    /// How things are tried for real; nothing is where only files are judged.
    pub live: Option<Live>,
}

/// What cannot be examined at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The root is no directory that can be searched.
    #[error("cannot open {0} as the root of an image: {1}")]
    Root(PathBuf, FileError),
    /// A module is to be imported, and there is nothing to import it.
    #[error("no Python interpreter that works; name it with --python")]
    NoInterpreter,
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
    /// `torch`, `python:vllm` or a path.
    pub fn parse(text: &str, cwd: &Path) -> Self {
        match text.strip_prefix("python:") {
            Some(module) => Self::Module(module.to_owned()),
            None if text.contains('/') => Self::File(cwd.join(text)),
            None => Self::Module(text.to_owned()),
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
struct Tried {
    subjects: Vec<Subject>,
    /// The dynamic loader of the workload.
    loader: Option<LoaderFacts>,
    /// How the probe was started.
    probe: Option<Observed<String>>,
}

impl Examination {
    /// Opens the image and finds what the targets need.
    ///
    /// # Errors
    /// The root cannot be opened.
    pub fn open(request: Request) -> Result<Self, Error> {
        let rootfs = Rootfs::open_root(&request.root).map_err(|e| Error::Root(request.root.clone(), e))?;
        Ok(Self { rootfs, request, python: None, sys_path: SysPath::default(), installed: Vec::new() })
    }

    /// The targets: those named, or the frameworks that are installed.
    pub fn workload(&mut self) -> Vec<Workload> {
        let named: Vec<Workload> = self.request.targets.iter().map(|t| Workload::parse(t, &self.request.cwd)).collect();
        if named.is_empty() || named.iter().any(|w| matches!(w, Workload::Module(_))) {
            self.find_python();
        }
        if !named.is_empty() {
            return named;
        }
        frameworks::all()
            .iter()
            .filter(|f| self.installed.iter().any(|d| f.distributions.contains(&d.name)))
            .map(|f| Workload::Module(f.module.clone()))
            .collect()
    }

    fn find_python(&mut self) {
        let found = Interpreter::find(&self.rootfs, &self.request.env, self.request.python.as_deref());
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
        let named = program.and_then(|p| {
            let (map, _) = self.rootfs.map(p).ok()?;
            Some(PathBuf::from(Elf::parse(map, Machine::host()).ok()?.interpreter()?))
        });
        let found = match &named {
            Some(path) => DynamicLoader::read(&self.rootfs, path, Machine::host()).ok(),
            None => LOADERS.iter().find_map(|p| DynamicLoader::read(&self.rootfs, Path::new(p), Machine::host()).ok()),
        };
        let dl = found.ok_or((named, Error::NoLoader))?;
        let r = &self.request;
        Ok(Loader::new(&self.rootfs, dl, r.env.clone(), r.cwd.clone(), r.user.clone()))
    }

    /// Observes everything.
    pub fn observe(mut self) -> Facts {
        let workload = self.workload();
        let modules: Vec<&str> = workload
            .iter()
            .filter_map(|w| match w {
                Workload::Module(name) => Some(name.as_str()),
                Workload::File(_) => None,
            })
            .collect();
        let beside = || {
            let python = self.python.as_ref().map(|p| self.python_facts(p, &modules));
            (python, scan::scan(&self.rootfs, &self.request.env, &self.sys_path.entries))
        };
        let (tried, (python, mut libraries)) = parallel::join(|| self.subjects(&workload, &modules), beside);
        let Tried { subjects, loader, probe } = tried;
        libraries.mark_used(&subjects);
        let image = Image {
            os: os_release(&self.rootfs),
            loader,
            env: shown_environment(&self.request.env),
            uid: self.request.user.as_ref().map(|u| u.uid),
            libraries,
        };
        Facts {
            schema: SCHEMA.to_owned(),
            target: Target {
                root: self.request.root.to_string_lossy().into_owned(),
                arch: Machine::host().name(),
                scope: self.request.scope,
                workload: workload
                    .iter()
                    .map(|w| match w {
                        Workload::Module(name) => name.clone(),
                        Workload::File(path) => path.to_string_lossy().into_owned(),
                    })
                    .collect(),
                require: self.request.require.clone(),
            },
            image,
            python,
            probe,
            subjects,
        }
    }

    /// Tries everything that the workload does.
    fn subjects(&self, workload: &[Workload], modules: &[&str]) -> Tried {
        let mut tried = Tried { subjects: Vec::new(), loader: None, probe: None };
        if !modules.is_empty() {
            tried.loader = self.modules(modules, &mut tried.subjects);
        }
        for target in workload {
            if let Workload::File(path) = target {
                let (subject, loader) = self.file(path, &mut tried.probe);
                tried.loader = tried.loader.or(loader);
                tried.subjects.push(subject);
            }
        }
        if self.request.scope == Scope::Container {
            let mut gpu = Subject::new("gpu");
            gpu.unknown = Some("the driver is not examined by this version; use --image for the image alone".into());
            tried.subjects.push(gpu);
        }
        tried
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
                let finder = Finder::new(&self.rootfs, python, &self.sys_path.entries);
                let subject = import::Run::new(self, python, &finder).import(module, &mut process);
                for step in subject.steps {
                    if let StepOutcome::Failed(failure) = step.outcome {
                        errors.extend(failure.errors);
                    }
                }
                Ok(show(Some(&process), &errors))
            }
        }
    }

    /// All modules are imported by one process, in the order given.
    fn modules(&self, modules: &[&str], subjects: &mut Vec<Subject>) -> Option<LoaderFacts> {
        let python = match &self.python {
            Some(Ok(python)) => python,
            other => {
                let tried = match other {
                    Some(Err(none)) => none.tried.iter().map(|(p, why)| format!("{}: {why}", p.display())).collect(),
                    _ => Vec::new(),
                };
                for module in modules {
                    subjects.push(self.no_interpreter(module, tried.clone()));
                }
                return None;
            }
        };
        let loader = match self.loader(Some(&python.real)) {
            Ok(loader) => loader,
            Err((named, _)) => {
                let why = match named {
                    Some(path) => {
                        format!("{}: its dynamic loader {} is not there", python.real.display(), path.display())
                    }
                    None => format!("{}: no dynamic loader in the image", python.real.display()),
                };
                for module in modules {
                    subjects.push(self.no_interpreter(module, vec![why.clone()]));
                }
                return None;
            }
        };
        let finder = Finder::new(&self.rootfs, python, &self.sys_path.entries);
        let stop = AtomicBool::new(false);
        let imports = || {
            self.imports(modules, python, &loader, &finder, subjects);
            stop.store(true, Ordering::Relaxed);
        };
        parallel::join(imports, || finder.read_ahead(modules, &stop));
        let facts = loader_facts(&loader);
        // The process ends soon, and takes less time for it than giving back a hundred thousand pieces of memory does.
        std::mem::forget((finder, loader));
        Some(facts)
    }

    fn imports(
        &self,
        modules: &[&str],
        python: &Interpreter,
        loader: &Loader,
        finder: &Finder<'_>,
        subjects: &mut Vec<Subject>,
    ) {
        let (process, errors) = Process::start(loader, &python.executable);
        let Some(mut process) = process.filter(|_| !errors.iter().any(LoadError::is_fatal)) else {
            for module in modules {
                let mut subject = Subject::new(format!("import:{module}"));
                let failure = Failure { errors: errors.clone(), loaded: Vec::new() };
                subject.steps.push(exec_step(&python.executable, Err(failure)));
                subjects.push(subject);
            }
            return;
        };
        // What would be loaded without LD_LIBRARY_PATH tells what it changes.
        let without = self.request.env.non_empty("LD_LIBRARY_PATH").map(|_| {
            let mut env = self.request.env.clone();
            env.remove("LD_LIBRARY_PATH");
            loader.in_environment(env)
        });
        let mut bare = without.as_ref().and_then(|l| Process::start(l, &python.executable).0);
        for module in modules {
            let mut subject = import::Run::new(self, python, finder).import(module, &mut process);
            if let Some(bare) = &mut bare {
                import::Run::new(self, python, finder).import(module, bare);
            }
            subject.mapped = self.mapped(&process, bare.as_ref(), 0);
            let features = features::features(self, python, module, &subject, &process, bare.as_ref());
            subjects.push(subject);
            subjects.extend(features);
        }
        std::mem::forget((process, bare));
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

    fn no_interpreter(&self, module: &str, tried: Vec<String>) -> Subject {
        let mut subject = Subject::new(format!("import:{module}"));
        let name = self.request.python.as_ref().map_or("python3".into(), |p| p.to_string_lossy().into_owned());
        subject.steps.push(Step {
            what: "start the Python interpreter".into(),
            how: How::File,
            file: name.clone(),
            because: Vec::new(),
            weight: Weight::Required,
            outcome: StepOutcome::NotFound(Absence {
                kind: "interpreter".into(),
                name,
                searched: tried,
                notes: Vec::new(),
            }),
            user_sees: None,
        });
        subject
    }

    /// `load:PATH`: an executable is started, a shared object is loaded by a process of its own.
    fn file(&self, path: &Path, probe: &mut Option<Observed<String>>) -> (Subject, Option<LoaderFacts>) {
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
            return (subject, None);
        }
        match self.loader(elf.as_ref().and_then(Elf::interpreter).is_some().then_some(path)) {
            Ok(loader) => {
                let (process, errors) = Process::start(&loader, path);
                let errors: Vec<LoadError> = errors.into_iter().map(as_bound_now).collect();
                let loaded = process.as_ref().map(|p| p.loaded_since(0)).unwrap_or_default();
                let outcome = if errors.is_empty() { Ok(()) } else { Err(Failure { errors, loaded }) };
                subject.steps.push(exec_step(path, outcome));
                subject.mapped = process.map(|p| self.mapped(&p, None, 0)).unwrap_or_default();
                let is_library = elf.is_some_and(|e| e.interpreter().is_none());
                if let Some(live) = self.request.live.as_ref().filter(|_| is_library) {
                    *probe = Some(live::load(live, &self.request, &loader, path, &mut subject));
                }
                (subject, Some(loader_facts(&loader)))
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
                (subject, None)
            }
            Err((None, _)) => {
                subject.unknown = Some("no dynamic loader in the image".into());
                (subject, None)
            }
        }
    }

    fn python_facts(
        &self,
        python: &Result<Interpreter, crate::python::NoInterpreter>,
        modules: &[&str],
    ) -> Observed<Python> {
        let python = match python {
            Ok(python) => python,
            Err(none) => {
                let tried: Vec<String> = none.tried.iter().map(|(p, why)| format!("{}: {why}", p.display())).collect();
                return Observed::Absent(tried.join("; "));
            }
        };
        let mut named: Vec<&str> = modules.to_vec();
        for module in modules {
            if let Some(framework) = frameworks::of_module(module) {
                named.extend(framework.distributions.iter().map(String::as_str));
                named.extend(["triton"]);
            }
        }
        let matters = |name: &str| name.starts_with("nvidia-") || named.contains(&name);
        Observed::Seen(Python {
            executable: python.executable.to_string_lossy().into_owned(),
            real: python.real.to_string_lossy().into_owned(),
            version: format!("{}.{}", python.version.0, python.version.1),
            sys_path: self.sys_path.entries.iter().map(|p| p.to_string_lossy().into_owned()).collect(),
            suffixes: python.suffixes.clone(),
            distributions: self
                .installed
                .iter()
                .map(|d| Distribution {
                    name: d.name.clone(),
                    version: d.version.clone(),
                    location: d.location.to_string_lossy().into_owned(),
                    problems: if matters(&d.name) { d.problems(&self.rootfs) } else { Vec::new() },
                })
                .collect(),
        })
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

/// Variables that bear on loading; nothing else of the environment leaves the process.
const SHOWN: &[&str] = &[
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LD_BIND_NOW",
    "PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONNOUSERSITE",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "CC",
    "CXX",
    "CUDA_HOME",
    "CUDA_PATH",
    "TORCH_USE_RTLD_GLOBAL",
    "TRITON_PTXAS_PATH",
    "TRITON_LIBCUDA_PATH",
    "BNB_CUDA_VERSION",
];

fn shown_environment(env: &Environment) -> Vec<(String, String)> {
    env.iter()
        .filter(|(name, _)| SHOWN.iter().any(|s| **name == **s))
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect()
}
