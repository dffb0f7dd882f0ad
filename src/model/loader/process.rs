//! A process: what is mapped, in which order, on whose behalf, and what `dlopen` then says.
//!
//! Follows glibc's `_dl_map_object` (`elf/dl-load.c`), `_dl_map_object_deps` (`elf/dl-deps.c`),
//! `_dl_check_map_versions` (`elf/dl-version.c`), `_dl_sort_maps_dfs` (`elf/dl-sort-maps.c`) and
//! `dl_open_worker_begin` (`elf/dl-open.c`). The real loader stops at the first error; here everything that is wrong
//! is collected, in the order in which the real one would meet it, so that the first is the message that a user sees.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Loader;
use super::error::{Failure, ISA_TOO_LOW, LoadError, Loaded};
use super::search::{Directories, Found, strerror};
use super::store::{ElfFile, Opened};
use crate::image::elf::{DF_1_NOOPEN, Dependency, SegmentError};
use crate::image::{FileError, FileId};

/// Objects mapped in one process before the model gives up; real processes have hundreds.
const MAX_OBJECTS: usize = 20_000;

/// Index of an object in its process. 0 is the main program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub usize);

/// Which rule gave a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// It is the program itself.
    Program,
    /// The program's interpreter.
    Interpreter,
    /// `LD_PRELOAD` or `/etc/ld.so.preload`.
    LdPreload,
    /// `DT_RPATH`
    Rpath,
    /// `DT_RUNPATH`
    Runpath,
    /// `LD_LIBRARY_PATH`
    LdLibraryPath,
    /// The loader cache.
    Cache,
    /// A default directory.
    Default,
    /// The name was a path.
    Absolute,
    /// It was loaded already.
    Loaded,
}

impl Via {
    /// Name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Interpreter => "interpreter",
            Self::LdPreload => "ld_preload",
            Self::Rpath => "rpath",
            Self::Runpath => "runpath",
            Self::LdLibraryPath => "ld_library_path",
            Self::Cache => "cache",
            Self::Default => "default",
            Self::Absolute => "absolute",
            Self::Loaded => "loaded",
        }
    }
}

/// One `DT_NEEDED` entry and what became of it.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Name asked for.
    pub name: OsString,
    /// The object it led to.
    pub to: Option<ObjectId>,
    /// How it was found.
    pub via: Via,
    /// The object whose tag decided.
    pub by: Option<ObjectId>,
}

/// A mapped object (`struct link_map`).
#[derive(Debug, Clone)]
pub struct Object {
    /// The file.
    pub file: Arc<ElfFile>,
    /// Path under which it was found (`l_name`), links not resolved.
    pub path: PathBuf,
    /// How it was found.
    pub via: Via,
    /// The object whose tag decided.
    pub by: Option<ObjectId>,
    /// The object that asked for it first.
    pub requested_by: Option<ObjectId>,
    /// Its dependencies.
    pub edges: Vec<Edge>,
    /// `l_loader`: where the inheritance of `DT_RPATH` goes on.
    pub(super) loader: Option<ObjectId>,
    /// `l_origin`
    pub(super) origin: PathBuf,
    /// Where its own dependencies are looked for.
    pub(super) path_list: Directories,
    /// Names that it answers to, besides its path and SONAME.
    names: Vec<OsString>,
    /// `l_searchlist`, for objects that were opened directly.
    pub(super) searchlist: Option<Vec<ObjectId>>,
    /// `l_initfini`
    dependencies: Vec<ObjectId>,
    /// Roots of the local scopes.
    pub(super) scopes: Vec<ObjectId>,
    resolved: bool,
    versions_checked: bool,
    relocated: bool,
}

impl Object {
    /// Whether it is the program itself, or was opened with `dlopen`.
    pub fn is_opened_directly(&self) -> bool {
        self.searchlist.is_some()
    }

    /// The name it was first asked for, which is the one that `ldd` prints.
    pub fn first_name(&self) -> &OsStr {
        self.names.first().map_or(OsStr::new(""), OsString::as_os_str)
    }

