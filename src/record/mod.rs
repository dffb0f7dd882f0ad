//! `mldoctor record -- CMD`: every file, program, library and Python module that a command uses, over all of its
//! processes.
//!
//! No root and no help from the program is needed: see [`trace`]. Paths below `/proc`, `/sys` and `/dev` are not part of
//! an image and are left out.

pub mod profile;
pub mod trace;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::image::elf::{Elf, Machine};
use crate::image::{Rootfs, programs};
use crate::loader::Environment;
use crate::python::Interpreter;
use crate::python::site::{normal, sys_path};
use profile::{Library, Profile, Program, Run, SCHEMA, Use};
use trace::{CallInfo, Flags, Kind, Pid, Refused, Stop, Tracee};

/// Distinct paths that are kept; what is beyond is counted and told.
const MAX_PATHS: usize = 2_000_000;
/// File systems of the kernel: not part of an image.
const VIRTUAL: &[&str] = &["/proc", "/sys", "/dev"];
const O_CREAT: u64 = 0o100;

/// Index into the programs that were executed.
type ProgramId = u32;

#[derive(Default)]
struct Used {
    opened: bool,
    by: BTreeSet<ProgramId>,
}

/// A call that was seen to begin.
enum Pending {
    Open { path: PathBuf, new: bool },
    Execute(PathBuf),
}

#[derive(Default)]
struct Recorder {
    /// Executables, as `/proc/PID/exe` names them.
    programs: Vec<PathBuf>,
    program_ids: FxHashMap<PathBuf, ProgramId>,
    of_process: FxHashMap<Pid, ProgramId>,
    pending: FxHashMap<Pid, Pending>,
    used: FxHashMap<PathBuf, Used>,
    missing: FxHashSet<PathBuf>,
    written: FxHashSet<PathBuf>,
    executed: FxHashSet<PathBuf>,
    not_observed: BTreeSet<String>,
    processes: u64,
    beyond: u64,
}

/// Runs `command` and tells what it used, and its exit code. Processes that it leaves behind are followed to their end.
///
/// # Errors
/// It cannot be traced or does not start.
pub fn record(command: &[OsString]) -> Result<(Profile, u8), Refused> {
    let tracee = Tracee::start(command)?;
    let mut recorder = Recorder::default();
    let mut exit = 0;
    let mut bare = false;
    while let Some((pid, stop)) = trace::wait()? {
        if let Stop::Exited(_) | Stop::Killed(_) = stop
            && pid == tracee.pid
        {
            exit = exit_code(stop);
            bare = tracee.started()?;
        }
        recorder.step(pid, stop)?;
    }
    if bare {
        recorder.not_observed.insert(
            "what setuid programs do with their privileges: without CAP_SYS_ADMIN they run without them \
             (no_new_privs)"
                .into(),
        );
    }
    let mut profile = recorder.profile();
    profile.runs.push(Run {
        command: command.iter().map(|w| w.to_string_lossy().into_owned()).collect(),
        cwd: std::env::current_dir().unwrap_or_default().to_string_lossy().into_owned(),
        exit,
        processes: recorder.processes + 1,
    });
    Ok((profile, exit))
}

/// What a shell makes of the end of a process.
fn exit_code(stop: Stop) -> u8 {
    match stop {
        Stop::Exited(code) => code as u8,
        Stop::Killed(signal) => 128u8.saturating_add(signal as u8),
        _ => 0,
    }
}

impl Recorder {
    fn step(&mut self, pid: Pid, stop: Stop) -> Result<(), Refused> {
        match stop {
            Stop::Call => match trace::call_of(pid)? {
                Some(call) if self.call(pid, &call) => trace::go_to_exit(pid),
                _ => trace::go_on(pid, 0),
            },
            Stop::CallDone => {
                self.call_done(pid);
                trace::go_on(pid, 0);
            }
            Stop::Executed(former) => {
                self.executed(pid, former);
                trace::go_on(pid, 0);
            }
            Stop::New => {
                // A number that was another process's before.
                self.of_process.remove(&pid);
                self.processes += 1;
                trace::go_on(pid, 0);
            }
            Stop::Signal(signal) => trace::go_on(pid, signal),
            Stop::Group => trace::stay_stopped(pid),
            Stop::Other => trace::go_on(pid, 0),
            Stop::Exited(_) | Stop::Killed(_) => {
                self.pending.remove(&pid);
                self.of_process.remove(&pid);
            }
        }
        Ok(())
    }

