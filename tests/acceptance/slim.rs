//! A Debian system with PyTorch, cut down, and used as the whole file system of a container.
//!
//! The trees share their files with the installation by hard links, so that they cost no space; nothing in them is
//! changed, only removed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use mldoctor::record::profile::Profile;
use serde_json::Value;

use super::support::debian;
use super::support::podman::Podman;
use super::{Installation, must};

/// Where the workload's interpreter is.
const PYTHON: &str = "/opt/venv/bin/python";
/// A training step with what `--require` names, on the CPU.
const TRAIN: &str = r#"
import os, tempfile
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
x, y = torch.randn(4, 3, 16, 16), torch.randint(0, 10, (4,))
model(x)
optimizer = torch.optim.Adam(model.parameters())
before = nn.functional.cross_entropy(model(x), y)
before.backward()
optimizer.step()
path = os.path.join(tempfile.mkdtemp(), "model.pt")
torch.save(model.state_dict(), path)
model.load_state_dict(torch.load(path))
assert nn.functional.cross_entropy(model(x), y) < before
a = torch.randn(6, 6, dtype=torch.float64)
assert torch.allclose(torch.linalg.solve(a, a @ a), a)
print("done")
"#;
/// A small inference.
const INFER: &str = r#"
import torch
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 10)).eval()
with torch.inference_mode():
    assert model(torch.ones(1, 3, 16, 16)).shape == (1, 10)
print("done")
"#;
/// Groups of files that are taken away one after the other; `MLDOCTOR_TEST_SLIM_SAMPLE=200` tries more.
const SAMPLE: usize = 12;
/// Smaller by so many percent. What limits it is what `libtorch_cuda.so` is linked to, three quarters of all bytes.
const SAFE_PERCENT: f64 = 15.0;
const RECORDED_PERCENT: f64 = 38.0;

/// A directory that is removed with all that is in it, beside the installations so that hard links reach there.
struct Workplace {
    dir: tempfile::TempDir,
    podman: Podman,
}

impl Workplace {
    fn open(at: &Installation) -> Result<Self, String> {
        let python = fs::read_link(at.python()).map_err(|e| e.to_string())?;
        let lib = at.site_packages();
        if !lib.to_string_lossy().contains("/python3.11/") {
            return Err(format!("{} is not for Python 3.11, which Debian 12 has", python.display()));
        }
        let podman = Podman::open()?;
        let base = debian::root_with("bookworm", "python", &["python3", "ca-certificates"])?;
        let dir = tempfile::tempdir_in(base.parent().unwrap()).map_err(|e| e.to_string())?;
        let root = dir.path().join("image");
        must(Command::new("cp").arg("-al").arg(&base).arg(&root));
        fs::remove_file(root.join("complete")).map_err(|e| e.to_string())?;
        let venv = root.join("opt/venv");
        fs::create_dir_all(venv.join("bin")).map_err(|e| e.to_string())?;
        must(Command::new("cp").arg("-al").arg(at.dir.canonicalize().unwrap().join("lib")).arg(&venv));
        fs::write(venv.join("pyvenv.cfg"), "home = /usr/bin\nversion = 3.11.2\n").unwrap();
        std::os::unix::fs::symlink("/usr/bin/python3.11", venv.join("bin/python")).unwrap();
        fs::create_dir(root.join("app")).unwrap();
        fs::write(root.join("app/train.py"), TRAIN).unwrap();
        fs::write(root.join("app/infer.py"), INFER).unwrap();
        Ok(Self { dir, podman })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs something in a container that has this tree and nothing else.
    fn run(&self, tree: &str, command: &[&str]) -> Output {
        let bin = format!("{}:/mldoctor:ro", env!("CARGO_BIN_EXE_mldoctor"));
        let out = format!("{}:/out", self.path("out").display());
        fs::create_dir_all(self.path("out")).unwrap();
        let options = ["--cap-add", "SYS_PTRACE", "--volume", &bin, "--volume", &out, "--rootfs"];
        self.podman.run(&options, self.path(tree).to_str().unwrap(), command)
    }

    /// Cuts the image down; the answer of `slim`.
    fn slim(&self, to: &str, arguments: &[&str]) -> Result<Value, Failed> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mldoctor"));
        command.arg("slim").arg("--root").arg(self.path("image")).args(["--python", PYTHON, "--format", "json"]);
        let output = command.args(arguments).arg("--copy-to").arg(self.path(to)).arg("torch").output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        for group in answer["groups"].as_array().unwrap() {
            println!("{} {:>12} {}: {}", group["stays"], group["bytes"], group["group"], group["why"]);
        }
        Ok(answer)
    }
}

fn is_done(output: &Output) -> bool {
    output.status.success() && output.stdout.ends_with(b"done\n")
}

fn smaller(answer: &Value) -> f64 {
    100.0 * (1.0 - answer["kept_bytes"].as_f64().unwrap() / answer["total_bytes"].as_f64().unwrap())
}

fn check(output: &Output) -> Result<(), Failed> {
    if is_done(output) { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned().into()) }
}

