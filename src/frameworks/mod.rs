//! What is known about frameworks beyond what their files say: libraries that are opened by name at first use.
//!
//! One TOML file per framework, and code only where a framework does something of its own (`torch.rs`). To add one,
//! write its file, name it in [`ALL`], and give the case that proves it.

pub mod torch;

use std::path::PathBuf;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::structured;

/// One framework.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Framework {
    /// Module that is imported.
    pub module: String,
    /// Distributions that bring it.
    pub distributions: Vec<String>,
    /// See `torch.rs`.
    #[serde(default)]
    pub preload: Vec<torch::Preload>,
    /// Its parts.
    #[serde(default)]
    pub feature: Vec<Feature>,
}

/// A part of a framework that works or fails when it is first used.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// Capability id.
    pub id: String,
    /// Libraries (without version) that the import loads already; the part has no GPU code without them.
    #[serde(default)]
    pub linked: Vec<String>,
    /// Libraries opened by name.
    #[serde(default)]
    pub opens: Vec<Open>,
    /// Extension modules loaded by path.
    #[serde(default)]
    pub imports: Vec<String>,
    /// Programs and files, by the names that `observe::tools` knows.
    #[serde(default)]
    pub tools: Vec<String>,
}

/// A library opened by name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// Library, without version, whose code opens it.
    pub by: String,
    /// Names tried in order; `{N}` is the version in the name of `by`.
    pub names: Vec<String>,
    /// Only if `by` contains the stem of the name.
    #[serde(default)]
    pub named: bool,
    /// The part works without it.
    #[serde(default)]
    pub optional: bool,
}

/// Every framework.
const ALL: &[&str] = &[include_str!("torch.toml")];

static FRAMEWORKS: LazyLock<Vec<Framework>> =
    LazyLock::new(|| ALL.iter().filter_map(|source| structured::from_toml(source).ok()).collect());

/// Every framework.
pub fn all() -> &'static [Framework] {
    &FRAMEWORKS
}

/// The framework that is imported as `module`.
pub fn of_module(module: &str) -> Option<&'static Framework> {
    all().iter().find(|f| f.module == module)
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
pub fn glob(rootfs: &crate::image::Rootfs, dir: &std::path::Path, pattern: &str) -> Vec<PathBuf> {
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
        for source in ALL {
            let framework: Framework = structured::from_toml(source).expect("a framework file parses");
            for feature in &framework.feature {
                assert!(feature.id.starts_with(&format!("{}.", framework.module)), "{}", feature.id);
            }
            let mut releases: Vec<_> = framework.preload.iter().map(|p| torch::release(&p.since)).collect();
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
    fn patterns() {
        assert!(matches("libcublas.so.*[0-9]", "libcublas.so.12"));
        assert!(!matches("libcublas.so.*[0-9]", "libcublasLt.so.12"));
        assert!(!matches("libcudart.so.*[0-9].*[0-9]", "libcudart.so.12"));
        assert!(matches("libcudart.so.*[0-9].*[0-9]", "libcudart.so.11.0"));
    }
}