    /// Notes a call that is about to be made; whether its result matters.
    fn call(&mut self, pid: Pid, info: &CallInfo) -> bool {
        let kind = info.call.kind;
        if let Kind::Blind(what) = kind {
            self.not_observed.insert(what.to_owned());
            return false;
        }
        let Some(path) = self.named_path(pid, info) else { return false };
        match kind {
            Kind::Open(flags) => {
                let creates = match flags {
                    Flags::Argument(at) => info.arguments[usize::from(at)] & O_CREAT != 0,
                    Flags::Structure(at) => {
                        trace::read_word(pid, info.arguments[usize::from(at)]).unwrap_or(0) & O_CREAT != 0
                    }
                    Flags::Create => true,
                };
                let new = creates && fs::symlink_metadata(&path).is_err();
                self.pending.insert(pid, Pending::Open { path, new });
                true
            }
            Kind::Execute => {
                self.pending.insert(pid, Pending::Execute(path));
                true
            }
            Kind::Look => {
                self.note(pid, path, false);
                false
            }
            Kind::Blind(_) => false,
        }
    }

    /// The path that a call names, made absolute with the directory that it is relative to.
    fn named_path(&mut self, pid: Pid, info: &CallInfo) -> Option<PathBuf> {
        let address = info.arguments[usize::from(info.call.path)];
        let Some(bytes) = trace::read_text(pid, address) else {
            if address != 0 {
                self.not_observed.insert("files whose names could not be read from the memory of their program".into());
            }
            return None;
        };
        if bytes.is_empty() {
            return None;
        }
        let path = PathBuf::from(OsString::from_vec(bytes));
        if path.is_absolute() {
            return Some(plain(&path));
        }
        let base = match info.call.directory.map(|at| info.arguments[usize::from(at)] as i32) {
            None | Some(libc::AT_FDCWD) => fs::read_link(format!("/proc/{pid}/cwd")),
            Some(fd) => fs::read_link(format!("/proc/{pid}/fd/{fd}")),
        };
        Some(plain(&base.ok()?.join(path)))
    }

    fn call_done(&mut self, pid: Pid) {
        let Some(result) = trace::result_of(pid) else { return };
        match self.pending.remove(&pid) {
            Some(Pending::Open { path, new }) => match result {
                Ok(_) if new => self.write(path),
                Ok(_) => self.note(pid, path, true),
                Err(_) => self.miss(path),
            },
            Some(Pending::Execute(path)) if result.is_err() => self.miss(path),
            _ => {}
        }
    }

    /// A process is another program now. Its thread `former` asked for it; no other thread is left.
    fn executed(&mut self, pid: Pid, former: Pid) {
        let named = match self.pending.remove(&former).or_else(|| self.pending.remove(&pid)) {
            Some(Pending::Execute(path)) => path,
            _ => return,
        };
        self.of_process.remove(&former);
        self.of_process.remove(&pid);
        self.note(pid, named.clone(), true);
        self.executed.insert(named);
    }

    fn program(&mut self, pid: Pid) -> ProgramId {
        if let Some(id) = self.of_process.get(&pid) {
            return *id;
        }
        let path = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_else(|_| PathBuf::from("?"));
        let id = *self.program_ids.entry(path.clone()).or_insert_with(|| {
            self.programs.push(path);
            (self.programs.len() - 1) as ProgramId
        });
        self.of_process.insert(pid, id);
        id
    }

    fn is_full(&mut self) -> bool {
        let full = self.used.len() + self.missing.len() + self.written.len() >= MAX_PATHS;
        self.beyond += u64::from(full);
        full
    }

    fn note(&mut self, pid: Pid, path: PathBuf, opened: bool) {
        let program = self.program(pid);
        if self.used.contains_key(&path) || !self.is_full() {
            let used = self.used.entry(path).or_default();
            used.opened |= opened;
            used.by.insert(program);
        }
    }

