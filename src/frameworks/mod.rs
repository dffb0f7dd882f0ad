//! What is known about frameworks beyond what their files say: libraries that are opened by name at first use.
//!
//! One TOML file per framework, and code only where a framework does something of its own (`torch.rs`,
//! `bitsandbytes.rs`) or several share a way of searching (`pathfinder.rs`, `libibverbs.rs`). To add one, write its file, name it in
//! [`ALL`], and give the case that proves it.

pub mod bitsandbytes;
pub mod libibverbs;
pub mod pathfinder;
pub mod torch;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::Value;

use crate::embedded;
use crate::image::Rootfs;
use crate::python::Raised;
use crate::python::imports::When;
use crate::structured;

/// One framework.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Framework {
    /// Module that is imported.
    pub module: String,
    /// Distributions that bring it; an image that has one of them is meant to use the framework.
    pub distributions: Vec<String>,
    /// Extension module without which no part can be judged, and which loads all the device code of the import; the whole
    /// import where it is not given.
    pub core: Option<String>,
    /// Where it says which CUDA release it was built for.
    pub cuda: Option<Release>,
    /// See `torch.rs`.
    #[serde(default)]
    pub preload: Vec<torch::Preload>,
    /// Its parts.
    #[serde(default)]
    pub feature: Vec<Feature>,
}

/// A quoted release in a text file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The file, relative to an entry of `sys.path`.
    pub file: String,
    /// What stands before it on its line.
    pub after: String,
}

/// A part of a framework that works or fails when it is first used. Of several with one id, the first that describes
/// what is installed counts. One that is called `import:` and a module tells what the source of that module opens by
/// itself when it is executed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// Capability id.
    pub id: String,
    /// Distribution whose release counts; the first of the framework's own that is installed where it is not given.
    pub of: Option<String>,
    /// First release that it describes.
    pub since: Option<String>,
    /// CUDA major release that it describes.
    pub cuda: Option<String>,
    /// A file that only builds with this part have: it is there, or was installed and got lost.
    pub part: Option<String>,
    /// Libraries (without version) that the import loads already; the part has no GPU code without them.
    #[serde(default)]
    pub linked: Vec<String>,
    /// When it is opened, for what a module opens by itself.
    #[serde(default)]
    pub when: When,
    /// Modules that it has open their own first.
    #[serde(default)]
    pub after: Vec<String>,
    /// What a user sees if something of it does not load, unless [`Open::sees`] tells.
    #[serde(default)]
    pub sees: Vec<String>,
    /// What is opened, in this order.
    #[serde(default)]
    pub opens: Vec<Open>,
    /// Files and programs looked for in places that data can name.
    #[serde(default)]
    pub files: Vec<File>,
    /// Programs and files, by the names that `observe::tools` knows.
    #[serde(default)]
    pub tools: Vec<String>,
}

impl Feature {
    /// Modules that it imports.
    pub fn imports(&self) -> impl Iterator<Item = &str> {
        self.opens.iter().filter(|open| open.by == "python").flat_map(|open| &open.names).map(String::as_str)
    }
}

/// A library opened by name or path, or a module imported.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// Library, without version, whose code opens it; `_ctypes` for Python code, `python` for an import.
    pub by: String,
    /// Names tried in order; those with a slash are patterns of `observe::places`. `{N}` is the version in the name of
    /// `by`, `{N.N}` and `{N.N.N}` the numbers of its release, `{cuda}` the version in the SONAME of NVRTC, `{named}` the
    /// one that follows the name in the bytes of `by`, `{bitsandbytes}` see there. `pathfinder:` and a name stands for
    /// what `pathfinder.rs` gives, `libibverbs:` alone for all that `libibverbs.rs` gives.
    pub names: Vec<String>,
    /// Only if `by` contains the stem of the name.
    #[serde(default)]
    pub named: bool,
    /// Text in the bytes of `by` that `{named}` follows, if not the name itself.
    pub after: Option<String>,
    /// With `RTLD_GLOBAL`.
    #[serde(default)]
    pub global: bool,
    /// With `RTLD_LAZY`, and not `RTLD_NOW`.
    #[serde(default)]
    pub lazy: bool,
    /// Every file that the first pattern with any stands for, and not only one.
    #[serde(default)]
    pub all: bool,
    /// Goes on to what comes next where a file that is there does not load.
    #[serde(default)]
    pub any: bool,
    /// Not if one of these was opened before, from elsewhere than a wheel.
    #[serde(default)]
    pub unless: Vec<String>,
    /// The part works without it.
    #[serde(default)]
    pub optional: bool,
    /// What an import raises where it does not load; `OSError` as `ctypes` does where nothing is given.
    pub raises: Option<Raised>,
    /// Function that a user calls of it first.
    pub symbol: Option<String>,
    /// What a user sees if it does not load; `{message}` is the loader's, `{path}` what was opened, `{file}` its file name,
    /// `{names}` all names as `{a, b}`, `{symbol}` the function. Of several the first counts that can be filled in and
    /// whose words before these stand in the bytes of `by`; one alone counts always.
    #[serde(default)]
    pub sees: Vec<String>,
    /// What a user sees instead if there is nothing under any of the names. Patterns that match nothing fail only where this
    /// is told.
    pub absent: Option<String>,
}