    /// Whether it is a part of the C library.
    pub fn is_of_libc(&self) -> bool {
        is_of_libc(&self.loaded().soname)
    }

    /// What it is, where, and why there.
    pub fn loaded(&self) -> Loaded {
        let soname = self.file.elf.soname().or(self.path.file_name()).unwrap_or_default();
        Loaded {
            soname: soname.to_string_lossy().into_owned(),
            path: self.display(),
            via: self.via.as_str().to_owned(),
        }
    }

    /// Path for messages.
    pub fn display(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }
}

/// Flags of `dlopen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mode {
    /// `RTLD_NOW` rather than `RTLD_LAZY`.
    pub now: bool,
    /// `RTLD_GLOBAL` rather than `RTLD_LOCAL`.
    pub global: bool,
}

impl Mode {
    /// What Python's import and `ctypes.CDLL` use.
    pub const NOW: Mode = Mode { now: true, global: false };
    /// `RTLD_NOW | RTLD_GLOBAL`
    pub const NOW_GLOBAL: Mode = Mode { now: true, global: true };
}

/// The state of a process. Cloning forks it.
#[derive(Clone)]
pub struct Process<'l> {
    pub(super) loader: &'l Loader,
    /// Shared between the copies of a process, until one of them changes an object.
    pub(super) objects: Vec<Arc<Object>>,
    /// The global scope.
    pub(super) global: Vec<ObjectId>,
    /// `LD_LIBRARY_PATH`, once it was looked along, and the directories of the system.
    pub(super) library_path: Directories,
    pub(super) system_path: Directories,
    /// Names that objects were asked for, and their paths (`l_libname`, `l_name`).
    names: FxHashMap<Arc<OsStr>, ObjectId>,
    /// SONAMEs, which a search asks for too, but the versions of symbols do not.
    sonames: FxHashMap<Arc<OsStr>, ObjectId>,
    files: FxHashMap<FileId, ObjectId>,
    /// Names that the running `dlopen` gave to objects (`add_name_to_object`), up to its first error.
    given: Vec<(Arc<OsStr>, ObjectId)>,
    /// Problems that do not keep the process from starting, such as a library in `LD_PRELOAD` that is not there.
    pub preload_errors: Vec<LoadError>,
}

impl<'l> Process<'l> {
    /// Starts `program`, and tells everything that is wrong with it. A process that would not start is given as far
    /// as it came; [`LoadError::is_fatal`] tells which errors keep it from starting.
    pub fn start(loader: &'l Loader, program: &Path) -> (Option<Self>, Vec<LoadError>) {
        let rejected = |reason: String| LoadError::Rejected {
            path: program.display().to_string(),
            subject: program.display().to_string(),
            requested_by: String::new(),
            reason,
            truncated: false,
        };
        let fail = |error| (None, vec![error]);
        let file = match loader.store.open(program) {
            Opened::Elf(file) => file,
            Opened::Failed(e) | Opened::Special(e) => return fail(rejected(strerror(e))),
            Opened::OtherClass | Opened::OtherMachine => {
                return fail(rejected("cannot execute binary file: Exec format error".into()));
            }
            Opened::Fatal(e) => return fail(rejected(e.to_string())),
        };
        let mut process = Process {
            loader,
            objects: Vec::new(),
            global: Vec::new(),
            library_path: Directories::new(),
            system_path: Directories::new(),
            names: FxHashMap::default(),
            sonames: FxHashMap::default(),
            files: FxHashMap::default(),
            given: Vec::new(),
            preload_errors: Vec::new(),
        };
        // The kernel resolves links before it maps a program, so `$ORIGIN` is that of the real file.
        let real = loader.rootfs.canonicalize(program).unwrap_or_else(|_| program.to_owned());
        let main = process.add(file, program.to_owned(), OsStr::new(""), Via::Program, None, None);
        process.object_mut(main).origin = real.parent().unwrap_or(Path::new("/")).to_owned();
        if let Opened::Elf(rtld) = loader.store.open(loader.dl.path()) {
            let path = loader.dl.path().to_owned();
            let name = path.clone().into_os_string();
            let rtld = process.add(rtld, path, &name, Via::Interpreter, None, None);
            // It relocates itself, and has no dependencies of its own.
            let rtld = process.object_mut(rtld);
            (rtld.resolved, rtld.versions_checked, rtld.relocated) = (true, true, true);
        }
        let preloads = process.preload(main);
        let mut errors = Vec::new();
        process.map_dependencies(main, &preloads, &mut errors);
        process.global = process.objects[main.0].searchlist.clone().unwrap_or_default();
        // `_dl_check_all_versions` goes along the link map.
        let all: Vec<ObjectId> = (0..process.objects.len()).map(ObjectId).collect();
        process.check_versions(&all, &mut errors);
        process.check_isa(&all, &mut errors);
        let now = loader.env.non_empty("LD_BIND_NOW").is_some();
        process.relocate(main, now, &mut errors);
        (Some(process), errors)
    }

