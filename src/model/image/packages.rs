//! Which package brings a missing library.
//!
//! "libgthread-2.0.so.0: cannot open shared object file" does not say what to install, and the answer differs between
//! distributions and, for NVIDIA's libraries, between CUDA releases. The answers are data (`packages.tsv`); this
//! module only matches names.

use std::sync::LazyLock;

/// The rows of `packages.tsv`, parsed once.
static ROWS: LazyLock<Vec<Row>> =
    LazyLock::new(|| include_str!("packages.tsv").lines().filter_map(Row::parse).collect());

/// The packages that bring one library, best candidate first. More than one name of a kind means that any one of them
/// will do, depending on the release of the distribution or on the CUDA release (see [`providers_for_cuda`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Providers {
    /// Packages of Debian, Ubuntu and NVIDIA's apt repository.
    pub debian: Vec<String>,
    /// Packages of Alpine.
    pub alpine: Vec<String>,
    /// Packages of RHEL, Fedora and NVIDIA's dnf repository.
    pub rhel: Vec<String>,
    /// Requirements for pip.
    pub pypi: Vec<String>,
}

impl Providers {
    /// Whether it is one of NVIDIA's libraries, which wheels bring.
    pub fn are_nvidia(&self) -> bool {
        self.pypi.iter().any(|p| p.starts_with("nvidia-"))
    }
}

/// The packages that bring the library `name`, a file name as a loader asks for it (`libGL.so.1`), for any release of
/// CUDA. `None` when no row of the data names it, and for a name that a wheel builder made (see [`bundled_origin`]):
/// such a file comes with its wheel and from nowhere else.
pub fn providers(name: &str) -> Option<Providers> {
    lookup(name, None)
}

/// Like [`providers`], for an image whose CUDA release is known, so that the names need no choosing: `cuda` is the major
/// and, where known, the minor version.
pub fn providers_for_cuda(name: &str, cuda: (u32, Option<u32>)) -> Option<Providers> {
    lookup(name, Some(cuda))
}

/// The system's name of a library that auditwheel copied into a wheel: `libgomp.so.1` for `libgomp-a34b3233.so.1`.
/// `None` when `name` is not such a name.
///
/// auditwheel puts a hyphen and the first eight hexadecimal digits of the file's SHA-256 before the first dot
/// (`auditwheel/repair.py`, `copylib`). A library that went through it twice has two of them.
pub fn bundled_origin(name: &str) -> Option<String> {
    let (stem, rest) = name.split_once('.')?;
    let mut origin = stem;
    while let Some((left, hash)) = origin.rsplit_once('-') {
        let is_hash = hash.len() == 8 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hash || left.is_empty() {
            break;
        }
        origin = left;
    }
    (origin.len() < stem.len()).then(|| format!("{origin}.{rest}"))
}

fn lookup(name: &str, cuda: Option<(u32, Option<u32>)>) -> Option<Providers> {
    if bundled_origin(name).is_some() {
        return None;
    }
    let mut found: Option<Providers> = None;
    for row in ROWS.iter() {
        if let (Some((major, _)), Some(of)) = (cuda, row.cuda)
            && major != of
        {
            continue;
        }
        let Some(number) = captured(row.library, name) else { continue };
        let minor = cuda.and_then(|(_, minor)| minor);
        let all = found.get_or_insert_default();
        for (into, names) in [
            (&mut all.debian, row.debian),
            (&mut all.alpine, row.alpine),
            (&mut all.rhel, row.rhel),
            (&mut all.pypi, row.pypi),
        ] {
            for package in names.split(' ').filter(|n| *n != "-").filter_map(|n| filled(n, number, minor)) {
                if !into.contains(&package) {
                    into.push(package);
                }
            }
        }
    }
    found
}

/// One line of `packages.tsv`; the fields are described there.
struct Row {
    library: &'static str,
    cuda: Option<u32>,
    debian: &'static str,
    alpine: &'static str,
    rhel: &'static str,
    pypi: &'static str,
}

