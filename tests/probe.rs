//! The probe and its supervisor: real libraries, and children that behave as badly as they can.

#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mldoctor::loader::Environment;
use mldoctor::probe::{Call, Death, Outcome, Probe, Run, Source, locate};
use mldoctor_probes::{CallError, Job, Line, Load};

fn load(probe: &Probe, files: &[&str]) -> Result<Run, String> {
    let loads: Vec<Load> = files.iter().map(Load::local).collect();
    probe.run(Job::Load, &loads.iter().collect::<Vec<_>>())
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
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The grandchild may wait for init to reap it.
        assert!(state.is_empty() || state.contains(") Z "), "still there: {state}");
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
