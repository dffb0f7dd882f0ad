//! What `import X` runs and loads: CPython's import system over `sys.path`, with the statements of [`super::source`].
//!
//! Whether a missing library breaks an import depends on who imports it and which exception is caught there:
//! `except ModuleNotFoundError` does not catch the `ImportError` of a library that does not load. So import statements are
//! executed in order, loading an extension module asks the caller whether the loader accepts it, and a failure travels
//! up the import chain like the exception that it is. Conditions that cannot be known from the files count only for
//! what all their branches have in common.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use compact_str::{CompactString, format_compact};

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;

use super::added::{Added, Additions, has};
use super::conditions::{Constants, Known, Value};
use super::finder::{Directory, File, Finder, Search, Spec};
use super::interpreter::Interpreter;
use super::on_demand::{always_raises, exported};
use super::statements::{Body, Catches, Import, Statement, Thrown, may_return};
use crate::loader::Environment;

/// Modules executed for one import; a bound, not a judgement.
const MAX_MODULES: usize = 20_000;
/// Depth of the chain of imports and calls; Python's own recursion limit allows a few hundred.
const MAX_DEPTH: usize = 300;

const NUMPY: &str = "numpy";

/// Modules compiled into the interpreter whose initialisation function has an unusual name or is not exported.
const BUILT_IN: &[&str] = &[
    "sys",
    "builtins",
    // The program itself, which is there before anything is imported.
    "__main__",
    "marshal",
    "gc",
    "_imp",
    "_warnings",
    "_ast",
    "_io",
    "_thread",
    "_weakref",
    "_sre",
    "_codecs",
    "_string",
    "_tokenize",
    "_abc",
    "_functools",
    "_locale",
    "_operator",
    "_signal",
    "_stat",
    "_symtable",
    "_collections",
    "_tracemalloc",
    "_typing",
    "atexit",
    "errno",
    "faulthandler",
    "itertools",
    "posix",
    "pwd",
    "time",
    "_sysconfig",
    "_frozen_importlib",
    "_frozen_importlib_external",
    "zipimport",
    "_suggestions",
    "_interpreters",
    "_contextvars",
];

/// The exception that an import raises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Raised {
    /// `ModuleNotFoundError`
    NotFound,
    /// `ImportError`
    Import,
    /// `OSError`
    Os,
    /// One that handlers are known to name, by its bit in [`Catches::others`].
    #[serde(skip)]
    Listed(u8),
    /// Anything else that an `except ImportError` does not catch.
    Other,
}

impl Raised {
    pub(super) fn is_caught_by(self, catches: Catches) -> bool {
        match self {
            Self::NotFound => catches.not_found,
            Self::Import => catches.import,
            Self::Os => catches.os,
            Self::Listed(bit) => catches.others & bit != 0,
            Self::Other => catches.others != 0,
        }
    }
}

/// When the code of a module opens something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Before its other statements.
    First,
    /// After them.
    #[default]
    Last,
}

/// An import statement on the way to a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The importing file.
    pub file: Rc<Path>,
    /// Its line.
    pub line: u32,
}

/// A module without which the import fails, or that failed and was done without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    /// The module.
    pub module: String,
    /// Import statements that lead to it, outermost first.
    pub chain: Vec<Site>,
    /// What asks for it.
    pub asked: Asked,
    /// The compiled module whose code imports it.
    pub by: Option<PathBuf>,
    /// A file that changes what is found as it runs, so that the module may be there all the same.
    pub doubt: Option<PathBuf>,
}

/// How a module is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// By its own name.
    Itself,
    /// By its own name, by code that wants what only the compiled module has; Python imports its source in its place.
    Compiled,
    /// `from package import module`, with the package's file, and whether it is still being imported itself.
    NameOf(PathBuf, bool),
    /// By its own name, which a directory has too: that of an extension module's stubs is imported in its place, and
    /// lacks the first of the names that are wanted from it.
    Directory(Option<CompactString>),
}

/// An extension module that an import asks for.
pub struct Extension<'i> {
    /// Full name of the module.
    pub module: &'i str,
    /// Its file.
    pub path: &'i Path,
    /// Import statements that lead to it, outermost first.
    pub chain: &'i [Site],
}

