//! One `import` in one process: the import system asks, the loader answers.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;
use rustc_hash::{FxHashMap, FxHashSet};

use super::Examination;
use super::features::{Parts, contains, dlopen, lacks_driver, with_driver};
use crate::facts::{Absence, How, LOST, Scope, Step, StepOutcome, Subject, Weight};
use crate::frameworks::{self, torch::Torch};
use crate::image::elf::{Elf, Machine};
use crate::loader::{Failure, LoadError, Mode, ObjectId, Process};
use crate::parallel;
use crate::python::distributions::Listed;
use crate::python::editable::Redirect;
use crate::python::imports::{Asked, Extension, Miss, Site, When, World};
use crate::python::{Directory, File, Finder, Importer, Interpreter, Raised};

/// Times an import is tried again, as if what broke it were mended, to find what else is wrong.
const MAX_ROUNDS: usize = 24;
/// Extension modules tried that the import did not reach; a bound, not a judgement.
const MAX_UNREACHED: usize = 200;
/// Directories told that `.pth` files name and that are not there.
const MAX_LOST: usize = 4;
/// The extension module before which torch preloads its libraries.
const TORCH_C: &str = "torch._C";
/// What torch says when `torch._C` is only its folder of type stubs, without the commands that releases name there.
const TORCH_C_LOST: &str = "ImportError: Failed to load PyTorch C extensions:
    It appears that PyTorch has loaded the `torch/_C` folder
    of the PyTorch repository rather than the C extensions which
    are expected in the `torch._C` namespace. This can occur when
    or by running Python from a different directory.";

/// What OpenCV says where it finds itself in the place of its extension module.
const CV2_LOST: &str =
    "ImportError: ERROR: recursion is detected during loading of \"cv2\" binary extensions. Check OpenCV installation.";

/// How zlib begins what it compresses best.
const ZLIB: &[u8] = b"\x78\xda";
/// Places in a module where that may be.
const MAX_STREAMS: usize = 64;
/// Largest text that is unpacked, in bytes.
const MAX_TEXTS: usize = 16 * 1024 * 1024;
/// Longest name of a module in it.
const MAX_NAME: usize = 100;
/// Largest module that is searched for names, in bytes: what is larger holds code for GPUs, and not of Cython.
const MAX_CYTHON: u64 = 64 * 1024 * 1024;
/// What compiled modules import that cffi made.
const CFFI: &str = "_cffi_backend";
/// The module that compiled code imports for NumPy's C API, of NumPy 2; of NumPy 1 it is in `numpy.core`.
const NUMPY_API: &str = "core._multiarray_umath";
/// How Python code opens libraries.
const OPENS: &[&str] = &["CDLL(", "LoadLibrary(", "dlopen(", "load_library("];

/// The import of one module.
pub struct Run<'e> {
    examination: &'e Examination,
    python: &'e Interpreter,
    finder: &'e Finder<'e>,
    records: Records<'e>,
    /// Modules that the last import did not find, and did without.
    done_without: FxHashSet<String>,
}

/// Names of shared objects, by their directory.
type Names = FxHashMap<PathBuf, FxHashSet<String>>;

struct Round<'r, 'l, 'e> {
    records: &'r mut Records<'e>,
    process: &'r mut Process<'l>,
    /// Of the process, what imports.
    interpreter: ObjectId,
    steps: Vec<Step>,
    /// Extension modules, libraries and modules that count as mended.
    assumed: &'r FxHashSet<String>,
    /// Why it is not known what one of the modules opens by itself.
    unknown: Option<String>,
}

/// What RECORD files list.
struct Records<'e> {
    examination: &'e Examination,
    python: &'e Interpreter,
    /// By the entry of `sys.path`.
    listed: FxHashMap<PathBuf, Names>,
    /// Extension modules that are listed and not there, once somebody has asked.
    lost: Option<FxHashSet<String>>,
    /// Extension modules whose code imports none of these, nor does what it imports: most are asked for by several.
    whole: FxHashSet<PathBuf>,
    /// Files of extension modules by the names that compiled code has for them, where there are any.
    files: RefCell<FxHashMap<String, Option<PathBuf>>>,
}

