//! What an image carries, observed: the tree is walked while the workload is examined, and files are opened only where
//! their names say that it matters.

mod contents;
mod owners;
mod secrets;
mod sources;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustc_hash::FxHashMap;

use super::environment::is_secret;
use super::{CodeDepth, Error, Examination, Request, scan};
use crate::facts::size::{Kind, Secret, Size};
use crate::facts::{Facts, Scope};
use crate::image::{EntryKind, Rootfs, Tree};
use crate::parallel;
use crate::python::distributions::is_shared_object;

/// Ends of the names of headers.
const HEADERS: &[&str] = &["h", "hh", "hpp", "hxx", "cuh", "inl", "ipp", "tcc", "inc"];
/// Directories of documentation, relative to a prefix.
const DOCUMENTATION: &[&str] = &["share/doc", "share/man", "share/info", "share/doc-base", "share/gtk-doc"];
/// What stays wherever documentation goes: licences ask to be handed on with the files.
const LICENCES: &[&str] = &["copyright", "license", "licence", "copying", "notice", "eula"];
/// Directories of programs.
const PROGRAMS: &[&str] = &["bin", "sbin", "libexec"];

/// Observes the workload and the whole tree.
///
/// # Errors
/// The root cannot be read.
pub fn observe(mut request: Request) -> Result<(Facts, Size), Error> {
    // Without GPUs that are named, all device code may be needed.
    request.code = if request.assumed.gpus.is_empty() { CodeDepth::Nothing } else { CodeDepth::Libraries };
    let scope = request.scope;
    let uid = match &request.user {
        Some(user) => Some(user.uid),
        // Whoever builds an image is often another user than the one that it runs as.
        None => (scope == Scope::Container).then(|| rustix::process::geteuid().as_raw()),
    };
    // A running container gets its secrets through the environment; an image must not bring them.
    let variables = if scope == Scope::Image { secret_variables(&request) } else { Vec::new() };
    let ngc = ["NVIDIA_PRODUCT_NAME", "NVIDIA_PYTORCH_VERSION"].iter().any(|v| request.env.non_empty(v).is_some());
    let root = request.root.clone();
    let examination = Examination::open(request)?;
    let rootfs = examination.rootfs.clone();
    // An image that names no user runs as root.
    let uid = uid.or_else(|| rootfs.config().map(|_| 0));
    let (facts, size) = parallel::join(|| examination.observe(), || look(&rootfs));
    let mut size = size.map_err(|e| Error::Root(root, e.into()))?;
    let mapped: BTreeSet<&str> = facts.subjects.iter().flat_map(|s| &s.mapped).map(|m| m.path.as_str()).collect();
    size.named_by = contents::naming(&rootfs, &size, &mapped);
    size.uid = uid;
    size.layers = rootfs.layers().cloned();
    size.has_healthcheck = rootfs.config().map(|config| config.has_healthcheck);
    size.secrets.extend(variables);
    size.ngc = ngc || size.tree.file_at(Path::new("/etc/shinit_v2")).is_some();
    Ok((facts, size))
}

fn secret_variables(request: &Request) -> Vec<Secret> {
    let secret = |(name, value): (&OsStr, &OsStr)| {
        let name = name.to_string_lossy().into_owned();
        let what = if value.is_empty() {
            return None;
        } else if is_secret(&name) {
            "a secret by its name"
        } else if secrets::has_password(value.as_bytes()) {
            "a URL with a password"
        } else {
            return None;
        };
        Some(Secret { place: "ENV".into(), at: name, what })
    };
    request.env.iter().filter_map(secret).collect()
}