/// What an import did.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// Modules that were not found, in order.
    pub missing: Vec<Miss>,
    /// Source files that were executed.
    pub executed: Vec<File>,
    /// Number of modules executed.
    pub modules: usize,
    /// Whether a bound was reached.
    pub cut: bool,
}

/// What an import asks of the world around it.
pub trait World {
    /// Loads an extension module.
    ///
    /// # Errors
    /// The exception that this raises.
    fn load(&mut self, extension: &Extension<'_>) -> Result<(), Raised>;
    /// A module that is lost and that the code of an extension module imports as it is initialised, or that of one which
    /// it imports; with the file of that code.
    fn lost_import(&mut self, extension: &Extension<'_>) -> Option<(String, PathBuf)>;
    /// Whether the code of an extension module imports NumPy for its C API (`import_array`), as it is initialised, and fails
    /// with it.
    fn imports_numpy(&self, extension: &Extension<'_>) -> bool;
    /// Whether an extension module says that it was compiled from a source file of this name.
    fn is_compiled_from(&self, extension: &Extension<'_>, source: &str) -> bool;
    /// Opens what the source of a module opens by itself, as its statements begin or when they are done.
    ///
    /// # Errors
    /// The exception that this raises.
    fn open(&mut self, module: &str, chain: &[Site], when: When) -> Result<(), Raised>;
    /// Whether a module is compiled into the interpreter.
    fn is_built_in(&self, module: &str) -> bool;
    /// Whether a submodule without a file should have one: then it was not made at run time, but lost.
    fn is_lost(&mut self, package: &Directory, stem: &str) -> bool;
    /// Whether to go on as if a module that is missing were there, to find what else is wrong.
    fn is_assumed(&self, module: &str) -> bool;
}

/// One interpreter process that imports.
pub struct Importer<'a, W: World> {
    python: &'a Interpreter,
    env: &'a Environment,
    finder: &'a Finder<'a>,
    world: &'a mut W,
    /// `sys.modules`
    modules: FxHashMap<CompactString, Module>,
    chain: Vec<Site>,
    /// Functions that are being executed.
    calls: usize,
    /// What the executed files add to what is found.
    additions: Additions,
    trace: Trace,
}

/// How a block ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// What follows it is executed.
    Reached,
    /// The function that it is in returned, or may have.
    Returned,
}

type Outcome = Result<End, Raised>;

#[derive(Clone)]
struct Module {
    /// Directories of a package.
    search: Option<Search>,
    /// What is known of its names.
    constants: Rc<Constants>,
    /// The file that gave them.
    file: Option<File>,
    /// The package whose modules some of its names are, and these.
    lazy: Option<Rc<(CompactString, Vec<CompactString>)>>,
}

impl Module {
    fn new(search: Option<Search>) -> Self {
        Self { search, constants: Rc::default(), file: None, lazy: None }
    }
}

enum Found {
    BuiltIn,
    File(Spec),
}

/// The surroundings of a statement.
struct Scope<'s> {
    module: &'s File,
    /// Its path.
    file: Rc<Path>,
    /// Package for relative imports.
    package: &'s str,
    /// Whether Cython has compiled it.
    is_compiled: bool,
    functions: FxHashMap<&'s str, &'s Body>,
    constants: Constants,
    running: FxHashSet<&'s str>,
    /// The exception that an enclosing handler caught.
    handling: Option<Raised>,
    /// What the enclosing `try` statements catch.
    guard: Catches,
}

impl<'a, W: World> Importer<'a, W> {
    /// An interpreter that has imported nothing yet.
    pub fn new(python: &'a Interpreter, env: &'a Environment, finder: &'a Finder<'a>, world: &'a mut W) -> Self {
        Self {
            python,
            env,
            finder,
            world,
            modules: FxHashMap::default(),
            chain: Vec::new(),
            calls: 0,
            additions: Additions::default(),
            trace: Trace::default(),
        }
    }

    /// `import name`
    ///
    /// # Errors
    /// The exception that leaves it.
    pub fn import(&mut self, name: &str) -> Result<(), Raised> {
        self.import_dotted(name, Catches::default())
    }

    /// What happened.
    pub fn finish(self) -> Trace {
        self.trace
    }

