//! Random packages: what the model of `import` says, and what Python does with them. Whether an exception leaves the import
//! counts, and which files it ran.
//!
//! A third of the worlds hold conditions and values that only Python knows. There a failure may be missed, and none may be
//! invented. (The model leaves out what such a condition decides; where anything else depends on that, it may be wrong
//! either way, so that these worlds have nothing of the kind.)

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use mldoctor::image::Rootfs;
use mldoctor::loader::Environment;
use mldoctor::python::imports::{Extension, Site, When};
use mldoctor::python::site::sys_path;
use mldoctor::python::{Directory, Finder, Importer, Interpreter, Raised, World};

use crate::graphs::{Random, first_seed};
use crate::python::{has_python, python};
use crate::support::skip;

/// Worlds per run.
const WORLDS: u64 = 500;
/// Packages of a world; each imports only those after it, so that no module is seen half-done.
const PACKAGES: usize = 4;
/// Submodules of each.
const SUBMODULES: usize = 2;
/// Names that every module gives a value before anything else.
const NAMES: [&str; 3] = ["A", "B", "C"];
/// Depth of blocks.
const DEPTH: usize = 3;

/// Imports `p0` from each directory named on standard input, in a process of its own, and prints how that ends and what
/// was run.
const IMPORT: &str = r#"
import builtins, contextlib, os, sys
os.environ["SET"] = "1"
os.environ.pop("UNSET", None)
builtins.ran = set()
for line in sys.stdin:
    directory = line.strip()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        sys.path.insert(0, directory)
        try:
            import p0
            end = "ok"
        except BaseException as e:
            end = type(e).__name__
        print(directory, end, *builtins.ran)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)
"#;

/// The source of one module.
struct Source<'r> {
    random: &'r mut Random,
    text: String,
    /// Number of its package.
    package: usize,
    /// Whether it is a package's `__init__.py`.
    is_init: bool,
    /// Whether it may ask for what only Python knows.
    guesses: bool,
    functions: usize,
    /// Number of blocks around that catch something.
    guarded: usize,
    /// Number of conditions around.
    conditions: usize,
}