/// Everything that does not depend on the workload.
fn look(rootfs: &Rootfs) -> Result<Size, crate::image::FileError> {
    let tree = Tree::walk(rootfs)?;
    let tests = test_suites(&tree);
    let kinds = kinds(&tree, &tests);
    let system_cuda = files(&tree)
        .filter(|at| kinds[*at] == Kind::SharedObject && tree.files[*at].entry.kind == EntryKind::File)
        .filter(|at| tree.files[*at].entry.name.to_str().is_some_and(scan::is_cuda))
        .filter(|at| !in_python_packages(&tree.dirs[tree.files[*at].dir].path))
        .collect();
    let mut size = Size { tests, kinds, system_cuda, cuda: cuda_release(&tree), tree, ..Size::default() };
    let names = || (owners::find(rootfs, &size.tree), secrets::find(rootfs, &size.tree), targets(rootfs, &size.tree));
    let contents = || (contents::debug_sections(rootfs, &size), contents::copies(rootfs, &size));
    let ((named, contents), sources) = parallel::join(|| (names(), contents()), || sources::read(rootfs, &size));
    ((size.packages, size.owners, size.unread_packages), size.secrets, size.targets) = named;
    ((size.debug, size.copies), size.sources) = (contents, sources);
    Ok(size)
}

/// All files by number.
fn files(tree: &Tree) -> std::ops::Range<usize> {
    0..tree.files.len()
}

/// Whether a directory belongs to installed Python packages.
pub(super) fn in_python_packages(dir: &Path) -> bool {
    dir.components().any(|c| matches!(c.as_os_str().as_bytes(), b"site-packages" | b"dist-packages"))
}

/// What each file is.
fn kinds(tree: &Tree, tests: &[usize]) -> Vec<Kind> {
    let mut of_dir: Vec<Place> = tree.dirs.iter().map(|d| Place::of(&d.path)).collect();
    for dir in tests.iter().flat_map(|t| tree.below(*t)) {
        of_dir[dir].kind = Some(Kind::Test);
    }
    tree.files.iter().map(|f| kind(&of_dir[f.dir], f.entry.name.as_bytes(), f.entry.mode)).collect()
}

/// What the place of a file says of it.
struct Place {
    kind: Option<Kind>,
    includes: bool,
    includes_cxx: bool,
    programs: bool,
}

impl Place {
    fn of(dir: &Path) -> Self {
        let text = dir.to_string_lossy();
        let documents = |prefix: &str| {
            DOCUMENTATION.iter().any(|d| {
                text.strip_prefix(prefix).and_then(|t| t.strip_prefix('/')).is_some_and(|rest| {
                    rest.strip_prefix(d).is_some_and(|after| after.is_empty() || after.starts_with('/'))
                })
            })
        };
        let has = |name: &str| dir.components().any(|c| c == Component::Normal(name.as_ref()));
        let before_share = text.split("/share/").next().unwrap_or("");
        let is_documentation = documents(before_share) || (text.starts_with("/usr/local/cuda") && has("doc"));
        Self {
            kind: is_documentation.then_some(Kind::Documentation),
            includes: has("include"),
            includes_cxx: text.contains("/include/c++"),
            programs: dir.file_name().is_some_and(|n| PROGRAMS.iter().any(|p| n == *p)),
        }
    }
}

fn kind(place: &Place, name: &[u8], mode: u32) -> Kind {
    let is_licence =
        || LICENCES.iter().any(|l| name.len() >= l.len() && name[..l.len()].eq_ignore_ascii_case(l.as_bytes()));
    if place.kind == Some(Kind::Documentation) && is_licence() {
        return Kind::Data;
    }
    if let Some(kind) = place.kind {
        return kind;
    }
    let extension = name.iter().rposition(|b| *b == b'.').map(|at| &name[at + 1..]);
    match extension {
        Some(b"pyc") => Kind::Bytecode,
        Some(b"py" | b"pyi") => Kind::PythonSource,
        Some(b"a") => Kind::StaticLibrary,
        Some(e) if place.includes && HEADERS.iter().any(|h| h.as_bytes() == e) => Kind::Header,
        None if place.includes_cxx => Kind::Header,
        _ if std::str::from_utf8(name).is_ok_and(is_shared_object) => Kind::SharedObject,
        _ if place.programs && mode & 0o111 != 0 => Kind::Program,
        _ => Kind::Data,
    }
}