    /// `_find_and_load`: what is there already is not asked for its package, which may have failed after it; `guard` is what
    /// catches it if it fails.
    fn import_dotted(&mut self, name: &str, guard: Catches) -> Result<(), Raised> {
        if self.modules.contains_key(name) {
            return Ok(());
        }
        if let Some((parent, _)) = name.rsplit_once('.') {
            self.import_dotted(parent, guard)?;
        }
        self.import_one(name, guard)
    }

    fn import_one(&mut self, name: &str, guard: Catches) -> Result<(), Raised> {
        if self.modules.contains_key(name) {
            return Ok(());
        }
        if self.trace.modules >= MAX_MODULES || self.calls + self.chain.len() >= MAX_DEPTH {
            self.trace.cut = true;
            return Ok(());
        }
        let (parent, tail) = name.rsplit_once('.').map_or((None, name), |(p, t)| (Some(p), t));
        let search = match parent {
            None => None,
            Some(parent) => match self.modules.get(parent).map(|m| m.search.clone()) {
                Some(Some(search)) => Some(search),
                // A submodule of something that is no package on disk: made at run time, or by C code.
                _ => {
                    self.modules.insert(name.into(), Module::new(None));
                    return Ok(());
                }
            },
        };
        let mut spec = self.find(name, tail, search.as_ref());
        let mut doubt = None;
        // Where somebody asks whether it is there, what follows is no failure either way.
        let is_absent = matches!(spec, None | Some(Found::File(Spec::Lost(_))));
        if is_absent && search.is_none() && !guard.not_found && !self.world.is_assumed(name) {
            match self.finder.added(name, &self.trace.executed, &mut self.additions) {
                Added::Nothing => {}
                Added::Found(added) => spec = Some(Found::File(added)),
                Added::Made => spec = Some(Found::BuiltIn),
                Added::Unknown(file) => doubt = Some(file),
            }
        }
        let mut is_lost = || search.iter().flat_map(|dirs| dirs.iter()).any(|dir| self.world.is_lost(dir, tail));
        let raised = match &spec {
            Some(Found::File(Spec::Lost(raised))) => Some(*raised),
            None if search.is_none() => Some(Raised::NotFound),
            None | Some(Found::File(Spec::Namespace(_))) if is_lost() => Some(Raised::NotFound),
            _ => None,
        };
        if let Some(raised) = raised.filter(|_| !self.world.is_assumed(name)) {
            let (module, chain) = (name.to_owned(), self.chain.clone());
            let asked = match spec {
                Some(Found::File(Spec::Namespace(_))) => Asked::Directory(None),
                _ => Asked::Itself,
            };
            self.trace.missing.push(Miss { module, chain, asked, by: None, doubt });
            return Err(raised);
        }
        let Some(spec) = spec else {
            // Somebody asks whether it is there, and it is not.
            if guard.import && search.is_some_and(|dirs| !self.finder.makes_modules(&dirs)) {
                return Err(Raised::NotFound);
            }
            // A submodule may be put into `sys.modules` by its package at run time.
            self.modules.insert(name.into(), Module::new(None));
            return Ok(());
        };
        self.trace.modules += 1;
        let Found::File(spec) = spec else {
            self.modules.insert(name.into(), Module::new(None));
            return Ok(());
        };
        self.modules.insert(name.into(), Module::new(spec.search()));
        let outcome = match spec {
            Spec::Opaque { .. } | Spec::Namespace(_) | Spec::Lost(_) => Ok(()),
            Spec::Extension { file, is_package } => {
                let package = if is_package { name } else { parent.unwrap_or("") };
                self.load(&Extension { module: name, path: &file.path(), chain: &self.chain.clone() }, &file, package)
            }
            Spec::Source { file, is_package } => {
                let package = if is_package { name } else { parent.unwrap_or("") };
                self.run(name, &file, package)
            }
        };
        if outcome.is_err() {
            // A module that fails is taken out of `sys.modules` again.
            self.modules.remove(name);
        }
        outcome
    }