impl Source<'_> {
    fn line(&mut self, depth: usize, text: impl AsRef<str>) {
        writeln!(self.text, "{}{}", "    ".repeat(depth), text.as_ref()).unwrap();
    }

    fn value(&mut self) -> String {
        let name = *self.random.pick(&NAMES);
        let known = [
            "True".to_owned(),
            "False".to_owned(),
            format!("not {name}"),
            "os.environ.get('SET', '0') == '1'".to_owned(),
            "os.environ.get('UNSET', '0') == '1'".to_owned(),
            "os.getenv('SET')".to_owned(),
            "sys.platform == 'linux'".to_owned(),
            "sys.version_info >= (3, 99)".to_owned(),
            "bool(os.environ.get('UNSET'))".to_owned(),
        ];
        let guessed = ["len(sys.path) > 0", "len(sys.path) < 0", "[]", "'x' in {'x'}"].map(str::to_owned);
        if self.guesses && self.random.chance(30) {
            self.random.pick(&guessed).clone()
        } else {
            self.random.pick(&known).clone()
        }
    }

    fn condition(&mut self) -> String {
        let (one, two) = (*self.random.pick(&NAMES), *self.random.pick(&NAMES));
        let all = [
            one.to_owned(),
            format!("not {one}"),
            format!("{one} and {two}"),
            format!("{one} or not {two}"),
            format!("({one})"),
            "TYPE_CHECKING".to_owned(),
            "'SET' in os.environ".to_owned(),
            "__name__ == '__main__'".to_owned(),
        ];
        if self.guesses && self.random.chance(20) { "len(sys.path) > 0".into() } else { self.random.pick(&all).clone() }
    }

    fn import(&mut self) -> String {
        let name = *self.random.pick(&NAMES);
        let after = PACKAGES - self.package - 1;
        // What is done as a guess goes is left out by the model, so that nothing else may depend on it.
        if self.guesses && self.conditions > 0 {
            return if after == 0 { "pass".to_owned() } else { format!("import p{}", self.package + 1) };
        }
        let fails = self.guarded > 0 && self.random.chance(50) || self.random.chance(3);
        // What is after the last package was never there.
        let others = if fails { 2 * PACKAGES } else { after };
        if others == 0 {
            return "import json".to_owned();
        }
        let other = self.package + 1 + self.random.below(others);
        // No two packages have a submodule of one name: a star import would give one the other's.
        let number = self.random.below(SUBMODULES);
        let (sub, own_sub) = (format!("{other}{number}"), format!("{}{number}", self.package));
        let own = [
            format!("from . import m{own_sub}"),
            format!("from .m{own_sub} import {name}"),
            format!("from .m{own_sub} import *"),
            format!("import p{}.m{own_sub}", self.package),
        ];
        if self.is_init && self.random.chance(40) {
            return self.random.pick(&own).clone();
        }
        let all = [
            format!("import p{other}"),
            format!("import p{other}.m{sub}"),
            format!("import p{other}.m{sub}{}", if self.guesses { format!(" as {name}") } else { String::new() }),
            format!("from p{other} import m{sub}"),
            format!("from p{other} import {name}"),
            format!("from p{other} import {name} as {}", self.random.pick(&NAMES)),
            format!("from p{other}.m{sub} import A as B, B as A"),
            format!("from p{other} import *"),
        ];
        let broken = [
            format!("from p{other} import broken"),
            "from .broken import x".to_owned(),
            "import gone".to_owned(),
            "from gone.inner import x".to_owned(),
        ];
        if fails && self.random.chance(70) {
            return self.random.pick(&broken).clone();
        }
        self.random.pick(&all).clone()
    }

    fn catches(&mut self) -> &'static str {
        let all = [
            " ImportError",
            " ModuleNotFoundError",
            " Exception",
            "",
            " OSError",
            " (ImportError, OSError)",
            " ImportError as e",
            " ValueError",
        ];
        all[self.random.below(all.len())]
    }

    fn block(&mut self, depth: usize, nesting: usize, may_raise: bool) {
        for _ in 0..1 + self.random.below(3) {
            self.statement(depth, nesting, may_raise);
        }
    }

    fn statement(&mut self, depth: usize, nesting: usize, may_raise: bool) {
        let name = *self.random.pick(&NAMES);
        let simple = nesting == 0;
        match self.random.below(if simple { 6 } else { 15 }) {
            0..3 => {
                let import = self.import();
                // A star import is for the top of a module only, and a name that is a module has no known value.
                let import = if nesting < DEPTH && import.ends_with('*') { "pass".into() } else { import };
                self.line(depth, import);
            }
            3..6 if self.guesses && self.conditions > 0 => self.line(depth, "pass"),
            3 => {
                let value = self.value();
                let other = *self.random.pick(&NAMES);
                let line = match self.random.below(4) {
                    // Elsewhere it may be a global name, which must have none.
                    0 if depth == 0 => format!("{name}: bool = {value}"),
                    1 if self.guesses => format!("{name} = {other} = {value}"),
                    _ => format!("{name} = {value}"),
                };
                self.line(depth, line);
            }
            4 if may_raise => {
                let how = ["raise", "raise ImportError('no') from None", "raise RuntimeError('no')"];
                let how = *self.random.pick(&how);
                self.line(depth, how);
            }
            4 | 5 if self.guesses => {
                let forms = ["{}, x = x, {}", "{} = [{}][0]", "{} = x", "({}, x) = ({}, x)"];
                let form = self.random.pick(&forms).replace("{}", name);
                self.line(depth, form);
            }
            4 | 5 => self.line(depth, format!("{name} = not {name}")),
            6 | 7 => {
                self.line(depth, "try:");
                self.guarded += 1;
                self.block(depth + 1, nesting - 1, false);
                self.guarded -= 1;
                let bare = self.catches();
                for catches in [self.catches(), bare].into_iter().filter(|c| !c.is_empty()).take(1 + depth % 2) {
                    self.line(depth, format!("except{catches}:"));
                    self.block(depth + 1, nesting - 1, true);
                }
                if bare.is_empty() {
                    self.line(depth, "except:");
                    self.block(depth + 1, nesting - 1, true);
                }
                if self.random.chance(30) {
                    self.line(depth, "else:");
                    self.block(depth + 1, nesting - 1, false);
                }
                if self.random.chance(20) {
                    self.line(depth, "finally:");
                    self.block(depth + 1, nesting - 1, false);
                }
            }
            8 | 9 => {
                self.conditions += 1;
                let may_raise = may_raise && !self.guesses;
                let condition = self.condition();
                self.line(depth, format!("if {condition}:"));
                self.block(depth + 1, nesting - 1, may_raise);
                if self.random.chance(30) {
                    let condition = self.condition();
                    self.line(depth, format!("elif {condition}:"));
                    self.block(depth + 1, nesting - 1, may_raise);
                }
                if self.random.chance(40) {
                    self.line(depth, "else:");
                    self.block(depth + 1, nesting - 1, may_raise);
                }
                self.conditions -= 1;
            }
            10 | 11 => {
                self.functions += 1;
                let function = format!("f{}", self.functions);
                self.line(depth, format!("def {function}():"));
                if self.guesses && self.random.chance(30) {
                    self.line(depth + 1, "global A, B, C, x");
                } else {
                    self.line(depth + 1, "A = B = C = x = True");
                }
                self.block(depth + 1, nesting - 1, false);
                if self.random.chance(20) {
                    self.line(depth + 1, "return");
                    self.line(depth + 1, "import gone");
                }
                if self.random.chance(70) {
                    self.line(depth, format!("{function}()"));
                }
            }
            12 => {
                let what = *self.random.pick(&["ImportError", "ModuleNotFoundError", "OSError"]);
                self.line(depth, format!("with contextlib.suppress({what}):"));
                self.guarded += 1;
                self.block(depth + 1, nesting - 1, false);
                self.guarded -= 1;
            }
            13 if self.guesses => {
                let times = 1 + self.random.below(2);
                self.line(depth, format!("for _ in range({times}):"));
                self.block(depth + 1, nesting - 1, false);
            }
            _ => {
                self.line(depth, "class K:");
                self.line(depth + 1, "A = B = C = x = False");
                self.block(depth + 1, 0, false);
            }
        }
    }
}

