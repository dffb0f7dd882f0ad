//! Installed distributions, and whether their files are still as RECORD lists them (PEP 376, PEP 503, PEP 627).

use std::path::PathBuf;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::image::Rootfs;
use crate::python::site::normal;

/// An installed distribution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Normalised name (PEP 503).
    pub name: String,
    /// Version.
    pub version: String,
    /// Entry of `sys.path` that it is installed in.
    pub location: PathBuf,
    /// Its `.dist-info` or `.egg-info` directory.
    pub info: PathBuf,
    /// Asked for by several, of a file that may be megabytes long.
    shared_objects: OnceLock<Vec<Listed>>,
}

/// A file that is not as RECORD says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordProblem {
    /// The file.
    pub path: String,
    /// Size in RECORD.
    pub expected: u64,
    /// Size found; `None` where it is missing.
    pub found: Option<u64>,
}

/// Largest RECORD read, in bytes; torch's is 2 MB.
const MAX_RECORD: u64 = 64 * 1024 * 1024;

/// Distributions in the directories of `sys.path`; where two have one name, import finds the first.
pub fn installed(rootfs: &Rootfs, path: &[PathBuf]) -> Vec<Installed> {
    let mut found = Vec::new();
    for dir in path {
        for entry in rootfs.read_dir(dir).unwrap_or_default() {
            let Some(file) = entry.name.to_str() else { continue };
            let Some((name, version)) = parse_info_name(file) else { continue };
            let (location, info, shared_objects) = (dir.clone(), dir.join(file), OnceLock::new());
            found.push(Installed { name, version, location, info, shared_objects });
        }
    }
    found
}

/// `name-version.dist-info`, `name-version.egg-info` or `name-version-py3.11.egg-info`.
pub fn parse_info_name(file: &str) -> Option<(String, String)> {
    let stem = file.strip_suffix(".dist-info").or_else(|| file.strip_suffix(".egg-info"))?;
    let mut parts = stem.split('-');
    let (name, version) = (parts.next()?, parts.next()?);
    (!name.is_empty() && version.starts_with(|c: char| c.is_ascii_digit()))
        .then(|| (normalise(name), version.to_owned()))
}

/// PEP 503: lower case, runs of `-`, `_` and `.` as one `-`.
pub fn normalise(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if matches!(c, '-' | '_' | '.') {
            if !out.ends_with('-') {
                out.push('-');
            }
        } else {
            out.extend(c.to_lowercase());
        }
    }
    out
}

/// A file listed in RECORD, with its size where RECORD tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Path, relative to the entry of `sys.path`, or absolute.
    pub path: String,
    /// Size in bytes.
    pub size: Option<u64>,
}

/// Rows of RECORD: comma-separated values, where a path with a comma is quoted.
pub fn parse_record(text: &str) -> impl Iterator<Item = Listed> {
    text.lines().filter_map(|line| {
        let (path, rest) = match line.strip_prefix('"') {
            Some(quoted) => {
                // A quote inside is doubled.
                let mut end = 0;
                let bytes = quoted.as_bytes();
                while end < bytes.len() {
                    if bytes[end] == b'"' {
                        if bytes.get(end + 1) != Some(&b'"') {
                            break;
                        }
                        end += 1;
                    }
                    end += 1;
                }
                (quoted.get(..end)?.replace("\"\"", "\""), quoted.get(end + 1..)?)
            }
            None => {
                let at = line.find(',')?;
                (line[..at].to_owned(), &line[at..])
            }
        };
        let size = rest.rsplit(',').next().and_then(|s| s.trim().parse().ok());
        (!path.is_empty()).then_some(Listed { path, size })
    })
}

impl Installed {
    /// Files of this distribution that bear on loading and are not as RECORD lists them.
    pub fn problems(&self, rootfs: &Rootfs) -> Vec<RecordProblem> {
        self.shared_objects(rootfs)
            .iter()
            .filter_map(|listed| {
                let path = normal(&self.location.join(&listed.path));
                let found = rootfs.stat(&path).ok().map(|s| s.size);
                let expected = listed.size?;
                (found != Some(expected)).then(|| RecordProblem {
                    path: path.to_string_lossy().into_owned(),
                    expected,
                    found,
                })
            })
            .collect()
    }

    /// Normalised names of what it requires, whatever the extra or the marker.
    fn requires(&self, rootfs: &Rootfs) -> Vec<String> {
        let file = if self.info.extension().is_some_and(|e| e == "egg-info") { "PKG-INFO" } else { "METADATA" };
        let text = rootfs.read_text(&self.info.join(file), MAX_RECORD).unwrap_or_default();
        // A description follows the header.
        let header = text.lines().take_while(|line| !line.is_empty());
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        header
            .filter_map(|line| line.strip_prefix("Requires-Dist: "))
            .map(|r| normalise(r.split(|c| !is_name(c)).next().unwrap_or(r)))
            .collect()
    }