    fn miss(&mut self, path: PathBuf) {
        if self.missing.contains(&path) || !self.is_full() {
            self.missing.insert(path);
        }
    }

    fn write(&mut self, path: PathBuf) {
        if self.written.contains(&path) || !self.is_full() {
            self.written.insert(path);
        }
    }

    /// The end: what is there is told apart from what is not, and read for what it is.
    fn profile(&mut self) -> Profile {
        let mut profile = Profile { schema: SCHEMA.to_owned(), ..Profile::default() };
        let of_image = |path: &Path| !VIRTUAL.iter().any(|v| path.starts_with(v));
        for (path, used) in std::mem::take(&mut self.used) {
            if !of_image(&path) {
                continue;
            }
            if self.written.contains(&path) {
                continue; // Its own work, read again.
            }
            if !used.opened && fs::symlink_metadata(&path).is_err() {
                self.missing.insert(path);
                continue;
            }
            let by = used.by.iter().filter_map(|id| self.programs.get(*id as usize)).map(|p| text(p)).collect();
            profile.files.insert(text(&path), Use { opened: used.opened, by });
        }
        profile.missing = self.missing.iter().filter(|p| of_image(p)).map(|p| text(p)).collect();
        profile.written = self.written.iter().filter(|p| of_image(p)).map(|p| text(p)).collect();
        profile.not_observed = std::mem::take(&mut self.not_observed);
        if self.beyond > 0 {
            profile.not_observed.insert(format!("{} uses of paths beyond the first {MAX_PATHS}", self.beyond));
        }
        if let Ok(rootfs) = Rootfs::open_root(Path::new("/")) {
            self.add_programs(&rootfs, &mut profile);
            add_libraries(&rootfs, &mut profile);
            add_modules(&rootfs, &mut profile);
        }
        profile
    }

