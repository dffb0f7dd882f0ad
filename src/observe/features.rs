//! The parts of a framework: what each opens when it is first used, tried in a copy of the process that imported it.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mldoctor_probes::library::Family;
use rustc_hash::FxHashMap;

use super::import::{Run, ctypes, interpreter, module_file};
use super::live::{self, Plan};
use super::{Examination, libcuda, places, scan, tools};
use crate::facts::{Absence, How, Observed, Scope, Step, StepOutcome, Subject, Weight};
use crate::frameworks::{self, Feature, File, Framework, Open, Release, bitsandbytes, libibverbs, pathfinder, release};
use crate::loader::{Failure, LoadError, Mode, Object, ObjectId, Process};
use crate::parallel;
use crate::python::distributions::Installed;
use crate::python::imports::When;
use crate::python::{Finder, Interpreter, Raised};

/// Largest text file with a release in it, in bytes.
const MAX_TEXT: u64 = 64 * 1024;

/// One framework in one image.
pub struct Parts<'e> {
    examination: &'e Examination,
    python: &'e Interpreter,
    framework: &'static Framework,
    /// The CUDA release that it was built for.
    cuda: Option<Observed<String>>,
    /// Where its modules are found, unless it is being imported.
    finder: Option<&'e Finder<'e>>,
    /// Whether the libraries of the driver count as there, whatever is.
    with_driver: bool,
    /// Releases of libraries by their paths, as far as they were asked for.
    releases: Mutex<FxHashMap<PathBuf, Option<String>>>,
}

/// Why a part cannot be tried.
enum Unfit {
    NotApplicable(String),
    Unknown(String),
}

impl<'e> Parts<'e> {
    /// The framework that is imported as `module`, if it is one.
    pub fn of(
        examination: &'e Examination,
        python: &'e Interpreter,
        finder: &'e Finder<'e>,
        module: &str,
    ) -> Option<Self> {
        let of_framework = Self::with(examination, python, frameworks::of_module(module)?);
        Some(Self { finder: Some(finder), ..of_framework })
    }

    /// The package whose code opens libraries by itself when `module` is executed, if there is one.
    pub fn opener(examination: &'e Examination, python: &'e Interpreter, module: &str) -> Option<Self> {
        let with_driver = examination.request.scope == Scope::Image;
        Some(Self { with_driver, ..Self::with(examination, python, frameworks::opener(module)?) })
    }

    fn with(examination: &'e Examination, python: &'e Interpreter, framework: &'static Framework) -> Self {
        let cuda = framework.cuda.as_ref().map(|cuda| built_for(examination, cuda));
        Self { examination, python, framework, cuda, finder: None, with_driver: true, releases: Mutex::default() }
    }

    /// What `module` opens by itself, up to the first that it needs and that does not load, with what this raises. Where
    /// that `is_assumed` to be mended it goes on.
    ///
    /// # Errors
    /// Why that is not known.
    pub fn at_import(
        &self,
        module: &str,
        when: When,
        process: &mut Process<'_>,
        is_assumed: &dyn Fn(&str) -> bool,
    ) -> Result<(Vec<Step>, Option<Raised>), String> {
        let mut steps = Vec::new();
        let feature = match self.described(&format!("import:{module}"), process) {
            Ok(feature) if feature.when == when => feature,
            Ok(_) | Err(Unfit::NotApplicable(_)) => return Ok((steps, None)),
            Err(Unfit::Unknown(why)) => return Err(why),
        };
        for module in &feature.after {
            if let Some(other) = Self::opener(self.examination, self.python, module) {
                steps.extend(other.at_import(module, when, process, is_assumed)?.0);
            }
        }
        for open in &feature.opens {
            if is_spared(open, &steps) {
                continue;
            }
            for step in self.open(feature, open, process)? {
                if !step.breaks() {
                    steps.push(step);
                } else if !is_assumed(&step.file) {
                    steps.push(step);
                    return Ok((steps, Some(open.raises.unwrap_or(Raised::Os))));
                } else if open.any {
                    // What follows belongs to the one that would have loaded.
                    return Ok((steps, None));
                }
            }
        }
        Ok((steps, None))
    }

