//! Programs that were built for a newer glibc or libstdc++ than a Debian release has, started there for real.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::support::debian::root;
use crate::support::elf::ElfFile;
use crate::support::skip;

/// Library, version that the release lacks or has, finding id if it lacks it.
const WANTED: &[(&str, &str, Option<&str>)] = &[
    ("libc.so.6", "GLIBC_2.34", Some("lib-glibc")),
    ("libc.so.6", "GLIBC_2.30", None),
    ("libstdc++.so.6", "GLIBCXX_3.4.30", Some("lib-glibcxx")),
    ("libstdc++.so.6", "CXXABI_1.3.13", Some("lib-glibcxx")),
    ("libstdc++.so.6", "GLIBCXX_3.4.28", None),
];

/// A trial for each version, in Debian 11 (glibc 2.31, libstdc++ of GCC 10).
pub fn trials() -> Vec<Trial> {
    let root = match root("bullseye") {
        Ok(root) => root,
        Err(why) => {
            skip(&why);
            return Vec::new();
        }
    };
    let trial = |&(library, version, id): &(&'static str, &'static str, Option<&'static str>)| {
        let root = root.clone();
        Trial::test(format!("bullseye: {version}"), move || run(&root, library, version, id))
    };
    WANTED.iter().map(trial).collect()
}

fn run(root: &Path, library: &str, version: &str, id: Option<&str>) -> Result<(), Failed> {
    let dir = tempfile::tempdir_in(root.join("tmp")).unwrap();
    let inside = Path::new("/tmp").join(dir.path().file_name().unwrap()).join("program");
    let loader =
        if cfg!(target_arch = "aarch64") { "/lib/ld-linux-aarch64.so.1" } else { "/lib64/ld-linux-x86-64.so.2" };
    let mut program = ElfFile::executable(loader).needs(library);
    program.wants.push((library.to_owned(), version.to_owned(), false));
    let outside = dir.path().join("program");
    fs::write(&outside, program.build()).unwrap();
    for path in [dir.path(), &outside] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let real = Command::new("chroot").arg(root).arg(&inside).output().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mldoctor"))
        .args(["check", "--format", "json", "--root"])
        .args([root, &inside])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    if real.status.success() != (report["verdict"] == "ready") {
        return Err(format!("it starts: {}; {}", real.status.success(), report["verdict"]).into());
    }
    let found = &report["findings"][0];
    if found["id"].as_str() != id {
        return Err(format!("found {}", found["id"]).into());
    }
    let said = String::from_utf8_lossy(&real.stderr);
    match found["user_sees"].as_str() {
        Some(sees) if said.trim() != sees => Err(format!("predicted {sees:?}, and it said {said:?}").into()),
        _ => Ok(()),
    }
}
