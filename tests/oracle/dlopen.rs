//! Random sequences of `dlopen`: what each call gives depends on all calls before it.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use mldoctor::image::Rootfs;
use mldoctor::image::elf::Machine;
use mldoctor::loader::{DynamicLoader, Environment, LoadError, Loader, Mode, Process};
use mldoctor::probe::{Source, locate};
use mldoctor_probes::{Job, Line, Load, RESULTS_FD};

use crate::graphs::{self, Random};
use crate::support::skip;
use crate::world::{World, in_root, loader_path, may_chroot};

/// Sequences per run.
const SEQUENCES: u64 = 1_000;

/// The probe and every library that it needs, at the paths that they have on this machine.
struct Host {
    probe: Vec<u8>,
    libraries: Vec<(PathBuf, Vec<u8>)>,
}

impl Host {
    fn new() -> Self {
        let mut probe = Vec::new();
        match locate(None).unwrap() {
            Source::File(path) => probe = fs::read(path).unwrap(),
            Source::Memory(fd) | Source::Temporary(fd) => {
                let mut file = fs::File::from(fd.try_clone().unwrap());
                file.rewind().unwrap();
                file.read_to_end(&mut probe).unwrap();
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("probe");
        fs::write(&path, &probe).unwrap();
        let rootfs = Rootfs::open_root(Path::new("/")).unwrap();
        let dl = DynamicLoader::read(&rootfs, Path::new(loader_path()), Machine::host()).unwrap();
        let loader = Loader::new(&rootfs, dl, Environment::default(), PathBuf::from("/"), None);
        let (process, errors) = Process::start(&loader, &path);
        assert!(errors.is_empty(), "{errors:?}");
        let process = process.unwrap();
        let libraries = process.objects().map(|(_, o)| o.path.clone()).filter(|p| *p != path);
        Self { probe, libraries: libraries.map(|p| (p.clone(), fs::read(&p).unwrap())).collect() }
    }

    fn move_into(&self, world: &World) {
        world.write("/bin/probe", &self.probe);
        for (path, content) in &self.libraries {
            let shown = path.to_str().unwrap();
            if !world.outside(shown).exists() {
                world.write(shown, content);
            }
        }
    }
}

fn real(world: &World, loads: &[Load]) -> Vec<Result<String, String>> {
    let mut results = tempfile::tempfile().unwrap();
    let root = world.root().to_owned();
    let output = loop {
        let mut command = Command::new(loader_path());
        let parent_fd = OwnedFd::from(results.try_clone().unwrap());
        command
            .args(["/bin/probe", Job::Load.name()])
            .args(loads.iter().map(Load::to_argument))
            .stdin(Stdio::null())
            .env_clear();
        command.envs(world.env.iter().cloned());
        command.fd_mappings(vec![FdMapping { parent_fd, child_fd: RESULTS_FD }]).unwrap();
        in_root(&mut command, root.clone());
        match command.output() {
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            outcome => break outcome.unwrap(),
        }
    };
    let mut text = String::new();
    results.rewind().unwrap();
    results.read_to_string(&mut text).unwrap();
    let mut outcomes: Vec<Result<String, String>> = text
        .lines()
        .filter_map(|line| match serde_json::from_str(line).unwrap() {
            Line::Loaded { path } => Some(Ok(path)),
            Line::End { error: Some(error) } => Some(Err(error.name)),
            _ => None,
        })
        .collect();
    if outcomes.len() < loads.len() {
        outcomes.push(Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    outcomes
}

fn model(world: &World, loads: &[Load]) -> Vec<Result<String, String>> {
    let loader = world.loader_with(&[]);
    let (process, errors) = Process::start(&loader, Path::new("/bin/probe"));
    assert!(!errors.iter().any(LoadError::is_fatal), "{errors:?}");
    let mut process = process.unwrap();
    let (caller, _) = process.objects().next().unwrap();
    loads
        .iter()
        .map(|load| {
            let mode = if load.mode == mldoctor_probes::Mode::Global { Mode::NOW_GLOBAL } else { Mode::NOW };
            match process.dlopen(&load.file, caller, mode) {
                Ok(id) => Ok(process.object(id).display()),
                Err(failure) => Err(failure.errors.iter().find(|e| e.is_fatal()).unwrap().message()),
            }
        })
        .collect()
}

fn compare(host: &Host, seed: u64) -> Result<(), String> {
    let mut world = graphs::build(seed);
    // The libraries of the probe itself are not to be replaced.
    world.env.retain(|(name, _)| name != "LD_PRELOAD");
    host.move_into(&world);
    let mut r = Random::new(seed ^ 0x5eed);
    let files: Vec<String> = graphs::DIRS
        .iter()
        .flat_map(|dir| (0..8).map(move |i| format!("{dir}/libn{i}.so.1")))
        .filter(|path| world.outside(path).exists())
        .collect();
    let loads: Vec<Load> = (0..3 + r.below(6))
        .map(|_| {
            let name = format!("libn{}.so.1", r.below(8));
            // Mostly files that are there: what is missing shows little.
            let file = if r.chance(80) && !files.is_empty() { r.pick(&files).clone() } else { name };
            let mode = if r.chance(40) { mldoctor_probes::Mode::Global } else { mldoctor_probes::Mode::Local };
            Load { mode, file: OsString::from(file) }
        })
        .collect();
    let (real, model) = (real(&world, &loads), model(&world, &loads));
    for (at, real) in real.iter().enumerate() {
        match real {
            // An inconsistency that no linker makes ends the process: see `World::agree`.
            Err(message) if message.contains("check_match: Assertion") => return Ok(()),
            // The error number is the last one of the search.
            Err(message) if message.contains("cannot open shared object file") => {
                let name = message.split_once(": ").map_or("", |(name, _)| name);
                if model[at].as_ref().is_err_and(|m| m.starts_with(&format!("{name}: cannot open"))) {
                    continue;
                }
            }
            _ => {}
        }
        if *real != model[at] {
            return Err(format!("call {at} of {loads:?}:\n  real:  {real:?}\n  model: {:?}", model[at]));
        }
    }
    Ok(())
}

#[test]
fn random_sequences_of_dlopen() {
    if !may_chroot() {
        return skip("sequences of dlopen need root, to change the root directory");
    }
    let host = Host::new();
    graphs::for_each_seed(SEQUENCES, |seed| compare(&host, seed));
}