impl<'e> Run<'e> {
    /// A run of `python`.
    pub fn new(examination: &'e Examination, python: &'e Interpreter, finder: &'e Finder<'e>) -> Self {
        let records = Records {
            examination,
            python,
            listed: FxHashMap::default(),
            lost: None,
            whole: FxHashSet::default(),
            files: RefCell::default(),
        };
        Self { examination, python, finder, records, done_without: FxHashSet::default() }
    }

    /// Imports `module` into `process`. What fails is assumed to be mended, until the import comes to its end.
    pub fn import(&mut self, module: &str, process: &mut Process<'_>) -> Subject {
        self.import_after(None, module, process)
    }

    /// As [`Self::import`], where `first` was imported before; what that did is among the steps.
    pub fn import_after(&mut self, first: Option<&str>, module: &str, process: &mut Process<'_>) -> Subject {
        let mut subject = Subject::new(format!("import:{module}"));
        let start = process.clone();
        let mut assumed: FxHashSet<String> = FxHashSet::default();
        let mut broken: Vec<Step> = Vec::new();
        for _ in 0..MAX_ROUNDS {
            *process = start.clone();
            let mut round = Round::new(&mut self.records, process, &assumed);
            let mut importer = Importer::new(self.python, &self.examination.request.env, self.finder, &mut round);
            let outcome = first.map_or(Ok(()), |first| importer.import(first)).and_then(|()| importer.import(module));
            let trace = importer.finish();
            let mut steps = round.steps;
            subject.unknown = subject.unknown.or(round.unknown);
            if outcome.is_ok() {
                for step in &mut steps {
                    if !step.is_ok() {
                        step.weight = Weight::Optional;
                    }
                }
                broken.append(&mut steps);
                self.done_without = trace.missing.into_iter().map(|miss| miss.module).collect();
                break;
            }
            // The exception that left the import is that of the last thing that failed.
            let failed = steps.iter().rposition(Step::breaks);
            let missed = trace.missing.last();
            // A lost name raises ImportError as a library does that does not load; it was noted after every step.
            let is_name =
                |asked: &Asked| matches!(asked, Asked::NameOf(..) | Asked::Directory(Some(_)) | Asked::Compiled);
            let lost_name = missed.is_some_and(|m| is_name(&m.asked) && !assumed.contains(&m.module));
            match (failed, missed) {
                (Some(at), _) if outcome != Err(Raised::NotFound) && !lost_name => {
                    let step = steps.swap_remove(at);
                    // The name that was assumed is the module's, which the step carries last.
                    assumed.insert(step.because.last().cloned().unwrap_or_default());
                    assumed.insert(step.file.clone());
                    match self.may_be_opened(&step, &trace.executed) {
                        Some((library, by)) => {
                            let why =
                                format!("whether {library} is loaded is not known: {by} opens libraries by itself");
                            subject.unknown.get_or_insert(why);
                        }
                        None => broken.push(step),
                    }
                }
                (_, Some(Miss { module, doubt: Some(file), .. })) if assumed.insert(module.clone()) => {
                    let by = file.display();
                    let why = format!("whether Python finds {module} is not known: {by} adds to where it looks");
                    subject.unknown.get_or_insert(why);
                }
                (_, Some(miss)) if assumed.insert(miss.module.clone()) => {
                    broken.push(self.missing(miss));
                }
                _ => {
                    subject.unknown = Some("the import fails, and its cause was not found".into());
                    break;
                }
            }
        }
        subject.steps = broken;
        subject
    }

    /// Loads the extension module `core` of `module` into `process`, without the rest of the import; nothing where it does
    /// not load.
    pub fn load(&mut self, module: &str, core: &str, file: &Path, process: &mut Process<'_>) -> Option<Subject> {
        let mut tried = process.clone();
        let assumed = FxHashSet::default();
        let mut round = Round::new(&mut self.records, &mut tried, &assumed);
        round.load(&Extension { module: core, path: file, chain: &[] }).ok()?;
        let steps = round.steps;
        *process = tried;
        Some(Subject { steps, ..Subject::new(format!("import:{module}")) })
    }

