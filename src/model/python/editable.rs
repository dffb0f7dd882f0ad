//! Modules that an editable installation (`pip install -e`) leads elsewhere.
//!
//! PEP 660 leaves the way to the build backend. Most name a directory in a `.pth` file; the others have a line there
//! that imports a module which puts a finder into `sys.meta_path`, and which holds what it finds as literals:
//! setuptools' `MAPPING = {'name': '/path'}`, `map_module('name', '/path')` of `editables` (PDM, hatchling), the tables
//! of scikit-build-core. Only such pairs of literals are read, whoever wrote them.

use std::path::{Path, PathBuf};

use super::Raised;
use crate::image::Rootfs;

/// Largest finder read, in bytes.
const MAX_FINDER: u64 = 4 * 1024 * 1024;

/// Where a module is found that no entry of `sys.path` has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// Full name of the module.
    pub module: String,
    /// Its directory or file; setuptools leaves out the suffix.
    pub path: PathBuf,
    /// The file that says so.
    pub by: PathBuf,
}

impl Redirect {
    /// What an import raises where the file is not there. A finder that names a whole file does not look for it, and leaves
    /// that to `SourceLoader.get_data` or to the dynamic loader; setuptools' looks, and finds no module.
    pub fn raises(&self) -> Option<Raised> {
        match self.path.extension()?.to_str()? {
            "py" => Some(Raised::Os),
            "so" => Some(Raised::Import),
            _ => None,
        }
    }
}

/// A file that is executed when Python starts, and of which it is not known what it adds to what is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// Names that are written in it, where it can only be one of these.
    pub names: Option<Vec<String>>,
    /// Its file.
    pub file: PathBuf,
}

/// What the line `import …` of a `.pth` file in `dir` adds.
pub fn of_line(rootfs: &Rootfs, dir: &Path, line: &str) -> (Vec<Redirect>, Option<Doubt>) {
    let names = line.trim_start_matches("import").split([',', ';', ' ', '\t']).filter(|n| !n.is_empty());
    let (mut redirects, mut doubt) = (Vec::new(), None);
    for name in names.filter(|n| is_module(n) && !n.contains('.')) {
        let file = dir.join(format!("{name}.py"));
        let Ok(source) = rootfs.read_text(&file, MAX_FINDER) else { continue };
        let found = pairs(&source);
        if found.is_empty() && source.contains("meta_path") {
            let names = source.lines().flat_map(literals).map(|(_, text)| text).filter(|t| is_module(t));
            doubt = Some(Doubt { names: Some(names.map(str::to_owned).collect()), file: file.clone() });
        }
        redirects.extend(found.into_iter().map(|(module, path)| Redirect {
            module: module.to_owned(),
            path: super::site::normal(&dir.join(path)),
            by: file.clone(),
        }));
    }
    (redirects, doubt)
}

/// A name and a path, one behind the other as in a dictionary or a call. A relative path is that of a compiled module in
/// the directory of the finder.
fn pairs(source: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for line in source.lines().filter(|l| l.contains('/')) {
        let literals: Vec<_> = literals(line).collect();
        for pair in literals.windows(2) {
            let [(at, module), (next, path)] = pair else { continue };
            let between = &line[at + module.len() + 1..*next - 1];
            let is_pair = between.contains([':', ',']) && between.chars().all(|c| " :,[(".contains(c));
            let is_path = path.starts_with('/') || (path.contains('/') && path.ends_with(".so"));
            if is_pair && is_path && is_module(module) {
                found.push((*module, *path));
            }
        }
    }
    found
}

/// String literals of one line, with the position behind the opening quote.
fn literals(line: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + line[at..].find(['\'', '"'])? + 1;
        let end = start + line[start..].find(line.as_bytes()[start - 1] as char)?;
        at = end + 1;
        Some((start, &line[start..end]))
    })
}

fn is_module(name: &str) -> bool {
    let is_name = |part: &str| {
        part.chars().all(|c| c.is_alphanumeric() || c == '_') && part.starts_with(|c: char| !c.is_ascii_digit())
    };
    !name.is_empty() && name.split('.').all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_build_backends() {
        let setuptools = "MAPPING: dict[str, str] = {'b': '/src/b', 'a': '/src/a'}\nNAMESPACES: dict[str, list[str]] = {'n': ['/src/n']}";
        assert_eq!(pairs(setuptools), [("b", "/src/b"), ("a", "/src/a"), ("n", "/src/n")]);
        assert_eq!(pairs("F.map_module('a', '/src/a/__init__.py')"), [("a", "/src/a/__init__.py")]);
        let scikit = "install({'a': '/src/a/__init__.py'}, {'a._core': 'a/_core.so'}, None, False, True, [], [], '')";
        assert_eq!(pairs(scikit), [("a", "/src/a/__init__.py"), ("a._core", "a/_core.so")]);
        assert_eq!(pairs("# it doesn't say '/src/a'\nopen('r', '/etc/passwd') # 'a' is '/b'"), [("r", "/etc/passwd")]);
        assert_eq!(pairs("x = '"), []);
    }
}
