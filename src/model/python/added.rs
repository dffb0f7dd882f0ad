//! Modules that a program makes findable itself, while it is imported: it adds a directory to `sys.path`, or puts the
//! module into `sys.modules`.
//!
//! This is looked at only where a module is not found otherwise. What such code computes is not known, so a directory
//! is sought where packages keep what they bring along: below themselves, and beside.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use memchr::memmem;

use super::finder::{Directory, File, Finder, Spec};
use crate::image::Rootfs;

/// How a module may be there that no entry of `sys.path` has.
pub enum Added {
    /// Nothing that was executed adds modules.
    Nothing,
    /// In a directory that was added.
    Found(Spec),
    /// It was put into `sys.modules`, or is made by an importer of the program's own.
    Made,
    /// This file adds directories, and none that was thought of has the module.
    Unknown(PathBuf),
}

const SYS_PATH: &[u8] = b"sys.path";
/// What changes `sys.path`.
const METHODS: [&str; 4] = ["insert", "append", "extend", "addsitedir"];
/// Of what a directory near a file is made.
const PATHS: [&str; 15] = [
    "__file__", "os", "path", "dirname", "abspath", "realpath", "normpath", "join", "pardir", "str", "Path", "pathlib",
    "parent", "parents", "resolve",
];
/// Calls of functions within functions that are followed.
const MAX_CALLS: usize = 4;
/// Bytes of a value in which the place of the file is looked for.
const MAX_VALUE: usize = 160;
/// Depth of directories below a package that are looked at.
const MAX_DEPTH: usize = 3;

/// What the files that were executed may add, each looked at once.
#[derive(Default)]
pub struct Additions {
    /// How many of the executed files were looked at.
    looked: usize,
    /// Those that change `sys.path`.
    changes: Vec<(PathBuf, Change)>,
    /// Sources of those that put something into `sys.modules` or have an importer.
    makers: Vec<Vec<u8>>,
}

impl Finder<'_> {
    /// Looks for what the `executed` files may have added under the name `module`.
    pub fn added(&self, module: &str, executed: &[File], known: &mut Additions) -> Added {
        for file in executed.get(known.looked..).unwrap_or_default() {
            let Ok(source) = self.source(file) else { continue };
            known.changes.extend(changes_sys_path(&source).map(|change| (file.path(), change)));
            if is_maker(&source) {
                known.makers.push(source);
            }
        }
        known.looked = executed.len();
        if known.makers.iter().any(|source| names(source, module)) {
            return Added::Made;
        }
        let mut changed = self.doubt(module).map(Path::to_owned);
        for (path, change) in &known.changes {
            let is_near = change.near || change.unknown;
            let near = path.ancestors().skip(1).take(MAX_DEPTH).filter(|_| is_near);
            let dirs = change.named.iter().map(PathBuf::as_path).chain(near);
            let named = dirs.into_iter().find_map(|dir| self.find_below(dir, module, 0));
            let below = || is_near.then(|| self.find_below(self.package_root(path), module, MAX_DEPTH)).flatten();
            if let Some(spec) = named.or_else(below) {
                return Added::Found(spec);
            }
            if change.unknown {
                changed.get_or_insert(path.clone());
            }
        }
        changed.map_or(Added::Nothing, Added::Unknown)
    }

    /// Whether a package may have submodules without a file.
    pub fn makes_modules(&self, dirs: &[Arc<Directory>]) -> bool {
        let [directory] = dirs else { return true };
        let init = File { directory: Arc::clone(directory), name: "__init__.py".into() };
        self.source(&init).map_or(true, |source| ["sys.modules", "__path__"].iter().any(|m| has(&source, m)))
    }
}

/// Whether the source puts modules into `sys.modules`, or has an importer.
fn is_maker(source: &[u8]) -> bool {
    let sets = |at: usize| {
        let rest = &source[at + b"sys.modules".len()..];
        sets_item(rest) || rest.starts_with(b".setdefault(") || rest.starts_with(b".update(")
    };
    memmem::find_iter(source, b"sys.modules").any(sets)
        || ["insert(", "append("].iter().any(|m| has(source, &format!("meta_path.{m}")))
}