fn source(random: &mut Random, package: usize, is_init: bool, guesses: bool) -> String {
    let head = "import builtins, contextlib, os, sys\nbuiltins.ran.add(__name__)\nfrom typing import TYPE_CHECKING\nA = B = x = False\nC = True\nB = False\nA = False\n";
    let mut source =
        Source { random, text: head.to_owned(), package, is_init, guesses, functions: 0, guarded: 0, conditions: 0 };
    source.block(0, DEPTH, false);
    source.block(0, DEPTH, false);
    if guesses && source.random.chance(20) {
        source.line(0, "__all__ = ['A', 'x']");
    }
    source.text
}

/// Whether a world holds what only Python knows.
fn guesses(seed: u64) -> bool {
    seed.is_multiple_of(3)
}

/// The files of a world.
fn world(seed: u64) -> BTreeMap<PathBuf, String> {
    let (mut random, guesses) = (Random::new(seed), guesses(seed));
    let mut files = BTreeMap::new();
    for package in 0..PACKAGES {
        let dir = PathBuf::from(format!("p{package}"));
        files.insert(dir.join("__init__.py"), source(&mut random, package, true, guesses));
        for sub in 0..SUBMODULES {
            files.insert(dir.join(format!("m{package}{sub}.py")), source(&mut random, package, false, guesses));
        }
        // A library that does not load.
        files.insert(dir.join("broken.abi3.so"), "no library".to_owned());
    }
    files
}

/// A world in which no library loads.
struct Broken {
    built_in: BTreeSet<String>,
}

impl World for Broken {
    fn load(&mut self, extension: &Extension<'_>) -> Result<(), Raised> {
        if extension.module.ends_with("broken") { Err(Raised::Import) } else { Ok(()) }
    }

    fn lost_import(&mut self, _: &Extension<'_>) -> Option<(String, PathBuf)> {
        None
    }

    fn imports_numpy(&self, _: &Extension<'_>) -> bool {
        false
    }