fn safe(at: &Installation) -> Result<(), Failed> {
    let place = match Workplace::open(at) {
        Ok(place) => place,
        Err(why) => {
            super::support::skip(&why);
            return Ok(());
        }
    };
    check(&place.run("image", &[PYTHON, "/app/train.py"]))?;
    let answer = place.slim("slim", &["--require", "torch.conv,torch.linalg"])?;
    println!("safe: {:.1} % smaller", smaller(&answer));
    assert!(smaller(&answer) > SAFE_PERCENT, "{}", smaller(&answer));
    check(&place.run("slim", &[PYTHON, "/app/train.py"]))?;
    // Every probe that needs no GPU: the CUDA libraries are loaded for real and asked for their versions.
    let arguments = ["/mldoctor", "check", "--format", "json", "--python", PYTHON, "torch"];
    let (whole, slim) = (place.run("image", &arguments), place.run("slim", &arguments));
    let asked = |output: &Output| -> BTreeMap<String, String> {
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let capabilities = report["capabilities"].as_array().unwrap().iter();
        let told = |c: &Value| (c["id"].as_str().unwrap().to_owned(), c["status"].as_str().unwrap().to_owned());
        capabilities.map(told).filter(|(id, _)| id != "torch.compile" && id != "torch.profiler").collect()
    };
    assert_eq!(asked(&slim), asked(&whole));
    assert_eq!(asked(&slim)["import:torch"], "ok");
    Ok(())
}

fn recorded(at: &Installation) -> Result<(), Failed> {
    let place = match Workplace::open(at) {
        Ok(place) => place,
        Err(why) => {
            super::support::skip(&why);
            return Ok(());
        }
    };
    let recorder = ["/mldoctor", "record", "-o", "/out/profile.json", "--", PYTHON, "/app/infer.py"];
    check(&place.run("image", &recorder))?;
    let file = place.path("out/profile.json");
    let answer =
        place.slim("slim", &["--mode", "recorded", "--profile", file.to_str().unwrap(), "--require", "torch.blas"])?;
    println!("recorded: {:.1} % smaller", smaller(&answer));
    assert!(smaller(&answer) > RECORDED_PERCENT, "{}", smaller(&answer));
    check(&place.run("slim", &[PYTHON, "/app/infer.py"]))?;
    minimal(&place, &Profile::read(&file)?)
}

/// Takes libraries and modules out of the tree, one at a time. The script breaks, or it does without them of its own accord.
fn minimal(place: &Workplace, profile: &Profile) -> Result<(), Failed> {
    let sample = std::env::var("MLDOCTOR_TEST_SLIM_SAMPLE").ok().and_then(|n| n.parse().ok()).unwrap_or(SAMPLE);
    let mut groups: Vec<(String, Vec<PathBuf>)> =
        profile.libraries.keys().map(|l| (l.clone(), vec![inside(l)])).collect();
    for (module, file) in &profile.modules {
        let source = inside(file);
        let stem = source.file_name().unwrap().to_string_lossy().split('.').next().unwrap().to_owned();
        let dir = source.parent().unwrap();
        let dir = if dir.ends_with("__pycache__") { dir.parent().unwrap() } else { dir };
        let pyc = dir.join("__pycache__").join(format!("{stem}.cpython-311.pyc"));
        // A package without its `__init__` is a namespace package, which imports all the same: take all of it.
        let files = if stem == "__init__" { vec![dir.to_owned()] } else { vec![dir.join(format!("{stem}.py")), pyc] };
        groups.push((module.clone(), files));
    }
    let step = (groups.len() / sample).max(1);
    let (mut tried, mut broke) = (0, 0);
    for (name, files) in groups.iter().step_by(step) {
        let root = place.path("slim");
        let there: Vec<PathBuf> =
            files.iter().map(|f| root.join(f)).filter(|f| f.exists() && !f.is_symlink()).collect();
        if there.is_empty() {
            continue;
        }
        let aside = |path: &Path| PathBuf::from(format!("{}.aside", path.display()));
        there.iter().for_each(|f| fs::rename(f, aside(f)).unwrap());
        let works = is_done(&place.run("slim", &[PYTHON, "/app/infer.py"]));
        there.iter().for_each(|f| fs::rename(aside(f), f).unwrap());
        tried += 1;
        broke += usize::from(!works);
        if works {
            println!("not missed: {name}: it is opened, and what opens it does without");
        }
    }
    println!("{broke} of {tried} groups break the script when they are taken away");
    check(&place.run("slim", &[PYTHON, "/app/infer.py"]))?;
    assert!(tried > 0 && broke * 3 >= tried * 2, "{broke} of {tried}");
    Ok(())
}

fn inside(path: &str) -> PathBuf {
    Path::new(path).strip_prefix("/").unwrap().to_owned()
}

/// A way of slimming.
type Way = fn(&Installation) -> Result<(), Failed>;

/// One for each way.
pub fn trials(at: &Arc<Installation>) -> Vec<Trial> {
    let trial = |(name, run): (&str, Way)| {
        let at = Arc::clone(at);
        Trial::test(format!("torch {}: slim, {name}", at.release), move || run(&at))
    };
    [("safe", safe as Way), ("recorded", recorded)].into_iter().map(trial).collect()
}
