//! What mldoctor sees of its container, against what podman was told to give it, and against what can then be written.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::support::debian::root;
use crate::support::podman::Podman;
use crate::support::skip;

const IMAGE: &str = "mldoctor-test/trixie";

/// A container, and what its facts must have.
struct Container {
    name: &'static str,
    /// Options of `podman run`.
    options: &'static [&'static str],
    /// The folder that the driver is told to keep compiled code in.
    folder: &'static str,
    /// JSON pointers, and what they must lead to.
    facts: fn() -> Vec<(&'static str, Value)>,
}

const CONTAINERS: &[Container] = &[
    Container {
        name: "limits",
        options: &[
            "--memory=64m",
            "--pids-limit=8",
            "--shm-size=1m",
            "--ulimit=nofile=100:200",
            "--ulimit=nproc=1024:4096",
            "--ulimit=memlock=65536:65536",
        ],
        folder: "/var/cache/made",
        facts: || {
            vec![
                ("/node/cgroup/memory/limit", json!(64 << 20)),
                ("/node/cgroup/memory/oom_kills", json!(0)),
                ("/node/cgroup/pids/limit", json!(8)),
                ("/node/shm/seen/total", json!(1 << 20)),
                ("/node/limits/open_files", json!({ "soft": 100, "hard": 200 })),
                ("/node/limits/locked_memory", json!({ "soft": 65536, "hard": 65536 })),
                (ACCESS, json!("writable")),
            ]
        },
    },
    Container {
        name: "read-only",
        options: &["--read-only"],
        folder: "/var/cache/made",
        facts: || vec![(ACCESS, json!("read-only"))],
    },
    Container {
        name: "a tmpfs beside the read-only root, noexec",
        options: &["--read-only", "--tmpfs=/tmp:noexec,size=1m"],
        folder: "/tmp/made/deep",
        facts: || {
            vec![
                (ACCESS, json!("writable")),
                ("/image/surroundings/folders/0/noexec", json!(true)),
                ("/image/surroundings/folders/0/space/total", json!(1 << 20)),
            ]
        },
    },
    Container {
        name: "a number as user",
        options: &["--user=12345", "--passwd=false"],
        folder: "/var/cache/made",
        facts: || {
            vec![
                (ACCESS, json!("denied")),
                ("/image/surroundings/account/uid", json!(12345)),
                ("/image/surroundings/account/home", json!("/")),
                ("/image/surroundings/account/name", json!({ "absent": "no row of user 12345 in /etc/passwd" })),
            ]
        },
    },
    Container {
        name: "root in another user's folder",
        options: &[],
        folder: "/data/made",
        facts: || vec![(ACCESS, json!("writable"))],
    },
    Container {
        name: "root without capabilities in another user's folder",
        options: &["--cap-drop=ALL"],
        folder: "/data/made",
        facts: || vec![(ACCESS, json!("denied")), ("/node/process/capabilities", json!(0))],
    },
];

/// The owner of `/data` in every container.
const DATA: u32 = 54321;
const ACCESS: &str = "/image/surroundings/folders/0/access";

/// A trial for each container.
pub fn trials() -> Vec<Trial> {
    let podman = root("trixie").and_then(|root| {
        let podman = Podman::open()?;
        podman.import(Path::new(&root), IMAGE)?;
        Ok(Arc::new(podman))
    });
    match podman {
        Ok(podman) => CONTAINERS
            .iter()
            .map(|container| {
                let podman = Arc::clone(&podman);
                Trial::test(format!("podman: {}", container.name), move || run(&podman, container))
            })
            .collect(),
        Err(why) => {
            skip(&why);
            Vec::new()
        }
    }
}

fn run(podman: &Podman, container: &Container) -> Result<(), Failed> {
    let volume = format!("--volume={}:/mldoctor:ro", env!("CARGO_BIN_EXE_mldoctor"));
    // Another user's.
    let data = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(data.path(), Some(DATA), Some(DATA)).unwrap();
    std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let volume_of_data = format!("--volume={}:/data", data.path().display());
    let folder = format!("--env=CUDA_CACHE_PATH={}", container.folder);
    let options = [container.options, &[&volume, &volume_of_data, &folder]].concat();
    let output = podman.run(&options, IMAGE, &["/mldoctor", "facts", "/bin/true"]);
    let facts: Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&output.stderr)))?;
    for (pointer, expected) in (container.facts)() {
        let seen = facts.pointer(pointer).unwrap_or(&Value::Null);
        if *seen != expected {
            return Err(format!("{pointer} is {seen}, not {expected}").into());
        }
    }
    let tried = "mkdir -p \"$CUDA_CACHE_PATH\" && : > \"$CUDA_CACHE_PATH/file\"";
    let written = podman.run(&options, IMAGE, &["sh", "-c", tried]).status.success();
    let foretold = facts.pointer(ACCESS) == Some(&json!("writable"));
    if written != foretold {
        return Err(format!("it can be written to: {written}; foretold: {foretold}").into());
    }
    Ok(())
}
