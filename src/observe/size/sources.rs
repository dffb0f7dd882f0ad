//! What Python files say that decides whether others are needed: which name a test suite, which compile.
//!
//! Python files outside of test suites are read: an import from a suite may stand in any of them.

use std::collections::BTreeMap;
use std::path::Path;

use memchr::memmem::Finder;

use super::contents::is_framework;
use crate::facts::size::{Kind, Size, Sources};
use crate::image::Rootfs;
use crate::parallel;

/// Largest Python file read, in bytes.
const MAX_SOURCE: u64 = 8 * 1024 * 1024;
/// Files of a directory that one thread reads in one go.
const FILES_AT_ONCE: usize = 64;
/// What PyTorch's extensions are built with: needs a C++ compiler, nvcc and headers, when it is called.
const EXTENSIONS: &[u8] = b"cpp_extension";

/// How a file names a directory of tests.
#[derive(Debug, PartialEq, Eq)]
enum Mention {
    /// Absolute: `numpy.core.tests`.
    Dotted(String),
    /// Relative to where the file is: `.tests`, `import tests`, `"tests/data"`.
    Near,
}

/// What one file says.
#[derive(Default)]
struct Said {
    tests: Vec<Mention>,
    compiles: Option<&'static str>,
}

impl Said {
    fn says_something(&self) -> bool {
        !self.tests.is_empty() || self.compiles.is_some()
    }
}

/// Reads the sources, but for those of PyTorch and Triton: they name no test suite of another package, and how they
/// compile is known.
pub fn read(rootfs: &Rootfs, size: &Size) -> Sources {
    let tree = &size.tree;
    let sources: Vec<usize> = (0..tree.files.len()).filter(|at| is_source(size, *at)).collect();
    let of_one_dir = sources.chunk_by(|a, b| tree.files[*a].dir == tree.files[*b].dir);
    let parts: Vec<(&Path, &[usize])> = of_one_dir
        .map(|files| (tree.dirs[tree.files[files[0]].dir].path.as_path(), files))
        .filter(|(dir, _)| !is_framework(dir))
        .flat_map(|(dir, files)| files.chunks(FILES_AT_ONCE).map(move |part| (dir, part)))
        .collect();
    let scanner = Scanner::new();
    let said = parallel::map(&parts, |(dir, files)| {
        let mut said = Vec::new();
        let names = files.iter().map(|at| (*at, tree.files[*at].entry.name.as_os_str()));
        // Of what cannot be read, nothing is known: whoever runs this as root reads everything.
        let _ = rootfs.read_files(dir, names, MAX_SOURCE, |at, text| {
            said.extend(Some((at, scanner.scan(text))).filter(|(_, s): &(usize, Said)| s.says_something()));
        });
        said
    });
    let said: Vec<(usize, Said)> = said.into_iter().flatten().collect();
    let compiling = said.iter().filter_map(|(at, s)| Some((*at, s.compiles?))).collect();
    Sources { tests: named_suites(size, &said), compiling }
}

fn is_source(size: &Size, file: usize) -> bool {
    let name = size.tree.files[file].entry.name.as_encoded_bytes();
    size.kinds[file] == Kind::PythonSource && name.ends_with(b".py")
}

fn named_suites(size: &Size, said: &[(usize, Said)]) -> BTreeMap<usize, usize> {
    let path_of = |dir: usize| size.tree.dirs[dir].path.as_path();
    let mut named = BTreeMap::new();
    for suite in &size.tests {
        let dotted = path_of(*suite).to_string_lossy().replace('/', ".");
        let around = path_of(*suite).parent().unwrap_or(Path::new("/"));
        let names_it = |at: usize, mention: &Mention| match mention {
            Mention::Dotted(name) => dotted.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.')),
            Mention::Near => path_of(size.tree.files[at].dir).starts_with(around),
        };
        let by = said.iter().find(|(at, s)| s.tests.iter().any(|m| names_it(*at, m)));
        named.extend(by.map(|(at, _)| (*suite, *at)));
    }
    named
}