/// Whether a name is a literal in the source.
fn names(source: &[u8], module: &str) -> bool {
    ['"', '\''].iter().any(|q| has(source, &format!("{q}{module}{q}")))
}

/// Whether a text stands in the source.
pub(super) fn has(source: &[u8], text: &str) -> bool {
    memmem::find(source, text.as_bytes()).is_some()
}

/// How a source file changes `sys.path`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Change {
    /// Directories that are written there.
    named: Vec<PathBuf>,
    /// Whether it adds directories that it makes from its own place.
    near: bool,
    /// Whether it adds others.
    unknown: bool,
}

/// How the source changes `sys.path` when it is imported.
fn changes_sys_path(source: &[u8]) -> Option<Change> {
    let changes = |at: &usize| {
        let rest = source[at + SYS_PATH.len()..].trim_ascii_start();
        let assigns = rest.starts_with(b"=") && !rest.starts_with(b"==");
        assigns
            || [&b"+="[..], b".insert(", b".append(", b".extend("].iter().any(|m| rest.starts_with(m))
            || sets_item(rest)
    };
    let of_path = memmem::find_iter(source, SYS_PATH).filter(changes).map(|at| at + SYS_PATH.len());
    let of_site = memmem::find_iter(source, b"addsitedir(");
    let mut change: Option<Change> = None;
    for at in of_path.chain(of_site).filter(|at| is_executed(source, *at)) {
        let change = change.get_or_insert_default();
        let line = String::from_utf8_lossy(first_line(&source[at..]));
        let mut computed = false;
        let mut is_near = true;
        for (n, text) in line.split(['"', '\'']).enumerate() {
            if n % 2 == 1 {
                computed |= !text.starts_with('/');
                change.named.extend(text.starts_with('/').then(|| PathBuf::from(text)));
                continue;
            }
            for word in words(text).filter(|w| !w.chars().all(|c| c.is_ascii_digit()) && !METHODS.contains(w)) {
                computed = true;
                is_near &= PATHS.contains(&word) || is_made_from_file(source, word);
            }
        }
        is_near &= words(&line).any(|word| word == "__file__" || is_made_from_file(source, word));
        change.near |= computed && is_near;
        change.unknown |= computed && !is_near;
    }
    change
}

/// Directories that a line of a `.pth` file in `dir` adds to `sys.path`; whether they come first. Nothing where the line
/// does not change it, and no directory where it is not known which.
pub fn by_line(rootfs: &Rootfs, dir: &Path, line: &str) -> Option<(Vec<PathBuf>, bool)> {
    let (imports, code) = line.split_once(';').unwrap_or((line, ""));
    let change = changes_sys_path(code.trim_start().as_bytes())?;
    // Below a module that the line imports, or beside the file.
    let bases = words(imports)
        .skip(1)
        .filter(|m| !m.is_empty() && code.contains(&format!("{m}.__")))
        .map(|m| dir.join(m))
        .chain([dir.to_owned()]);
    let mut inside = PathBuf::new();
    code.split(['"', '\'']).skip(1).step_by(2).filter(|text| !text.starts_with('/')).for_each(|text| inside.push(text));
    let below = bases.map(|base| base.join(&inside)).find(|path| rootfs.is_dir(path));
    let is_computed = change.near || change.unknown;
    let dirs = change.named.into_iter().chain(below.filter(|path| is_computed && path != dir)).collect();
    Some((dirs, code.contains("insert(0")))
}

/// Whether a variable of this name is assigned something that is made from the place of the file.
fn is_made_from_file(source: &[u8], name: &str) -> bool {
    if name.is_empty() || PATHS.contains(&name) || METHODS.contains(&name) {
        return false;
    }
    let assignment = format!("{name} = ");
    let is_word = |at: &usize| at.checked_sub(1).is_none_or(|n| matches!(source[n], b' ' | b'\t' | b'\n'));
    memmem::find_iter(source, assignment.as_bytes()).filter(is_word).any(|at| {
        let value = &source[at + assignment.len()..];
        memmem::find(&value[..value.len().min(MAX_VALUE)], b"__file__").is_some()
    })
}

