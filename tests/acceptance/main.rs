//! The real thing, side by side: a PyTorch CUDA installation from PyPI, from which one library after the other is
//! taken away or spoilt. `import torch` is run for real, and the verdict must say what it then says; so are its parts
//! (`parts.rs`). `fatbins.rs` compares the device code of wheels with what NVIDIA's own tool lists.
//!
//! The installations are made below `target/acceptance` once (several gigabytes each). Without
//! `MLDOCTOR_TEST_ALL=1` only those that are there already are used. `MLDOCTOR_TEST_TORCH=2.4.1,2.9.1` names other
//! releases than the one that is tried by default.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod containers;
mod driver;
mod editable;
mod fatbins;
mod live;
mod packages;
mod parts;
mod record;
mod releases;
mod slim;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

/// A PyTorch release in a virtual environment of its own.
struct Installation {
    release: String,
    dir: PathBuf,
}

impl Installation {
    fn python(&self) -> PathBuf {
        self.dir.join("bin/python")
    }

    fn site_packages(&self) -> PathBuf {
        let lib = self.dir.join("lib");
        let python = fs::read_dir(&lib).unwrap().map(|e| e.unwrap().path()).find(|p| p.is_dir()).unwrap();
        python.join("site-packages")
    }

    /// Uses what is there, or installs it.
    fn open(release: &str, may_install: bool) -> Option<Self> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/acceptance").join(format!("torch-{release}"));
        let this = Self { release: release.to_owned(), dir };
        let complete = this.dir.join("complete");
        if complete.exists() {
            return Some(this);
        }
        if !may_install {
            println!(
                "SKIPPED: torch {release} is not installed in {} (MLDOCTOR_TEST_ALL=1 installs it)",
                this.dir.display()
            );
            return None;
        }
        let _ = fs::remove_dir_all(&this.dir);
        must(Command::new("python3").args(["-m", "venv"]).arg(&this.dir));
        must(
            Command::new(this.python())
                .args(["-m", "pip", "install", "--quiet", "--no-cache-dir", "--no-compile", "numpy"])
                .arg(format!("torch=={release}")),
        );
        fs::write(complete, "").unwrap();
        Some(this)
    }

    /// Shared objects, relative to site-packages.
    fn libraries(&self) -> Vec<PathBuf> {
        shared_objects(&self.site_packages())
    }
}