/// Directories of tests: of the standard library, where Python itself says that they are for its own use
/// (<https://docs.python.org/3/library/test.html>), and those called `tests` in installed packages.
fn test_suites(tree: &Tree) -> Vec<usize> {
    let mut is_inside = vec![false; tree.dirs.len()];
    let mut found = Vec::new();
    for at in 1..tree.dirs.len() {
        let dir = &tree.dirs[at];
        is_inside[at] = is_inside[dir.parent];
        let name = dir.path.file_name().unwrap_or_default().as_bytes();
        if is_inside[at] || !matches!(name, b"tests" | b"test" | b"idle_test") {
            continue;
        }
        let candidate = if in_python_packages(&dir.path) { name == b"tests" } else { in_standard_library(&dir.path) };
        if candidate && has_tests(tree, at) {
            is_inside[at] = true;
            found.push(at);
        }
    }
    found
}

/// Below `lib/python3.11`.
fn in_standard_library(dir: &Path) -> bool {
    let parts: Vec<_> = dir.components().map(|c| c.as_os_str().as_bytes()).collect();
    parts.windows(2).any(|w| {
        w[0] == b"lib" && w[1].strip_prefix(b"python").is_some_and(|v| v.first().is_some_and(u8::is_ascii_digit))
    })
}

/// Whether a suite has anything that a test runner would find.
fn has_tests(tree: &Tree, dir: usize) -> bool {
    let is_test = |name: &[u8]| name.starts_with(b"test_") && name.ends_with(b".py");
    let mut dirs = tree.below(dir).into_iter();
    dirs.any(|d| tree.files[tree.dirs[d].files.clone()].iter().any(|f| is_test(f.entry.name.as_bytes())))
}

/// Of the toolkit in `/usr/local/cuda-12.4`.
fn cuda_release(tree: &Tree) -> Option<String> {
    tree.dirs.iter().filter(|d| d.path.parent() == Some(Path::new("/usr/local"))).find_map(|d| {
        let release = d.path.file_name()?.to_str()?.strip_prefix("cuda-")?;
        release.starts_with(|c: char| c.is_ascii_digit()).then(|| release.to_owned())
    })
}

/// Where links lead, if a cache is there that packages may have been linked from (`uv --link-mode symlink`).
fn targets(rootfs: &Rootfs, tree: &Tree) -> Vec<(usize, PathBuf)> {
    let is_cache = |dir: &Path| dir.ends_with(".cache/uv") || dir.ends_with("pkgs");
    if !tree.dirs.iter().any(|d| is_cache(&d.path)) {
        return Vec::new();
    }
    files(tree)
        .filter(|at| tree.files[*at].entry.kind == EntryKind::Link)
        .filter_map(|at| Some((at, rootfs.read_link(&tree.path(at)).ok()?)))
        .collect()
}

/// Finds files of the tree by the paths that a list of files gives; the directories of a list repeat.
struct Lookup<'t> {
    tree: &'t Tree,
    rootfs: &'t Rootfs,
    dirs: FxHashMap<Vec<u8>, Option<usize>>,
}

impl<'t> Lookup<'t> {
    fn new(rootfs: &'t Rootfs, tree: &'t Tree) -> Self {
        Self { tree, rootfs, dirs: FxHashMap::default() }
    }

    /// The file at an absolute path, links in its directory followed.
    fn file(&mut self, path: &[u8]) -> Option<usize> {
        let slash = memchr::memrchr(b'/', path)?;
        let dir = self.dir(&path[..slash])?;
        self.tree.file_in(dir, &path[slash + 1..])
    }

    fn dir(&mut self, path: &[u8]) -> Option<usize> {
        if let Some(known) = self.dirs.get(path) {
            return *known;
        }
        let as_path = Path::new(if path.is_empty() { "/".as_ref() } else { OsStr::from_bytes(path) });
        let found = self.tree.dir(as_path).or_else(|| self.tree.dir(&self.rootfs.canonicalize(as_path).ok()?));
        self.dirs.insert(path.to_owned(), found);
        found
    }
}
