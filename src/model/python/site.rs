//! `sys.path` of `python -c …`: `PYTHONPATH`, the standard library, then what `Lib/site.py` adds.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::Interpreter;
use super::added;
use super::editable::{self, Doubt, Redirect};
use crate::image::Rootfs;
use crate::loader::Environment;

/// `sys.path`, and what `.pth` files add otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SysPath {
    /// The entries after the first, which is empty and means the working directory.
    pub entries: Vec<PathBuf>,
    /// `site.getsitepackages()` and the user's own, as far as they exist.
    pub packages: Vec<PathBuf>,
    /// Modules that the lines of `.pth` files that are code lead elsewhere.
    pub redirects: Vec<Redirect>,
    /// Such code of which it is not known what it adds.
    pub doubts: Vec<Doubt>,
    /// Directories that `.pth` files name and that do not exist, with the file.
    pub lost: Vec<(PathBuf, PathBuf)>,
}

/// Largest `.pth` file read, in bytes.
const MAX_PTH: u64 = 1024 * 1024;

struct Builder<'r> {
    rootfs: &'r Rootfs,
    known: HashSet<PathBuf>,
    path: SysPath,
    /// Whether `.pth` files whose name starts with a dot are passed over: since 3.11.9, 3.12.2 and 3.13.
    skips_hidden: bool,
}

/// Computes `sys.path` as `Modules/getpath.py` and `Lib/site.py` do. `cwd` makes relative entries absolute.
pub fn sys_path(rootfs: &Rootfs, python: &Interpreter, env: &Environment, cwd: &Path) -> SysPath {
    // Distributions patch `site.py`, and it has changed within releases: it tells itself what it does.
    let site = rootfs.read(&python.stdlib.join("site.py"), MAX_PTH).unwrap_or_default();
    let says = |text: &str| memchr::memmem::find(&site, text.as_bytes()).is_some();
    let skips_hidden = says("not name.startswith(\".\")");
    let mut b = Builder { rootfs, known: HashSet::new(), path: SysPath::default(), skips_hidden };
    if let Some(list) = env.non_empty("PYTHONPATH") {
        for entry in list.as_bytes().split(|&b| b == b':') {
            b.push(&normal(&cwd.join(std::ffi::OsStr::from_bytes(entry))));
        }
    }
    let (major, minor) = python.version;
    let zip = format!("python{major}{minor}{}.zip", if python.free_threaded { "t" } else { "" });
    b.push(&python.base_prefix.join(&python.platlibdir).join(zip));
    b.push(&python.stdlib);
    b.push(&python.base_prefix.join(&python.platlibdir).join(python.name()).join("lib-dynload"));

    let debian = python.base_prefix == Path::new("/usr") && says("dist-packages");
    if python.venv.is_some() {
        b.site_packages(python, &python.prefix, false);
    }
    if python.venv.as_ref().is_none_or(|v| v.system_site) {
        if let Some(user) = user_site(python, env) {
            b.site_dir(&user);
        }
        // With system packages, the environment's prefix stays the first one (`site.venv`).
        b.site_packages(python, &python.base_prefix, debian);
    }
    b.path
}

impl Builder<'_> {
    /// `removeduppaths` and `addsitedir` share one set of known directories.
    fn push(&mut self, dir: &Path) -> bool {
        let new = self.known.insert(dir.to_owned());
        if new {
            self.path.entries.push(dir.to_owned());
        }
        new
    }

    /// `getsitepackages` and `addsitepackages`.
    fn site_packages(&mut self, python: &Interpreter, prefix: &Path, debian: bool) {
        let name = python.name();
        let mut dirs = Vec::new();
        if debian {
            // Debian's patched `site.py`.
            dirs.push(PathBuf::from("/usr/local/lib").join(&name).join("dist-packages"));
            dirs.push(prefix.join("lib/python3/dist-packages"));
            dirs.push(prefix.join("lib").join(&name).join("dist-packages"));
        } else {
            if python.platlibdir != "lib" {
                dirs.push(prefix.join(&python.platlibdir).join(&name).join("site-packages"));
            }
            dirs.push(prefix.join("lib").join(&name).join("site-packages"));
        }
        for dir in dirs {
            self.site_dir(&dir);
        }
    }

    /// `addsitedir`: the directory if it exists, then its `.pth` files in sorted order.
    fn site_dir(&mut self, dir: &Path) {
        if !self.rootfs.is_dir(dir) {
            return;
        }
        self.push(dir);
        self.path.packages.push(dir.to_owned());
        let Ok(entries) = self.rootfs.read_dir(dir) else { return };
        for entry in entries {
            let name = entry.name.as_bytes();
            if !name.ends_with(b".pth") || (self.skips_hidden && name.starts_with(b".")) {
                continue;
            }
            let file = dir.join(&entry.name);
            let Ok(text) = self.rootfs.read_text(&file, MAX_PTH) else { continue };
            for line in text.lines() {
                let line = line.trim_end();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                if line.starts_with("import ") || line.starts_with("import\t") {
                    let (redirects, doubt) = editable::of_line(self.rootfs, dir, line);
                    self.path.redirects.extend(redirects);
                    self.path.doubts.extend(doubt);
                    self.code(dir, &file, line);
                    continue;
                }
                let target = normal(&dir.join(line));
                if !self.rootfs.exists(&target) {
                    self.path.lost.push((target, file.clone()));
                } else if !self.known.contains(&target) {
                    self.push(&target);
                }
            }
        }
    }

    /// A line of a `.pth` file that is code.
    fn code(&mut self, dir: &Path, file: &Path, line: &str) {
        let Some((dirs, first)) = added::by_line(self.rootfs, dir, line) else { return };
        if dirs.is_empty() {
            self.path.doubts.push(Doubt { names: None, file: file.to_owned() });
        }
        for dir in dirs {
            if first {
                self.path.entries.insert(0, dir);
            } else {
                self.path.entries.push(dir);
            }
        }
    }
}

/// `USER_SITE`, unless switched off.
fn user_site(python: &Interpreter, env: &Environment) -> Option<PathBuf> {
    if env.non_empty("PYTHONNOUSERSITE").is_some() {
        return None;
    }
    let base = match env.non_empty("PYTHONUSERBASE") {
        Some(base) => PathBuf::from(base),
        None => Path::new(env.non_empty("HOME")?).join(".local"),
    };
    Some(base.join("lib").join(python.name()).join("site-packages"))
}

/// `os.path.normpath` of an absolute path.
pub fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}
