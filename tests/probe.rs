//! The probe and its supervisor: real libraries, and children that behave as badly as they can.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mldoctor::facts::{Facts, Observed};
use mldoctor::loader::Environment;
use mldoctor::probe::{Call, Death, Outcome, Probe, Run, Source, locate};
use mldoctor_probes::{CallError, Job, Line, Load};
use support::{driver::fake_driver, skip};

fn load(probe: &Probe, files: &[&str]) -> Result<Run, String> {
    let loads: Vec<Load> = files.iter().map(Load::local).collect();
    probe.run(Job::Load, &loads)
}

fn outcomes(run: &Run) -> Vec<Outcome> {
    run.calls.iter().map(|call| call.outcome.clone()).collect()
}

fn failed(message: impl Into<String>) -> Outcome {
    Outcome::Error(CallError { code: None, name: message.into() })
}

fn loaded(run: &Run) -> Vec<&str> {
    fn path(line: &Line) -> Option<&str> {
        if let Line::Loaded { path } = line { Some(path) } else { None }
    }
    run.lines.iter().filter_map(path).collect()
}

fn real() -> Probe {
    Probe {
        source: locate(None).unwrap(),
        loader: None,
        env: Environment::default(),
        cwd: PathBuf::from("/"),
        deadline: Duration::from_secs(30),
        inside: None,
    }
}

/// A shell script in the place of the probe.
fn script(dir: &tempfile::TempDir, text: &str, deadline: Duration) -> Probe {
    let path = dir.path().join("probe.sh");
    std::fs::write(&path, text).unwrap();
    let env = [(OsString::from("PATH"), OsString::from("/usr/bin:/bin"))].into_iter().collect();
    Probe {
        source: Source::File(path),
        loader: Some(PathBuf::from("/bin/sh")),
        env,
        cwd: PathBuf::from("/"),
        deadline,
        inside: None,
    }
}

fn run(text: &str, files: &[&str]) -> Result<Run, String> {
    let dir = tempfile::tempdir().unwrap();
    load(&script(&dir, text, Duration::from_secs(20)), files)
}

#[test]
fn real_libraries_load_and_the_words_are_those_of_the_c_library() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("libtext.so");
    std::fs::write(&text, "this is no library, but it is long enough to have a header of an ELF file".repeat(9))
        .unwrap();
    let run = load(&real(), &["libm.so.6", "libmldoctor-gone.so.1", text.to_str().unwrap(), "libc.so.6"]).unwrap();
    let gone = "libmldoctor-gone.so.1: cannot open shared object file: No such file or directory";
    let no_elf = format!("{}: invalid ELF header", text.display());
    assert_eq!(outcomes(&run), [Outcome::Ok, failed(gone), failed(no_elf), Outcome::Ok]);
    let loaded = loaded(&run);
    assert!(loaded[0].ends_with("/libm.so.6") && loaded[1].ends_with("/libc.so.6"), "{run:?}");
    let Some(Line::Mapped { paths }) = run.lines.last() else { panic!("{run:?}") };
    assert!(loaded.iter().all(|path| paths.iter().any(|p| p == path)), "{paths:?}");
}

#[test]
fn the_dynamic_loader_of_the_image_starts_it() {
    let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"].map(Path::new);
    let loader = loader.into_iter().find(|path| path.exists()).unwrap().to_owned();
    let run = load(&Probe { loader: Some(loader), ..real() }, &["libm.so.6"]).unwrap();
    assert_eq!(outcomes(&run), [Outcome::Ok]);
}

#[test]
fn a_loader_that_is_not_there_is_an_answer() {
    let why = load(&Probe { loader: Some("/nowhere/ld.so".into()), ..real() }, &["libm.so.6"]).unwrap_err();
    assert_eq!(why, "/nowhere/ld.so cannot be started: No such file or directory (os error 2)");
}

#[test]
fn a_death_names_its_call_and_loses_nothing_before_it() {
    let text = r#"
        echo '{"begin":{"call":"dlopen a"}}
        {"end":{"error":null}}
        {"loaded":{"path":"/a"}}
        {"begin":{"call":"dlopen b"}}' >&3
        kill -SEGV $$
    "#;
    let run = run(text, &["a", "b"]).unwrap();
    let died = Call { name: "dlopen b".into(), outcome: Outcome::Died(Death::Signal(11)) };
    assert_eq!(run.calls, [Call { name: "dlopen a".into(), outcome: Outcome::Ok }, died.clone()]);
    assert_eq!((loaded(&run), run.unfinished()), (vec!["/a"], Some(&died)));
}