impl Row {
    /// `None` for a comment, an empty line and, which the tests exclude, a malformed one.
    fn parse(line: &'static str) -> Option<Row> {
        let mut fields = line.split('\t');
        let library = fields.next().filter(|l| !l.is_empty() && !l.starts_with('#'))?;
        let cuda = match fields.next()? {
            "-" => None,
            major => Some(major.parse().ok()?),
        };
        let mut names = || fields.next();
        let row = Row { library, cuda, debian: names()?, alpine: names()?, rhel: names()?, pypi: names()? };
        names().is_none().then_some(row)
    }
}

/// Matches `name` with `pattern` and returns what its `#` stands for, `""` when it has none. A pattern has at most one
/// `*` (characters other than a dot) and one `#` (digits); after a match only a longer version may follow.
fn captured<'a>(pattern: &str, name: &'a str) -> Option<&'a str> {
    let Some(at) = pattern.find(['*', '#']) else {
        let rest = name.strip_prefix(pattern)?;
        return longer_version(rest).then_some("");
    };
    let (prefix, tail) = (&pattern[..at], &pattern[at + 1..]);
    let rest = name.strip_prefix(prefix)?;
    if pattern.as_bytes()[at] == b'#' {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let after = rest[end..].strip_prefix(tail)?;
        return (end > 0 && longer_version(after)).then_some(&rest[..end]);
    }
    // No `*` of the data is followed by anything but the dot at which it ends.
    let end = rest.find('.').unwrap_or(rest.len());
    captured(tail, &rest[end..])
}

