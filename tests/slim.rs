//! `mldoctor slim` on small trees: what stays, how it is put down, and that it is checked.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use support::schema::schema;
use support::tree::{Built, Tree, expand};

/// A torch installation, a system with a cache of packages, and files of every kind.
const TREE: &str = r#"
from = ["torch"]
[files]
"/var/lib/apt/lists/list" = "packages"
"/usr/share/doc/torch/README" = "read me"
"/etc/passwd" = "root:x:0:0::/root:/bin/sh"
"/app/model.bin" = "weights"
"/app/unused.bin" = "never read"
[links]
"/app/current" = "model.bin"
"/app/lost" = "nowhere"
"/opt/app" = "/app"
[dirs]
"/tmp" = 0o1777
[modes]
"/app/model.bin" = 0o640
"#;

fn tree() -> Built {
    let tree: Tree = toml::from_str(&expand(TREE)).unwrap();
    Built::new(&tree)
}

fn slim(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mldoctor"));
    command.arg("slim").arg("--root").arg(root).args(["--python", "/opt/venv/bin/python"]).args(arguments).arg("torch");
    command.output().unwrap()
}

fn success(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn listing(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                open.push(path.clone());
            }
            found.insert(path.strip_prefix(root).unwrap().to_owned());
        }
    }
    found
}

#[test]
fn safe_drops_caches_and_keeps_the_rest_as_it_is() {
    let built = tree();
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("slim");
    success(&slim(&built.root(), &["--copy-to", to.to_str().unwrap()]));
    let (before, after) = (listing(&built.root()), listing(&to));
    let gone: BTreeSet<&PathBuf> = before.difference(&after).collect();
    let dropped = ["var/lib/apt/lists/list", "usr/share/doc/torch/README", "usr/share/doc/torch"];
    let expected: BTreeSet<PathBuf> = dropped.iter().map(PathBuf::from).collect();
    assert!(expected.iter().all(|p| gone.contains(p)), "{gone:?}");
    assert!(after.contains(Path::new("app/lost")), "a link that leads nowhere stays as it is");
    assert!(!out.path().join("slim.partial").exists());
    let model = fs::metadata(to.join("app/model.bin")).unwrap();
    let original = fs::metadata(built.root().join("app/model.bin")).unwrap();
    assert_eq!((model.permissions().mode() & 0o7777, model.mtime()), (0o640, original.mtime()));
    assert_eq!(fs::read_link(to.join("opt/app")).unwrap(), Path::new("/app"));
    assert_eq!(fs::metadata(to.join("tmp")).unwrap().permissions().mode() & 0o7777, 0o1777);
    // It is not put down over something else.
    let again = slim(&built.root(), &["--copy-to", to.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already"));
}

/// A profile of a run that opened these files.
fn profile(dir: &Path, opened: &[&str]) -> PathBuf {
    let mut value = serde_json::to_value(mldoctor::record::profile::Profile::default()).unwrap();
    value["schema"] = "mldoctor.profile/1".into();
    for path in opened {
        value["files"][*path] = serde_json::json!({ "opened": true, "by": ["/app/server"] });
    }
    let file = dir.join("profile.json");
    fs::write(&file, value.to_string()).unwrap();
    file
}

#[test]
fn recorded_keeps_what_was_used_with_the_links_on_the_way() {
    let built = tree();
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("slim");
    // What the model reads to follow an import is what an import reads.
    let sources: Vec<String> = listing(&built.root())
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == "py") || p.ends_with("pyvenv.cfg"))
        .map(|p| format!("/{}", p.display()))
        .collect();
    let mut opened: Vec<&str> = sources.iter().map(String::as_str).collect();
    opened.push("/opt/app/current");
    let profile = profile(out.path(), &opened);
    let arguments = ["--mode", "recorded", "--profile", profile.to_str().unwrap(), "--copy-to", to.to_str().unwrap()];
    success(&slim(&built.root(), &arguments));
    let after = listing(&to);
    for path in ["app/model.bin", "app/current", "opt/app", "etc/passwd", "tmp"] {
        assert!(after.contains(Path::new(path)), "{path}");
    }
    assert!(!after.contains(Path::new("app/unused.bin")));
    // The image that was made has all that the profile names; without one file it has not.
    let check = |root: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mldoctor"));
        command.arg("check").arg("--root").arg(root).arg("--against").arg(&profile).args([
            "--python",
            "/opt/venv/bin/python",
            "--format",
            "json",
            "torch",
        ]);
        let output = command.output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = report["findings"].as_array().unwrap().iter().any(|f| f["id"] == "slim-missing");
        (output.status.code(), found)
    };
    assert_eq!(check(&to), (Some(0), false));
    fs::remove_file(to.join("app/model.bin")).unwrap();
    assert_eq!(check(&to), (Some(1), true));
    // Nothing is recorded without a profile.
    assert_eq!(slim(&built.root(), &["--mode", "recorded"]).status.code(), Some(2));
}

