//! Where the programs of a workload write, each by its own rule, and what they build with. Nothing is written to find
//! that out: in a running container the kernel says what may be written, in an image the mode bits do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

use super::{Examination, tools};
use crate::facts::surroundings::{Access, Account, Folder, Inductor, Program, Space, Surroundings, Toolkit};
use crate::facts::{Observed, Scope, Subject};
use crate::image::elf::Machine;
use crate::image::user::{PasswdRow, passwd_row};
use crate::image::{Credentials, FileError, Rootfs};
use crate::loader::Environment;

/// Variables that `getpass.getuser` asks before `/etc/passwd` (CPython's `Lib/getpass.py`).
const NAMES: &[&str] = &["LOGNAME", "USER", "LNAME", "USERNAME"];
/// Directories that `tempfile.gettempdir` tries after `TMPDIR`, `TEMP` and `TMP` (CPython's `Lib/tempfile.py`).
const TEMPORARY: &[&str] = &["/tmp", "/var/tmp", "/usr/tmp"];
/// Programs that an image is likely to have, to see for which processor it was made.
const PROGRAMS: &[&str] = &["/bin/sh", "/usr/bin/env", "/usr/bin/python3", "/usr/local/bin/python3"];
/// Largest source file read, in bytes.
const MAX_SOURCE: u64 = 4 * 1024 * 1024;

/// A program that keeps files in a folder.
struct Writer {
    /// Its name in the facts.
    program: &'static str,
    /// The distribution that it is part of; none where it comes with the driver.
    distribution: Option<&'static str>,
    /// Variables that name the folder, or one above it, with what is then appended; the first that is set counts.
    variables: &'static [(&'static str, &'static str)],
    /// Below the home directory, or below `XDG_CACHE_HOME` where it begins with `.cache/`; none where the program
    /// writes nothing unless a variable is set, or has a rule of its own.
    default: Option<&'static str>,
}

/// Read from torch 2.4 to 2.15 (`_inductor/runtime/cache_dir_utils.py`, `utils/cpp_extension.py`), Triton 3.0 to 3.9
/// (`runtime/cache.py`, `knobs.py`), FlashInfer 0.7 (`jit/env.py`), huggingface_hub (`constants.py`), vLLM (`envs.py`) and
/// the CUDA programming guide (`CUDA_CACHE_PATH`).
const WRITERS: &[Writer] = &[
    Writer {
        program: "inductor",
        distribution: Some("torch"),
        variables: &[("TORCHINDUCTOR_CACHE_DIR", "")],
        default: None,
    },
    Writer {
        program: "triton",
        distribution: Some("triton"),
        variables: &[("TRITON_CACHE_DIR", ""), ("TRITON_HOME", ".triton/cache")],
        default: Some(".triton/cache"),
    },
    Writer {
        program: "torch-extensions",
        distribution: Some("torch"),
        variables: &[("TORCH_EXTENSIONS_DIR", "")],
        default: Some(".cache/torch_extensions"),
    },
    Writer {
        program: "huggingface",
        distribution: Some("huggingface-hub"),
        variables: &[("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")],
        default: Some(".cache/huggingface/hub"),
    },
    Writer {
        program: "vllm",
        distribution: Some("vllm"),
        variables: &[("VLLM_CACHE_ROOT", "")],
        default: Some(".cache/vllm"),
    },
    Writer {
        program: "flashinfer",
        distribution: Some("flashinfer-python"),
        variables: &[("FLASHINFER_WORKSPACE_BASE", ".cache/flashinfer")],
        default: Some(".cache/flashinfer"),
    },
    Writer { program: "cuda", distribution: None, variables: &[("CUDA_CACHE_PATH", "")], default: None },
];

/// Looks around for the workload.
pub fn observe(examination: &Examination, subjects: &[Subject]) -> Surroundings {
    let looking = Looking::new(examination);
    let (account, folders) = match &looking.user {
        Some(user) => {
            let account = looking.account(user.uid);
            let folders = looking.folders(&account);
            (Some(account), folders)
        }
        None => (None, Vec::new()),
    };
    Surroundings {
        account,
        folders,
        noexec: looking.noexec(subjects),
        inductor: looking.inductor(),
        toolkit: looking.toolkit(),
        other_machine: other_machine(looking.rootfs),
        tegra: first_line(looking.rootfs, "/etc/nv_tegra_release"),
    }
}