    /// Every mapped object in the order of the link map.
    pub fn objects(&self) -> impl Iterator<Item = (ObjectId, &Object)> {
        // ld.so is in the list from the start, and is moved behind the object before it in the search list.
        let rtld = self.objects.iter().position(|o| o.via == Via::Interpreter);
        let place = rtld.and_then(|r| {
            let list = self.objects[0].searchlist.as_ref()?;
            let at = list.iter().position(|id| id.0 == r)?;
            list.get(at.checked_sub(1)?).copied()
        });
        let mut order: Vec<usize> = (0..self.objects.len()).filter(|i| Some(*i) != rtld).collect();
        if let Some(r) = rtld {
            let after = place.and_then(|p| order.iter().position(|&i| i == p.0));
            order.insert(after.map_or(order.len(), |a| a + 1), r);
        }
        order.into_iter().map(|i| (ObjectId(i), &*self.objects[i]))
    }

    /// What was mapped after the first `count` objects.
    pub fn loaded_since(&self, count: usize) -> Vec<Loaded> {
        let new = self.objects.get(count..).unwrap_or_default();
        new.iter().map(|o| o.loaded()).collect()
    }

    /// Number of mapped objects.
    pub fn count(&self) -> usize {
        self.objects.len()
    }

    /// An object.
    pub fn object(&self, id: ObjectId) -> &Object {
        &self.objects[id.0]
    }

    fn object_mut(&mut self, id: ObjectId) -> &mut Object {
        Arc::make_mut(&mut self.objects[id.0])
    }

    /// The mapped object that a file name would be answered with.
    pub fn loaded(&self, name: &OsStr) -> Option<ObjectId> {
        // musl knows an object only by the name that it was found under first.
        let soname = if self.loader.dl.is_musl() { None } else { self.sonames.get(name) };
        let known = [self.names.get(name), soname];
        known.into_iter().flatten().min().copied()
    }

    /// The mapped object that is this file.
    pub fn loaded_file(&self, id: FileId) -> Option<ObjectId> {
        self.files.get(&id).copied()
    }

    /// `dlopen(name, mode)` called from code in `caller`. A failed call leaves nothing mapped.
    ///
    /// # Errors
    /// Everything that is wrong, first what `dlerror` would say.
    pub fn dlopen(&mut self, name: &OsStr, caller: ObjectId, mode: Mode) -> Result<ObjectId, Failure> {
        let mut errors = Vec::new();
        self.given.clear();
        let before = self.clone();
        let outcome = self.dlopen_collecting(name, caller, mode, &mut errors);
        match outcome {
            Some(root) if !errors.iter().any(LoadError::is_fatal) => Ok(root),
            _ => {
                let after = std::mem::replace(self, before);
                // What it mapped is unmapped again, but objects that stay also keep the names that it gave them.
                let count = self.objects.len();
                let loaded = after.loaded_since(count);
                for (name, id) in after.given.into_iter().filter(|(_, id)| id.0 < count) {
                    self.give(&name, id);
                }
                Err(Failure { errors, loaded })
            }
        }
    }