    /// Its RECORD; empty where there is none.
    pub fn record(&self, rootfs: &Rootfs) -> Record {
        Record(rootfs.read(&self.info.join("RECORD"), MAX_RECORD).unwrap_or_default())
    }

    /// Shared objects that RECORD lists.
    pub fn shared_objects(&self, rootfs: &Rootfs) -> &[Listed] {
        self.shared_objects.get_or_init(|| self.record(rootfs).shared_objects())
    }
}

/// What distributions require, directly or not, as far as it is installed; with those themselves.
pub fn with_required(rootfs: &Rootfs, installed: &[Installed], mut names: Vec<String>) -> Vec<String> {
    let mut at = 0;
    while let Some(name) = names.get(at) {
        let required = installed.iter().find(|d| d.name == *name).map(|d| d.requires(rootfs)).unwrap_or_default();
        for name in required {
            if !names.contains(&name) && installed.iter().any(|d| d.name == name) {
                names.push(name);
            }
        }
        at += 1;
    }
    names
}

/// A RECORD as it was read. It may be megabytes long, and is searched rather than taken apart.
pub struct Record(Vec<u8>);

impl Record {
    /// Whether it lists a top-level module: a package, or a file.
    pub fn brings(&self, top: &str) -> bool {
        self.has_line(&format!("{top}/__init__.")) || self.has_line(&format!("{top}."))
    }

    /// Whether it lists a file, given relative to the entry of `sys.path`.
    pub fn lists(&self, file: &str) -> bool {
        self.has_line(&format!("{file},"))
    }

    fn has_line(&self, start: &str) -> bool {
        memchr::memmem::find_iter(&self.0, start.as_bytes()).any(|at| at == 0 || self.0[at - 1] == b'\n')
    }

    /// How many files it lists with each of the given extensions, if any.
    pub fn count<'k>(&self, extensions: &[&'k str]) -> Vec<(&'k str, usize)> {
        let of = |e: &'k str| (e, memchr::memmem::find_iter(&self.0, format!(".{e},").as_bytes()).count());
        extensions.iter().map(|e| of(e)).filter(|(_, count)| *count > 0).collect()
    }

    fn shared_objects(&self) -> Vec<Listed> {
        let data = &self.0;
        let mut found = Vec::new();
        let mut from = 0;
        // Most of it is of no interest here: go from one mention of `.so` to the next.
        while let Some(at) = memchr::memmem::find(&data[from..], b".so").map(|n| from + n) {
            let start = memchr::memrchr(b'\n', &data[..at]).map_or(0, |n| n + 1);
            let end = memchr::memchr(b'\n', &data[at..]).map_or(data.len(), |n| at + n);
            let line = String::from_utf8_lossy(&data[start..end]);
            found.extend(parse_record(&line).filter(|l| is_shared_object(&l.path)));
            from = end;
        }
        found
    }
}

/// `libx.so`, `libx.so.1.2`, `x.cpython-311-x86_64-linux-gnu.so`.
pub fn is_shared_object(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.find(".so") {
        Some(at) => {
            name[at + 3..].split('.').skip(1).all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
                && (name[at + 3..].is_empty() || name[at + 3..].starts_with('.'))
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_info_directories() {
        assert_eq!(
            parse_info_name("nvidia_cublas_cu12-12.4.5.8.dist-info"),
            Some(("nvidia-cublas-cu12".into(), "12.4.5.8".into()))
        );
        assert_eq!(parse_info_name("PyYAML-6.0.1-py3.11.egg-info"), Some(("pyyaml".into(), "6.0.1".into())));
        assert_eq!(parse_info_name("README"), None);
    }

    #[test]
    fn records() {
        let rows: Vec<_> = parse_record("a/b.so,sha256=x,12\n\"c,\"\"d.py\",sha256=y,3\nRECORD,,\n").collect();
        assert_eq!(rows[0], Listed { path: "a/b.so".into(), size: Some(12) });
        assert_eq!(rows[1], Listed { path: "c,\"d.py".into(), size: Some(3) });
        assert_eq!(rows[2].size, None);
    }

    #[test]
    fn shared_objects() {
        assert!(is_shared_object("a/libx.so.12.4") && is_shared_object("x.abi3.so") && is_shared_object("libx.so"));
        assert!(!is_shared_object("libx.so.py") && !is_shared_object("x.sorry") && !is_shared_object("x.txt"));
    }
}
