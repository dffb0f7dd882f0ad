//! Finding modules along `sys.path` (`FileFinder` and `PathFinder` in CPython's `Lib/importlib/_bootstrap_external.py`).
//!
//! One `import torch` asks some 10,000 times for a name in a directory, and executes a thousand files. So every directory
//! is listed once, every file is scanned once, and both can be done ahead of the import by a second thread: which
//! file a module has does not depend on what was imported before.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use compact_str::{CompactString, format_compact};

use hashbrown::HashTable;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::editable::{Doubt, Redirect};
use super::site::SysPath;
use super::source::{scan, scan_function};
use super::statements::{Body, Import, Statement};
use super::{Interpreter, Raised};
use crate::image::{EntryKind, FileError, Rootfs};

/// Largest Python source file read, in bytes.
const MAX_SOURCE: u64 = 16 * 1024 * 1024;
/// Directories read to find a module below a package; a bound, not a judgement.
const MAX_DIRS: usize = 2_000;

thread_local! {
    /// What is being scanned: memory for a thousand files anew would cost more than reading them.
    static SOURCE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A directory that modules are looked for in.
#[derive(Debug)]
pub struct Directory {
    /// Its path as `sys.path` leads to it.
    pub path: PathBuf,
    /// Without links.
    real: PathBuf,
    /// By what stands before the first dot of their names: all that a module could be is found at once, as is that there is
    /// nothing, which most answers are.
    entries: HashTable<Entry>,
    /// Names that end in `.so`.
    pub libraries: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    name: Box<str>,
    kind: EntryKind,
    /// Where it is a directory: what is in it.
    directory: OnceLock<Option<Arc<Directory>>>,
    /// Where it is source: what it executes.
    statements: OnceLock<Result<Arc<[Statement]>, FileError>>,
}

/// Directories of a package, or `sys.path`.
pub type Search = Arc<[Arc<Directory>]>;

/// What a module is.
#[derive(Debug, Clone)]
pub enum Spec {
    /// A source file.
    Source { file: File, is_package: bool },
    /// An extension module.
    Extension { file: File, is_package: bool },
    /// Bytecode alone: it exists, and nothing is known of what it imports.
    Opaque { file: File, is_package: bool },
    /// Directories without an `__init__` file.
    Namespace(Search),
    /// Where an editable installation leads, and no file is: what the import raises.
    Lost(Raised),
}

/// A file in a directory.
#[derive(Debug, Clone)]
pub struct File {
    /// The directory.
    pub directory: Arc<Directory>,
    /// Its name.
    pub name: String,
}

impl File {
    /// Its path.
    pub fn path(&self) -> PathBuf {
        self.directory.path.join(&self.name)
    }
}

impl Spec {
    /// Directories that submodules are looked for in, if it is a package.
    pub fn search(&self) -> Option<Search> {
        match self {
            Self::Lost(_) => None,
            Self::Namespace(search) => Some(Arc::clone(search)),
            Self::Source { file, is_package }
            | Self::Extension { file, is_package }
            | Self::Opaque { file, is_package } => is_package.then(|| Arc::from([Arc::clone(&file.directory)])),
        }
    }
}

impl Directory {
    fn read(rootfs: &Rootfs, path: &Path) -> Self {
        let real = rootfs.canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let entries = rootfs.read_dir_unsorted(&real).unwrap_or_default();
        let libraries = entries.iter().filter_map(|e| e.name.to_str()).filter(|n| n.ends_with(".so"));
        let libraries = libraries.map(str::to_owned).collect();
        let mut table = HashTable::with_capacity(entries.len());
        for entry in entries {
            let Ok(name) = entry.name.into_string() else { continue };
            let (name, kind) = (name.into_boxed_str(), entry.kind);
            let entry = Entry { name, kind, directory: OnceLock::new(), statements: OnceLock::new() };
            table.insert_unique(hash(stem(&entry.name)), entry, |e| hash(stem(&e.name)));
        }
        Self { path: path.to_owned(), entries: table, libraries, real }
    }

    fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.find(hash(stem(name)), |e| *e.name == *name)
    }
}

/// The name up to its first dot.
fn stem(name: &str) -> &str {
    name.split_once('.').map_or(name, |(stem, _)| stem)
}

