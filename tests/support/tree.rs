//! A root file system described in TOML: files, links, ELF files, wheels.
//!
//! ```toml
//! from = ["debian12"]                       # trees below tests/cases/trees, put down first
//! loader = "glibc 2.36"                     # a dynamic loader that says it is of this release; or "musl"
//! remove = ["/path"]
//! [env]                                     # the environment of the workload
//! [files]  "/path" = "text"
//! [links]  "/path" = "target"
//! [hard_links] "/path" = "/other path"
//! [dirs]   "/path" = 0o755
//! [modes]  "/path" = 0o600
//! [cache]  "libx.so.1" = "/path/libx.so.1" # /etc/ld.so.cache, where there are entries
//! [elf]    "/path/libx.so.1" = { needed = ["libc.so.6"], wants = ["libc.so.6@GLIBC_2.34"] }
//! [fatbin] "/path/libx.so.1" = ["sm_80", "|", "sm_90a", "ptx 8.4 compute_90"]   # device code for an ELF file that is
//!                                           # there: regions with entries, see tests/support/fatbin.rs
//! [wheels] "name" = { version = "1.0", files = ["pkg/x.so"] }   # writes RECORD as the files are then; `requires` too
//! ```
//!
//! `{arch}` stands for the processor, `{loader}` for the path of its loader, `{site}` for the site-packages directory of
//! the trees.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::elf::{Definition, ElfFile, Reference};
use super::fatbin::{region, with_sections};

/// Where the trees have their Python packages.
pub const SITE: &str = "/opt/venv/lib/python3.11/site-packages";

/// One layer of a root file system.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tree {
    pub from: Vec<String>,
    pub loader: Option<String>,
    pub remove: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub files: BTreeMap<String, String>,
    pub links: BTreeMap<String, String>,
    pub hard_links: BTreeMap<String, String>,
    pub dirs: BTreeMap<String, u32>,
    pub modes: BTreeMap<String, u32>,
    pub cache: BTreeMap<String, String>,
    pub elf: BTreeMap<String, Elf>,
    pub fatbin: BTreeMap<String, Vec<String>>,
    pub wheels: BTreeMap<String, Wheel>,
}

/// An ELF file. A shared object named `lib….so…` has its file name as SONAME unless another is given.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Elf {
    pub soname: Option<String>,
    pub needed: Vec<String>,
    pub rpath: Option<String>,
    pub runpath: Option<String>,
    /// An executable, started by the tree's loader or by this one.
    pub program: bool,
    pub interpreter: Option<String>,
    /// Symbols, `name` or `name@VERSION`.
    pub defines: Vec<String>,
    /// Versions that it defines.
    pub versions: Vec<String>,
    /// Symbols wanted, `name` or `name@file@VERSION`.
    pub refers: Vec<String>,
    /// Versions wanted, `file@VERSION`.
    pub wants: Vec<String>,
    /// Content of a section `.note.cuda.fwd_compatibility`.
    pub compat: Option<String>,
    /// Bytes behind everything else, such as names of libraries that are opened later.
    pub text: String,
    /// Size in bytes, with a hole at the end.
    pub size: Option<u64>,
    /// Bytes of a section `.debug_info`; nothing else is in such a file.
    pub debug: Option<usize>,
    /// Cut after so many bytes.
    pub cut: Option<usize>,
    /// Levels of x86-64 that it needs.
    pub isa: u32,
    /// `e_machine`, for a file of another processor.
    pub machine: Option<u16>,
}

/// An installed distribution.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wheel {
    pub version: String,
    /// Files that its RECORD lists, relative to site-packages.
    pub files: Vec<String>,
    /// What its METADATA says that it requires.
    pub requires: Vec<String>,
}

/// Fills in what depends on the machine.
pub fn expand(text: &str) -> String {
    let arch = std::env::consts::ARCH;
    text.replace("{arch}", arch).replace("{loader}", loader()).replace("{site}", SITE)
}