    fn add_programs(&self, rootfs: &Rootfs, profile: &mut Profile) {
        for path in &self.executed {
            let interpreters = programs::interpreters(rootfs, path);
            for interpreter in &interpreters {
                let used = profile.files.entry(text(interpreter)).or_default();
                used.opened = true;
                used.by.insert(text(path));
            }
            if programs::is_32_bit(rootfs, path) {
                profile.not_observed.insert(format!("files opened by {}: a 32-bit program", path.display()));
            }
            let interpreters = interpreters.iter().map(|p| text(p)).collect();
            profile.programs.insert(text(path), Program { interpreters });
        }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Without `.` and doubled slashes, which mean nothing; `..` stays, for it may follow a link.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

/// Shared objects among what was opened, and who names them.
fn add_libraries(rootfs: &Rootfs, profile: &mut Profile) {
    let mut names: FxHashMap<OsString, Vec<String>> = FxHashMap::default();
    let mut found: Vec<(String, Library)> = Vec::new();
    let mut known: FxHashSet<PathBuf> = FxHashSet::default();
    for (path, used) in profile.files.iter().filter(|(_, used)| used.opened) {
        let Ok(real) = rootfs.canonicalize(Path::new(path)) else { continue };
        let Ok((map, _)) = rootfs.map(&real) else { continue };
        if !map.starts_with(b"\x7fELF") {
            continue;
        }
        let Ok(elf) = Elf::parse(map, Machine::host()) else { continue };
        if known.insert(real) {
            for needed in elf.needed() {
                names.entry(needed.to_owned()).or_default().push(path.clone());
            }
        }
        if elf.interpreter().is_some() && elf.soname().is_none() {
            continue;
        }
        let soname = elf.soname().map(|s| s.to_string_lossy().into_owned());
        let build_id = elf.build_id();
        found.push((path.clone(), Library { soname, build_id, by: used.by.clone(), needed_by: BTreeSet::new() }));
    }
    for (path, mut library) in found {
        let file_name = Path::new(&path).file_name().map(OsStr::to_owned);
        for name in library.soname.as_ref().map(OsString::from).into_iter().chain(file_name) {
            library.needed_by.extend(names.get(&name).into_iter().flatten().cloned());
        }
        profile.libraries.insert(path, library);
    }
}

/// Python modules among what was opened, by the `sys.path` of each interpreter that was executed.
fn add_modules(rootfs: &Rootfs, profile: &mut Profile) {
    let env: Environment = std::env::vars_os().collect();
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let mut roots: Vec<(PathBuf, Vec<String>)> = Vec::new();
    let programs = profile.programs.iter().flat_map(|(path, program)| program.interpreters.iter().chain([path]));
    for program in programs.collect::<BTreeSet<_>>() {
        let is_python = Path::new(program).file_name().is_some_and(|n| n.as_bytes().starts_with(b"python"));
        if !is_python {
            continue;
        }
        let Ok(python) = Interpreter::find(rootfs, &env, Some(Path::new(program))) else { continue };
        for entry in sys_path(rootfs, &python, &env, &cwd).entries {
            roots.push((entry, python.suffixes.clone()));
        }
    }
    // The innermost entry is the one that found it.
    roots.sort_by_key(|(entry, _)| std::cmp::Reverse(entry.as_os_str().len()));
    let opened = profile.files.iter().filter(|(_, used)| used.opened).map(|(path, _)| path);
    for path in opened {
        let file = normal(Path::new(path));
        let Some((entry, suffixes)) = roots.iter().find(|(entry, _)| file.starts_with(entry)) else { continue };
        let Ok(relative) = file.strip_prefix(entry) else { continue };
        if profile.libraries.contains_key(path) && !is_extension(rootfs, &file) {
            continue;
        }
        if let Some(module) = module_name(relative, suffixes) {
            profile.modules.entry(module).or_insert_with(|| path.clone());
        }
    }
}

/// Whether a shared object has the function that Python calls to make a module of it.
fn is_extension(rootfs: &Rootfs, file: &Path) -> bool {
    let stem = file.file_name().and_then(OsStr::to_str).and_then(|n| n.split('.').next());
    let elf = rootfs.map(file).ok().and_then(|(map, _)| Elf::parse(map, Machine::host()).ok());
    let (Some(stem), Some(elf)) = (stem, elf) else { return false };
    elf.makes_module(stem, &elf.version_names())
}

/// The module that a file below an entry of `sys.path` is: source, bytecode (PEP 3147) or extension.
fn module_name(relative: &Path, suffixes: &[String]) -> Option<String> {
    let name = relative.file_name()?.to_str()?;
    let mut package: Vec<&str> = relative.parent()?.iter().map(|c| c.to_str()).collect::<Option<_>>()?;
    let stem = if let Some(stem) = name.strip_suffix(".py") {
        stem
    } else if let Some(stem) = name.strip_suffix(".pyc") {
        if package.last() == Some(&"__pycache__") {
            package.pop();
            stem.split_once('.')?.0
        } else {
            stem
        }
    } else {
        suffixes.iter().find_map(|s| name.strip_suffix(s.as_str()))?
    };
    let is_name = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_');
    if !package.iter().chain([&stem]).all(is_name) {
        return None;
    }
    if stem != "__init__" {
        package.push(stem);
    }
    (!package.is_empty()).then(|| package.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_modules() {
        let suffixes = [".cpython-311-x86_64-linux-gnu.so".to_owned(), ".abi3.so".to_owned(), ".so".to_owned()];
        let name = |path: &str| module_name(Path::new(path), &suffixes);
        assert_eq!(name("torch/__init__.py").as_deref(), Some("torch"));
        assert_eq!(name("torch/__pycache__/_utils.cpython-311.pyc").as_deref(), Some("torch._utils"));
        assert_eq!(name("torch/_C.cpython-311-x86_64-linux-gnu.so").as_deref(), Some("torch._C"));
        assert_eq!(name("single.pyc").as_deref(), Some("single"));
        assert_eq!(name("torch/lib/libc10.so").as_deref(), Some("torch.lib.libc10"));
        assert_eq!(name("torch/version.txt"), None);
        assert_eq!(name("foo-1.0.dist-info/x.py"), None);
    }
}