#[test]
fn the_archive_is_the_tree() {
    if Command::new("tar").arg("--version").output().is_err() {
        return support::skip("tar is not installed");
    }
    let built = tree();
    let long = built.root().join("app").join("a".repeat(90)).join("b".repeat(90));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("file"), "deep").unwrap();
    // More than the header of an archive has room for; only root may do that.
    let _ = std::os::unix::fs::chown(long.join("file"), Some(3_000_000), Some(4_000_000));
    fs::hard_link(long.join("file"), built.root().join("app/second-name")).unwrap();
    let out = tempfile::tempdir().unwrap();
    let (dir, archive, unpacked) = (out.path().join("dir"), out.path().join("a.tar"), out.path().join("unpacked"));
    success(&slim(&built.root(), &["--copy-to", dir.to_str().unwrap()]));
    success(&slim(&built.root(), &["--tar", archive.to_str().unwrap()]));
    fs::create_dir(&unpacked).unwrap();
    let status = Command::new("tar").arg("-xpf").arg(&archive).arg("-C").arg(&unpacked).status().unwrap();
    assert!(status.success());
    assert_eq!(listing(&unpacked), listing(&dir));
    for path in listing(&dir) {
        let (one, other) = (dir.join(&path), unpacked.join(&path));
        let stat = |p: &Path| {
            fs::symlink_metadata(p).map(|m| (m.mode(), m.uid(), m.gid(), m.is_file().then(|| (m.mtime(), m.len()))))
        };
        assert_eq!(stat(&one).unwrap(), stat(&other).unwrap(), "{}", path.display());
        if one.is_file() && !one.is_symlink() {
            assert_eq!(fs::read(&one).unwrap(), fs::read(&other).unwrap(), "{}", path.display());
        }
    }
    let second = fs::metadata(unpacked.join("app/second-name")).unwrap();
    assert_eq!(second.nlink(), 2, "two names of one file stay that");
}

#[test]
fn nothing_that_is_there_already_is_touched() {
    let built = tree();
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("slim");
    let own = out.path().join("slim.partial/own");
    fs::create_dir(own.parent().unwrap()).unwrap();
    fs::write(&own, "").unwrap();
    assert_eq!(slim(&built.root(), &["--copy-to", to.to_str().unwrap()]).status.code(), Some(2));
    assert!(own.exists() && !to.exists());
}

#[test]
fn what_goes_and_what_stays_add_up() {
    let built = tree();
    let output = slim(&built.root(), &["--format", "json"]);
    success(&output);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema("slim", std::str::from_utf8(&output.stdout).unwrap()), [""; 0]);
    let sum = |stays: bool| -> u64 {
        let groups = answer["groups"].as_array().unwrap().iter();
        groups.filter(|g| g["stays"] == stays).map(|g| g["bytes"].as_u64().unwrap()).sum()
    };
    assert_eq!(sum(true), answer["kept_bytes"].as_u64().unwrap());
    assert_eq!(sum(true) + sum(false), answer["total_bytes"].as_u64().unwrap());
    let total: u64 = listing(&built.root())
        .iter()
        .map(|p| fs::symlink_metadata(built.root().join(p)).unwrap())
        .filter(|m| m.is_file())
        .map(|m| m.len())
        .sum();
    assert_eq!(total, answer["total_bytes"].as_u64().unwrap());
}
