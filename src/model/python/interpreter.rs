//! Which Python interpreter a workload uses, and where its own files are.
//!
//! Follows `Modules/getpath.py` of CPython (3.11 and later; earlier releases do the same in C): `pyvenv.cfg` beside or
//! above the executable names the base interpreter, and the standard library is found by its landmark `os.py`,
//! upwards from the executable.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::image::elf::{Elf, Machine};
use crate::image::{EntryKind, Rootfs};
use crate::loader::Environment;

/// An interpreter found in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// As named or found.
    pub executable: PathBuf,
    /// The ELF file behind links.
    pub real: PathBuf,
    /// Major and minor version.
    pub version: (u32, u32),
    /// Free-threaded build (`python3.13t`).
    pub free_threaded: bool,
    /// `sys.prefix`
    pub prefix: PathBuf,
    /// `sys.base_prefix`
    pub base_prefix: PathBuf,
    /// `sys.platlibdir`: `lib` or `lib64`.
    pub platlibdir: String,
    /// Directory of the standard library.
    pub stdlib: PathBuf,
    /// Suffixes of extension modules, in the order in which import tries them.
    pub suffixes: Vec<String>,
    /// For a virtual environment, whether it sees the base interpreter's packages.
    pub venv: Option<Venv>,
}

/// A virtual environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Venv {
    /// `include-system-site-packages`
    pub system_site: bool,
}

/// Why there is no interpreter to work with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoInterpreter {
    /// What was looked at, and what was wrong with it.
    pub tried: Vec<(PathBuf, String)>,
}

/// Largest `pyvenv.cfg` read, in bytes.
const MAX_CFG: u64 = 64 * 1024;
/// Where images put an interpreter that is not on PATH.
const USUAL: &[&str] = &[
    "/opt/venv/bin/python",
    "/venv/bin/python",
    "/app/.venv/bin/python",
    "/app/venv/bin/python",
    "/workspace/.venv/bin/python",
    "/opt/conda/bin/python",
    "/opt/python/bin/python3",
    "/usr/local/bin/python3",
    "/usr/bin/python3",
];
const NAMES: &[&str] = &["python3", "python"];

impl Interpreter {
    /// Finds the interpreter: the named one, or that of `VIRTUAL_ENV`, of `PATH`, or in one of the usual places.
    ///
    /// # Errors
    /// Everything that was tried, if nothing of it is a working interpreter.
    pub fn find(rootfs: &Rootfs, env: &Environment, named: Option<&Path>) -> Result<Self, NoInterpreter> {
        let mut tried = Vec::new();
        let candidates = match named {
            Some(path) => vec![path.to_owned()],
            None => candidates(env),
        };
        for path in candidates {
            match Self::at(rootfs, &path) {
                Ok(found) => return Ok(found),
                Err(why) => {
                    if named.is_some() || rootfs.symlink_stat(&path).is_ok() {
                        tried.push((path, why));
                    }
                }
            }
        }
        Err(NoInterpreter { tried })
    }

