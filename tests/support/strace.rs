//! What a command opens in the eyes of `strace`, which is the measure for `mldoctor record`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use mldoctor::record::profile::Profile;

use super::schema::schema;

/// Runs a command under `strace`: its exit code, and what was logged.
pub fn trace(log: &Path, command: &[&str]) -> (Option<i32>, String) {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", "4096", "-e", "trace=file", "-o"]).arg(log).args(command).stdout(Stdio::null());
    let status = strace.status().unwrap();
    (status.code(), String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned())
}

/// Runs a command under `mldoctor record`: its exit code, and its profile, which is as its schema says.
pub fn record(dir: &Path, command: &[&str]) -> (i32, Profile) {
    let file = dir.join("profile.json");
    let mut recorder = Command::new(env!("CARGO_BIN_EXE_mldoctor"));
    recorder.arg("record").arg("-o").arg(&file).arg("--").args(command).stdout(Stdio::null());
    let code = recorder.status().unwrap().code().unwrap();
    assert_eq!(schema("profile", &fs::read_to_string(&file).unwrap()), [""; 0]);
    (code, Profile::read(&file).unwrap())
}

/// Files that `strace` saw opened and that the profile does not have. Those that each run makes anew are left out.
pub fn missed(log: &str, profile: &Profile) -> Vec<PathBuf> {
    let opened = profile.files.iter().filter(|(_, used)| used.opened);
    let known: BTreeSet<PathBuf> = opened.map(|(path, _)| real(Path::new(path))).collect();
    let is_of_the_run = |path: &Path| ["/proc", "/sys", "/dev", "/tmp"].iter().any(|v| path.starts_with(v));
    let seen = seen(log).into_iter().filter(|path| !is_of_the_run(path) && path.exists());
    seen.filter(|path| !known.contains(&real(path))).collect()
}

/// Without `.` and `..`: what is compared is which file it is, however it is named.
fn normal(path: &str) -> PathBuf {
    let mut out = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => _ = out.pop(),
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// Paths that were opened or executed with success, by `strace -y`, which writes the file behind a new descriptor.
fn seen(log: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for line in log.lines() {
        // A call that another process's line has split is told in its second half.
        let opens = ["open(", "openat(", "openat2(", "creat("].iter().any(|call| line.contains(call))
            || ["openat resumed", "open resumed"].iter().any(|call| line.contains(call));
        if opens && let Some((_, result)) = line.rsplit_once(" = ") {
            if let Some((_, path)) = result.split_once('<') {
                found.insert(normal(path.trim_end_matches('>').trim_end_matches(" (deleted)")));
            }
        } else if line.contains("execve(") && (line.ends_with(" = 0") || line.ends_with("<unfinished ...>")) {
            let path = line.split('"').nth(1).unwrap_or_default();
            found.insert(normal(path));
        }
    }
    found
}

fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| normal(&path.to_string_lossy()))
}