fn loader() -> &'static str {
    if cfg!(target_arch = "aarch64") { "/lib/ld-linux-aarch64.so.1" } else { "/lib64/ld-linux-x86-64.so.2" }
}

impl Tree {
    /// Reads a tree by its name.
    fn named(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/cases/trees/{name}.toml"));
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        toml::from_str(&expand(&text)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Puts it down in `root`, what it stands on first. Gives the environment of all layers.
    pub fn build(&self, root: &Path) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        for name in &self.from {
            env.append(&mut Self::named(name).build(root));
        }
        let outside = |path: &str| root.join(path.trim_start_matches('/'));
        for path in &self.remove {
            let path = outside(path);
            let gone =
                if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.unwrap_or_else(|e| panic!("cannot remove {}: {e}", path.display()));
        }
        if let Some(which) = &self.loader {
            let (path, content) = loader_file(which);
            write(&outside(&path), &content);
        }
        for (path, text) in &self.files {
            write(&outside(path), text.as_bytes());
        }
        for (path, elf) in &self.elf {
            let path = outside(path);
            write(&path, &elf.build(&path));
            if let Some(size) = elf.size {
                fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(size).unwrap();
            }
        }
        for (path, entries) in &self.fatbin {
            let path = outside(path);
            let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
            let regions = entries.split(|e| *e == "|").flat_map(region).collect();
            let elf = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            write(&path, &with_sections(elf, &[(".nv_fatbin", regions)]));
        }
        for (path, target) in &self.links {
            let path = outside(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let _ = fs::remove_file(&path);
            std::os::unix::fs::symlink(target, path).unwrap();
        }
        if !self.cache.is_empty() {
            write(&outside("/etc/ld.so.cache"), &cache_file(&self.cache));
        }
        for (path, other) in &self.hard_links {
            let path = outside(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::hard_link(outside(other), path).unwrap();
        }
        for path in self.dirs.keys() {
            fs::create_dir_all(outside(path)).unwrap();
        }
        for (name, wheel) in &self.wheels {
            wheel.build(name, &outside(SITE));
        }
        for (path, mode) in self.dirs.iter().chain(&self.modes) {
            fs::set_permissions(outside(path), fs::Permissions::from_mode(*mode)).unwrap();
        }
        env.extend(self.env.clone());
        env
    }
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = fs::remove_file(path);
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A file with the strings by which a dynamic loader is known.
fn loader_file(which: &str) -> (String, Vec<u8>) {
    let arch = std::env::consts::ARCH;
    if which == "musl" {
        let path = format!("/lib/ld-musl-{arch}.so.1");
        return (path, [ElfFile::library("libc.so").build(), b"\0musl libc\0".to_vec()].concat());
    }
    let release = which.strip_prefix("glibc ").expect("a loader is glibc with a release, or musl");
    let name = loader().rsplit('/').next().unwrap();
    let strings = format!(
        "\0GNU C Library stable release version {release}.\0/etc/ld.so.cache\0\
         /lib/{arch}-linux-gnu/\0/usr/lib/{arch}-linux-gnu/\0/lib/\0/usr/lib/\0lib/{arch}-linux-gnu\0"
    );
    (loader().to_owned(), [ElfFile::library(name).build(), strings.into_bytes()].concat())
}

/// `struct cache_file_new` of glibc's `sysdeps/generic/dl-cache.h`: the loader bisects, so the last name comes first.
fn cache_file(entries: &BTreeMap<String, String>) -> Vec<u8> {
    const HEADER: usize = 48;
    const ENTRY: usize = 24;
    let flags: u32 = if cfg!(target_arch = "aarch64") { 0x0a03 } else { 0x0303 };
    let (mut table, mut strings) = (Vec::new(), Vec::new());
    for (name, path) in entries.iter().rev() {
        let mut at = [0u32; 2];
        for (at, text) in at.iter_mut().zip([name, path]) {
            *at = u32::try_from(HEADER + entries.len() * ENTRY + strings.len()).unwrap();
            strings.extend(text.bytes().chain([0]));
        }
        for word in [flags, at[0], at[1], 0, 0, 0] {
            table.extend(word.to_le_bytes());
        }
    }
    let mut file = b"glibc-ld.so.cache1.1".to_vec();
    file.extend(u32::try_from(entries.len()).unwrap().to_le_bytes());
    file.extend(u32::try_from(strings.len()).unwrap().to_le_bytes());
    file.resize(HEADER, 0);
    [file, table, strings].concat()
}

impl Elf {
    fn build(&self, path: &Path) -> Vec<u8> {
        if let Some(bytes) = self.debug {
            return super::elf::with_debug_section(bytes);
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let own = (name.starts_with("lib") && name.contains(".so")).then(|| name.to_owned());
        let mut file = ElfFile {
            soname: self.soname.clone().or(own.filter(|_| !self.program)).filter(|s| !s.is_empty()),
            needed: self.needed.clone(),
            rpath: self.rpath.clone(),
            runpath: self.runpath.clone(),
            interpreter: self.interpreter.clone().or(self.program.then(|| loader().to_owned())),
            isa: self.isa,
            ..ElfFile::default()
        };
        for definition in &self.defines {
            let (name, version) = match definition.split_once('@') {
                Some((name, version)) => (name, Some(version.to_owned())),
                None => (definition.as_str(), None),
            };
            file.defines.push(Definition { name: name.to_owned(), version, hidden: false });
        }
        for version in &self.versions {
            let name = format!("of_{version}");
            file.defines.push(Definition { name, version: Some(version.clone()), hidden: false });
        }
        for reference in &self.refers {
            let mut parts = reference.split('@');
            let name = parts.next().unwrap().to_owned();
            let version = parts.next().map(|file| (file.to_owned(), parts.next().expect("file@VERSION").to_owned()));
            file.refers.push(Reference { name, version, ..Reference::default() });
        }
        for want in &self.wants {
            let (of, version) = want.split_once('@').expect("file@VERSION");
            file.wants.push((of.to_owned(), version.to_owned(), false));
        }
        let mut bytes = file.build();
        if let Some(json) = &self.compat {
            // Sizes of name and content, a type, the name.
            let header = [20u32, json.len() as u32, 1].map(u32::to_le_bytes).concat();
            let note = [&header, &b"NVIDIA Corporation\0\0"[..], json.as_bytes()].concat();
            bytes = with_sections(bytes, &[(".note.cuda.fwd_compatibility", note)]);
        }
        bytes.extend(self.text.bytes());
        if let Some(machine) = self.machine {
            bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        }
        bytes.truncate(self.cut.unwrap_or(usize::MAX));
        bytes
    }
}

impl Wheel {
    fn build(&self, name: &str, site: &Path) {
        let info = site.join(format!("{}-{}.dist-info", name.replace('-', "_"), self.version));
        let mut record = String::new();
        for file in &self.files {
            let size = fs::metadata(site.join(file)).unwrap_or_else(|e| panic!("{name} lists {file}: {e}")).len();
            record += &format!("{file},sha256=0,{size}\n");
        }
        write(&info.join("RECORD"), record.as_bytes());
        let requires: String = self.requires.iter().map(|r| format!("Requires-Dist: {r}\n")).collect();
        let metadata = format!("Name: {name}\nVersion: {}\n{requires}\nRequires-Dist: described-only\n", self.version);
        write(&info.join("METADATA"), metadata.as_bytes());
    }
}

/// A tree in a directory of its own.
pub struct Built {
    pub dir: tempfile::TempDir,
    pub env: BTreeMap<String, String>,
}

impl Built {
    pub fn new(tree: &Tree) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let env = tree.build(dir.path());
        Self { dir, env }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}