    /// Tries every part for itself. `bare` is the same process without `LD_LIBRARY_PATH`.
    /// With each goes what its libraries can be asked for real.
    pub fn at_first_use(
        &self,
        import: &Subject,
        process: &Process<'_>,
        bare: Option<&Process<'_>>,
    ) -> Vec<(Subject, Vec<Plan>)> {
        let mut ids: Vec<&str> = self.framework.feature.iter().map(|f| f.id.as_str()).collect();
        ids.retain(|id| !id.starts_with("import:"));
        ids.dedup();
        let attempt = |id: &str, process: &mut Process<'_>| {
            let mut subject = Subject::new(id);
            subject.needs = Some(import.capability.clone());
            if !self.is_reached(import) {
                subject.unknown = Some(format!("import {} does not come that far", self.framework.module));
                return subject;
            }
            match self.described(id, process) {
                Ok(feature) => {
                    self.try_out(feature, process, &mut subject);
                    if subject.steps.is_empty() {
                        let why = "the libraries that would open something are not in the process";
                        subject.unknown.get_or_insert(why.into());
                    }
                }
                Err(Unfit::NotApplicable(why)) => subject.not_applicable = Some(why),
                Err(Unfit::Unknown(why)) => subject.unknown = Some(why),
            }
            subject
        };
        parallel::map(&ids, |id| {
            let mut process = process.clone();
            let before = process.count();
            let mut subject = attempt(id, &mut process);
            let bare = bare.map(|bare| {
                let mut bare = bare.clone();
                attempt(id, &mut bare);
                bare
            });
            subject.mapped = self.examination.mapped(&process, bare.as_ref(), before);
            (subject, self.plans(id, &process, before))
        })
    }

    /// What the libraries can be asked that the import has mapped already, and those that this part has opened.
    fn plans(&self, id: &str, process: &Process<'_>, before: usize) -> Vec<Plan> {
        let mut plans = live::plans(process, before, id);
        let parts = self.framework.feature.iter().filter(|f| f.id == id);
        let linked: Vec<Family> = parts.flat_map(|f| &f.linked).filter_map(|l| Family::of_soname(l)).collect();
        plans.extend(live::plans(process, 0, id).into_iter().filter(|plan| linked.contains(&plan.family)));
        plans
    }

    /// Whether the import came as far as the parts need it.
    fn is_reached(&self, import: &Subject) -> bool {
        match &self.framework.core {
            Some(core) => import.steps.iter().any(|s| s.is_ok() && s.what.strip_prefix("import ") == Some(core)),
            None => import.unknown.is_none() && !import.steps.iter().any(Step::breaks),
        }
    }

    /// The first of the features called `id` that describes what is installed.
    fn described(&self, id: &str, process: &Process<'_>) -> Result<&'static Feature, Unfit> {
        let mut unfit = Unfit::NotApplicable(String::new());
        for feature in self.framework.feature.iter().filter(|f| f.id == id) {
            match self.fits(feature, process) {
                Ok(()) => return Ok(feature),
                // That nothing is known of an installed release says more than that another one is not installed.
                Err(_) if matches!(unfit, Unfit::Unknown(_)) => {}
                Err(why) => unfit = why,
            }
        }
        Err(unfit)
    }

    fn fits(&self, feature: &Feature, process: &Process<'_>) -> Result<(), Unfit> {
        let module = &self.framework.module;
        if let Some(of) = &feature.of
            && self.installed(feature).is_none()
        {
            return Err(Unfit::NotApplicable(format!("{of} is not installed")));
        }
        if let Some(part) = &feature.part
            && !self.has(part)
        {
            let file = part.rsplit('/').next().unwrap_or(part);
            return Err(Unfit::NotApplicable(format!("this build of {module} has no {file}")));
        }
        if let Some(since) = &feature.since {
            let Some((name, version)) = self.installed(feature) else {
                return Err(Unfit::Unknown(format!("the release of {module} is not known")));
            };
            if release(version) < release(since) {
                return Err(Unfit::Unknown(format!("what {name} {version} opens is not known")));
            }
        }
        if let Some(lacking) = feature.linked.iter().find(|l| find(process, l).is_none()) {
            return Err(Unfit::NotApplicable(format!("this build of {module} does not use {lacking}")));
        }
        match &self.cuda {
            // What compiles at run time compiles for processors too.
            _ if !feature.tools.is_empty() => Ok(()),
            None | Some(Observed::NotAsked) => Ok(()),
            Some(Observed::Absent(why)) => Err(Unfit::NotApplicable(why.clone())),
            Some(Observed::Failed(why)) => Err(Unfit::Unknown(why.clone())),
            Some(Observed::Seen(cuda)) => match &feature.cuda {
                Some(major) if cuda.split('.').next() != Some(major) => {
                    Err(Unfit::Unknown(format!("what a build for CUDA {cuda} opens is not known")))
                }
                _ => Ok(()),
            },
        }
    }

    /// Name and version of the distribution whose release counts.
    fn installed(&self, feature: &Feature) -> Option<(&str, &str)> {
        let named = feature.of.as_slice();
        let distributions = if named.is_empty() { &self.framework.distributions[..] } else { named };
        let installed = &self.examination.installed;
        let found = distributions.iter().find_map(|name| installed.iter().find(|d| d.name == *name))?;
        Some((&found.name, &found.version))
    }

    /// Whether a file is there, or was when its distribution was installed.
    fn has(&self, part: &str) -> bool {
        let rootfs = &self.examination.rootfs;
        let listed = |relative: &str| {
            let own = |name: &String| self.framework.distributions.contains(name);
            let mut own = self.examination.installed.iter().filter(|d| own(&d.name));
            own.any(|d| d.shared_objects(rootfs).iter().any(|l| l.path == relative))
        };
        places::expand(self.examination, self.python, part).iter().any(|p| rootfs.is_file(p))
            || part.strip_prefix("{site}/").is_some_and(listed)
    }

    fn try_out(&self, feature: &Feature, process: &mut Process<'_>, subject: &mut Subject) {
        for library in &feature.linked {
            if let Some(id) = find(process, library) {
                let path = process.object(id).display();
                subject.steps.push(step(How::Dlopen, library, "the import", StepOutcome::Ok(path), false));
            }
        }
        for open in &feature.opens {
            if is_spared(open, &subject.steps) {
                continue;
            }
            match self.open(feature, open, process) {
                Ok(steps) => subject.steps.extend(steps),
                Err(why) => _ = subject.unknown.get_or_insert(why),
            }
        }
        subject.steps.extend(feature.files.iter().map(|file| self.look_for(file)));
        for tool in &feature.tools {
            subject.steps.extend(match tool.as_str() {
                "libcuda" => libcuda::find(self.examination, process),
                tool => tools::find(self.examination, self.python, tool),
            });
        }
    }

    /// What comes of it.
    ///
    /// # Errors
    /// Why that is not known.
    fn open(&self, feature: &Feature, open: &Open, process: &mut Process<'_>) -> Result<Vec<Step>, String> {
        if open.by != "python" {
            return Ok(self.opens(feature, open, process));
        }
        let mut steps = Vec::new();
        for module in &open.names {
            steps.extend(self.import(module, open, process)?);
        }
        Ok(steps)
    }

    /// Opens the first of the names that is there; tells of the last failure otherwise. Nothing where the library whose
    /// code would do it is not part of the process.
    fn opens(&self, feature: &Feature, open: &Open, process: &mut Process<'_>) -> Vec<Step> {
        let (by, how) = match open.by.as_str() {
            "_ctypes" => (self.ctypes(process), How::Ctypes),
            library => match find(process, library) {
                Some(by) => (by, How::Dlopen),
                None => return Vec::new(),
            },
        };
        let object = process.object(by).clone();
        let data = object.file.elf.data_from_texts();
        let mentions = |text: &str| data.iter().any(|part| contains(part, text));
        let asked_for = open.names.first().map(String::as_str).unwrap_or_default();
        let stem = asked_for.split(".so").next().unwrap_or_default();
        if open.named && !mentions(stem) {
            return Vec::new();
        }
        if asked_for == "libibverbs:" {
            return self.providers(open, process, by);
        }
        let library = asked_for.strip_prefix("pathfinder:");
        let patterns = library.map_or(Cow::Borrowed(&open.names), |l| Cow::Owned(pathfinder::names(l)));
        let fill = |pattern: &String| self.fill(pattern, open, &object);
        let names: Vec<String> = patterns.iter().filter_map(fill).collect();
        // Of names that are not there, the SONAME tells most.
        let soname = match library {
            Some(library) => pathfinder::soname(library, self.cuda_major()),
            None => patterns.iter().find(|p| p.contains("{N}")).and_then(fill),
        };

        let step = |name: &str, outcome: StepOutcome, is_found: bool| {
            let mut step = step(how, name, &object.display(), outcome, open.optional);
            if let StepOutcome::Failed(failure) = &step.outcome {
                let message = failure.message();
                let absent = open.absent.as_ref().map(|t| t.replace("{message}", &message).replace("{path}", name));
                let not_found = absent.or(library.and_then(pathfinder::not_found));
                let names = (names.len() == open.names.len()).then_some(&names[..]);
                let sees = || feature.sees(open, &message, name, names, mentions);
                step.user_sees = not_found.filter(|_| !is_found).or_else(sees);
            }
            step
        };
        let mode = Mode { now: !open.lazy, global: open.global || library.is_some() };
        // It asks for what is loaded already before it searches.
        let is_loaded = |n: &&String| !n.contains('/') && process.loaded(n.as_ref()).is_some();
        if let Some(name) = library.and_then(|_| names.iter().find(is_loaded)) {
            return vec![step(name, self.dlopen(process, name, by, mode), true)];
        }
        // The first bare name that does not load; a file that is there says more than a name that is not.
        let mut first: Option<(String, StepOutcome, u8)> = None;
        for name in &names {
            if name.contains('/') {
                let files = self.files(name);
                if open.any {
                    for file in files {
                        let outcome = self.dlopen(process, &file, by, mode);
                        if let StepOutcome::Ok(_) = outcome {
                            return vec![step(&file, outcome, true)];
                        }
                        first.get_or_insert((file, outcome, 2));
                    }
                    continue;
                }
                let files = if open.all { &files[..] } else { files.get(..1).unwrap_or_default() };
                if files.is_empty() {
                    continue;
                }
                // A path that exists is not passed over, whatever comes of it.
                return files.iter().map(|file| step(file, self.dlopen(process, file, by, mode), true)).collect();
            }
            let outcome = self.dlopen(process, name, by, mode);
            let StepOutcome::Failed(failure) = &outcome else { return vec![step(name, outcome, true)] };
            let is_absent =
                matches!(failure.errors.first(), Some(LoadError::Missing { name: missing, .. }) if missing == name);
            let tells = if is_absent { u8::from(soname.as_ref() == Some(name)) } else { 2 };
            if first.as_ref().is_none_or(|(.., known)| tells > *known) {
                first = Some((name.clone(), outcome, tells));
            }
        }
        if let Some((name, outcome, tells)) = first {
            return vec![step(&name, outcome, tells == 2)];
        }
        // Only paths, and none of them exists.
        let would_be = names.iter().find_map(|n| self.would_be(n)).or_else(|| self.unmatched(&names, open));
        let would_be = would_be.filter(|_| !open.optional);
        would_be.map(|path| step(&path, self.dlopen(process, &path, by, mode), false)).into_iter().collect()
    }

    fn dlopen(&self, process: &mut Process<'_>, name: &str, by: ObjectId, mode: Mode) -> StepOutcome {
        if self.with_driver {
            return dlopen(process, name, by, mode);
        }
        match process.dlopen(name.as_ref(), by, mode) {
            Ok(id) => StepOutcome::Ok(process.object(id).display()),
            Err(failure) => StepOutcome::Failed(failure),
        }
    }

    /// Opens what libibverbs would: for each driver the first of its names that loads. The last tells of the failure.
    fn providers(&self, open: &Open, process: &mut Process<'_>, libibverbs: ObjectId) -> Vec<Step> {
        let object = process.object(libibverbs).clone();
        let drivers = libibverbs::names(&self.examination.rootfs, object.file.elf.data());
        let mut load = |names: &Vec<String>| {
            let mut last = None;
            for name in names {
                let outcome = self.dlopen(process, name, libibverbs, Mode::NOW);
                let is_loaded = matches!(outcome, StepOutcome::Ok(_));
                last = Some((name, outcome));
                if is_loaded {
                    break;
                }
            }
            let (name, outcome) = last?;
            let mut step = step(How::Dlopen, name, &object.display(), outcome, open.optional);
            if let StepOutcome::Failed(failure) = &step.outcome {
                let message = failure.message();
                step.user_sees = open.sees.first().map(|t| t.replace("{message}", &message).replace("{path}", name));
            }
            Some(step)
        };
        drivers.iter().filter_map(&mut load).collect()
    }

    /// The major release of CUDA that the framework is built for, or else that of cuda-python.
    fn cuda_major(&self) -> Option<u32> {
        let bindings = || self.examination.installed.iter().find(|d| d.name == "cuda-bindings").map(|d| &d.version);
        let cuda = self.cuda.as_ref().and_then(Observed::seen).or_else(bindings)?;
        release(cuda).first().copied()
    }

    /// The object that calls `dlopen` for Python code, which imports `ctypes` for it.
    fn ctypes(&self, process: &mut Process<'_>) -> ObjectId {
        if let Some(loaded) = ctypes(process) {
            return loaded;
        }
        let by = interpreter(process);
        let file = module_file(self.examination, self.python, "_ctypes");
        file.and_then(|f| process.dlopen(f.as_os_str(), by, Mode::NOW).ok()).unwrap_or(by)
    }

    /// A name with what depends on the image and on the library that opens it; none where that is not known.
    fn fill(&self, name: &str, open: &Open, by: &Object) -> Option<String> {
        let mut name = name.to_owned();
        if name.contains("{N") {
            let soname = by.loaded().soname;
            name = name.replace("{N}", soname.split_once(".so.").map_or("", |(_, version)| version));
        }
        for (placeholder, count) in [("{N.N.N}", 3), ("{N.N}", 2)] {
            if name.contains(placeholder) {
                name = name.replace(
                    placeholder,
                    &self.release_of(by)?.splitn(count + 1, '.').take(count).collect::<Vec<_>>().join("."),
                );
            }
        }
        let cuda = self.cuda.as_ref().and_then(Observed::seen);
        if name.contains("{cuda}") {
            name = name.replace("{cuda}", nvrtc_soname(cuda?));
        }
        if name.contains("{bitsandbytes}") {
            name = name.replace("{bitsandbytes}", &self.bitsandbytes(cuda?)?);
        }
        if let Some((before, _)) = name.split_once("{named}") {
            let before = open.after.as_deref().unwrap_or(before);
            let version = by.file.elf.data_from_texts().iter().find_map(|data| named_version(data, before))?;
            name = name.replace("{named}", &version);
        }
        Some(name)
    }

    /// The release of a library: at least three numbers.
    fn release_of(&self, object: &Object) -> Option<String> {
        let mut known = self.releases.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(object.path.clone()).or_insert_with(|| self.find_release(object)).clone()
    }

    /// From the name of its file, or from the distribution that brought it.
    fn find_release(&self, object: &Object) -> Option<String> {
        let rootfs = &self.examination.rootfs;
        let path = rootfs.canonicalize(&object.path).ok()?;
        let (stem, version) = path.file_name()?.to_str()?.split_once(".so")?;
        let is_release = |version: &str| version.split('.').count() > 2;
        let named = version.strip_prefix('.').filter(|v| is_release(v));
        // The parts of cuDNN, libcudnn_graph, are in the distribution of libcudnn.
        let library = stem.strip_prefix("lib").and_then(|s| s.split('_').next()).unwrap_or(stem);
        let is_it = |listed: &Path| {
            listed.file_name() == object.path.file_name() && rootfs.canonicalize(listed).is_ok_and(|p| p == path)
        };
        let brings = |d: &&Installed| {
            d.name.contains(library)
                && is_release(&d.version)
                && d.shared_objects(rootfs).iter().any(|l| is_it(&d.location.join(&l.path)))
        };
        let installed = || self.examination.installed.iter().find(brings).map(|d| d.version.as_str());
        named.or_else(installed).map(str::to_owned)
    }

    fn bitsandbytes(&self, cuda: &str) -> Option<String> {
        let installed = self.examination.installed.iter().find(|d| d.name == "bitsandbytes")?;
        let forced = self.examination.request.env.get("BNB_CUDA_VERSION").map(|v| v.to_string_lossy().into_owned());
        let files = places::expand(self.examination, self.python, "{site}/bitsandbytes/libbitsandbytes_cuda*.so");
        let digits = |path: &PathBuf| {
            let name = path.file_name()?.to_str()?;
            Some(name.strip_prefix("libbitsandbytes_cuda")?.strip_suffix(".so")?.to_owned())
        };
        let packaged: Vec<String> = files.iter().filter_map(digits).collect();
        Some(bitsandbytes::library(&installed.version, cuda, forced.as_deref(), &packaged))
    }

    /// The files that a pattern stands for.
    fn files(&self, pattern: &str) -> Vec<String> {
        let paths = places::expand(self.examination, self.python, pattern);
        paths.iter().filter(|p| self.examination.rootfs.is_file(p)).map(|p| display(p)).collect()
    }

    /// The path that a pattern would stand for: in the first directory that is there.
    fn would_be(&self, name: &str) -> Option<String> {
        let paths = places::expand(self.examination, self.python, name);
        let in_place = |p: &&PathBuf| p.parent().is_some_and(|d| self.examination.rootfs.is_dir(d));
        paths.iter().find(in_place).or(paths.first()).map(|p| display(p))
    }

    /// Of patterns that match nothing, the one that says most of what it is to match, where a message tells of that.
    fn unmatched(&self, names: &[String], open: &Open) -> Option<String> {
        open.absent.as_ref()?;
        let said = |name: &&String| name.rsplit('/').next().and_then(|file| file.find('*'));
        let filled =
            |name: &String| Some((said(&name), places::filled(self.examination, self.python, name).first()?.clone()));
        let (_, path) = names.iter().filter_map(filled).max_by_key(|(said, _)| *said)?;
        Some(display(&path))
    }

    /// Imports an extension module from whichever entry of `sys.path` has it, or another module with what it imports.
    fn import(&self, module: &str, open: &Open, process: &mut Process<'_>) -> Result<Vec<Step>, String> {
        let extension = module_file(self.examination, self.python, module);
        let finder = self.finder.filter(|finder| extension.is_none() && finder.find_dotted(module).is_some());
        let (file, outcome) = match (extension, finder) {
            (Some(path), _) => {
                let file = display(&path);
                let by = interpreter(process);
                let outcome = self.dlopen(process, &file, by, Mode::NOW);
                (file, outcome)
            }
            (None, Some(finder)) => {
                let mut run = Run::new(self.examination, self.python, finder);
                let Subject { mut steps, unknown, .. } =
                    run.import_after(Some(&self.framework.module), module, process);
                // What went well, or was done without, is told of the import already.
                steps.retain(Step::breaks);
                for step in steps.iter_mut().filter(|s| matches!(s.outcome, StepOutcome::NotFound(_))) {
                    step.user_sees = open.absent.clone().or(step.user_sees.take());
                }
                match unknown {
                    _ if !steps.is_empty() => return Ok(steps),
                    Some(why) => return Err(why),
                    None => (module.to_owned(), StepOutcome::Ok(module.to_owned())),
                }
            }
            (None, None) => (
                module.to_owned(),
                StepOutcome::NotFound(Absence {
                    kind: "module".into(),
                    name: module.to_owned(),
                    searched: self.examination.sys_path.entries.iter().map(|p| display(p)).collect(),
                    notes: Vec::new(),
                }),
            ),
        };
        let top = module.split('.').next().unwrap_or(module);
        let not_found =
            || open.absent.clone().unwrap_or_else(|| format!("ModuleNotFoundError: No module named '{top}'"));
        let user_sees = matches!(outcome, StepOutcome::NotFound(_)).then(not_found);
        let step = Step {
            what: format!("import {module}"),
            how: How::Import,
            file,
            because: Vec::new(),
            weight: Weight::Required,
            outcome,
            user_sees,
        };
        Ok(vec![step])
    }

    fn look_for(&self, file: &File) -> Step {
        let places = file.places.iter().flat_map(|p| places::expand(self.examination, self.python, p));
        let places: Vec<PathBuf> = places.collect();
        let is_it = |p: &&PathBuf| {
            let stat = self.examination.rootfs.stat(p);
            stat.is_ok_and(|s| s.is_file() && (!file.executable || s.is_executable()))
        };
        let outcome = match places.iter().find(is_it) {
            Some(path) => StepOutcome::Ok(display(path)),
            None => StepOutcome::NotFound(Absence {
                kind: file.kind.clone(),
                name: file.name.clone(),
                searched: places.iter().map(|p| display(p)).collect(),
                notes: Vec::new(),
            }),
        };
        Step {
            what: format!("find {}", file.name),
            how: How::File,
            file: file.name.clone(),
            because: Vec::new(),
            weight: Weight::Required,
            user_sees: matches!(outcome, StepOutcome::NotFound(_)).then(|| file.sees.clone()),
            outcome,
        }
    }
}