    /// A library without which `step` fails, and the file of the package that brings it: its code opens libraries, and may
    /// have loaded this one before. `ctypes` is used for that where no RUNPATH leads from one wheel to the other.
    fn may_be_opened(&self, step: &Step, executed: &[File]) -> Option<(String, String)> {
        let StepOutcome::Failed(failure) = &step.outcome else { return None };
        let missing = failure.errors.iter().find(|e| e.is_fatal());
        let Some(LoadError::Missing { name, .. }) = missing else { return None };
        let is_it = |path: &str| path.rsplit('/').next() == Some(name.as_str());
        let rootfs = &self.examination.rootfs;
        let mut packages = self.examination.installed.iter().filter(|d| !frameworks::is_known_opener(&d.name));
        packages.find_map(|package| {
            let is_there = |l: &Listed| is_it(&l.path) && rootfs.is_file(&package.location.join(&l.path));
            package.shared_objects(rootfs).iter().find(|l| is_there(l))?;
            let record = package.record(rootfs);
            let opens = |file: &&File| {
                let path = file.path();
                let relative = path.strip_prefix(&package.location).ok().and_then(Path::to_str);
                relative.is_some_and(|path| record.lists(path))
                    && self.finder.source(file).is_ok_and(|source| OPENS.iter().any(|o| contains(&source, o)))
            };
            Some((name.clone(), executed.iter().find(opens)?.path().to_string_lossy().into_owned()))
        })
    }

    /// Tries the extension modules of the package that its import did not load, each in a process of its own: they
    /// may be loaded later, or never. Those that `is_tried` elsewhere are left out.
    ///
    /// The statements of Python do not tell what compiled modules import of one another. Where one fails, its name in a
    /// module of Cython that is imported does.
    pub fn unreached(
        &mut self,
        subject: &Subject,
        process: &Process<'_>,
        is_tried: impl Fn(&str) -> bool,
    ) -> Vec<Step> {
        let Some(module) = subject.capability.strip_prefix("import:") else { return Vec::new() };
        let package = |entry: &PathBuf| entry.join(module.replace('.', "/"));
        let mut entries = self.examination.sys_path.entries.iter();
        let Some(entry) = entries.find(|e| self.examination.rootfs.is_dir(&package(e))) else { return Vec::new() };
        if subject.unknown.is_some() || subject.steps.iter().any(Step::breaks) {
            return Vec::new();
        }
        // Python's own statements have tried these.
        let failed: FxHashSet<&str> = subject.steps.iter().map(|s| s.file.as_str()).collect();
        let listed = self.records.listed(entry).iter().filter(|(dir, _)| dir.starts_with(package(entry)));
        let mut files: Vec<PathBuf> = listed.flat_map(|(dir, names)| names.iter().map(|n| dir.join(n))).collect();
        files.sort();
        let modules: Vec<(PathBuf, String)> = files
            .into_iter()
            .filter(|f| process.loaded(f.as_os_str()).is_none() && !is_tried(&f.to_string_lossy()))
            .filter(|f| self.examination.rootfs.exists(f) && !failed.contains(&*f.to_string_lossy()))
            .filter_map(|f| extension_module(self.examination, self.python, entry, &f).map(|module| (f, module)))
            .filter(|(_, module)| !self.done_without.contains(module))
            .take(MAX_UNREACHED)
            .collect();
        let steps = parallel::map(&modules, |(path, module)| {
            let file = path.to_string_lossy().into_owned();
            let mut process = process.clone();
            let by = interpreter(&process);
            Step {
                what: format!("import {module}"),
                how: How::Import,
                because: Vec::new(),
                weight: Weight::Optional,
                outcome: dlopen(&mut process, &file, by, Mode::NOW),
                user_sees: None,
                file,
            }
        });
        if steps.iter().all(Step::is_ok) {
            return steps;
        }
        let imported = process.objects().map(|(_, o)| o.path.clone()).filter(|p| p.starts_with(package(entry)));
        let named = self.named(imported.collect(), &modules);
        let tried = modules.iter().zip(steps).map(|((_, module), step)| match named.get(module.as_str()) {
            Some(by) if !step.is_ok() => {
                Step { weight: Weight::Required, because: vec![by.display().to_string()], ..step }
            }
            _ => step,
        });
        tried.collect()
    }