    /// An extension module, and what its code imports: what Cython says of itself, and where the source came along, what
    /// that says.
    fn load(&mut self, extension: &Extension<'_>, file: &File, package: &str) -> Result<(), Raised> {
        self.world.load(extension)?;
        if !self.modules.contains_key(NUMPY)
            && self.find(NUMPY, NUMPY, None).is_some()
            && self.world.imports_numpy(extension)
        {
            self.import_dotted(NUMPY, Catches::default())?;
        }
        let Some((module, by)) = self.world.lost_import(extension) else {
            let is_it = |s: &File| self.world.is_compiled_from(extension, &s.name);
            // Python does not read it.
            let source = Finder::sources(file).find(is_it).filter(|source| self.finder.statements(source).is_ok());
            return source.map_or(Ok(()), |source| self.execute(&source, package, true).map(drop));
        };
        let (chain, by) = (extension.chain.to_vec(), Some(by));
        let (mut asked, mut raised) = (Asked::Itself, Raised::NotFound);
        if let Some(Spec::Source { .. }) = self.finder.find_dotted(&module) {
            self.import_dotted(&module, Catches::default())?;
            // `__Pyx_ImportType` raises ValueError, and `__Pyx_ImportFunction` AttributeError.
            (asked, raised) = (Asked::Compiled, Raised::Other);
        }
        self.trace.missing.push(Miss { module, chain, asked, by, doubt: None });
        Err(raised)
    }

    /// The importers of `sys.meta_path`: what is compiled in, then files.
    fn find(&self, name: &str, tail: &str, search: Option<&Search>) -> Option<Found> {
        if search.is_none() && self.world.is_built_in(name) {
            return Some(Found::BuiltIn);
        }
        let found = match self.finder.find_module(name, tail, search) {
            // A module that is compiled in under another name wins over a directory of its name.
            Some(Spec::Namespace(_)) | None if search.is_none() && BUILT_IN.contains(&name) => Found::BuiltIn,
            found => Found::File(found?),
        };
        Some(found)
    }

    /// Executes the source of a module.
    fn run(&mut self, name: &str, file: &File, package: &str) -> Result<(), Raised> {
        self.world.open(name, &self.chain, When::First)?;
        let constants = self.execute(file, package, false)?;
        if let Some(module) = self.modules.get_mut(name).filter(|_| !constants.is_empty()) {
            module.constants = Rc::new(constants);
            module.file = Some(file.clone());
        }
        self.world.open(name, &self.chain, When::Last)
    }

    fn execute(&mut self, file: &File, package: &str, is_compiled: bool) -> Result<Constants, Raised> {
        // A source file that cannot be read fails its import.
        let statements = self.finder.statements(file).map_err(|_| Raised::Os)?;
        self.trace.executed.push(file.clone());
        let mut scope = Scope {
            module: file,
            file: file.path().into(),
            package,
            is_compiled,
            functions: FxHashMap::default(),
            constants: Constants::default(),
            running: FxHashSet::default(),
            handling: None,
            guard: Catches::default(),
        };
        self.block(&statements, &mut scope)?;
        Ok(scope.constants)
    }