    fn at(rootfs: &Rootfs, executable: &Path) -> Result<Self, String> {
        let executable = &unshim(rootfs, executable);
        let real = rootfs.canonicalize(executable).map_err(|e| match rootfs.read_link(executable) {
            Ok(to) => format!("link to {}, which leads nowhere", to.display()),
            Err(_) => e.to_string(),
        })?;
        let (map, _) = rootfs.map(&real).map_err(|e| e.to_string())?;
        if map.starts_with(b"#!") {
            return Err("a script, not an interpreter".into());
        }
        let elf = Elf::parse(map, Machine::host()).map_err(|e| e.to_string())?;

        let bin = executable.parent().unwrap_or(Path::new("/"));
        let cfg_dirs = [bin, bin.parent().unwrap_or(Path::new("/"))];
        let cfg = cfg_dirs.iter().find_map(|d| Cfg::read(rootfs, &d.join("pyvenv.cfg")));
        let home = cfg.as_ref().and_then(|c| c.home.clone());
        let start = match &home {
            Some(home) => rootfs.canonicalize(home).map_err(|_| {
                format!("pyvenv.cfg names {} as the home of its interpreter, which is not there", home.display())
            })?,
            None => real.parent().unwrap_or(Path::new("/")).to_owned(),
        };
        let version = version_of(&real, &elf).or_else(|| cfg.as_ref().and_then(|c| c.version));
        let home_start = home.unwrap_or_else(|| start.clone());
        let (base_prefix, platlibdir, stdlib, version, free_threaded) = find_stdlib(rootfs, &home_start, version)
            .or_else(|| find_stdlib(rootfs, &start, version))
            .ok_or_else(|| format!("no standard library (lib/python3.X/os.py) above {}", start.display()))?;
        let is_venv = cfg.is_some();
        let prefix = if is_venv { bin.parent().unwrap_or(Path::new("/")).to_owned() } else { base_prefix.clone() };
        let suffixes = suffixes(rootfs, &stdlib, version, free_threaded);
        Ok(Self {
            executable: executable.to_owned(),
            real,
            version,
            free_threaded,
            prefix,
            base_prefix,
            platlibdir,
            stdlib,
            suffixes,
            venv: cfg.map(|c| Venv { system_site: c.system_site }),
        })
    }

    /// Such as `python3.11`, or `python3.13t` for a free-threaded build.
    pub fn name(&self) -> String {
        lib_name(self.version, self.free_threaded)
    }

    /// Where `Python.h` of this interpreter would be: `sysconfig.get_paths()["include"]`, which for a virtual
    /// environment is that of its base interpreter.
    pub fn include_dir(&self) -> PathBuf {
        self.base_prefix.join("include").join(self.name())
    }
}

fn lib_name((major, minor): (u32, u32), free_threaded: bool) -> String {
    format!("python{major}.{minor}{}", if free_threaded { "t" } else { "" })
}

fn candidates(env: &Environment) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Some(venv) = env.non_empty("VIRTUAL_ENV") {
        found.push(Path::new(venv).join("bin/python"));
    }
    if let Some(path) = env.non_empty("PATH") {
        for dir in path.as_bytes().split(|&b| b == b':').filter(|d| d.starts_with(b"/")) {
            found.extend(NAMES.iter().map(|n| Path::new(OsStr::from_bytes(dir)).join(n)));
        }
    }
    found.extend(USUAL.iter().map(PathBuf::from));
    found
}

/// pyenv puts scripts of one name before the real interpreters; its file `version` tells which is meant.
fn unshim(rootfs: &Rootfs, executable: &Path) -> PathBuf {
    let same = || executable.to_owned();
    let Some(shims) = executable.parent().filter(|p| p.ends_with("shims")) else { return same() };
    let Some(root) = shims.parent() else { return same() };
    let Ok(version) = rootfs.read_text(&root.join("version"), MAX_CFG) else { return same() };
    let Some(version) = version.lines().next().filter(|v| !v.contains('/')) else { return same() };
    root.join("versions").join(version.trim()).join("bin").join(executable.file_name().unwrap_or_default())
}

/// What matters of `pyvenv.cfg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cfg {
    home: Option<PathBuf>,
    system_site: bool,
    version: Option<(u32, u32)>,
}

impl Cfg {
    fn read(rootfs: &Rootfs, path: &Path) -> Option<Self> {
        Some(Self::parse(&rootfs.read_text(path, MAX_CFG).ok()?))
    }