    /// Which of the `modules` are named in one of the files, or in a module that is; each with the file that names it.
    fn named<'m>(&self, mut files: Vec<PathBuf>, modules: &'m [(PathBuf, String)]) -> FxHashMap<&'m str, PathBuf> {
        let paths: FxHashMap<&str, &Path> =
            modules.iter().map(|(path, name)| (name.as_str(), path.as_path())).collect();
        let mut named = FxHashMap::default();
        while let Some(file) = files.pop() {
            let Ok((map, _)) = self.examination.rootfs.map(&file) else { continue };
            if cython(&map).is_none() {
                continue;
            }
            for name in dotted_names(&map) {
                if let Some((name, path)) = paths.get_key_value(name).filter(|(name, _)| !named.contains_key(*name)) {
                    named.insert(*name, file.clone());
                    files.push(path.to_path_buf());
                }
            }
        }
        named
    }

    /// A module without a file.
    fn missing(&self, miss: &Miss) -> Step {
        let Miss { module, chain, asked, by, .. } = miss;
        let stem = module.rsplit('.').next().unwrap_or(module);
        let other = self.other_abi(module, stem);
        let mut notes = Vec::new();
        if let Some((file, tag)) = &other {
            notes.push(("found".to_owned(), file.clone()));
            notes.push(("built for".to_owned(), tag.clone()));
            notes.push(("interpreter takes".to_owned(), self.python.suffixes.join(", ")));
        }
        notes.extend(by.iter().map(|by| ("imported by".to_owned(), by.display().to_string())));
        let redirect = self.finder.redirect(module);
        let redirects = redirect.iter().map(|r| (&r.path, &r.by));
        let lost = self.examination.sys_path.lost.iter().map(|(target, by)| (target, by));
        for (target, by) in redirects.chain(lost).take(MAX_LOST) {
            notes.push((LOST.to_owned(), target.display().to_string()));
            notes.push(("named by".to_owned(), by.display().to_string()));
        }
        let kind = match (&other, module.contains('.')) {
            (Some(_), _) => "python-abi",
            (None, false) if chain.last().is_some_and(|s| s.file.starts_with(&self.python.stdlib)) => {
                "stdlib-extension"
            }
            (None, has_dot) if has_dot || by.is_some() => "extension-file",
            (None, _) => "module",
        };
        let package = module.rsplit_once('.').map_or("", |(p, _)| p);
        let user_sees = match asked {
            _ if module == TORCH_C => TORCH_C_LOST.to_owned(),
            _ if module == "cv2.cv2" => CV2_LOST.to_owned(),
            Asked::Itself | Asked::Directory(None) => not_there(module, redirect),
            Asked::NameOf(..) if chain.last().is_some_and(|s| s.file.extension().is_some_and(|e| e == "pyx")) => {
                format!("ImportError: cannot import name {stem}")
            }
            Asked::Compiled => "size changed, may indicate binary incompatibility".to_owned(),
            Asked::Directory(Some(name)) => {
                format!("ImportError: cannot import name '{name}' from '{module}' (unknown location)")
            }
            Asked::NameOf(file, true) => format!(
                "ImportError: cannot import name '{stem}' from partially initialized module '{package}' (most likely \
                 due to a circular import) ({})",
                file.display()
            ),
            Asked::NameOf(file, false) => {
                format!("ImportError: cannot import name '{stem}' from '{package}' ({})", file.display())
            }
        };
        Step {
            what: format!("import {module}"),
            how: How::Import,
            file: module.to_owned(),
            because: sites(chain),
            weight: Weight::Required,
            outcome: StepOutcome::NotFound(Absence {
                kind: kind.into(),
                name: module.clone(),
                searched: self.examination.sys_path.entries.iter().map(|p| p.to_string_lossy().into_owned()).collect(),
                notes,
            }),
            user_sees: Some(user_sees),
        }
    }

    /// A file of the module's name that is for another interpreter.
    fn other_abi(&self, module: &str, stem: &str) -> Option<(String, String)> {
        let parent = module.rsplit_once('.').map_or("", |(p, _)| p).replace('.', "/");
        let prefix = format!("{stem}.");
        for entry in &self.examination.sys_path.entries {
            let dir = entry.join(&parent);
            for e in self.examination.rootfs.read_dir(&dir).unwrap_or_default() {
                let Some(name) = e.name.to_str() else { continue };
                if let Some(tag) = name.strip_prefix(&prefix).and_then(|r| r.strip_suffix(".so"))
                    && (tag.starts_with("cpython-") || tag.starts_with("pypy"))
                {
                    return Some((dir.join(name).to_string_lossy().into_owned(), tag.to_owned()));
                }
            }
        }
        None
    }
}