    /// As [`Process::dlopen`], but keeps what could be mapped, as `ldd` does.
    pub fn trace(&mut self, name: &OsStr, caller: ObjectId, mode: Mode) -> (Option<ObjectId>, Vec<LoadError>) {
        let mut errors = Vec::new();
        let root = self.dlopen_collecting(name, caller, mode, &mut errors);
        (root, errors)
    }

    fn dlopen_collecting(
        &mut self,
        name: &OsStr,
        caller: ObjectId,
        mode: Mode,
        errors: &mut Vec<LoadError>,
    ) -> Option<ObjectId> {
        let root = match self.map(name, caller, None) {
            Ok((root, ..)) => root,
            Err(e) => {
                errors.push(e);
                return None;
            }
        };
        if self.objects[root.0].searchlist.is_none() {
            if self.objects[root.0].file.elf.flags_1() & DF_1_NOOPEN != 0 {
                errors.push(self.rejected(root, "shared object cannot be dlopen()ed"));
                return None;
            }
            self.map_dependencies(root, &[], errors);
            let list = self.objects[root.0].searchlist.clone().unwrap_or_default();
            self.check_versions(&list, errors);
            self.check_isa(&list, errors);
            for &id in &list {
                if !self.objects[id.0].scopes.contains(&root) {
                    self.object_mut(id).scopes.push(root);
                }
            }
            let now = mode.now || self.loader.env.non_empty("LD_BIND_NOW").is_some();
            self.relocate(root, now, errors);
        }
        if mode.global {
            for id in self.objects[root.0].searchlist.clone().unwrap_or_default() {
                if !self.global.contains(&id) {
                    self.global.push(id);
                }
            }
        }
        Some(root)
    }

    fn rejected(&self, id: ObjectId, reason: &str) -> LoadError {
        let object = &self.objects[id.0];
        LoadError::Rejected {
            path: object.display(),
            subject: object.display(),
            requested_by: self.name_of(object.requested_by),
            reason: reason.to_owned(),
            truncated: false,
        }
    }

    fn name_of(&self, id: Option<ObjectId>) -> String {
        id.map(|id| self.objects[id.0].display()).unwrap_or_default()
    }

    fn add(
        &mut self,
        file: Arc<ElfFile>,
        path: PathBuf,
        name: &OsStr,
        via: Via,
        by: Option<ObjectId>,
        requested_by: Option<ObjectId>,
    ) -> ObjectId {
        let id = ObjectId(self.objects.len());
        let absolute = if path.is_absolute() { path.clone() } else { self.loader.cwd.join(&path) };
        let origin = absolute.parent().unwrap_or(Path::new("/")).to_owned();
        for known in [name, path.as_os_str()] {
            if !known.is_empty() {
                self.names.entry(known.into()).or_insert(id);
            }
        }
        if let Some(soname) = file.elf.soname() {
            self.sonames.entry(soname.into()).or_insert(id);
        }
        self.files.entry(file.id).or_insert(id);
        self.objects.push(Arc::new(Object {
            file,
            path,
            via,
            by,
            requested_by,
            edges: Vec::new(),
            loader: None,
            origin,
            path_list: Directories::new(),
            names: vec![name.to_owned()],
            searchlist: None,
            dependencies: Vec::new(),
            scopes: Vec::new(),
            resolved: false,
            versions_checked: false,
            relocated: false,
        }));
        id
    }

    /// A name is answered with the first object of the link map that has it.
    fn give(&mut self, name: &OsStr, id: ObjectId) {
        if !self.loader.dl.is_musl() && self.names.get(name).is_none_or(|known| *known > id) {
            let name: Arc<OsStr> = name.into();
            self.names.insert(Arc::clone(&name), id);
            self.given.push((name, id));
        }
    }