    fn block<'s>(&mut self, statements: &'s [Statement], scope: &mut Scope<'s>) -> Outcome {
        for statement in statements {
            match statement {
                Statement::Import(import) | Statement::Copied(import) => self.statement(import, scope)?,
                Statement::Function { name, body } => {
                    scope.functions.insert(name, body);
                }
                Statement::Constant(name, value) => {
                    match self.known(scope).value(value) {
                        Value::Unknown => scope.constants.remove(name.as_str()),
                        value => scope.constants.insert(name.clone(), value),
                    };
                }
                Statement::Name(_) => {}
                Statement::Lazy { package, names } => {
                    if let Some(module) = self.modules.get_mut(scope.package) {
                        module.lazy = Some(Rc::new((package.clone(), names.clone())));
                    }
                }
                Statement::OfNumpy(name, line) => self.of_numpy(name, *line, scope)?,
                Statement::Return => return Ok(End::Returned),
                Statement::Call(name) => {
                    let body = scope.functions.get(name.as_str()).map(|body| self.finder.function(scope.module, body));
                    if let Some(body) = body.filter(|body| !body.is_empty())
                        && scope.running.insert(name)
                    {
                        let outcome = self.call(body, scope);
                        scope.running.remove(name.as_str());
                        outcome?;
                    } else if let Some(raised) = scope.handling
                        && self.finder.source(scope.module).is_ok_and(|source| always_raises(&source, name))
                    {
                        return Err(reraised(raised));
                    }
                }
                // Outside a handler, what leads to it is something else than a failed import.
                Statement::Raise(thrown) => {
                    if let Some(raised) = scope.handling {
                        return Err(match thrown {
                            Thrown::Caught => raised,
                            Thrown::Known(raised) => *raised,
                            Thrown::Unknown => reraised(raised),
                        });
                    }
                }
                Statement::Class(body) => _ = self.own_block(body, scope)?,
                Statement::Suppress { catches, body } => match self.block(body, scope) {
                    Ok(End::Returned) => return Ok(End::Returned),
                    Err(raised) if !raised.is_caught_by(*catches) => return Err(raised),
                    Ok(End::Reached) | Err(_) => {}
                },
                Statement::Try { body, handlers, otherwise, finally } => {
                    // `try: NAME` with `except NameError` asks for a name that something else may define.
                    let known = self.known(scope);
                    let asks = matches!(&body[..], [Statement::Name(name)] if !known.is_defined(name));
                    let asked = handlers.iter().find(|h| asks && h.catches.name);
                    let outer = scope.guard;
                    scope.guard = handlers.iter().fold(outer, |guard, handler| guard.or(handler.catches));
                    let tried = self.block(body, scope);
                    scope.guard = outer;
                    let outcome = match (asked, tried) {
                        (Some(handler), _) => self.block(&handler.body, scope),
                        (None, outcome) => outcome,
                    };
                    let outcome = match outcome {
                        Ok(end) if asked.is_some() || end == End::Returned => Ok(end),
                        Ok(_) => self.block(otherwise, scope),
                        Err(raised) => match handlers.iter().find(|h| raised.is_caught_by(h.catches)) {
                            None => Err(raised),
                            Some(handler) => {
                                let outer = scope.handling.replace(raised);
                                let after = self.block(&handler.body, scope);
                                scope.handling = outer;
                                after
                            }
                        },
                    };
                    let last = self.block(finally, scope)?;
                    if outcome? == End::Returned || last == End::Returned {
                        return Ok(End::Returned);
                    }
                }
                Statement::If { branches, otherwise } => {
                    if self.conditional(branches, otherwise.as_deref(), scope)? == End::Returned {
                        return Ok(End::Returned);
                    }
                }
            }
        }
        Ok(End::Reached)
    }