fn hash(stem: &str) -> u64 {
    FxBuildHasher.hash_one(stem)
}

/// The directories and sources of one interpreter's installation.
pub struct Finder<'r> {
    rootfs: &'r Rootfs,
    suffixes: &'r [String],
    sys_path: Search,
    redirects: FxHashMap<&'r str, Redirected<'r>>,
    doubts: &'r [Doubt],
}

struct Redirected<'r> {
    redirect: &'r Redirect,
    spec: OnceLock<Option<Spec>>,
}

impl<'r> Finder<'r> {
    /// Nothing is read yet but the entries of `sys.path`.
    pub fn new(rootfs: &'r Rootfs, python: &'r Interpreter, path: &'r SysPath) -> Self {
        let sys_path = path.entries.iter().map(|dir| Arc::new(Directory::read(rootfs, dir))).collect();
        let mut redirects = FxHashMap::default();
        for redirect in &path.redirects {
            // scikit-build-core names the file, and then the directories of its submodules.
            redirects.entry(redirect.module.as_str()).or_insert(Redirected { redirect, spec: OnceLock::new() });
        }
        Self { rootfs, suffixes: &python.suffixes, sys_path, redirects, doubts: &path.doubts }
    }

    /// The module `name`, whose last part is `tail`: in `search` or along `sys.path`, then where an editable
    /// installation leads.
    pub fn find_module(&self, name: &str, tail: &str, search: Option<&Search>) -> Option<Spec> {
        match self.find(tail, search) {
            None => self.redirected(name),
            found @ Some(Spec::Namespace(_)) => {
                self.redirected(name).filter(|spec| !matches!(spec, Spec::Lost(_))).or(found)
            }
            found => found,
        }
    }

    /// The module `name` in its packages, with dots.
    pub fn find_dotted(&self, name: &str) -> Option<Spec> {
        let (mut spec, mut search) = (None, None);
        for end in name.match_indices('.').map(|(at, _)| at).chain([name.len()]) {
            let tail = name[..end].rsplit('.').next()?;
            let found = self.find_module(&name[..end], tail, search.as_ref())?;
            search = found.search();
            spec = Some(found);
        }
        spec
    }

    /// Where an editable installation leads for the module `name`, whether it is there or not.
    pub fn redirect(&self, name: &str) -> Option<&Redirect> {
        self.redirects.get(name).map(|r| r.redirect)
    }

    fn redirected(&self, name: &str) -> Option<Spec> {
        let Redirected { redirect, spec } = self.redirects.get(name)?;
        let to = redirect.path.as_path();
        let find = || {
            let directory = |path: &Path| Arc::new(Directory::read(self.rootfs, path));
            if self.rootfs.is_dir(to) {
                let dir = directory(to);
                let package = self.pick(&dir, "__init__", true);
                return package.or_else(|| Some(Spec::Namespace([dir].into())));
            }
            let stem = to.file_name()?.to_str()?.split('.').next()?;
            self.pick(&directory(to.parent()?), stem, stem == "__init__")
        };
        spec.get_or_init(|| find().or_else(|| redirect.raises().map(Spec::Lost))).clone()
    }

    /// A file that was executed before anything is imported and that may lead to this module.
    pub(super) fn doubt(&self, name: &str) -> Option<&Path> {
        let may = |d: &&Doubt| d.names.as_ref().is_none_or(|names| names.iter().any(|n| n == name));
        self.doubts.iter().find(may).map(|d| d.file.as_path())
    }

    /// A module in a directory or in those below it, up to a depth.
    pub(super) fn find_below(&self, dir: &Path, module: &str, depth: usize) -> Option<Spec> {
        let mut level = vec![Arc::new(Directory::read(self.rootfs, dir))];
        let mut read = 0;
        for deeper in (0..=depth).rev() {
            let search: Search = level.clone().into();
            match self.find(module, Some(&search)) {
                // Any directory could be one without `__init__.py`.
                Some(Spec::Namespace(dirs)) if !dirs.iter().any(|dir| self.holds_modules(dir)) => {}
                Some(found) => return Some(found),
                None => {}
            }
            if deeper > 0 {
                let inside = |d: &Arc<Directory>| {
                    let dirs = d.entries.iter().filter(|e| e.kind == EntryKind::Dir);
                    dirs.filter_map(|e| self.subdirectory(d, &e.name)).collect::<Vec<_>>()
                };
                level = level.iter().flat_map(inside).take(MAX_DIRS.saturating_sub(read)).collect();
                read += level.len();
            }
        }
        None
    }