struct Looking<'e> {
    examination: &'e Examination,
    rootfs: &'e Rootfs,
    env: &'e Environment,
    /// Whether the workload would run here, as this process does.
    is_running: bool,
    user: Option<Credentials>,
    /// Whether the user is the one of this process, so that the kernel can be asked.
    is_own: bool,
}

impl<'e> Looking<'e> {
    fn new(examination: &'e Examination) -> Self {
        let request = &examination.request;
        let is_running = request.scope == Scope::Container;
        let own = || Credentials {
            uid: rustix::process::geteuid().as_raw(),
            gids: vec![rustix::process::getegid().as_raw()],
        };
        let user = request.user.clone().or_else(|| is_running.then(own));
        let is_own = is_running && request.user.is_none();
        Self { examination, rootfs: &examination.rootfs, env: &request.env, is_running, user, is_own }
    }

    fn has(&self, distribution: &str) -> bool {
        self.examination.installed.iter().any(|d| d.name == distribution)
    }

    fn text(&self, name: &str) -> Option<String> {
        self.env.non_empty(name).map(|value| value.to_string_lossy().into_owned())
    }

    fn account(&self, uid: u32) -> Account {
        let row = passwd_row(self.rootfs, uid);
        let set = |row: &PasswdRow| (row.home.clone(), "/etc/passwd".to_owned());
        let of_row = row.as_ref().ok().and_then(Option::as_ref).filter(|row| !row.home.is_empty()).map(set);
        let (home, home_by) = match self.text("HOME") {
            Some(home) => (home, "HOME".to_owned()),
            None => of_row.unwrap_or_else(|| ("/".to_owned(), "no row in /etc/passwd".to_owned())),
        };
        let name = match (row, self.other_accounts()) {
            (Ok(Some(row)), _) => Observed::Seen(row.name),
            (_, Some(source)) => Observed::Failed(format!("{source} may know the user")),
            (Ok(None), None) => Observed::Absent(format!("no row of user {uid} in /etc/passwd")),
            (Err(e), None) => Observed::Failed(format!("/etc/passwd: {e}")),
        };
        let named_by = NAMES.iter().find(|name| self.env.non_empty(name).is_some()).map(|name| (*name).to_owned());
        Account { uid, name, named_by, home, home_by }
    }

    /// A source of users beside the file (nsswitch.conf(5)). `compat` and `systemd` add none that a container has.
    fn other_accounts(&self) -> Option<String> {
        if self.text("LD_PRELOAD").is_some_and(|preload| preload.contains("nss_wrapper")) {
            return Some("nss_wrapper".to_owned());
        }
        let text = self.rootfs.read_text(Path::new("/etc/nsswitch.conf"), MAX_SOURCE).ok()?;
        let sources = text.lines().find_map(|line| line.trim().strip_prefix("passwd:"))?;
        let known = |s: &str| matches!(s, "files" | "compat" | "systemd") || s.starts_with(['[', '#']);
        sources.split_whitespace().find(|source| !known(source)).map(|source| format!("{source} in nsswitch.conf"))
    }

    fn folders(&self, account: &Account) -> Vec<Folder> {
        let mut folders: Vec<Folder> = Vec::new();
        if self.has("torch") {
            folders.push(self.temporary());
        }
        for writer in WRITERS {
            if writer.distribution.is_some_and(|name| !self.has(name)) {
                continue;
            }
            let named = writer.variables.iter().find_map(|(name, below)| {
                let value = self.text(name).filter(|value| !value.trim().is_empty())?;
                Some((join(&expand(value.trim(), &account.home), below), (*name).to_owned()))
            });
            let by_default = || match (writer.program, writer.default) {
                ("inductor", _) => {
                    let temporary = folders.first().filter(|tmp| tmp.access == Access::Writable)?;
                    let name = match (&account.named_by, account.name.seen()) {
                        (Some(variable), _) => self.text(variable)?,
                        (None, Some(name)) => name.clone(),
                        (None, None) => format!("uid_{}", account.uid),
                    };
                    let name = name.replace(['\\', '/', ':', '*', '?', '"', '<', '>', '|'], "_");
                    Some((join(&temporary.path, &format!("torchinductor_{name}")), temporary.by.clone()))
                }
                (_, None) => None,
                (_, Some(below)) => Some(match (below.strip_prefix(".cache/"), self.text("XDG_CACHE_HOME")) {
                    (Some(rest), Some(cache)) if writer.program != "flashinfer" => {
                        (join(&cache, rest), "XDG_CACHE_HOME".to_owned())
                    }
                    _ => (join(&account.home, below), format!("~/{below}")),
                }),
            };
            if let Some((path, by)) = named.or_else(by_default) {
                let variable = writer.variables.first().map_or("", |(name, _)| name);
                folders.push(self.folder(writer.program, path, by, variable));
            }
        }
        folders
    }