/// The module whose file this is; none for other libraries, and for those of tests.
fn extension_module(examination: &Examination, python: &Interpreter, entry: &Path, file: &Path) -> Option<String> {
    let relative = file.strip_prefix(entry).ok()?.to_str()?;
    let suffix = python.suffixes.iter().find(|s| relative.ends_with(s.as_str()))?;
    let module = relative.strip_suffix(suffix.as_str())?.replace('/', ".");
    if module.contains("test") {
        return None;
    }
    if suffix == ".so" && examination.rootfs.exists(file) {
        // Any library may be called like that; what Python asks for tells.
        let (map, _) = examination.rootfs.map(file).ok()?;
        let elf = Elf::parse(map, Machine::host()).ok()?;
        let is_module = elf.makes_module(module.rsplit('.').next()?, &elf.version_names());
        return is_module.then_some(module);
    }
    Some(module)
}

/// The release of Cython that made a module (`CYTHON_ABI` in the names of its types), as 3.1 is `(3, 1)`; zeros where it
/// is not told.
fn cython(data: &[u8]) -> Option<(u32, u32)> {
    memchr::memmem::find(data, b"__pyx_")?;
    let release = |at: usize| {
        let mut numbers = data[at + b"_cython_".len()..].split(|c| !c.is_ascii_digit());
        let mut number = || std::str::from_utf8(numbers.next()?).ok()?.parse().ok();
        number().zip(number())
    };
    Some(memchr::memmem::find_iter(data, b"_cython_").find_map(release).unwrap_or_default())
}

/// Names with dots that stand in a file as C writes texts.
fn dotted_names(data: &[u8]) -> impl Iterator<Item = &str> {
    let is_name = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.');
    data.split(|c| *c == 0).filter_map(move |text| {
        let start = text.iter().rposition(|c| !is_name(c)).map_or(0, |n| n + 1);
        std::str::from_utf8(&text[start..]).ok().filter(|name| name.contains('.'))
    })
}

/// Names of modules of the package `top` in the texts that Cython has compressed with zlib: they follow one another with
/// nothing in between, so each is the longest that `is_module`.
fn compressed_names(data: &[u8], top: &str, is_module: impl Fn(&str) -> bool) -> Vec<String> {
    let top = format!("{top}.");
    let is_name = |c: &&u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.');
    let mut found = Vec::new();
    for at in memchr::memmem::find_iter(data, ZLIB).take(MAX_STREAMS) {
        let Ok(texts) = decompress_to_vec_zlib_with_limit(&data[at..], MAX_TEXTS) else { continue };
        for at in memchr::memmem::find_iter(&texts, &top) {
            let length = texts[at..].iter().take(MAX_NAME).take_while(is_name).count();
            let Ok(run) = std::str::from_utf8(&texts[at..at + length]) else { continue };
            let name = (top.len() + 1..=run.len()).rev().map(|end| &run[..end]).find(|name| is_module(name));
            found.extend(name.map(str::to_owned));
        }
    }
    found
}