    fn holds_modules(&self, dir: &Directory) -> bool {
        dir.entries.iter().any(|entry| match entry.kind {
            EntryKind::Dir => self.rootfs.is_file(&dir.path.join(&*entry.name).join("__init__.py")),
            _ => entry.name.ends_with(".py") || entry.name.ends_with(".so"),
        })
    }

    /// The directory of the outermost package that a file belongs to.
    pub(super) fn package_root<'p>(&self, file: &'p Path) -> &'p Path {
        let mut dirs = file.ancestors().skip(1);
        let mut root = dirs.next().unwrap_or(file);
        for dir in dirs {
            if !self.rootfs.is_file(&root.join("__init__.py")) || self.sys_path.iter().any(|e| e.path == dir) {
                break;
            }
            root = dir;
        }
        root
    }

    /// A source file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn source(&self, file: &File) -> Result<Vec<u8>, FileError> {
        let mut source = Vec::new();
        self.rootfs.read_in(&file.directory.real, &file.name, MAX_SOURCE, &mut source)?;
        Ok(source)
    }

    /// The module `tail` in `search`, or along `sys.path`.
    pub fn find(&self, tail: &str, search: Option<&Search>) -> Option<Spec> {
        let mut namespace = Vec::new();
        for dir in search.unwrap_or(&self.sys_path).iter() {
            if let Some(inside) = self.subdirectory(dir, tail) {
                if let Some(spec) = self.pick(&inside, "__init__", true) {
                    return Some(spec);
                }
                namespace.push(inside);
            }
            if let Some(spec) = self.pick(dir, tail, false) {
                return Some(spec);
            }
        }
        (!namespace.is_empty()).then(|| Spec::Namespace(namespace.into()))
    }

    fn subdirectory(&self, dir: &Directory, name: &str) -> Option<Arc<Directory>> {
        let entry = dir.get(name)?;
        let path = || dir.path.join(name);
        let is_dir = match entry.kind {
            EntryKind::Dir => true,
            EntryKind::Link => self.rootfs.is_dir(&path()),
            EntryKind::File | EntryKind::Special => false,
        };
        let read = || is_dir.then(|| Arc::new(Directory::read(self.rootfs, &path())));
        entry.directory.get_or_init(read).clone()
    }

    /// The first of the suffixes of extension modules, source and bytecode, in that order.
    fn pick(&self, directory: &Arc<Directory>, module: &str, is_package: bool) -> Option<Spec> {
        let ranked = |entry: &'_ Entry| {
            let suffix = entry.name.strip_prefix(module)?;
            let mut suffixes = self.suffixes.iter().map(String::as_str).chain([".py", ".pyc"]);
            let rank = suffixes.position(|s| s == suffix)?;
            // The finder asks for a file: a link that leads nowhere is none.
            let is_file = match entry.kind {
                EntryKind::File => true,
                EntryKind::Link => self.rootfs.is_file(&directory.path.join(&*entry.name)),
                EntryKind::Dir | EntryKind::Special => false,
            };
            is_file.then(|| (rank, String::from(&*entry.name)))
        };
        let (rank, name) = directory.entries.iter_hash(hash(module)).filter_map(ranked).min()?;
        let file = File { directory: Arc::clone(directory), name };
        Some(match rank.checked_sub(self.suffixes.len()) {
            None => Spec::Extension { file, is_package },
            Some(0) => Spec::Source { file, is_package },
            Some(_) => Spec::Opaque { file, is_package },
        })
    }

    /// Files that an extension module may have been compiled from, which lie beside it.
    pub(super) fn sources(extension: &File) -> impl Iterator<Item = File> {
        let directory = &extension.directory;
        let beside = [".pyx", ".py"].map(|suffix| format!("{}{suffix}", stem(&extension.name)));
        let is_file = |name: &String| directory.get(name).is_some_and(|entry| entry.kind == EntryKind::File);
        beside.into_iter().filter(is_file).map(|name| File { directory: Arc::clone(directory), name })
    }

    /// What a source file executes.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn statements(&self, file: &File) -> Result<Arc<[Statement]>, FileError> {
        let entry = file.directory.get(&file.name).ok_or(FileError::NotFound)?;
        let read = |source: &mut Vec<u8>| {
            self.rootfs.read_in(&file.directory.real, &file.name, MAX_SOURCE, source)?;
            Ok(scan(source).into())
        };
        if let Some(known) = entry.statements.get() {
            return known.clone();
        }
        // Where two threads want it at once, both read it: to wait for the other takes longer.
        let read = SOURCE.with_borrow_mut(read);
        entry.statements.get_or_init(|| read).clone()
    }

    /// What a function of a source file executes when it is called.
    pub fn function<'b>(&self, file: &File, body: &'b Body) -> &'b [Statement] {
        body.statements(|body| self.source(file).map(|source| scan_function(&source, body)).unwrap_or_default())
    }

    /// Scans what `import module` is likely to execute, until `stop`. It goes through the modules breadth first, while the
    /// import itself goes depth first, so that the two seldom want the same file at the same time.
    pub fn read_ahead(&self, modules: &[&str], stop: &AtomicBool) {
        let mut ahead = Ahead { finder: self, known: FxHashMap::default(), waiting: VecDeque::new() };
        for module in modules {
            ahead.import(module);
        }
        while let Some((file, package)) = ahead.waiting.pop_front() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            if let Ok(statements) = self.statements(&file) {
                ahead.block(&statements, &package);
            }
        }
    }
}