    /// `tempfile.gettempdir`: the first directory that is there and can be written to; where none can, the first of all.
    fn temporary(&self) -> Folder {
        let named = ["TMPDIR", "TEMP", "TMP"].iter().filter_map(|name| Some((self.text(name)?, (*name).to_owned())));
        let usual = TEMPORARY.iter().map(|dir| ((*dir).to_owned(), (*dir).to_owned()));
        let cwd = self.examination.request.cwd.to_string_lossy().into_owned();
        let here = (cwd, "the working directory".to_owned());
        let mut first = None;
        for (path, by) in named.chain(usual).chain([here]) {
            let folder = self.folder("tempfile", path, by, "TMPDIR");
            if folder.access == Access::Writable && folder.at == folder.path {
                return folder;
            }
            first.get_or_insert(folder);
        }
        let mut first = first.unwrap_or_else(|| self.folder("tempfile", "/tmp".into(), "/tmp".into(), "TMPDIR"));
        // A directory that is not there is not made.
        if first.access == Access::Writable {
            first.access = Access::NoDirectory;
        }
        first
    }

    fn folder(&self, program: &str, path: String, by: String, variable: &str) -> Folder {
        let path = self.examination.request.cwd.join(path);
        let (at, access) = self.access(&path);
        let system = self.is_running.then(|| self.rootfs.file_system(&at).ok()).flatten();
        Folder {
            program: program.to_owned(),
            path: path.to_string_lossy().into_owned(),
            by,
            variable: variable.to_owned(),
            at: at.to_string_lossy().into_owned(),
            access,
            noexec: system.as_ref().is_some_and(|s| s.f_flag.contains(StatVfsMountFlags::NOEXEC)),
            space: system.map(|s| Space {
                total: s.f_blocks.saturating_mul(s.f_frsize),
                free: s.f_bavail.saturating_mul(s.f_frsize),
            }),
        }
    }

    /// The nearest part of a path that is there, and whether something can be made in it.
    fn access(&self, path: &Path) -> (PathBuf, Access) {
        let mut at = path;
        let stat = loop {
            match self.rootfs.stat(at) {
                Err(FileError::NotFound) => match at.parent() {
                    Some(parent) => at = parent,
                    None => break Err(FileError::NotFound),
                },
                answer => break answer,
            }
        };
        let may = || match &self.user {
            Some(user) if !self.is_own => user.may_create_in(self.rootfs, at),
            _ => self.rootfs.may_create_in(at),
        };
        let access = match stat {
            Ok(stat) if !stat.is_dir() => Access::NoDirectory,
            Ok(_) => match may() {
                // Mode bits know nothing of mounts.
                Ok(()) if self.is_read_only(at) => Access::ReadOnly,
                Ok(()) => Access::Writable,
                Err(FileError::Other(rustix::io::Errno::ROFS)) => Access::ReadOnly,
                Err(_) => Access::Denied,
            },
            Err(_) => Access::Denied,
        };
        (at.to_owned(), access)
    }

    fn is_read_only(&self, at: &Path) -> bool {
        self.is_running
            && self.rootfs.file_system(at).is_ok_and(|system| system.f_flag.contains(StatVfsMountFlags::RDONLY))
    }

    /// Directories of what was mapped on file systems that execute nothing.
    fn noexec(&self, subjects: &[Subject]) -> Vec<String> {
        if !self.is_running {
            return Vec::new();
        }
        let mapped = subjects.iter().flat_map(|s| &s.mapped);
        let dirs: BTreeSet<&Path> = mapped.filter_map(|m| Path::new(&m.path).parent()).collect();
        let forbids =
            |dir: &&Path| self.rootfs.file_system(dir).is_ok_and(|s| s.f_flag.contains(StatVfsMountFlags::NOEXEC));
        dirs.into_iter().filter(forbids).map(|dir| dir.to_string_lossy().into_owned()).collect()
    }

