//! `cargo xtask bench`: how long a check takes beside what it stands for, all in one run, so that only ratios count.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// A command that is timed.
struct Contender {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<PathBuf>,
    times: Vec<Duration>,
}

/// Times everything in turns, `rounds` times, with the torch that `python` imports.
pub fn run(python: Option<PathBuf>, rounds: usize) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?.to_owned();
    let python = python.unwrap_or_else(|| root.join("target/acceptance/torch-2.6.0/bin/python"));
    ensure!(python.exists(), "{} is not there; name the interpreter of a PyTorch with --python", python.display());
    let status = Command::new("cargo").current_dir(&root).args(["build", "--release", "--locked"]).status()?;
    ensure!(status.success(), "mldoctor does not build");
    let torch = torch_dir(&python)?;
    let extension = std::fs::read_dir(&torch)?
        .flatten()
        .map(|e| e.path())
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("_C.")))
        .context("torch has no _C")?;
    let site = torch.parent().context("torch lies in a directory")?.to_owned();
    let mldoctor = root.join("target/release/mldoctor");

    let mut contenders = Vec::new();
    let mut add = |name, program, arguments| {
        contenders.push(Contender { name, program, arguments, times: Vec::new() });
    };
    let words = |words: &[&str]| words.iter().map(PathBuf::from).collect::<Vec<_>>();
    let check = [words(&["check", "--image", "--quiet", "--python"]), vec![python.clone()], words(&["torch"])].concat();
    add("mldoctor check --image torch", mldoctor.clone(), check);
    let matrix = [words(&["matrix", "--image", "--python"]), vec![python.clone()], words(&["torch"])].concat();
    add("mldoctor matrix --image torch", mldoctor.clone(), matrix);
    add(
        "mldoctor check --image _C",
        mldoctor,
        [words(&["check", "--image", "--quiet"]), vec![extension.clone()]].concat(),
    );
    add("python -c 'import torch'", python, words(&["-c", "import torch"]));
    add("ldd -r torch/_C.*.so", "ldd".into(), vec!["-r".into(), extension.clone()]);
    add("libtree -vvv torch/_C.*.so", "libtree".into(), vec!["-vvv".into(), extension]);
    add("find site-packages -name '*.so*'", "find".into(), [vec![site], words(&["-name", "*.so*"])].concat());

    // The first round fills the caches and shows what is not installed.
    contenders.retain(|c| {
        let is_there = c.once().is_some();
        if !is_there {
            println!("not installed: {}", c.name);
        }
        is_there
    });
    for _ in 0..rounds {
        for contender in &mut contenders {
            contender.times.extend(contender.once());
        }
    }
    let median = |c: &Contender| {
        let mut times = c.times.clone();
        times.sort();
        times[times.len() / 2]
    };
    let own = median(&contenders[0]).as_secs_f64();
    println!("{:<36} {:>10} {:>9}", "median of each, in turns", "ms", "times");
    for contender in &contenders {
        let time = median(contender).as_secs_f64();
        println!("{:<36} {:>10.1} {:>9.2}", contender.name, time * 1e3, time / own);
    }
    Ok(())
}

impl Contender {
    /// How long one run takes; `None` where the program is not installed.
    fn once(&self) -> Option<Duration> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        command.status().ok()?;
        Some(start.elapsed())
    }
}

fn torch_dir(python: &Path) -> anyhow::Result<PathBuf> {
    let find = "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])";
    let output = Command::new(python).args(["-c", find]).output()?;
    ensure!(output.status.success(), "{} has no torch", python.display());
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}