/// Whether `rest`, what follows a matched name, is nothing or further version numbers (`.2.13`).
fn longer_version(rest: &str) -> bool {
    rest.is_empty() || rest.strip_prefix('.').is_some_and(|v| v.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
}

/// The package name with its holes filled, `None` when it needs a minor version that is not known.
fn filled(name: &str, number: &str, minor: Option<u32>) -> Option<String> {
    if name.contains("{minor}") {
        return minor.map(|m| name.replace("{minor}", &m.to_string()));
    }
    Some(name.replace("{}", number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[String]) -> Vec<&str> {
        list.iter().map(String::as_str).collect()
    }

    #[test]
    fn every_row_is_well_formed() {
        let lines: Vec<_> =
            include_str!("packages.tsv").lines().filter(|l| !l.starts_with('#') && !l.is_empty()).collect();
        assert_eq!(lines.len(), ROWS.len(), "a line did not parse");
        for (line, row) in lines.iter().zip(ROWS.iter()) {
            let (stars, hashes) = (row.library.matches('*').count(), row.library.matches('#').count());
            assert!(stars <= 1 && hashes <= 1, "{line}");
            if let Some((_, after)) = row.library.split_once('*') {
                assert!(after.starts_with('.'), "{line}");
            }
            let fields = [row.debian, row.alpine, row.rhel, row.pypi];
            assert!(fields.iter().any(|f| *f != "-"), "a row without any name: {line}");
            for field in fields {
                assert!(!field.is_empty() && field.trim() == field && !field.contains("  "), "{line}");
                let known = "+-._{}<>=*";
                assert!(field.split(' ').all(|n| n.chars().all(|c| c.is_ascii_alphanumeric() || known.contains(c))));
                assert!(hashes == 1 || !field.contains("{}"), "nothing to fill in: {line}");
                assert!(row.cuda.is_some() || !field.contains("{minor}"), "{line}");
            }
        }
    }

    #[test]
    fn no_row_is_there_twice() {
        let mut keys: Vec<_> = ROWS.iter().map(|r| (r.library, r.cuda)).collect();
        keys.sort();
        for pair in keys.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
    }

    #[test]
    fn system_libraries() {
        let gthread = providers("libgthread-2.0.so.0").unwrap();
        assert_eq!(names(&gthread.debian), ["libglib2.0-0"]);
        assert_eq!(names(&gthread.alpine), ["glib"]);
        assert_eq!(names(&gthread.rhel), ["glib2"]);
        assert!(gthread.pypi.is_empty());
        assert_eq!(names(&providers("libffi.so.7").unwrap().debian), ["libffi7"]);
        assert_eq!(names(&providers("libavcodec.so.59.37.100").unwrap().debian), ["libavcodec59"]);
        assert_eq!(names(&providers("libpython3.11.so.1.0").unwrap().debian), ["libpython3.11"]);
        assert_eq!(names(&providers("libz.so.1.2.13").unwrap().debian), ["zlib1g"]);
        assert_eq!(names(&providers("libssl.so.1.1").unwrap().debian), ["libssl1.1"]);
    }

    #[test]
    fn cuda_libraries_for_any_release() {
        let cublas = providers("libcublas.so.12").unwrap();
        assert_eq!(names(&cublas.pypi), ["nvidia-cublas-cu12"]);
        assert!(cublas.debian.is_empty(), "the minor version is not known");
        // One file name, three releases of CUDA.
        let curand = providers("libcurand.so.10").unwrap();
        assert_eq!(names(&curand.pypi), ["nvidia-curand-cu11", "nvidia-curand-cu12", "nvidia-curand"]);
        // The name itself tells the release.
        assert_eq!(names(&providers("libnvrtc-builtins.so.12.4").unwrap().debian), ["cuda-nvrtc-12-4"]);
        assert_eq!(names(&providers("libcupti.so.11.8").unwrap().debian), ["cuda-cupti-11-8"]);
    }

    #[test]
    fn cuda_libraries_for_one_release() {
        let curand = providers_for_cuda("libcurand.so.10", (12, Some(4))).unwrap();
        assert_eq!(names(&curand.pypi), ["nvidia-curand-cu12"]);
        assert_eq!(names(&curand.debian), ["libcurand-12-4"]);
        let cusparse = providers_for_cuda("libcusparse.so.12", (13, None)).unwrap();
        assert_eq!(names(&cusparse.pypi), ["nvidia-cusparse"]);
        let part = providers_for_cuda("libcudnn_ops.so.9.1.0", (12, None)).unwrap();
        assert_eq!(names(&part.pypi), ["nvidia-cudnn-cu12==9.*"]);
        assert_eq!(names(&part.debian), ["libcudnn9-cuda-12"]);
        let nccl = providers_for_cuda("libnccl.so.2", (13, None)).unwrap();
        assert_eq!((names(&nccl.debian), names(&nccl.rhel)), (vec!["libnccl2"], vec!["libnccl"]));
        assert_eq!(providers_for_cuda("libcublas.so.12", (11, None)), None);
        // A library that is not of CUDA is the same for every release.
        assert!(providers_for_cuda("libnuma.so.1", (12, None)).is_some());
    }

    #[test]
    fn nothing_brings_the_driver() {
        for name in ["libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1"] {
            assert_eq!(providers(name), None, "{name}");
        }
    }

    #[test]
    fn nothing_else_brings_what_a_wheel_bundles() {
        assert_eq!(bundled_origin("libgomp-a34b3233.so.1").as_deref(), Some("libgomp.so.1"));
        let twice = bundled_origin("libgfortran-040039e1-0352e75f.so.5.0.0");
        assert_eq!(twice.as_deref(), Some("libgfortran.so.5.0.0"));
        assert_eq!(providers("libgomp-a34b3233.so.1"), None);
        for plain in ["libgomp.so.1", "libnvrtc-builtins.so.12.4", "libxcb-keysyms.so.1", "-a34b3233.so", "a34b3233"] {
            assert_eq!(bundled_origin(plain), None, "{plain}");
        }
    }

    #[test]
    fn a_similar_name_is_another_library() {
        for name in
            ["", "lib", "libz.so", "libz.so.10", "libz.so.1x", "libffi.so.", "libffi.so.x", "xlibz.so.1", "é.so"]
        {
            assert_eq!(providers(name), None, "{name}");
        }
        assert_eq!(providers("libpython3.13t.so.1.0"), None);
    }
}