/// What is searched for, prepared once.
struct Scanner {
    tests: Finder<'static>,
    triton: Finder<'static>,
    extensions: Finder<'static>,
}

impl Scanner {
    fn new() -> Self {
        Self { tests: Finder::new(b"tests"), triton: Finder::new(b"triton"), extensions: Finder::new(EXTENSIONS) }
    }

    fn scan(&self, text: &[u8]) -> Said {
        let tests = self.tests.find_iter(text).filter_map(|at| mention(text, at)).collect();
        let before = |at: usize| text[memchr::memrchr(b'\n', &text[..at]).map_or(0, |n| n + 1)..at].trim_ascii_start();
        let is_import = |line: &[u8]| line.starts_with(b"import ") || line.starts_with(b"from ");
        let compiles = if self.triton.find_iter(text).any(|at| matches!(before(at), b"import " | b"from ")) {
            Some("imports triton, whose kernels are compiled when they are first launched")
        } else if self.extensions.find_iter(text).any(|at| is_import(before(at))) {
            Some("imports torch.utils.cpp_extension, which compiles")
        } else {
            None
        };
        Said { tests, compiles }
    }
}

/// What the word `tests` at `at` may name; most are a word in a sentence, or part of a longer name.
fn mention(text: &[u8], at: usize) -> Option<Mention> {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let after = text.get(at + 5).copied().unwrap_or(b'\n');
    let before = at.checked_sub(1).map_or(b'\n', |n| text[n]);
    if is_name(after) {
        return None;
    }
    match before {
        b'.' => {
            let start = text[..at].iter().rposition(|b| !is_name(*b) && *b != b'.').map_or(0, |n| n + 1);
            let dotted = String::from_utf8_lossy(&text[start..at + 5]).into_owned();
            Some(if dotted.starts_with('.') { Mention::Near } else { Mention::Dotted(dotted) })
        }
        b'\'' | b'"' if after == before || after == b'/' || after == b'.' => Some(Mention::Near),
        b'/' => Some(Mention::Near).filter(|_| text[..at].iter().rev().take(80).any(|b| matches!(b, b'\'' | b'"'))),
        b' ' | b',' | b'(' => {
            let line = &text[memchr::memrchr(b'\n', &text[..at]).map_or(0, |n| n + 1)..at];
            let line = line.trim_ascii_start();
            (line.starts_with(b"import ") || line.starts_with(b"from ")).then_some(Mention::Near)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mentions(text: &str) -> Vec<Mention> {
        Scanner::new().scan(text.as_bytes()).tests
    }

    #[test]
    fn ways_to_name_tests() {
        assert_eq!(mentions("from numpy.core.tests import x"), [Mention::Dotted("numpy.core.tests".into())]);
        assert_eq!(mentions("import_module('a.tests')"), [Mention::Dotted("a.tests".into())]);
        for near in ["from .tests import x", "from . import tests", "from tests import x", "f('tests')", "'tests/data'"]
        {
            assert_eq!(mentions(near), [Mention::Near], "{near}");
        }
        for none in ["# runs the tests of it", "runtests()", "tests_of = 1", "self.tests_run"] {
            assert_eq!(mentions(none), [], "{none}");
        }
    }

    #[test]
    fn what_compiles() {
        let compiles = |text: &str| Scanner::new().scan(text.as_bytes()).compiles.is_some();
        assert!(
            compiles("import triton\n")
                && compiles("  import triton.language as tl")
                && compiles("from triton import jit")
        );
        assert!(compiles("from torch.utils.cpp_extension import load"));
        assert!(!compiles("# as torch.utils.cpp_extension does"));
        assert!(!compiles("# import triton\n") && !compiles("from x import triton_kernel") && !compiles("triton = 1"));
    }
}