    fn call<'s>(&mut self, body: &'s [Statement], scope: &mut Scope<'s>) -> Outcome {
        if self.calls + self.chain.len() >= MAX_DEPTH {
            self.trace.cut = true;
            return Ok(End::Reached);
        }
        self.calls += 1;
        let outcome = self.own_block(body, scope);
        self.calls -= 1;
        outcome
    }

    /// The block of a function or a class: names that it gives values are its own; of those that are not (`global`) nothing
    /// is known.
    fn own_block<'s>(&mut self, statements: &'s [Statement], scope: &mut Scope<'s>) -> Outcome {
        let constants = scope.constants.clone();
        let outcome = self.block(statements, scope);
        scope.constants = constants;
        outcome
    }

    fn conditional<'s>(
        &mut self,
        branches: &'s [(CompactString, Vec<Statement>)],
        otherwise: Option<&'s [Statement]>,
        scope: &mut Scope<'s>,
    ) -> Outcome {
        let mut possible: Vec<&[Statement]> = Vec::new();
        let mut decided = false;
        for (condition, body) in branches {
            match self.known(scope).evaluate(condition) {
                Some(true) => {
                    possible.push(body);
                    decided = true;
                    break;
                }
                Some(false) => {}
                None => possible.push(body),
            }
        }
        if !decided {
            possible.push(otherwise.unwrap_or_default());
        }
        match possible.as_slice() {
            [] => Ok(End::Reached),
            [only] => self.block(only, scope),
            [first, rest @ ..] => {
                // Only what happens whichever way it goes.
                for statement in *first {
                    if let Statement::Import(import) = statement
                        && rest.iter().all(|b| b.iter().any(|s| is_same_import(s, import)))
                    {
                        self.statement(import, scope)?;
                    }
                }
                // Functions are remembered wherever they are defined.
                for statement in possible.iter().copied().flatten() {
                    if let Statement::Function { name, body } = statement {
                        scope.functions.insert(name, body);
                    }
                }
                // `except ImportError as e: if …: raise` lets through what it does not expect, such as a library that
                // does not load; that a module is not installed is what it does expect.
                match scope.handling {
                    Some(raised @ (Raised::Import | Raised::Os))
                        if possible.iter().copied().flatten().any(|s| matches!(s, Statement::Raise(_))) =>
                    {
                        Err(raised)
                    }
                    // What follows is executed only if it is none of these that was entered.
                    _ if possible.iter().any(|b| b.iter().any(may_return)) => Ok(End::Returned),
                    _ => Ok(End::Reached),
                }
            }
        }
    }

    fn known<'s>(&'s self, scope: &'s Scope<'_>) -> Known<'s> {
        Known { python: self.python, env: self.env, package: scope.package, constants: &scope.constants }
    }

    fn statement(&mut self, import: &Import, scope: &mut Scope<'_>) -> Result<(), Raised> {
        let base = import.absolute(scope.package);
        // What Cython takes from the module of its name is known when it compiles.
        if base.is_empty() || scope.is_compiled && base.split('.').next() == Some("cython") {
            return Ok(());
        }
        self.chain.push(Site { file: Rc::clone(&scope.file), line: import.line });
        let is_own = import.level == 0 && import.names.is_none() && base == scope.package;
        let own = if is_own { self.own_extension(&base, scope) } else { Ok(()) };
        let outcome = own.and_then(|()| self.import_dotted(&base, scope.guard));
        let outcome = match (outcome, &import.names) {
            (Ok(()), Some(names)) => self.import_names(&base, names, scope.guard),
            (Err(Raised::NotFound), Some(names)) => Err(self.not_found(&base, names)),
            // `import a.b` is after `a`.
            (Ok(()), None) => self.import_dotted(base.split('.').next().unwrap_or(&base), scope.guard),
            (outcome, _) => outcome,
        };
        self.chain.pop();
        if outcome.is_ok() {
            self.bind(import, &base, &mut scope.constants);
        }
        outcome
    }

    /// The names that `from base import names` gives values.
    fn bind(&self, import: &Import, base: &str, constants: &mut Constants) {
        let (Some(names), Some(module)) = (&import.names, self.modules.get(base)) else { return };
        for name in names {
            let bound = import.aliases.iter().find(|(of, _)| of == name).map_or(name, |(_, alias)| alias);
            match module.constants.get(name) {
                Some(value) => _ = constants.insert(bound.clone(), value.clone()),
                None if name != "*" => _ = constants.remove(bound),
                None => self.bind_all(module, constants),
            }
        }
    }

    /// The names that a star import gives values: all, or those that `__all__` names, which may be any.
    fn bind_all(&self, module: &Module, constants: &mut Constants) {
        let source = |file| self.finder.source(file).unwrap_or_default();
        let has_all = module.file.as_ref().is_some_and(|file| has(&source(file), "__all__"));
        for (name, value) in module.constants.iter().filter(|(name, _)| !name.starts_with('_')) {
            if !has_all {
                constants.insert(name.clone(), value.clone());
            } else if constants.get(name) != Some(value) {
                constants.remove(name);
            }
        }
    }

    /// `np.name` where NumPy has not imported it yet.
    fn of_numpy(&mut self, name: &str, line: u32, scope: &Scope<'_>) -> Result<(), Raised> {
        let full = format_compact!("numpy.{name}");
        if self.modules.contains_key(&full) || !self.modules.contains_key("numpy") {
            return Ok(());
        }
        self.chain.push(Site { file: Rc::clone(&scope.file), line });
        let outcome = self.import_one(&full, scope.guard);
        self.chain.pop();
        outcome
    }

    /// What `from base import names` raises where `base` was not found, or only a directory of its name.
    fn not_found(&mut self, base: &str, names: &[CompactString]) -> Raised {
        match (self.trace.missing.last_mut(), names.first()) {
            (Some(Miss { module, asked: Asked::Directory(wanted), .. }), Some(name))
                if module == base && name != "*" =>
            {
                *wanted = Some(name.clone());
                Raised::Import
            }
            _ => Raised::NotFound,
        }
    }

    /// A package that imports itself once more, out of `sys.modules` and with its directory in `sys.path`, means the
    /// extension module of its own name: that is how OpenCV loads.
    fn own_extension(&mut self, package: &str, scope: &Scope<'_>) -> Result<(), Raised> {
        let Some(search) = self.modules.get(package).and_then(|m| m.search.clone()) else { return Ok(()) };
        let [dir] = &*search else { return Ok(()) };
        let init = File { directory: dir.clone(), name: "__init__.py".into() };
        if *scope.file != *init.path()
            || !self.finder.source(&init).is_ok_and(|source| has(&source, "sys.modules.pop("))
        {
            return Ok(());
        }
        let tail = package.rsplit('.').next().unwrap_or(package);
        match self.finder.find_below(&dir.path, tail, 1) {
            Some(Spec::Extension { file, .. }) => {
                let extension = Extension { module: package, path: &file.path(), chain: &self.chain };
                self.world.load(&extension)
            }
            None if self.world.is_lost(dir, tail) => {
                let (module, chain) = (format!("{package}.{tail}"), self.chain.clone());
                if self.world.is_assumed(&module) {
                    return Ok(());
                }
                self.trace.missing.push(Miss { module, chain, asked: Asked::Itself, by: None, doubt: None });
                Err(Raised::NotFound)
            }
            _ => Ok(()),
        }
    }

    /// `_handle_fromlist`: a name that is a submodule is imported, and for `*` those that `__all__` names.
    fn import_names(&mut self, base: &str, names: &[CompactString], guard: Catches) -> Result<(), Raised> {
        let Some(search) = self.modules.get(base).and_then(|m| m.search.clone()) else { return Ok(()) };
        let init = search.first().map(|dir| dir.path.join("__init__.py")).unwrap_or_default();
        if names.iter().any(|n| n == "*") {
            return self.import_star(base, &search, guard);
        }
        let mut first_lost = None;
        let lazy = self.modules.get(base).and_then(|module| module.lazy.clone());
        for name in names {
            if let Some((package, _)) = lazy.as_deref().filter(|(_, names)| names.contains(name)) {
                self.import_dotted(&format_compact!("{package}.{name}"), guard)?;
                continue;
            }
            let full = format_compact!("{base}.{name}");
            if self.modules.contains_key(&full) || self.world.is_assumed(&full) {
                continue;
            }
            if self.find(&full, name, Some(&search)).is_some() {
                self.import_one(&full, guard)?;
            } else if search.iter().any(|dir| self.world.is_lost(dir, name)) {
                first_lost.get_or_insert(full);
            } else if guard.import && self.chain.last().is_some_and(|site| *site.file == *init) {
                // A package that asks itself for a name means a submodule: its own names it has already.
                return Err(Raised::Import);
            }
        }
        let Some(module) = first_lost else { return Ok(()) };
        let is_running = self.chain.iter().any(|site| *site.file == *init);
        let chain = self.chain.clone();
        let asked = Asked::NameOf(init, is_running);
        self.trace.missing.push(Miss { module: module.into(), chain, asked, by: None, doubt: None });
        Err(Raised::Import)
    }

    fn import_star(&mut self, base: &str, search: &Search, guard: Catches) -> Result<(), Raised> {
        let Some(directory) = search.first().cloned() else { return Ok(()) };
        let init = File { directory, name: "__init__.py".into() };
        for name in self.finder.source(&init).map(|source| exported(&source)).unwrap_or_default() {
            let full = format_compact!("{base}.{name}");
            if !self.modules.contains_key(&full) && self.find(&full, &name, Some(search)).is_some() {
                self.import_one(&full, guard)?;
            }
        }
        Ok(())
    }
}

/// A handler that raises turns what it caught into an error of its own; nearly always an `ImportError` again.
fn reraised(raised: Raised) -> Raised {
    match raised {
        Raised::NotFound | Raised::Import => Raised::Import,
        other => other,
    }
}

fn is_same_import(statement: &Statement, import: &Import) -> bool {
    matches!(statement, Statement::Import(other) if other.level == import.level && other.module == import.module
        && (other.names.is_none() || import.names.is_none() || other.names == import.names))
}