struct Ahead<'f, 'r> {
    finder: &'f Finder<'r>,
    /// Modules that were found, with the directories of those that are packages.
    known: FxHashMap<CompactString, Option<Search>>,
    /// Source files to scan, with the package that their relative imports start from.
    waiting: VecDeque<(File, CompactString)>,
}

impl Ahead<'_, '_> {
    fn import(&mut self, module: &str) {
        for (end, _) in module.match_indices('.').chain([(module.len(), "")]) {
            self.import_one(&module[..end]);
        }
    }

    fn import_one(&mut self, module: &str) {
        if self.known.contains_key(module) {
            return;
        }
        let (parent, tail) = module.rsplit_once('.').map_or((None, module), |(p, t)| (Some(p), t));
        let search = match parent {
            Some(parent) => match self.known.get(parent) {
                Some(Some(search)) => Some(Arc::clone(search)),
                _ => return,
            },
            None => None,
        };
        let Some(spec) = self.finder.find_module(module, tail, search.as_ref()) else { return };
        let search = spec.search();
        if let Spec::Source { file, is_package } = spec {
            let package = if is_package { module } else { parent.unwrap_or_default() };
            self.waiting.push_back((file, package.into()));
        }
        self.known.insert(module.into(), search);
    }

    fn block(&mut self, statements: &[Statement], package: &str) {
        for statement in statements {
            match statement {
                Statement::Import(import) => {
                    let module = import.absolute(package);
                    self.import(&module);
                    if let Some(Some(_)) = self.known.get(&module) {
                        for name in import.names.iter().flatten().filter(|n| *n != "*") {
                            self.import_one(&format_compact!("{module}.{name}"));
                        }
                    }
                }
                Statement::Try { body, otherwise, finally, .. } => {
                    for block in [body, otherwise, finally] {
                        self.block(block, package);
                    }
                }
                Statement::If { branches, otherwise } => {
                    let likely = branches.iter().filter(|(condition, _)| !condition.contains("TYPE_CHECKING"));
                    for block in likely.map(|(_, block)| block).chain(otherwise) {
                        self.block(block, package);
                    }
                }
                Statement::Suppress { body, .. } => self.block(body, package),
                _ => {}
            }
        }
    }
}

impl Import {
    /// The module that a relative import stands for in a file of `package` (`_resolve_name` in `importlib._bootstrap`).
    pub fn absolute(&self, package: &str) -> CompactString {
        if self.level == 0 {
            return self.module.clone();
        }
        let mut package = package;
        for _ in 1..self.level {
            package = package.rsplit_once('.').map_or("", |(p, _)| p);
        }
        match (package.is_empty(), self.module.is_empty()) {
            (true, _) => self.module.clone(),
            (false, true) => package.into(),
            (false, false) => format_compact!("{package}.{}", self.module),
        }
    }
}