    /// `key = value` lines; keys are compared without regard to case (`site.venv`).
    pub fn parse(text: &str) -> Self {
        let mut cfg = Self { home: None, system_site: false, version: None };
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else { continue };
            let value = value.trim();
            match key.trim().to_ascii_lowercase().as_str() {
                "home" => cfg.home = Some(PathBuf::from(value)),
                "include-system-site-packages" => cfg.system_site = value.eq_ignore_ascii_case("true"),
                // venv writes `version`, virtualenv and uv write `version_info`.
                "version" | "version_info" => cfg.version = parse_version(value),
                _ => {}
            }
        }
        cfg
    }
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor: String = parts.next()?.chars().take_while(char::is_ascii_digit).collect();
    Some((major, minor.parse().ok()?))
}

/// From the executable's name, or from the `libpython` that it is linked to.
fn version_of(real: &Path, elf: &Elf) -> Option<(u32, u32)> {
    let of = |name: &OsStr, prefix: &str| parse_version(name.to_str()?.strip_prefix(prefix)?);
    of(real.file_name()?, "python").or_else(|| elf.needed().find_map(|n| of(n, "libpython")))
}

type Stdlib = (PathBuf, String, PathBuf, (u32, u32), bool);

/// Upwards from `start`, but not in the root itself (`search_up`): a directory with the landmark of the standard library.
fn find_stdlib(rootfs: &Rootfs, start: &Path, version: Option<(u32, u32)>) -> Option<Stdlib> {
    for prefix in start.ancestors().filter(|p| p.parent().is_some()) {
        for lib in ["lib", "lib64"] {
            let dir = prefix.join(lib);
            let names: Vec<((u32, u32), bool)> = match version {
                Some(v) => vec![(v, false), (v, true)],
                None => versions_in(rootfs, &dir),
            };
            for (version, free_threaded) in names {
                let stdlib = dir.join(lib_name(version, free_threaded));
                if rootfs.is_file(&stdlib.join("os.py")) || rootfs.is_file(&stdlib.join("os.pyc")) {
                    return Some((prefix.to_owned(), lib.to_owned(), stdlib, version, free_threaded));
                }
            }
        }
    }
    None
}

fn versions_in(rootfs: &Rootfs, dir: &Path) -> Vec<((u32, u32), bool)> {
    let mut found: Vec<_> = rootfs
        .read_dir(dir)
        .unwrap_or_default()
        .iter()
        .filter(|e| matches!(e.kind, EntryKind::Dir | EntryKind::Link))
        .filter_map(|e| {
            let name = e.name.to_str()?.strip_prefix("python")?;
            Some((parse_version(name)?, name.ends_with('t')))
        })
        .collect();
    found.sort_unstable();
    found.reverse();
    found
}

/// `importlib.machinery.EXTENSION_SUFFIXES`. The first carries the platform; the interpreter's own modules show it.
fn suffixes(rootfs: &Rootfs, stdlib: &Path, version: (u32, u32), free_threaded: bool) -> Vec<String> {
    let tag = format!(".cpython-{}{}{}", version.0, version.1, if free_threaded { "t" } else { "" });
    let own = rootfs.read_dir(&stdlib.join("lib-dynload")).unwrap_or_default().into_iter().find_map(|e| {
        let name = e.name.to_str()?.to_owned();
        let at = name.find(".cpython-")?;
        (name[at..].starts_with(&tag) && name.ends_with(".so")).then(|| name[at..].to_owned())
    });
    let own = own.unwrap_or_else(|| format!("{tag}-{}-linux-gnu.so", Machine::host().name()));
    if free_threaded { vec![own, ".so".into()] } else { vec![own, ".abi3.so".into(), ".so".into()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_dialect_of_pyvenv_cfg() {
        let cfg = Cfg::parse("home = /usr/bin\nimplementation = CPython\nversion_info = 3.12.3.final.0\n");
        assert_eq!(cfg, Cfg { home: Some("/usr/bin".into()), system_site: false, version: Some((3, 12)) });
        assert!(Cfg::parse("Include-System-Site-Packages=TRUE").system_site);
        assert_eq!(parse_version("3.13t"), Some((3, 13)));
    }
}