/// What Python says of a module without a file.
fn not_there(module: &str, redirect: Option<&Redirect>) -> String {
    match redirect.and_then(|r| Some((r.raises()?, r.path.display()))) {
        Some((Raised::Os, path)) => format!("FileNotFoundError: [Errno 2] No such file or directory: '{path}'"),
        Some((Raised::Import, path)) => {
            format!("ImportError: {path}: cannot open shared object file: No such file or directory")
        }
        _ => format!("ModuleNotFoundError: No module named '{module}'"),
    }
}

fn sites(chain: &[Site]) -> Vec<String> {
    chain.iter().map(|s| format!("{}:{}", s.file.display(), s.line)).collect()
}

/// The object whose code calls `dlopen` for `ctypes`, once that is imported.
pub fn ctypes(process: &Process<'_>) -> Option<ObjectId> {
    let is_ctypes = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("_ctypes."));
    process.objects().find(|(_, o)| is_ctypes(&o.path)).map(|(id, _)| id)
}

/// The object whose code imports extension modules: the interpreter, or its shared library.
pub fn interpreter(process: &Process<'_>) -> ObjectId {
    let is_libpython = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("libpython"));
    process.objects().find(|(_, o)| is_libpython(&o.path)).map_or(ObjectId(0), |(id, _)| id)
}

/// The file of an extension module, in whichever entry of `sys.path` has it.
pub fn module_file(examination: &Examination, python: &Interpreter, module: &str) -> Option<PathBuf> {
    let relative = module.replace('.', "/");
    examination.sys_path.entries.iter().find_map(|entry| {
        python.suffixes.iter().map(|s| entry.join(format!("{relative}{s}"))).find(|p| examination.rootfs.is_file(p))
    })
}

impl<'r, 'l, 'e> Round<'r, 'l, 'e> {
    fn new(records: &'r mut Records<'e>, process: &'r mut Process<'l>, assumed: &'r FxHashSet<String>) -> Self {
        let interpreter = interpreter(process);
        Self { records, process, interpreter, steps: Vec::new(), assumed, unknown: None }
    }

    /// The texts of a loaded module that Cython has made.
    fn texts_of_cython(&self, extension: &Extension<'_>) -> Option<&[u8]> {
        let loaded = self.process.loaded(extension.path.as_os_str())?;
        let file = &self.process.object(loaded).file;
        let [texts, _] = file.elf.data_from_texts();
        (file.size <= MAX_CYTHON && cython(texts).is_some()).then_some(texts)
    }
}