#[test]
fn a_library_that_exits_is_told_apart_from_one_that_crashes() {
    let run = run(r#"echo '{"begin":{"call":"dlopen a"}}' >&3; exit 3"#, &["a"]).unwrap();
    assert_eq!(outcomes(&run), [Outcome::Died(Death::Exit(3))]);
}

#[test]
fn a_hang_ends_at_the_deadline_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let text = format!(
        "echo '{{\"begin\":{{\"call\":\"dlopen a\"}}}}' >&3\nsleep 600 &\necho $$ $! > {}\nwhile :; do :; done",
        pids.display()
    );
    let start = Instant::now();
    let run = load(&script(&dir, &text, Duration::from_millis(400)), &["a"]).unwrap();
    assert_eq!(outcomes(&run), [Outcome::TimedOut(400)]);
    assert!(start.elapsed() < Duration::from_secs(10), "the child was waited for");
    for pid in std::fs::read_to_string(pids).unwrap().split_whitespace() {
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The grandchild may wait for init to reap it, and on a busy machine for its turn to die.
        let is_dead = || state().is_empty() || state().contains(") Z ");
        let until = Instant::now() + Duration::from_secs(10);
        while !is_dead() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(is_dead(), "still there: {}", state());
    }
}

const WELL: &str = r#"{"begin":{"call":"dlopen a"}}
{"end":{"error":null}}
{"loaded":{"path":"/a"}}"#;

#[test]
fn a_flood_of_output_is_drained_and_cut() {
    let text = format!(
        "head -c 5000000 /dev/zero | tr '\\0' x\nhead -c 5000000 /dev/zero | tr '\\0' y >&2\necho '{WELL}' >&3"
    );
    let run = run(&text, &["a"]).unwrap();
    assert_eq!(loaded(&run), ["/a"]);
    assert_eq!(run.output.len(), 2 * (16 << 10));
}

#[test]
fn an_endless_result_ends_and_what_came_before_it_counts() {
    let run = run(&format!("echo '{WELL}' >&3; head -c 3000000 /dev/zero >&3"), &["a", "b"]).unwrap();
    assert_eq!((outcomes(&run), loaded(&run)), (vec![Outcome::Ok], vec!["/a"]));
}

#[test]
fn after_a_line_that_is_none_nothing_is_believed() {
    let run = run(&format!("echo '{WELL}\n[1]\n{{\"loaded\":{{\"path\":\"/b\"}}}}' >&3"), &["a", "b"]).unwrap();
    assert_eq!((outcomes(&run), loaded(&run)), (vec![Outcome::Ok], vec!["/a"]));
}

#[test]
fn a_pipe_that_a_grandchild_keeps_open_is_not_waited_for() {
    let start = Instant::now();
    let run = run(&format!("setsid sh -c 'exec sleep 20' &\necho '{WELL}' >&3"), &["a"]).unwrap();
    assert_eq!(loaded(&run), ["/a"]);
    assert!(start.elapsed() < Duration::from_secs(15), "the grandchild was waited for");
}

#[test]
fn a_probe_that_says_nothing_is_told_with_its_words() {
    let why = run("echo 'cannot start: too tired' >&2; exit 127", &["a"]).unwrap_err();
    assert_eq!(why, "the probe does not start: cannot start: too tired (status 127)");
}

/// The fake driver, loaded by a real probe. Its constructor does this.
fn constructed(behaviour: &str) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let scenario = scenario(&dir, behaviour);
    let env = [(OsString::from("FAKE_DRIVER"), scenario.into_os_string())].into_iter().collect();
    let probe = Probe { env, deadline: Duration::from_secs(5), ..real() };
    load(&probe, &[fake_driver().to_str().unwrap()]).unwrap()
}

