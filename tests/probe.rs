//! The probe and its supervisor: real libraries, and children that behave as badly as they can.

#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mldoctor::loader::Environment;
use mldoctor::probe::{Death, Outcome, Probe, Run, Source, locate};
use mldoctor_probes::{Load, Mode};

fn loads(files: &[&str]) -> Vec<Load> {
    files.iter().map(|file| Load { mode: Mode::Local, file: OsString::from(file) }).collect()
}

fn real() -> Probe {
    Probe {
        source: locate(None).unwrap(),
        loader: None,
        env: Environment::default(),
        cwd: PathBuf::from("/"),
        deadline: Duration::from_secs(30),
    }
}

/// A shell script in the place of the probe.
fn script(dir: &tempfile::TempDir, text: &str, deadline: Duration) -> Probe {
    let path = dir.path().join("probe.sh");
    std::fs::write(&path, text).unwrap();
    let env = [(OsString::from("PATH"), OsString::from("/usr/bin:/bin"))].into_iter().collect();
    Probe { source: Source::File(path), loader: Some(PathBuf::from("/bin/sh")), env, cwd: PathBuf::from("/"), deadline }
}

fn run(text: &str, files: &[&str]) -> Result<Run, String> {
    let dir = tempfile::tempdir().unwrap();
    script(&dir, text, Duration::from_secs(20)).load(&loads(files))
}

#[test]
fn real_libraries_load_and_the_words_are_those_of_the_c_library() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("libtext.so");
    std::fs::write(&text, "this is no library, but it is long enough to have a header of an ELF file".repeat(9))
        .unwrap();
    let run =
        real().load(&loads(&["libm.so.6", "libmldoctor-gone.so.1", text.to_str().unwrap(), "libc.so.6"])).unwrap();
    assert!(matches!(&run.outcomes[0], Outcome::Loaded(path) if path.ends_with("/libm.so.6")), "{run:?}");
    let gone = "libmldoctor-gone.so.1: cannot open shared object file: No such file or directory";
    assert_eq!(run.outcomes[1], Outcome::Failed(gone.into()));
    assert_eq!(run.outcomes[2], Outcome::Failed(format!("{}: invalid ELF header", text.display())));
    assert!(matches!(&run.outcomes[3], Outcome::Loaded(path) if path.ends_with("/libc.so.6")), "{run:?}");
}

#[test]
fn the_dynamic_loader_of_the_image_starts_it() {
    let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"].map(Path::new);
    let loader = loader.into_iter().find(|path| path.exists()).unwrap().to_owned();
    let run = Probe { loader: Some(loader), ..real() }.load(&loads(&["libm.so.6"])).unwrap();
    assert!(matches!(&run.outcomes[0], Outcome::Loaded(_)), "{run:?}");
}

#[test]
fn a_loader_that_is_not_there_is_an_answer() {
    let why = Probe { loader: Some("/nowhere/ld.so".into()), ..real() }.load(&loads(&["libm.so.6"])).unwrap_err();
    assert_eq!(why, "the probe cannot be started: No such file or directory (os error 2)");
}

#[test]
fn a_death_names_its_call_and_loses_nothing_else() {
    let text = r#"
        i=0
        for load in "$@"; do
            echo "{\"begin\":{\"index\":$i}}" >&3
            case "$load" in *bad*) kill -SEGV $$ ;; esac
            echo "{\"loaded\":{\"index\":$i,\"path\":\"/${load#local:}\"}}" >&3
            i=$((i + 1))
        done
    "#;
    let run = run(text, &["a", "bad1", "b", "bad2", "c"]).unwrap();
    let loaded = |name: &str| Outcome::Loaded(format!("/{name}"));
    let died = Outcome::Died(Death::Signal(11));
    assert_eq!(run.outcomes, [loaded("a"), died.clone(), loaded("b"), died, loaded("c")]);
}

#[test]
fn a_library_that_exits_is_told_apart_from_one_that_crashes() {
    let run = run(r#"echo '{"begin":{"index":0}}' >&3; exit 3"#, &["a"]).unwrap();
    assert_eq!(run.outcomes, [Outcome::Died(Death::Exit(3))]);
}

#[test]
fn a_hang_ends_at_the_deadline_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let text = format!(
        "echo '{{\"begin\":{{\"index\":0}}}}' >&3\nsleep 600 &\necho $$ $! > {}\nwhile :; do :; done",
        pids.display()
    );
    let deadline = Duration::from_millis(400);
    let start = Instant::now();
    let run = script(&dir, &text, deadline).load(&loads(&["a"])).unwrap();
    assert_eq!(run.outcomes, [Outcome::TimedOut(deadline)]);
    assert!(start.elapsed() < Duration::from_secs(10), "the child was waited for");
    for pid in std::fs::read_to_string(pids).unwrap().split_whitespace() {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The grandchild may wait for init to reap it.
        assert!(state.is_empty() || state.contains(") Z "), "still there: {state}");
    }
}

#[test]
fn a_flood_of_output_is_drained_and_cut() {
    let text = r#"
        echo '{"begin":{"index":0}}' >&3
        head -c 5000000 /dev/zero | tr '\0' x
        head -c 5000000 /dev/zero | tr '\0' y >&2
        echo '{"loaded":{"index":0,"path":"/a"}}' >&3
    "#;
    let run = run(text, &["a"]).unwrap();
    assert_eq!(run.outcomes, [Outcome::Loaded("/a".into())]);
    assert_eq!(run.output.len(), 2 * (16 << 10));
}

#[test]
fn an_endless_result_ends_and_what_came_before_it_counts() {
    let text = r#"
        echo '{"begin":{"index":0}}' >&3
        echo '{"loaded":{"index":0,"path":"/a"}}' >&3
        head -c 3000000 /dev/zero >&3
    "#;
    assert_eq!(run(text, &["a", "b"]).unwrap().outcomes, [Outcome::Loaded("/a".into()), Outcome::NotReached]);
}

#[test]
fn a_pipe_that_a_grandchild_keeps_open_is_not_waited_for() {
    let text = r#"
        setsid sh -c 'exec sleep 20' &
        echo '{"begin":{"index":0}}' >&3
        echo '{"loaded":{"index":0,"path":"/a"}}' >&3
    "#;
    let start = Instant::now();
    assert_eq!(run(text, &["a"]).unwrap().outcomes, [Outcome::Loaded("/a".into())]);
    assert!(start.elapsed() < Duration::from_secs(15), "the grandchild was waited for");
}

#[test]
fn a_probe_that_says_nothing_is_told_with_its_words() {
    let why = run("echo 'cannot start: too tired' >&2; exit 127", &["a"]).unwrap_err();
    assert_eq!(why, "the probe does not start: cannot start: too tired (status 127)");
}