/// Whether an item of what stands before is assigned.
fn sets_item(rest: &[u8]) -> bool {
    rest.starts_with(b"[") && memmem::find(first_line(rest), b"] = ").is_some()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
}

fn first_line(text: &[u8]) -> &[u8] {
    text.split(|c| *c == b'\n').next().unwrap_or(text)
}

/// Whether what stands at `at` is executed by an import: not in a comment, in no function that the file does not call
/// itself, and not only when it is the program.
fn is_executed(source: &[u8], at: usize) -> bool {
    is_executed_within(source, at, MAX_CALLS)
}

fn is_executed_within(source: &[u8], at: usize, calls: usize) -> bool {
    let line_start = |at: usize| memchr::memrchr(b'\n', &source[..at]).map_or(0, |n| n + 1);
    let indent_of = |line: &[u8]| line.iter().take_while(|c| matches!(c, b' ' | b'\t')).count();
    let mut start = line_start(at);
    if source[start..at].contains(&b'#') {
        return false;
    }
    let mut indent = indent_of(&source[start..]);
    while indent > 0 && start > 0 {
        let end = start - 1;
        start = line_start(end);
        let line = &source[start..end];
        let own = indent_of(line);
        let text = line.trim_ascii();
        if text.is_empty() || text.starts_with(b"#") || own >= indent {
            continue;
        }
        indent = own;
        let text = text.strip_prefix(b"async ").unwrap_or(text);
        if let Some(rest) = text.strip_prefix(b"def ") {
            let name = rest.split(|c| *c == b'(').next().unwrap_or_default().trim_ascii();
            let call = [name, b"("].concat();
            let is_call = |n: &usize| !source[..*n].ends_with(b"def ");
            let mut called = memmem::find_iter(source, &call).filter(is_call);
            return calls > 0 && !name.is_empty() && called.any(|n| is_executed_within(source, n, calls - 1));
        }
        if text.starts_with(b"if __name__") && text.ends_with(b":") {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_an_import_makes() {
        for (source, named, near, unknown) in [
            ("import sys\nsys.path.insert(0, '/opt/app/lib')\n", &["/opt/app/lib"][..], false, false),
            ("sys.path += ['/a', '/b']\n", &["/a", "/b"], false, false),
            ("sys.path[0:0] = [x]\n", &[], false, true),
            ("sys.path.append('vendor')\n", &[], false, true),
            ("if True:\n    sys.path.append(os.path.dirname(__file__))\n", &[], true, false),
            (
                "here = os.path.join(\n    os.path.dirname(__file__), 'x'\n)\nsys.path.insert(0, here)\n",
                &[],
                true,
                false,
            ),
            ("def f():\n    x = 1\n\n    sys.path.append(x)\n\n\nf()\n", &[], false, true),
            ("import site\nsite.addsitedir('/a')\n", &["/a"], false, false),
        ] {
            let named = named.iter().map(PathBuf::from).collect();
            assert_eq!(changes_sys_path(source.as_bytes()), Some(Change { named, near, unknown }), "{source}");
        }
        for source in [
            "def f():\n    sys.path.append(x)\n",
            "if __name__ == '__main__':\n    sys.path.append(x)\n",
            "def test():\n    sys.path.append(x)\n\nif __name__ == '__main__':\n    test()\n",
            "# sys.path.append(x)\nprint(sys.path, sys.path[0], sys.path == [])\n",
        ] {
            assert_eq!(changes_sys_path(source.as_bytes()), None, "{source}");
        }
    }

    #[test]
    fn modules_that_a_program_makes() {
        let makes = |source: &[u8], module: &str| is_maker(source) && names(source, module);
        assert!(makes(b"sys.modules['yaml'] = types.ModuleType('yaml')", "yaml"));
        assert!(makes(b"sys.modules.setdefault(\"yaml\", x)", "yaml"));
        assert!(makes(b"sys.meta_path.append(X())\nNAMES = ['yaml']", "yaml"));
        assert!(!makes(b"if 'yaml' in sys.modules: pass", "yaml"));
        assert!(!makes(b"sys.modules['yaml.x'] = 1", "yaml"));
    }
}