impl World for Round<'_, '_, '_> {
    fn load(&mut self, extension: &Extension<'_>) -> Result<(), Raised> {
        let examination = self.records.examination;
        let file = extension.path.to_string_lossy().into_owned();
        if self.assumed.contains(&file) {
            return Ok(());
        }
        let rtld_global = examination.request.env.non_empty("TORCH_USE_RTLD_GLOBAL").is_some();
        let mut mode = Mode::NOW;
        if extension.module == TORCH_C {
            if rtld_global {
                mode = Mode { now: false, global: true };
            } else if let Some(torch) =
                Torch::installed(&examination.rootfs, &examination.sys_path.entries, extension.path)
                && let Some(framework) = frameworks::of_module("torch")
                && !self.assumed.contains("torch preload")
            {
                let caller = ctypes(self.process).unwrap_or(ObjectId(0));
                match torch.preload(framework, self.process, caller) {
                    Ok(steps) => self.steps.extend(steps),
                    Err(mut steps) => {
                        if let Some(last) = steps.last_mut() {
                            last.because.push("torch preload".into());
                        }
                        self.steps.extend(steps);
                        return Err(Raised::Other);
                    }
                }
            }
        }
        let mut because = sites(extension.chain);
        because.push(extension.module.to_owned());
        let caller = self.interpreter;
        let step = |weight, outcome| Step {
            what: format!("import {}", extension.module),
            how: How::Import,
            file: file.clone(),
            because: because.clone(),
            weight,
            outcome,
            user_sees: None,
        };
        let outcome = match self.process.dlopen(extension.path.as_os_str(), caller, mode) {
            Ok(_) => StepOutcome::Ok(file.clone()),
            // The image runs where a driver is, and is built where there is none.
            Err(failure) if examination.request.scope == Scope::Image => {
                let lacking: Vec<LoadError> = failure.errors.iter().filter(|e| lacks_driver(e)).cloned().collect();
                if !lacking.is_empty() {
                    let elsewhere = Failure { errors: lacking, loaded: Vec::new() };
                    self.steps.push(step(Weight::Optional, StepOutcome::Failed(elsewhere)));
                }
                with_driver(self.process, &file, caller, mode, failure)
            }
            Err(failure) => StepOutcome::Failed(failure),
        };
        let loaded = matches!(outcome, StepOutcome::Ok(_));
        self.steps.push(step(Weight::Required, outcome));
        if loaded { Ok(()) } else { Err(Raised::Import) }
    }

    /// What cffi made imports its backend. Cython makes `PyImport_ImportModule` of each `cimport`, so that the name is a
    /// text in the file. Before 3.1 the names of its other imports are too, and since 3.2 many are compressed with those
    /// of everything else; of these some are made later or never, so that only those of the same package count.
    fn lost_import(&mut self, extension: &Extension<'_>) -> Option<(String, PathBuf)> {
        if self.records.lost().is_empty() {
            return None;
        }
        let is_lost = |name: &str| self.records.lost.as_ref().is_some_and(|lost| lost.contains(name));
        let mut is_whole = true;
        let mut seen: FxHashSet<PathBuf> = FxHashSet::default();
        let mut files = vec![(extension.module.to_owned(), extension.path.to_owned())];
        while let Some((module, file)) = files.pop() {
            if self.records.whole.contains(&file) || !seen.insert(file.clone()) {
                continue;
            }
            let Ok((map, stat)) = self.records.examination.rootfs.map(&file) else { continue };
            if stat.size > MAX_CYTHON {
                continue;
            }
            let mut names = Vec::new();
            if is_lost(CFFI) && contains(&map, CFFI) {
                names.push(CFFI.to_owned());
            }
            if let Some(release) = cython(&map) {
                let top = |name: &str| name.split('.').next().map(str::to_owned);
                let plain = dotted_names(&map).filter(|name| release >= (3, 1) || top(name) == top(&module));
                names.extend(plain.map(str::to_owned));
                let is_module = |name: &str| is_lost(name) || self.records.file(name).is_some();
                names.extend(top(&module).into_iter().flat_map(|top| compressed_names(&map, &top, is_module)));
            }
            for name in names {
                if is_lost(&name) {
                    if !self.assumed.contains(&name) {
                        return Some((name, file));
                    }
                    is_whole = false;
                }
                files.extend(self.records.file(&name).map(|file| (name, file)));
            }
        }
        if is_whole {
            self.records.whole.extend(seen);
        }
        None
    }

    /// `_import_array` in `numpy/__multiarray_api.h` has the name of the module; what is compiled without a call of it has
    /// not. Cython raises what it raises; what is written in C++ may do without (DuckDB), as Python's own modules do.
    fn imports_numpy(&self, extension: &Extension<'_>) -> bool {
        let is_of_python = extension.path.starts_with(self.records.python.stdlib.join("lib-dynload"));
        !is_of_python && self.texts_of_cython(extension).is_some_and(|texts| contains(texts, NUMPY_API))
    }

    /// Its path stands in what Cython made, for tracebacks.
    fn is_compiled_from(&self, extension: &Extension<'_>, source: &str) -> bool {
        self.texts_of_cython(extension).is_some_and(|texts| {
            let is_it = |at: usize| {
                let before = at.checked_sub(1).and_then(|at| texts.get(at));
                matches!(before, Some(0 | b'/')) && texts.get(at + source.len()) == Some(&0)
            };
            memchr::memmem::find_iter(texts, source).any(is_it)
        })
    }

    fn open(&mut self, module: &str, chain: &[Site], when: When) -> Result<(), Raised> {
        let Some(parts) = Parts::opener(self.records.examination, self.records.python, module) else { return Ok(()) };
        let assumed = self.assumed;
        match parts.at_import(module, when, self.process, &|file| assumed.contains(file)) {
            Ok((steps, raised)) => {
                let because: Vec<String> = sites(chain).into_iter().chain([module.to_owned()]).collect();
                self.steps.extend(steps.into_iter().map(|step| Step { because: because.clone(), ..step }));
                raised.map_or(Ok(()), Err)
            }
            Err(why) => {
                self.unknown.get_or_insert(why);
                Ok(())
            }
        }
    }

    fn is_built_in(&self, module: &str) -> bool {
        [ObjectId(0), self.interpreter].iter().any(|id| {
            let file = &self.process.object(*id).file;
            file.elf.makes_module(module, file.versions())
        })
    }

    fn is_lost(&mut self, package: &Directory, stem: &str) -> bool {
        // A file for another interpreter under the module's name says that the module is meant to be one.
        let other = package.libraries.iter().any(|name| {
            name.strip_prefix(stem)
                .and_then(|rest| rest.strip_prefix('.'))
                .is_some_and(|rest| rest.starts_with("cpython-") || rest.starts_with("pypy"))
        });
        if other {
            return true;
        }
        let entries = &self.records.examination.sys_path.entries;
        let Some(entry) = entries.iter().find(|e| package.path.starts_with(e)) else { return false };
        let suffixes = &self.records.python.suffixes;
        let Some(listed) = self.records.listed(entry).get(&package.path) else { return false };
        suffixes.iter().any(|s| listed.contains(&format!("{stem}{s}")))
    }

    fn is_assumed(&self, module: &str) -> bool {
        self.assumed.contains(module)
    }
}