impl Feature {
    /// What a user sees if `open` fails with the loader's `message` for `path`. `names` are all that were tried, if all
    /// are known; `is_said` tells whether the library that opens it has these words.
    pub fn sees(
        &self,
        open: &Open,
        message: &str,
        path: &str,
        names: Option<&[String]>,
        is_said: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let all = if open.sees.is_empty() { &self.sees } else { &open.sees };
        let names = names.map(|names| format!("{{{}}}", names.join(", ")));
        let fill = |text: &String| {
            let file = path.rsplit('/').next().unwrap_or(path);
            let text = text.replace("{message}", message).replace("{path}", path).replace("{file}", file);
            let text = text.replace("{names}", names.as_deref().unwrap_or("{names}"));
            let text = text.replace("{symbol}", open.symbol.as_deref().unwrap_or("{symbol}"));
            (!text.contains("{names}") && !text.contains("{symbol}")).then_some(text)
        };
        let is_said = |text: &&String| all.len() == 1 || is_said(text.split('{').next().unwrap_or(text));
        all.iter().filter(is_said).find_map(fill)
    }
}

/// A file or program that is looked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Kind of its absence, by which a finding is chosen.
    pub kind: String,
    /// What it is called.
    pub name: String,
    /// Patterns of `observe::places`, in order.
    pub places: Vec<String>,
    /// Whether it must be executable.
    #[serde(default)]
    pub executable: bool,
    /// What a user sees without it.
    pub sees: String,
}

/// Every framework, by the name of its file. Where nothing is named, all that are installed are imported by one process in
/// this order.
const ALL: &[&str] =
    &["torch", "transformer_engine", "bitsandbytes", "onnxruntime", "cupy", "numba", "jax", "tensorflow"];

/// The files of this folder that end in `.toml`, by their name (`build.rs`).
static FILES: LazyLock<Value> = LazyLock::new(|| {
    let files = embedded::unpack(include_bytes!(concat!(env!("OUT_DIR"), "/frameworks")));
    structured::from_json(&files).unwrap_or_default()
});

static FRAMEWORKS: LazyLock<Vec<Framework>> =
    LazyLock::new(|| ALL.iter().filter_map(|name| structured::from_value(&FILES[name]).ok()).collect());

/// Packages that are no workload by themselves, and open libraries while they are imported.
static PACKAGES: LazyLock<Vec<Framework>> =
    LazyLock::new(|| structured::from_value(&FILES["packages"]["package"]).unwrap_or_default());

/// Who opens something by itself, by the module that does.
static OPENERS: LazyLock<FxHashMap<&str, &Framework>> = LazyLock::new(|| {
    let modules =
        |f: &'static Framework| f.feature.iter().filter_map(move |x| Some((x.id.strip_prefix("import:")?, f)));
    FRAMEWORKS.iter().chain(&*PACKAGES).flat_map(modules).collect()
});

/// Whose code opens libraries by itself when `module` is executed.
pub fn opener(module: &str) -> Option<&'static Framework> {
    OPENERS.get(module).copied()
}

/// Whether all that a distribution opens by itself while it is imported is known.
pub fn is_known_opener(distribution: &str) -> bool {
    FRAMEWORKS.iter().chain(&*PACKAGES).any(|f| f.distributions.iter().any(|d| d == distribution))
}

/// Every framework.
pub fn all() -> &'static [Framework] {
    &FRAMEWORKS
}