    /// `_dl_map_object`: the object that `name` stands for, mapped now if need be. `loader` is what a new object
    /// inherits its RPATH from; one opened with `dlopen` inherits from nobody (`__RTLD_CALLMAP`).
    fn map(
        &mut self,
        name: &OsStr,
        requester: ObjectId,
        loader: Option<ObjectId>,
    ) -> Result<(ObjectId, Via, Option<ObjectId>), LoadError> {
        if let Some(known) = self.loaded(name) {
            self.give(name, known);
            return Ok((known, Via::Loaded, None));
        }
        if self.loader.dl.is_musl()
            && is_musl_itself(name)
            && let Some(libc) = self.objects.iter().position(|o| o.via == Via::Interpreter)
        {
            return Ok((ObjectId(libc), Via::Loaded, None));
        }
        let asked_by = || self.objects[requester.0].display();
        let (path, file, via, by) = match self.search(name, requester, None) {
            Found::File { path, file, via, by } => (path, file, via, by),
            Found::Missing { reason, other_class } => {
                let mut searched = Vec::new();
                self.search(name, requester, Some(&mut searched));
                return Err(LoadError::Missing {
                    name: name.to_string_lossy().into_owned(),
                    requested_by: asked_by(),
                    searched,
                    reason: strerror(reason),
                    other_class,
                });
            }
            Found::Fatal { path, error } => {
                return Err(LoadError::Rejected {
                    path: path.display().to_string(),
                    subject: path.display().to_string(),
                    requested_by: asked_by(),
                    reason: error.to_string(),
                    truncated: false,
                });
            }
            Found::Special { path, error } => {
                let reason = match error {
                    FileError::Directory => "cannot read file data: Is a directory".into(),
                    other => format!("cannot read file data: {other}"),
                };
                let subject = path.display().to_string();
                return Err(LoadError::Rejected {
                    path: subject.clone(),
                    subject,
                    requested_by: asked_by(),
                    reason,
                    truncated: false,
                });
            }
        };
        if let Some(known) = self.loaded_file(file.id) {
            // The same file under another name: it gets that name too.
            self.object_mut(known).names.push(name.to_owned());
            self.give(name, known);
            return Ok((known, via, by));
        }
        if let Err(error) = reject_segments(&file) {
            return Err(LoadError::Rejected {
                path: path.display().to_string(),
                subject: name.to_string_lossy().into_owned(),
                requested_by: asked_by(),
                reason: error.to_string(),
                truncated: error == SegmentError::Truncated,
            });
        }
        if file.elf.is_pie() && loader.is_none() {
            return Err(LoadError::Rejected {
                path: path.display().to_string(),
                subject: name.to_string_lossy().into_owned(),
                requested_by: asked_by(),
                reason: "cannot dynamically load position-independent executable".into(),
                truncated: false,
            });
        }
        let id = self.add(file, path, name, via, by, Some(requester));
        self.object_mut(id).loader = loader;
        Ok((id, via, by))
    }

    /// Libraries from `LD_PRELOAD` and `/etc/ld.so.preload`; one that cannot be loaded is ignored with a message.
    fn preload(&mut self, main: ObjectId) -> Vec<ObjectId> {
        let mut names: Vec<OsString> = Vec::new();
        let list = self.loader.env.non_empty("LD_PRELOAD").map(|l| l.as_bytes().to_vec()).unwrap_or_default();
        names.extend(list.split(|b| b" :".contains(b)).filter(|n| !n.is_empty()).map(|n| OsStr::from_bytes(n).into()));
        if !self.loader.dl.is_musl()
            && let Ok(text) = self.loader.rootfs.read(Path::new("/etc/ld.so.preload"), 64 * 1024)
        {
            for line in text.split(|&b| b == b'\n') {
                let line = line.split(|&b| b == b'#').next().unwrap_or_default();
                let words = line.split(|b| b" \t:".contains(b)).filter(|n| !n.is_empty());
                names.extend(words.map(|n| OsString::from(OsStr::from_bytes(n))));
            }
        }
        let mut loaded = Vec::new();
        for name in names {
            match self.map(&name, main, Some(main)) {
                Ok((id, ..)) => {
                    self.object_mut(id).via = Via::LdPreload;
                    loaded.push(id);
                }
                Err(e) => self.preload_errors.push(e),
            }
        }
        loaded
    }

