//! The real driver of Debian without its kernel module, the stubs of a real CUDA toolkit, and a real CUPTI: what they
//! answer, and what that is called.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::support::skip;
use crate::{findings, must};

/// Package, and the files in it that are wanted.
const PACKAGES: &[(&str, &str)] = &[
    ("libcuda1", "*.so*"),
    ("libnvidia-ml1", "*.so*"),
    ("libnvidia-ptxjitcompiler1", "*.so*"),
    ("libcupti11.8", "*.so*"),
    ("nvidia-cuda-dev", "*/stubs/libcuda.so"),
];

/// The files of the packages, below a directory of their own: fetched once, with a configuration of its own, from the
/// mirror that the system uses.
fn root() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/acceptance/debian-driver");
    let complete = root.join("complete");
    if complete.exists() {
        return Ok(root);
    }
    if std::env::var_os("MLDOCTOR_TEST_ALL").is_none_or(|v| v != "1") {
        return Err(format!("{} is not there (MLDOCTOR_TEST_ALL=1 makes it)", root.display()));
    }
    let _ = fs::remove_dir_all(&root);
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name);
    for dir in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    fs::create_dir_all(&root).unwrap();
    let targets = ["indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"];
    let known = Command::new("apt-get").args(targets).output().map_err(|e| format!("this is no Debian: {e}"))?;
    let known = String::from_utf8_lossy(&known.stdout).into_owned();
    let mirror = known.lines().find_map(|line| line.strip_suffix(" bookworm")).ok_or("this is not Debian 12")?;
    fs::write(at("sources.list"), format!("deb {mirror} bookworm non-free\n")).unwrap();
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        let options = [
            ("Dir::Etc::SourceList", at("sources.list")),
            ("Dir::Etc::SourceParts", PathBuf::from("-")),
            ("Dir::State::Lists", at("lists")),
            ("Dir::Cache", work.path().to_owned()),
            ("APT::Sandbox::User", PathBuf::from("root")),
        ];
        for (name, value) in options {
            command.arg("-o").arg(format!("{name}={}", value.display()));
        }
        must(command.args(arguments).current_dir(work.path()));
    };
    apt(&["--quiet", "update"]);
    for (package, files) in PACKAGES {
        apt(&["--quiet", "download", package]);
        let archive = fs::read_dir(work.path()).unwrap().map(|e| e.unwrap().path());
        let archive = archive.into_iter().find(|path| path.extension().is_some_and(|e| e == "deb")).unwrap();
        let script = "set -e; dpkg --fsys-tarfile \"$1\" | tar -x -C \"$2\" --wildcards \"$3\"";
        must(Command::new("/bin/sh").args(["-c", script, "sh"]).args([&archive, &root]).arg(files));
        fs::remove_file(archive).unwrap();
    }
    fs::write(complete, "").unwrap();
    Ok(root)
}

/// Below the root: the driver, the stubs, and what needs neither.
struct Places {
    driver: PathBuf,
    stubs: PathBuf,
    cupti: PathBuf,
}

/// The node that the driver's libraries make, also where there is no driver; as root they may.
struct Node {
    was_there: bool,
}

impl Node {
    const PATH: &str = "/dev/nvidiactl";

    fn new() -> Self {
        Self { was_there: Path::new(Self::PATH).exists() }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.was_there {
            let _ = fs::remove_file(Self::PATH);
        }
    }
}

/// A report of CUPTI in a container where this is `LD_LIBRARY_PATH`.
fn report(places: &Places, path: &str) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mldoctor"));
    command.args(["check", "--format", "json"]).arg(&places.cupti).env("LD_LIBRARY_PATH", path);
    let output = command.env_remove("CUDA_VISIBLE_DEVICES").output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!("no report ({e}): {}", String::from_utf8_lossy(&output.stderr));
    })
}

/// The trials; none where a GPU would answer.
pub fn trials() -> Vec<Trial> {
    let root = match root() {
        Ok(_) if Path::new("/proc/driver/nvidia").exists() => {
            skip("this machine has a driver of its own");
            return Vec::new();
        }
        Ok(root) => root,
        Err(why) => {
            skip(&why);
            return Vec::new();
        }
    };
    let lib = root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let places =
        || Places { driver: lib.join("nvidia/current"), stubs: lib.join("stubs"), cupti: lib.join("libcupti.so.11.8") };
    let (driver, stubs, cupti) = (places(), places(), places());
    vec![
        Trial::test("debian: a driver without its module", move || {
            let _node = Node::new();
            // The second time its node is there.
            for _ in 0..2 {
                let report = report(&driver, &driver.driver.to_string_lossy());
                expect(&report, &["error drv-baked-libs", "error drv-not-loaded"], &driver)?;
                let proof = report["findings"].to_string();
                if !proof.contains("CUDA_ERROR_NO_DEVICE") || !proof.contains("nvmlInit_v2") {
                    return Err(format!("not both halves have answered: {proof}").into());
                }
            }
            Ok(())
        }),
        Trial::test("debian: the stub of a toolkit in the place of the driver", move || {
            // As it is found: by the name that programs ask for.
            let dir = tempfile::tempdir().unwrap();
            std::os::unix::fs::symlink(stubs.stubs.join("libcuda.so"), dir.path().join("libcuda.so.1")).unwrap();
            let report = report(&stubs, &dir.path().to_string_lossy());
            expect(&report, &["error ver-stub-34"], &stubs)
        }),
        Trial::test("debian: no driver", move || {
            let report = report(&cupti, "");
            expect(&report, &["error drv-absent"], &cupti)
        }),
    ]
}

/// These findings and no other, `gpu` broken, and CUPTI loads and tells its version.
fn expect(report: &Value, expected: &[&str], places: &Places) -> Result<(), Failed> {
    let expected: BTreeSet<String> = expected.iter().map(|s| (*s).to_owned()).collect();
    let found = findings(report);
    if found != expected {
        return Err(format!("found {found:?}: {:#}", report["findings"]).into());
    }
    let load = format!("load:{}", places.cupti.display());
    let status = |id: &str| {
        report["capabilities"].as_array().unwrap().iter().find(|c| c["id"] == id).map(|c| c["status"].clone())
    };
    let (gpu, load) = (status("gpu"), status(&load));
    if gpu != Some("broken".into()) || load != Some("ok".into()) {
        return Err(format!("gpu is {gpu:?}, CUPTI {load:?}").into());
    }
    Ok(())
}