    /// Whether Inductor can do without the user's name: up to 2.12 it cannot, and releases before 2.13 that precompile
    /// headers ask for it while they are imported. The sources say it themselves.
    fn inductor(&self) -> Option<Inductor> {
        let dir = self.examination.sys_path.entries.iter().find(|e| self.rootfs.is_dir(&e.join("torch/_inductor")))?;
        let read = |file: &str| self.rootfs.read_text(&dir.join("torch/_inductor").join(file), MAX_SOURCE).ok();
        let rule = read("runtime/cache_dir_utils.py").or_else(|| read("runtime/runtime_utils.py"))?;
        let (before, _) = rule.split_once("getpass.getuser()")?;
        let needs_name = !before.trim_end_matches(|c: char| c != '\n').trim_end().ends_with("try:");
        let at_import = |line: &str| line.contains("default_cache_dir()") && !line.starts_with([' ', '#', 'd']);
        let needs_name_always = needs_name && read("codecache.py")?.lines().any(at_import);
        Some(Inductor { needs_name, needs_name_always })
    }

    /// `_find_cuda_home` in `torch/utils/cpp_extension.py`.
    fn toolkit(&self) -> Toolkit {
        let nvcc_on_path = tools::on_path(self.examination, "nvcc");
        let variable = ["CUDA_HOME", "CUDA_PATH"].into_iter().find_map(|name| Some((self.text(name)?, name)));
        let usual = "/usr/local/cuda";
        let (home, home_by) = match (variable, &nvcc_on_path) {
            (Some((home, name)), _) => (Some(home), name),
            (None, Some(nvcc)) => {
                (nvcc.ancestors().nth(2).map(|dir| dir.to_string_lossy().into_owned()), "nvcc on PATH")
            }
            (None, None) => (self.rootfs.exists(Path::new(usual)).then(|| usual.to_owned()), "its usual place"),
        };
        let is_there = |path: &PathBuf| self.rootfs.stat(path).is_ok_and(|s| s.is_file() && s.is_executable());
        let in_home = home.as_ref().map(|home| Path::new(home).join("bin/nvcc")).filter(is_there);
        let shown = |path: PathBuf| path.to_string_lossy().into_owned();
        let installed = "deepspeed/git_version_info_installed.py";
        let prebuilt = self
            .examination
            .sys_path
            .entries
            .iter()
            .find_map(|entry| self.rootfs.read_text(&entry.join(installed), MAX_SOURCE).ok());
        let operators = prebuilt.as_deref().and_then(|text| text.lines().find(|l| l.starts_with("installed_ops")));
        Toolkit {
            exists: home.as_ref().is_some_and(|home| self.rootfs.is_dir(Path::new(home))),
            home_by: home_by.to_owned(),
            home,
            nvcc: in_home.or(nvcc_on_path).map(shown),
            ninja: tools::on_path(self.examination, "ninja").map(shown),
            deepspeed_prebuilt: operators.is_some_and(|line| line.contains("True")),
        }
    }
}

/// `os.path.expanduser` of the own home.
fn expand(path: &str, home: &str) -> String {
    match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => join(home, rest.trim_start_matches('/')),
        _ => path.to_owned(),
    }
}

fn join(dir: &str, below: &str) -> String {
    if below.is_empty() { dir.to_owned() } else { format!("{}/{below}", dir.trim_end_matches('/')) }
}

fn first_line(rootfs: &Rootfs, path: &str) -> Option<String> {
    let text = rootfs.read_text(Path::new(path), MAX_SOURCE).ok()?;
    text.lines().next().map(str::to_owned)
}

/// An image for another processor: none of its programs starts here.
fn other_machine(rootfs: &Rootfs) -> Option<Program> {
    for path in PROGRAMS {
        let Ok((map, _)) = rootfs.map(Path::new(path)) else { continue };
        let Some(machine) = elf_machine(&map) else { continue };
        let is_other = machine != Machine::host();
        return is_other.then(|| Program { path: (*path).to_owned(), arch: machine.name() });
    }
    None
}

/// `e_machine` of a little-endian ELF file; whatever else is wrong with it.
fn elf_machine(bytes: &[u8]) -> Option<Machine> {
    let header = bytes.get(..20)?;
    let is_little_endian = header.starts_with(b"\x7fELF") && header[5] == 1;
    is_little_endian.then(|| Machine(u16::from_le_bytes([header[18], header[19]])))
}