    fn is_compiled_from(&self, _: &Extension<'_>, _: &str) -> bool {
        false
    }

    fn open(&mut self, _: &str, _: &[Site], _: When) -> Result<(), Raised> {
        Ok(())
    }

    fn is_built_in(&self, module: &str) -> bool {
        self.built_in.contains(module)
    }

    fn is_lost(&mut self, _: &Directory, _: &str) -> bool {
        false
    }

    fn is_assumed(&self, _: &str) -> bool {
        false
    }
}

/// How the import ends, and what was run, as the model says it.
fn predicted(
    rootfs: &Rootfs,
    python: &Interpreter,
    env: &Environment,
    dir: &Path,
    world: &mut Broken,
) -> (Result<(), Raised>, BTreeSet<String>) {
    let path = sys_path(rootfs, python, env, Path::new("/"));
    let finder = Finder::new(rootfs, python, &path);
    let mut importer = Importer::new(python, env, &finder, world);
    let outcome = importer.import("p0");
    let ran = importer.finish().executed.into_iter().filter_map(|file| {
        let module = file.path().strip_prefix(dir).ok()?.with_extension("").to_str()?.replace('/', ".");
        Some(module.strip_suffix(".__init__").unwrap_or(&module).to_owned())
    });
    (outcome, ran.collect())
}

#[test]
fn random_packages() {
    if !has_python() {
        return skip("there is no python3 to compare with");
    }
    let built_in = python(&["-c", "import sys; print(*sys.builtin_module_names)"], "");
    let mut broken = Broken { built_in: built_in.split_whitespace().map(str::to_owned).collect() };
    let rootfs = Rootfs::open_root(Path::new("/")).unwrap();
    let env = |path: &Path| -> Environment {
        let variables = [("PATH", std::env::var_os("PATH").unwrap()), ("SET", "1".into()), ("PYTHONPATH", path.into())];
        variables.into_iter().map(|(k, v)| (OsString::from(k), v)).collect()
    };
    let interpreter = Interpreter::find(&rootfs, &env(Path::new("/")), None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let first = first_seed();
    let seeds = first..first + WORLDS;
    let mut list = String::new();
    for seed in seeds.clone() {
        for (path, text) in world(seed) {
            let path = dir.path().join(seed.to_string()).join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        writeln!(list, "{}", dir.path().join(seed.to_string()).display()).unwrap();
    }
    let told = python(&["-S", "-B", "-W", "ignore", "-c", IMPORT], &list);
    let (mut differences, mut ends) = (Vec::new(), BTreeMap::new());
    for (seed, line) in seeds.zip(told.lines()) {
        let mut words = line.split(' ');
        let place = Path::new(words.next().unwrap());
        assert!(place.ends_with(seed.to_string()), "{line}");
        let end = words.next().unwrap();
        *ends.entry(end.to_owned()).or_insert(0) += 1;
        let real: BTreeSet<String> = words.map(str::to_owned).collect();
        let (outcome, ran) = predicted(&rootfs, &interpreter, &env(place), place, &mut broken);
        let own = match outcome {
            Ok(()) => "ok",
            Err(Raised::NotFound) => "ModuleNotFoundError",
            Err(Raised::Import) => "ImportError",
            Err(Raised::Os) => "OSError",
            Err(Raised::Listed(_) | Raised::Other) => "other",
        };
        let agrees = match (own, end) {
            ("ok", "ok") => guesses(seed) || ran == real,
            ("ok", _) => guesses(seed),
            // Which exception a handler raises anew is not looked at: nearly all are of the same kind.
            (_, "ok") => false,
            _ => true,
        };
        if !agrees {
            differences.push(format!("MLDOCTOR_TEST_SEED={seed}: {own} {ran:?}, Python: {end} {real:?}"));
        }
    }
    println!("{ends:?}");
    assert!(ends["ok"] > 50 && ends["ModuleNotFoundError"] > 50, "{ends:?}");
    if differences.is_empty() {
        return;
    }
    let some = differences[..differences.len().min(10)].join("\n");
    panic!("{} of {WORLDS} differ, in {}:\n{some}", differences.len(), dir.keep().display());
}