/// Shared objects below a directory, relative to it.
fn shared_objects(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![below.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() && is_shared_object(&entry.file_name().to_string_lossy()) {
                found.push(entry.path().strip_prefix(below).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn is_shared_object(name: &str) -> bool {
    name.split_once(".so").is_some_and(|(_, rest)| rest.chars().all(|c| c == '.' || c.is_ascii_digit()))
}

fn must(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A change of the installation that is taken back when it goes out of scope.
struct Change {
    back: Vec<(PathBuf, PathBuf)>,
    added: Vec<PathBuf>,
}

impl Change {
    fn take_away(path: PathBuf) -> Self {
        let aside = PathBuf::from(format!("{}.taken", path.display()));
        fs::rename(&path, &aside).unwrap();
        Self { back: vec![(aside, path)], added: Vec::new() }
    }

    fn with(mut self, added: PathBuf) -> Self {
        self.added.push(added);
        self
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        for path in &self.added {
            let _ = fs::remove_file(path);
        }
        for (aside, path) in &self.back {
            let _ = fs::rename(aside, path);
        }
    }
}

fn import(python: &Path, module: &str, env: &[(&str, String)]) -> Output {
    command(python, env).args(["-c", &format!("import {module}")]).output().unwrap()
}

/// A program in this environment, in which nothing else tells where libraries and modules are.
fn command(program: impl AsRef<OsStr>, env: &[(&str, String)]) -> Command {
    let mut command = Command::new(program);
    command.env_remove("LD_LIBRARY_PATH").env_remove("PYTHONPATH").envs(env.iter().map(|(k, v)| (k, v)));
    command
}

fn check(python: &Path, module: &str, env: &[(&str, String)]) -> Value {
    let mut command = command(env!("CARGO_BIN_EXE_mldoctor"), env);
    let output = command.args(["check", "--image", "--format", "json", "--python"]).arg(python).arg(module).output();
    let output = output.unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!("no report ({e}): {}", String::from_utf8_lossy(&output.stderr));
    })
}

/// Severity and id of each finding.
fn findings(report: &Value) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = report["findings"].as_array().unwrap().iter();
    all.map(|f| format!("{} {}", text(&f["severity"]), text(&f["id"]))).collect()
}

/// [`agree`] on torch.
fn compare(at: &Installation, env: &[(&str, String)]) -> Result<(), Failed> {
    agree(&at.python(), "torch", env).map(drop)
}

/// What is predicted and what happens must be the same: whether it imports, and the message if not. Gives what happens,
/// and the report.
fn agree(python: &Path, module: &str, env: &[(&str, String)]) -> Result<(bool, Value), Failed> {
    let (real, report) = std::thread::scope(|scope| {
        let real = scope.spawn(|| import(python, module, env));
        let report = scope.spawn(|| check(python, module, env));
        (real.join().unwrap(), report.join().unwrap())
    });
    let imports = real.status.success();
    let stderr = String::from_utf8_lossy(&real.stderr);
    let id = format!("import:{module}");
    let capability = report["capabilities"].as_array().unwrap().iter().find(|c| c["id"] == *id).unwrap();
    let predicted = capability["status"] == "ok";
    if imports != predicted {
        let last = stderr.lines().last().unwrap_or_default();
        return Err(format!("imports: {imports} ({last}); predicted: {capability}").into());
    }
    if imports {
        return Ok((imports, report));
    }
    let sees = report["findings"].as_array().unwrap().iter().find(|f| f["severity"] == "error");
    let sees = sees.and_then(|f| f["user_sees"].as_str()).unwrap_or_default();
    // The loader kills a process that touches a page which its file has lost; Python prints nothing then.
    let killed = real.status.code().is_none() && sees.starts_with("Bus error");
    let told = !sees.is_empty() && sees.lines().all(|line| stderr.contains(line.trim()));
    if killed || told {
        Ok((imports, report))
    } else {
        Err(format!("predicted message {sees:?}, and Python printed:\n{stderr}").into())
    }
}

/// A wheel in a directory of its own: what is there, or installed once.
fn wheel(requirement: &str, may_install: bool) -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/acceptance").join(requirement);
    let complete = dir.join("complete");
    if complete.exists() {
        return Some(dir);
    }
    if !may_install {
        println!("SKIPPED: {requirement} is not installed in {} (MLDOCTOR_TEST_ALL=1 installs it)", dir.display());
        return None;
    }
    let _ = fs::remove_dir_all(&dir);
    let arguments = ["-m", "pip", "install", "--quiet", "--no-cache-dir", "--no-deps", "--target"];
    must(Command::new("python3").args(arguments).arg(&dir).arg(requirement));
    fs::write(complete, "").unwrap();
    Some(dir)
}

/// A directory with the shared objects of another release of one of NVIDIA's packages.
fn other_release(requirement: &str) -> PathBuf {
    let dir = wheel(requirement, true).unwrap();
    let parts = fs::read_dir(dir.join("nvidia")).unwrap().map(|e| e.unwrap().path().join("lib"));
    parts.into_iter().find(|lib| lib.is_dir()).unwrap()
}

/// A directory as of a CUDA toolkit in the system: NVIDIA's libraries of the installation, but for those that only
/// come with PyTorch.
fn system_cuda(at: &Installation) -> tempfile::TempDir {
    let dir = tempfile::tempdir_in(&at.dir).unwrap();
    for library in at.libraries().into_iter().filter(|l| l.starts_with("nvidia")) {
        let name = library.file_name().unwrap();
        if !["libcusparseLt", "libnccl", "libcudnn"].iter().any(|l| name.to_string_lossy().starts_with(l)) {
            fs::hard_link(at.site_packages().join(&library), dir.path().join(name)).unwrap();
        }
    }
    dir
}

type Run = Box<dyn Fn(&Installation) -> Result<(), Failed> + Send>;

fn trials(at: &Arc<Installation>) -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut trial = |name: String, run: Run| {
        let at = Arc::clone(at);
        trials.push(Trial::test(format!("torch {}: {name}", at.release), move || run(&at)));
    };
    for (name, run) in live::trials(at) {
        trial(name, run);
    }
    trial("as installed".into(), Box::new(|at| compare(at, &[])));
    for library in at.libraries() {
        // numpy's own tests and submodules that torch never imports would only repeat one another.
        if library.starts_with("numpy") && !library.starts_with("numpy/_core") && !library.starts_with("numpy/linalg") {
            continue;
        }
        trial(
            format!("without {}", library.display()),
            Box::new(move |at| {
                let _change = Change::take_away(at.site_packages().join(&library));
                compare(at, &[])
            }),
        );
    }
    let cublas = at.libraries().into_iter().find(|l| l.to_string_lossy().contains("libcublas.so"));
    if let Some(cublas) = cublas {
        for keep in [0usize, 10, 64, 4096, 1 << 20] {
            let cublas = cublas.clone();
            trial(
                format!("libcublas cut after {keep} bytes"),
                Box::new(move |at| {
                    let path = at.site_packages().join(&cublas);
                    let mut start = vec![0; keep];
                    let read = std::io::Read::read(&mut fs::File::open(&path).unwrap(), &mut start).unwrap();
                    let change = Change::take_away(path.clone()).with(path.clone());
                    fs::write(&path, &start[..read]).unwrap();
                    let outcome = compare(at, &[]);
                    drop(change);
                    outcome
                }),
            );
        }
        let link = cublas.clone();
        trial(
            "libcublas is a link that leads nowhere".into(),
            Box::new(move |at| {
                let path = at.site_packages().join(&link);
                let _change = Change::take_away(path.clone()).with(path.clone());
                std::os::unix::fs::symlink("libcublas.so.12.4.5.8", &path).unwrap();
                compare(at, &[])
            }),
        );
        trial(
            "a text file in place of libcublas".into(),
            Box::new(move |at| {
                let path = at.site_packages().join(&cublas);
                let _change = Change::take_away(path.clone()).with(path.clone());
                fs::write(&path, "this is no library, and long enough to hold the header of an ELF file").unwrap();
                compare(at, &[])
            }),
        );
    }
    trial(
        "torch._C for another Python".into(),
        Box::new(|at| {
            let torch = at.site_packages().join("torch");
            let name = fs::read_dir(&torch).unwrap().map(|e| e.unwrap().path());
            let own =
                name.into_iter().find(|p| p.file_name().unwrap().to_string_lossy().starts_with("_C.cpython-")).unwrap();
            let other = torch.join("_C.cpython-39-x86_64-linux-gnu.so");
            let _change = Change::take_away(own.clone()).with(other.clone());
            fs::hard_link(format!("{}.taken", own.display()), &other).unwrap();
            compare(at, &[])
        }),
    );
    trial(
        "LD_LIBRARY_PATH with directories that do not exist".into(),
        Box::new(|at| compare(at, &[("LD_LIBRARY_PATH", "/usr/local/nvidia/lib:/usr/local/nvidia/lib64".into())])),
    );
    // Each with the directory that a wrong LD_LIBRARY_PATH puts in front of the libraries of the wheels.
    let mut others =
        vec!["nvidia-nvjitlink-cu12==12.1.105", "nvidia-nccl-cu12==2.18.1", "nvidia-cusparse-cu12==12.1.0.106"];
    if std::env::var_os("MLDOCTOR_TEST_TORCH").is_some() {
        others.push("nvidia-cudnn-cu12==9.5.1.17"); // A gigabyte.
    }
    for requirement in others {
        trial(
            format!("{requirement} on LD_LIBRARY_PATH"),
            Box::new(move |at| {
                let lib = other_release(requirement);
                compare(at, &[("LD_LIBRARY_PATH", lib.to_string_lossy().into_owned())])
            }),
        );
    }
    trial(
        "a system CUDA on LD_LIBRARY_PATH".into(),
        Box::new(|at| {
            let dir = system_cuda(at);
            compare(at, &[("LD_LIBRARY_PATH", dir.path().to_string_lossy().into_owned())])
        }),
    );
    for library in at.libraries() {
        let name = library.file_name().unwrap().to_string_lossy().into_owned();
        if !["libcusparseLt", "libnccl", "libcudnn.", "libcublas."].iter().any(|l| name.starts_with(l)) {
            continue;
        }
        trial(
            format!("a system CUDA on LD_LIBRARY_PATH, without {}", library.display()),
            Box::new(move |at| {
                let dir = system_cuda(at);
                let _change = Change::take_away(at.site_packages().join(&library));
                compare(at, &[("LD_LIBRARY_PATH", dir.path().to_string_lossy().into_owned())])
            }),
        );
    }
    trials
}

fn main() {
    let mut arguments = Arguments::from_args();
    // Every trial changes the installation.
    arguments.test_threads = Some(1);
    let all = std::env::var_os("MLDOCTOR_TEST_ALL").is_some_and(|v| v == "1");
    let releases = std::env::var("MLDOCTOR_TEST_TORCH").unwrap_or_else(|_| "2.6.0".into());
    let open = |release: &str| Installation::open(release.trim(), all).map(Arc::new);
    let torch: Vec<Arc<Installation>> = releases.split(',').filter_map(open).collect();
    let mut list = fatbins::trials(&torch, all);
    list.extend(torch.iter().flat_map(trials));
    list.extend(torch.iter().flat_map(parts::trials));
    list.extend(torch.iter().flat_map(record::trials));
    list.extend(torch.iter().flat_map(slim::trials));
    list.extend(editable::trials(all));
    list.extend(packages::trials(&torch, all));
    list.extend(driver::trials());
    list.extend(releases::trials());
    list.extend(containers::trials());
    libtest_mimic::run(&arguments, list).exit();
}