/// Whether it is not opened, as one of the system was found before.
fn is_spared(open: &Open, steps: &[Step]) -> bool {
    let of_system = |step: &Step, library: &str| {
        let name = step.file.rsplit('/').next().unwrap_or(&step.file);
        let is_of_wheel = matches!(&step.outcome, StepOutcome::Ok(path) if path.contains("-packages/"));
        name.starts_with(library) && step.is_ok() && !is_of_wheel
    };
    open.unless.iter().any(|library| steps.iter().any(|step| of_system(step, library)))
}

/// The CUDA release that a build is for; absent where it is for none.
fn built_for(examination: &Examination, cuda: &Release) -> Observed<String> {
    let package = cuda.file.split('/').next().unwrap_or(&cuda.file);
    let read = |entry: &PathBuf| examination.rootfs.read_text(&entry.join(&cuda.file), MAX_TEXT).ok();
    match examination.sys_path.entries.iter().find_map(read) {
        None => Observed::Failed(format!("the CUDA release of {package} is not known: no {}", cuda.file)),
        Some(text) => match frameworks::quoted(&text, &cuda.after) {
            Some(release) => Observed::Seen(release),
            None => Observed::Absent(format!("this build of {package} has no CUDA")),
        },
    }
}

/// The mapped object that is `library`, named without its version.
fn find(process: &Process<'_>, library: &str) -> Option<ObjectId> {
    process
        .objects()
        .find(|(_, o)| {
            let name = o.file.elf.soname().or(o.path.file_name()).unwrap_or_default().to_string_lossy().into_owned();
            name.strip_prefix(library).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
        .map(|(id, _)| id)
}

/// `dlopen` in a container that has a driver.
pub fn dlopen(process: &mut Process<'_>, name: &str, by: ObjectId, mode: Mode) -> StepOutcome {
    match process.dlopen(name.as_ref(), by, mode) {
        Ok(id) => StepOutcome::Ok(process.object(id).display()),
        Err(failure) => with_driver(process, name, by, mode, failure),
    }
}

/// What is left of the `failure` to load `name` in a container that has a driver: what only lacks the libraries that the
/// host brings when it starts loads there.
pub fn with_driver(process: &mut Process<'_>, name: &str, by: ObjectId, mode: Mode, failure: Failure) -> StepOutcome {
    if !failure.errors.iter().any(lacks_driver) {
        return StepOutcome::Failed(failure);
    }
    // A symbol of no particular library may be one of the driver's.
    let may_be = |e: &LoadError| matches!(e, LoadError::Undefined { file: None, .. });
    let errors: Vec<LoadError> = failure.errors.into_iter().filter(|e| !lacks_driver(e) && !may_be(e)).collect();
    if errors.iter().any(LoadError::is_fatal) {
        return StepOutcome::Failed(Failure { errors, loaded: failure.loaded });
    }
    let (root, _) = process.trace(name.as_ref(), by, mode);
    StepOutcome::Ok(root.map_or(name.to_owned(), |id| process.object(id).display()))
}

/// Whether it is a library of the driver that is missing.
pub fn lacks_driver(error: &LoadError) -> bool {
    matches!(error, LoadError::Missing { name, .. } if scan::is_driver(name))
}

/// Whether `text` stands in `data`.
pub fn contains(data: &[u8], text: &str) -> bool {
    memchr::memmem::find(data, text.as_bytes()).is_some()
}

/// The digits and dots that follow `prefix` where it stands in `data`, without a dot that ends a sentence.
fn named_version(data: &[u8], prefix: &str) -> Option<String> {
    memchr::memmem::find_iter(data, prefix.as_bytes()).find_map(|at| {
        let rest = &data[at + prefix.len()..];
        let len = rest.iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count().min(32);
        let version = std::str::from_utf8(&rest[..len]).ok()?.trim_end_matches('.');
        (!version.is_empty()).then(|| version.to_owned())
    })
}

/// CUDA 11 kept the SONAME `libnvrtc.so.11.2` from 11.2 on; later releases use the major version.
fn nvrtc_soname(cuda: &str) -> &str {
    match cuda.split_once('.') {
        Some(("11", _)) => "11.2",
        Some((major, _)) => major,
        None => cuda,
    }
}

fn step(how: How, name: &str, by: &str, outcome: StepOutcome, optional: bool) -> Step {
    Step {
        what: format!("open {}", name.rsplit('/').next().unwrap_or(name)),
        how,
        file: name.to_owned(),
        because: vec![by.to_owned()],
        weight: if optional { Weight::Optional } else { Weight::Required },
        outcome,
        user_sees: None,
    }
}

fn display(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
