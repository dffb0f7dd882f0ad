//! Which package brings a library: the line that cures a missing one.

use std::sync::LazyLock;

const TABLE: &str = include_str!("packages.tsv");

/// Packages that bring one library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Providers {
    /// Debian and Ubuntu.
    pub debian: Option<String>,
    /// Alpine.
    pub alpine: Option<String>,
    /// RHEL and Fedora.
    pub rhel: Option<String>,
    /// PyPI.
    pub pypi: Option<String>,
    /// Whether it is one of NVIDIA's libraries.
    pub is_nvidia: bool,
}

static ROWS: LazyLock<Vec<Vec<&'static str>>> = LazyLock::new(|| {
    TABLE.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).map(|l| l.split('\t').collect()).collect()
});

/// The packages that bring the file `name`. A name with a hash (`libgomp-a34b3233.so.1`) was put into a wheel by
/// auditwheel, and only that wheel brings it.
pub fn providers(name: &str) -> Option<Providers> {
    ROWS.iter().find_map(|row| {
        let [pattern, debian, alpine, rhel, pypi] = row[..] else { return None };
        let version = capture(pattern, name)?;
        let of = |column: &str| (column != "-").then(|| column.replace("{v}", &version));
        let is_nvidia = debian.starts_with("cuda-")
            || ["libcu", "libnv", "libnccl", "libnpp"].iter().any(|p| name.starts_with(p)) && name != "libcurl.so.4";
        Some(Providers { debian: of(debian), alpine: of(alpine), rhel: of(rhel), pypi: of(pypi), is_nvidia })
    })
}

/// What `*` in the pattern stands for in `name`, or nothing if it does not match.
fn capture(pattern: &str, name: &str) -> Option<String> {
    match pattern.split_once('*') {
        None => (pattern == name).then(String::new),
        Some((before, after)) => {
            let inner = name.strip_prefix(before)?.strip_suffix(after)?;
            Some(inner.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_five_columns() {
        for row in ROWS.iter() {
            assert_eq!(row.len(), 5, "{row:?}");
            assert!(row[0].starts_with("lib"), "{row:?}");
        }
    }

    #[test]
    fn lookups() {
        let cublas = providers("libcublas.so.12").unwrap();
        assert_eq!(cublas.pypi.as_deref(), Some("nvidia-cublas-cu12"));
        assert!(cublas.is_nvidia);
        assert_eq!(providers("libcublas.so.13").unwrap().pypi.as_deref(), Some("nvidia-cublas"));
        assert_eq!(providers("libnuma.so.1").unwrap().debian.as_deref(), Some("libnuma1"));
        assert_eq!(providers("libpython3.11.so.1.0").unwrap().debian.as_deref(), Some("libpython3.11"));
        assert!(!providers("libcurl.so.4").unwrap().is_nvidia);
        assert_eq!(providers("libgomp-a34b3233.so.1"), None);
    }
}