    /// `_dl_map_object_deps`: the closure of `root` in breadth-first order becomes its search list.
    fn map_dependencies(&mut self, root: ObjectId, preloads: &[ObjectId], errors: &mut Vec<LoadError>) {
        let mut list: Vec<(ObjectId, bool)> = vec![(root, false)];
        for &p in preloads {
            if !list.iter().any(|(id, _)| *id == p) {
                list.push((p, false));
            }
        }
        let mut first_open = 0;
        let mut given_at_error = None;
        while let Some(at) = (first_open..list.len()).find(|&i| !list[i].1) {
            first_open = at;
            let mut at = at;
            let asking = list[at].0;
            list[at].1 = true;
            let file = Arc::clone(&self.objects[asking.0].file);
            let mut needed = Vec::new();
            let mut edges = Vec::new();
            for dependency in file.elf.dependencies() {
                let (name, is_filter) = match dependency {
                    Dependency::Needed(name) => (name, false),
                    Dependency::Auxiliary(name) | Dependency::Filter(name) => (name, true),
                };
                if self.objects.len() >= MAX_OBJECTS {
                    break;
                }
                let mapped = self.map(name, asking, Some(asking));
                let (to, via, by) = match &mapped {
                    Ok((id, via, by)) => (Some(*id), *via, *by),
                    Err(_) => (None, Via::Default, None),
                };
                if !matches!(dependency, Dependency::Auxiliary(_)) || to.is_some() {
                    edges.push(Edge { name: name.to_owned(), to, via, by });
                }
                match mapped {
                    Ok((id, ..)) => {
                        needed.push(id);
                        let known = list.iter().position(|(other, _)| *other == id);
                        if !is_filter {
                            if known.is_none() {
                                list.push((id, false));
                            }
                        } else if known.is_none_or(|k| k > at) {
                            // A filtee goes before the object that names it, so that its symbols are found first.
                            let entry = known.map_or((id, false), |k| list.remove(k));
                            list.insert(at, (entry.0, false));
                            at += 1;
                        }
                    }
                    Err(_) if matches!(dependency, Dependency::Auxiliary(_)) => {}
                    Err(e) => {
                        given_at_error.get_or_insert(self.given.len());
                        if !self.objects[asking.0].resolved && !errors.contains(&e) {
                            errors.push(e);
                        }
                    }
                }
            }
            if !self.objects[asking.0].resolved {
                let object = self.object_mut(asking);
                object.resolved = true;
                object.edges = edges;
                object.dependencies = std::iter::once(asking).chain(needed).collect();
            }
        }
        // The real loader would not have come further.
        self.given.truncate(given_at_error.unwrap_or(usize::MAX));
        let searchlist: Vec<ObjectId> = list.into_iter().map(|(id, _)| id).collect();
        let mut order = vec![root];
        order.extend(searchlist.iter().copied().filter(|id| *id != root));
        self.object_mut(root).dependencies = order;
        for &id in &searchlist {
            // New objects see the scope of what brought them; program start has the global scope alone.
            let object = &self.objects[id.0];
            let is_new = (object.loader.is_some() || id == root) && !object.relocated;
            if is_new && root != ObjectId(0) && !object.scopes.contains(&root) {
                self.object_mut(id).scopes.push(root);
            }
        }
        self.object_mut(root).searchlist = Some(searchlist);
    }

    /// `_dl_check_map_versions` for objects whose versions were not checked yet.
    fn check_versions(&mut self, ids: &[ObjectId], errors: &mut Vec<LoadError>) {
        if self.loader.dl.is_musl() {
            return; // musl ignores symbol versions.
        }
        for &id in ids {
            if self.objects[id.0].versions_checked {
                continue;
            }
            self.object_mut(id).versions_checked = true;
            let file = Arc::clone(&self.objects[id.0].file);
            for need in file.elf.version_needs() {
                let Some(provider) = self.find_needed(need.file) else { continue };
                let provider = &self.objects[provider.0];
                if need.weak || !provider.file.elf.defines_versions() {
                    continue;
                }
                let has = provider.file.elf.version_definitions().iter().any(|d| d.version == need.version);
                if !has {
                    errors.push(LoadError::Version {
                        object: self.objects[id.0].display(),
                        requires: need.file.to_string_lossy().into_owned(),
                        version: String::from_utf8_lossy(need.version).into_owned(),
                        from: provider.display(),
                    });
                }
            }
        }
    }