/// The framework that is imported as `module`.
pub fn of_module(module: &str) -> Option<&'static Framework> {
    all().iter().find(|f| f.module == module)
}

/// Numbers of a release, so that 2.10 is later than 2.9.
pub fn release(version: &str) -> Vec<u32> {
    version
        .split('+')
        .next()
        .unwrap_or(version)
        .split('.')
        .map(|p| p.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0))
        .collect()
}

/// The quoted text that follows `after` on its line; every line starts with a newline.
pub fn quoted(text: &str, after: &str) -> Option<String> {
    let text = format!("\n{text}");
    let line = text[text.find(after)? + after.len()..].lines().next()?;
    let start = line.find(['\'', '"'])?;
    let (quote, rest) = line[start..].split_at(1);
    Some(rest[..rest.find(quote)?].to_owned())
}
/// Shell pattern with `*` and `[0-9]`, as Python's `fnmatch` has them.
pub fn matches(pattern: &str, name: &str) -> bool {
    if pattern.is_empty() {
        return name.is_empty();
    }
    if let Some(rest) = pattern.strip_prefix('*') {
        return name.char_indices().map(|(i, _)| i).chain([name.len()]).any(|i| matches(rest, &name[i..]));
    }
    if let Some(rest) = pattern.strip_prefix("[0-9]") {
        return name.starts_with(|c: char| c.is_ascii_digit()) && matches(rest, &name[1..]);
    }
    let mut pattern_chars = pattern.chars();
    let mut name_chars = name.chars();
    pattern_chars.next() == name_chars.next() && matches(pattern_chars.as_str(), name_chars.as_str())
}

/// Files of a directory that match a pattern, in the order of the directory.
pub fn glob(rootfs: &Rootfs, dir: &Path, pattern: &str) -> Vec<PathBuf> {
    let entries = rootfs.read_dir_unsorted(dir).unwrap_or_default();
    entries
        .into_iter()
        .filter(|e| e.name.to_str().is_some_and(|n| matches(pattern, n)))
        .map(|e| dir.join(e.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_well_formed() {
        let read = |value: &Value| structured::from_value::<Vec<Framework>>(value);
        let packages = read(&FILES["packages"]["package"]).expect("the packages are well-formed");
        let frameworks =
            ALL.iter().map(|name| structured::from_value(&FILES[name]).expect("a framework is well-formed"));
        assert_eq!(FILES.as_object().map(serde_json::Map::len), Some(ALL.len() + 1), "a file that nobody names");
        for framework in frameworks.chain(packages) {
            for feature in &framework.feature {
                let part = feature.id.strip_prefix("import:").unwrap_or(&feature.id);
                let inside = part.strip_prefix(&*framework.module).expect("a part is one of its module");
                assert!(inside.starts_with('.') || (inside.is_empty() && part != feature.id), "{}", feature.id);
            }
            let mut releases: Vec<_> = framework.preload.iter().map(|p| release(&p.since)).collect();
            let sorted = {
                let mut s = releases.clone();
                s.sort();
                s
            };
            assert_eq!(releases, sorted, "releases are listed in order");
            releases.dedup();
            assert_eq!(releases.len(), framework.preload.len());
        }
    }

    #[test]
    fn quoted_releases() {
        let torch =
            "__all__ = ['__version__', 'cuda']\n__version__ = '2.6.0'\ncuda: Optional[str] = '12.4'\nhip = None\n";
        assert_eq!(quoted(torch, "\n__version__").as_deref(), Some("2.6.0"));
        assert_eq!(quoted(torch, "\ncuda").as_deref(), Some("12.4"));
        assert_eq!(quoted(torch, "\nhip"), None);
        let wheel = r#"{"cuda": "12.x", "packaging": "pip"}"#;
        assert_eq!(quoted(wheel, r#""cuda""#).as_deref(), Some("12.x"));
    }

    #[test]
    fn patterns() {
        assert!(matches("libcublas.so.*[0-9]", "libcublas.so.12"));
        assert!(!matches("libcublas.so.*[0-9]", "libcublasLt.so.12"));
        assert!(!matches("libcudart.so.*[0-9].*[0-9]", "libcudart.so.12"));
        assert!(matches("libcudart.so.*[0-9].*[0-9]", "libcudart.so.11.0"));
    }
}
