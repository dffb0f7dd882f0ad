//! `mldoctor record` beside `strace`, on programs that start others: nothing that strace sees opened may be missed.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use mldoctor::record::profile::Profile;
use support::strace::{self, record};

/// A program that does what a training script does: worker processes that import modules, a compiler as a child, a library
/// that is opened by name, threads, and a shell with a pipe.
const PROGRAM: &str = r##"
import ctypes, multiprocessing, os, subprocess, sys, tempfile, threading

def work(n):
    import decimal, fractions
    return str(fractions.Fraction(n, 7) + int(decimal.Decimal(n)))

def compile_and_load():
    with tempfile.TemporaryDirectory() as d:
        source, library = os.path.join(d, "x.c"), os.path.join(d, "x.so")
        open(source, "w").write("#include <stdio.h>\nint answer(void) { return 42; }\n")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        return ctypes.CDLL(library).answer()

if __name__ == "__main__":
    for method in ["fork", "spawn"]:
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert len(pool.map(work, range(8))) == 8
    thread = threading.Thread(target=lambda: __import__("xml.dom.minidom"))
    thread.start()
    thread.join()
    assert compile_and_load() == 42
    subprocess.run("cat /etc/hostname | tr a-z A-Z >/dev/null; ls /nonexistent 2>/dev/null; true", shell=True, check=True)
    os.chdir("/etc")
    open("./passwd").close()
    sys.exit(3)
"##;

#[test]
fn misses_nothing_that_strace_sees() {
    let tools = ["strace", "python3", "cc"];
    let lacks = tools.iter().find(|t| Command::new(t).arg("--version").output().is_err());
    if let Some(tool) = lacks {
        return support::skip(&format!("{tool} is not installed"));
    }
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("program.py");
    fs::write(&script, PROGRAM).unwrap();
    let script = script.to_str().unwrap();
    let (code, log) = strace::trace(&dir.path().join("strace.log"), &["python3", script]);
    assert_eq!(code, Some(3));
    let (code, profile) = record(dir.path(), &["python3", script]);
    assert_eq!(code, 3, "the exit code is the program's");
    assert_eq!(strace::missed(&log, &profile), Vec::<PathBuf>::new());
    let opened = profile.files.values().filter(|used| used.opened).count();
    assert!(opened > 100, "{opened}");

    // What else is told of the same run.
    for module in ["fractions", "xml.dom.minidom", "multiprocessing.pool"] {
        assert!(profile.modules.contains_key(module), "{module}");
    }
    for program in ["cc1", "tr", "cat"] {
        assert!(profile.programs.keys().any(|p| p.ends_with(&format!("/{program}"))), "{program}");
    }
    assert!(profile.programs.values().all(|p| p.interpreters.iter().any(|i| i.contains("ld-"))));
    let libc = profile.libraries.iter().find(|(path, _)| path.ends_with("/libc.so.6")).unwrap().1;
    assert!(!libc.needed_by.is_empty() && libc.build_id.as_ref().is_some_and(|id| id.len() == 40));
    assert!(profile.missing.contains("/nonexistent"));
    assert!(profile.files.contains_key("/etc/passwd"), "relative to another directory");
    assert!(profile.written.iter().any(|p| p.ends_with("/x.c")) || profile.written.is_empty());
    assert!(profile.runs[0].processes > 10);
}

#[test]
fn signals_and_exit_codes_are_those_of_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _) = record(dir.path(), &["sh", "-c", "kill -TERM $$"]);
    assert_eq!(code, 128 + 15);
    // A handler runs, children are waited for, a stopped process goes on when it is continued.
    let handled = "trap 'exit 9' USR1; (sleep 0.2; kill -USR1 $$) & wait";
    assert_eq!(record(dir.path(), &["sh", "-c", handled]).0, 9);
    let stopped = "sh -c 'kill -STOP $$; exit 5' & child=$!; sleep 0.3; kill -CONT $child; wait $child";
    assert_eq!(record(dir.path(), &["sh", "-c", stopped]).0, 5);
    let mut recorder = Command::new(env!("CARGO_BIN_EXE_mldoctor"));
    recorder.args(["record", "-o"]).arg(dir.path().join("none.json")).args(["--", "/nonexistent/program"]);
    let output = recorder.output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/program"));
    assert!(!dir.path().join("none.json").exists(), "no profile of nothing");
}

#[test]
fn the_programs_die_with_the_recorder() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("alive");
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 60", mark.display());
    let mut recorder = Command::new(env!("CARGO_BIN_EXE_mldoctor"))
        .args(["record", "-o"])
        .arg(dir.path().join("p.json"))
        .args(["--", "sh", "-c", &script])
        .spawn()
        .unwrap();
    while !mark.exists() {
        assert!(recorder.try_wait().unwrap().is_none(), "the recorder ended early");
        std::thread::yield_now();
    }
    let pid = fs::read_to_string(&mark).unwrap();
    recorder.kill().unwrap();
    recorder.wait().unwrap();
    let stat = || fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    let is_gone = || stat().map_or(true, |s| s.contains(") Z "));
    while !is_gone() {
        std::thread::yield_now();
    }
}

#[test]
fn many_processes_and_merging() {
    let dir = tempfile::tempdir().unwrap();
    let script = "i=0; while [ $i -lt 400 ]; do /bin/true & i=$((i+1)); done; wait";
    let (code, profile) = record(dir.path(), &["sh", "-c", script]);
    assert_eq!(code, 0);
    assert!(profile.runs[0].processes >= 400, "{}", profile.runs[0].processes);
    let file = dir.path().join("profile.json");
    let mut recorder = Command::new(env!("CARGO_BIN_EXE_mldoctor"));
    recorder.args(["record", "--merge", "-o"]).arg(&file).args(["--", "cat", "/etc/passwd"]);
    assert!(recorder.stdout(Stdio::null()).status().unwrap().success());
    let merged = Profile::read(&file).unwrap();
    assert_eq!(merged.runs.len(), 2);
    assert!(merged.programs.contains_key("/bin/true") && merged.files.contains_key("/etc/passwd"));
}