fn scenario(dir: &tempfile::TempDir, behaviour: &str) -> PathBuf {
    let path = dir.path().join("scenario.json");
    std::fs::write(&path, format!(r#"{{"calls":{{"constructor":{behaviour}}}}}"#)).unwrap();
    path
}

#[test]
fn what_a_constructor_does_is_told_of_its_library() {
    for (behaviour, outcome) in [
        (r#""crash""#, Outcome::Died(Death::Signal(11))),
        (r#"{"exit":0}"#, Outcome::Died(Death::Exit(0))),
        (r#""hang""#, Outcome::TimedOut(5000)),
        (r#"{"print":3}"#, Outcome::Ok),
        (r#""fork""#, Outcome::Ok),
    ] {
        let start = Instant::now();
        let run = constructed(behaviour);
        assert_eq!(outcomes(&run), [outcome], "{behaviour}");
        assert_eq!(run.calls[0].name, format!("dlopen {}", fake_driver().display()));
        assert!(run.output.len() <= 2 * (16 << 10), "{behaviour}");
        assert!(start.elapsed() < Duration::from_secs(30), "{behaviour}: what it started was waited for");
    }
}

#[test]
fn jobs_in_one_child_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let env = [("FAKE_DRIVER".into(), scenario(&dir, r#""crash""#).into_os_string())].into_iter().collect();
    let [fine, crash] = ["libm.so.6", fake_driver().to_str().unwrap()].map(|file| [Load::local(file)]);
    let jobs = [(Job::Load, &fine[..]), (Job::Load, &fine[..]), (Job::Load, &crash[..]), (Job::Load, &fine[..])];
    let runs = Probe { env, ..real() }.run_all(&jobs).unwrap();
    let outcomes: Vec<Vec<Outcome>> = runs.iter().map(outcomes).collect();
    assert_eq!(outcomes, [[Outcome::Ok], [Outcome::Ok], [Outcome::Died(Death::Signal(11))]]);
    assert_eq!(runs.iter().map(Run::is_well).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(runs.iter().map(|run| loaded(run).len()).collect::<Vec<_>>(), [1, 1, 0]);
}

/// `mldoctor facts` of the fake driver, by a copy without a probe beside it.
fn facts(dir: &tempfile::TempDir, behaviour: &str) -> Command {
    let own = dir.path().join("mldoctor");
    std::fs::copy(env!("CARGO_BIN_EXE_mldoctor"), &own).unwrap();
    let mut command = Command::new(own);
    command.arg("facts").arg(fake_driver()).env("FAKE_DRIVER", scenario(dir, behaviour));
    command
}

fn read(command: &mut Command) -> Facts {
    let output = command.output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

#[test]
fn where_memory_may_not_hold_programs_a_temporary_file_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = facts(&dir, r#"{"slow":0}"#);
    assert_eq!(read(&mut command).probe, Observed::Seen("the embedded copy, in memory".into()));
    // SAFETY: makes system calls and nothing else.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| fake_driver::refuse_memfd());
    }
    let facts = read(&mut command);
    assert_eq!(facts.probe, Observed::Seen("the embedded copy, in a temporary file".into()));
    let loaded = facts.subjects[0].steps.iter().any(|s| s.what.ends_with("in a child process"));
    assert!(loaded, "{:?}", facts.subjects[0]);
}

/// A control group with this much memory, of the old or the new kind; removed at the end.
struct Group(PathBuf);

impl Group {
    fn new(bytes: u64) -> Result<Self, String> {
        let name = format!("mldoctor-test-{}", std::process::id());
        let (dir, limit) = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            (Path::new("/sys/fs/cgroup").join(name), "memory.max")
        } else {
            (Path::new("/sys/fs/cgroup/memory").join(name), "memory.limit_in_bytes")
        };
        std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let this = Self(dir);
        std::fs::write(this.0.join(limit), bytes.to_string()).map_err(|e| format!("{limit}: {e}"))?;
        Ok(this)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_child_that_the_memory_limit_kills_is_an_answer() {
    let group = match Group::new(96 << 20) {
        Ok(group) => group,
        Err(why) => return skip(&why),
    };
    let dir = tempfile::tempdir().unwrap();
    let command = facts(&dir, r#"{"take":1000}"#);
    let mut inside = Command::new("/bin/sh");
    inside.args(["-c", "echo $$ > $0/cgroup.procs && exec \"$@\""]).arg(&group.0);
    inside.arg(command.get_program()).args(command.get_args());
    inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let facts = read(&mut inside);
    let died = format!("{:?}", Outcome::Died(Death::Signal(9)));
    assert!(format!("{:?}", facts.subjects[0].steps).contains(&died), "{:?}", facts.subjects[0]);
}