    /// `dl_isa_level_check` (`sysdeps/x86/dl-prop.h`, since 2.33) for objects that are not in use yet: the first that needs
    /// more than the processor has is the last.
    fn check_isa(&self, ids: &[ObjectId], errors: &mut Vec<LoadError>) {
        let Some(levels) = self.loader.isa.filter(|_| self.loader.dl.is_glibc_since(2, 33)) else { return };
        let too_low = |id: &&ObjectId| {
            let object = &self.objects[id.0];
            !object.relocated && object.file.elf.isa_needed() & !levels != 0
        };
        errors.extend(ids.iter().find(too_low).map(|id| self.rejected(*id, ISA_TOO_LOW)));
    }

    /// `find_needed`: among loaded objects by the names they were asked for; the SONAME only counts once used.
    pub(super) fn find_needed(&self, file: &OsStr) -> Option<ObjectId> {
        self.names.get(file).copied()
    }

    /// Relocation of what is new in the closure of `root`, dependencies first.
    fn relocate(&mut self, root: ObjectId, now: bool, errors: &mut Vec<LoadError>) {
        let new: Vec<ObjectId> =
            self.sorted(root).into_iter().rev().filter(|id| !self.objects[id.0].relocated).collect();
        errors.extend(self.unbound(&new, now));
        for id in new {
            self.object_mut(id).relocated = true;
        }
    }

    /// `_dl_sort_maps_dfs` (glibc 2.35 and later): the closure, dependents before their dependencies. The root comes
    /// first even where a circle leads back to it (`force_first`, in all maintained releases; so did the algorithm of
    /// earlier ones).
    fn sorted(&self, root: ObjectId) -> Vec<ObjectId> {
        let maps = &self.objects[root.0].dependencies;
        let mut visited = vec![false; self.objects.len()];
        let mut postorder = Vec::with_capacity(maps.len());
        for &start in maps.iter().rev() {
            if visited[start.0] {
                continue;
            }
            visited[start.0] = true;
            let mut stack = vec![(start, 0)];
            while let Some((id, next)) = stack.pop() {
                let dependencies = &self.objects[id.0].dependencies;
                // The root's own list is still empty while it is being sorted.
                let dependencies = if id == root { &[][..] } else { dependencies };
                match dependencies.get(next) {
                    Some(&dependency) => {
                        stack.push((id, next + 1));
                        if !visited[dependency.0] && dependency != ObjectId(0) {
                            visited[dependency.0] = true;
                            stack.push((dependency, 0));
                        }
                    }
                    None => postorder.push(id),
                }
            }
        }
        postorder.reverse();
        if let Some(at) = postorder.iter().position(|id| *id == root) {
            postorder[..=at].rotate_right(1);
        }
        postorder
    }
}

/// Whether a library of this name is a part of glibc.
pub fn is_of_libc(soname: &str) -> bool {
    let parts = ["libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1"];
    parts.contains(&soname) || soname.starts_with("ld-linux-")
}

/// Names that musl answers with itself (`load_library`: "Catch and block attempts to reload the implementation").
fn is_musl_itself(name: &OsStr) -> bool {
    let reserved = ["c", "pthread", "rt", "m", "dl", "util", "xnet"];
    let Some(rest) = name.as_bytes().strip_prefix(b"lib") else { return false };
    let stem = rest.split(|&b| b == b'.').next().unwrap_or_default();
    rest.len() > stem.len() && reserved.iter().any(|r| r.as_bytes() == stem)
}

fn reject_segments(file: &ElfFile) -> Result<(), SegmentError> {
    match file.elf.segments() {
        Err(SegmentError::NoSegments) => Err(SegmentError::NoSegments),
        Err(SegmentError::Misaligned) => Err(SegmentError::Misaligned),
        _ if file.elf.is_fixed_executable() => Err(SegmentError::Executable),
        other => other,
    }
}