impl Records<'_> {
    /// Shared objects that the RECORD files of one entry of `sys.path` list.
    fn listed(&mut self, entry: &Path) -> &Names {
        let examination = self.examination;
        self.listed.entry(entry.to_owned()).or_insert_with(|| {
            let mut listed = Names::default();
            for distribution in examination.installed.iter().filter(|d| d.location == entry) {
                for file in distribution.shared_objects(&examination.rootfs) {
                    let (dir, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
                    listed.entry(entry.join(dir)).or_default().insert(name.to_owned());
                }
            }
            listed
        })
    }

    /// [`module_file`], looked for once.
    fn file(&self, module: &str) -> Option<PathBuf> {
        let known = self.files.borrow().get(module).cloned();
        known.unwrap_or_else(|| {
            let file = module_file(self.examination, self.python, module);
            self.files.borrow_mut().insert(module.to_owned(), file.clone());
            file
        })
    }

    /// Extension modules that some RECORD lists and that are not there.
    fn lost(&mut self) -> &FxHashSet<String> {
        let (examination, python) = (self.examination, self.python);
        let lost = self.lost.take().unwrap_or_else(|| {
            let mut lost = FxHashSet::default();
            for entry in &examination.sys_path.entries {
                let files = self.listed(entry).iter().flat_map(|(dir, names)| names.iter().map(|n| dir.join(n)));
                let files = files.filter(|file| !examination.rootfs.exists(file));
                lost.extend(files.filter_map(|file| extension_module(examination, python, entry, &file)));
            }
            lost
        });
        self.lost.insert(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_among_compressed_texts() {
        let texts = b"Failed?app._lowapp.h5tnumpy.coreapp.h5xapp.gone";
        let compressed = miniz_oxide::deflate::compress_to_vec_zlib(texts, 10);
        assert!(compressed.starts_with(ZLIB));
        let file = [b"\x7fELF x\xda \x78\xda!", &*compressed, b"\0rest"].concat();
        let is_module = |name: &str| ["app._low", "app.h5", "app.h5t", "app.gone", "numpy.core"].contains(&name);
        assert_eq!(compressed_names(&file, "app", is_module), ["app._low", "app.h5t", "app.h5", "app.gone"]);
        assert!(compressed_names(&file[..file.len() / 2], "app", is_module).is_empty());
    }
}
