//! `cargo xtask bench`: how long a check takes beside what it stands for, all in one run, so that only ratios count.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use wait4::Wait4;

/// A command that is timed.
struct Contender {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<PathBuf>,
    /// After all others have run.
    costs: Vec<Cost>,
    /// At once again, when what it reads is still near the processor; in seconds.
    again: Vec<f64>,
}

/// What a run takes.
struct Cost {
    /// Seconds.
    wall: f64,
    /// Seconds of all processors.
    cpu: f64,
    /// Most bytes resident at once.
    memory: f64,
}

/// Times everything in turns, `rounds` times, with the torch that `python` imports. Each runs twice: what it read of
/// memory before is gone when its turn comes, and there when it runs again.
pub fn run(python: Option<PathBuf>, rounds: usize) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?.to_owned();
    let python = python.unwrap_or_else(|| root.join("target/acceptance/torch-2.6.0/bin/python"));
    ensure!(python.exists(), "{} is not there; name the interpreter of a PyTorch with --python", python.display());
    let mldoctor = root.join(format!("dist/mldoctor-{}", std::env::consts::ARCH));
    ensure!(mldoctor.exists(), "{} is not there; cargo xtask dist builds what is shipped", mldoctor.display());
    let scratch = root.join("target/bench");
    std::fs::create_dir_all(&scratch)?;
    let torch = torch_dir(&python)?;
    let extension = std::fs::read_dir(&torch)?
        .flatten()
        .map(|e| e.path())
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("_C.")))
        .context("torch has no _C")?;
    let site = torch.parent().context("torch lies in a directory")?.to_owned();
    let mut contenders = Vec::new();
    let mut add = |name, program, arguments| {
        contenders.push(Contender { name, program, arguments, costs: Vec::new(), again: Vec::new() });
    };
    let words = |words: &[&str]| words.iter().map(PathBuf::from).collect::<Vec<_>>();
    let health = [words(&["health", "--image", "--python"]), vec![python.clone()], words(&["torch"])].concat();
    let check = [words(&["check", "--image", "--quiet", "--python"]), vec![python.clone()], words(&["torch"])].concat();
    add("mldoctor check --image torch", mldoctor.clone(), check);
    add("mldoctor health --image torch", mldoctor.clone(), health);
    let matrix = [words(&["matrix", "--image", "--python"]), vec![python.clone()], words(&["torch"])].concat();
    add("mldoctor matrix --image torch", mldoctor.clone(), matrix);
    add(
        "mldoctor check --image _C",
        mldoctor.clone(),
        [words(&["check", "--image", "--quiet"]), vec![extension.clone()]].concat(),
    );
    let environment = python.parent().and_then(Path::parent).context("the interpreter is bin/python")?.to_owned();
    add("mldoctor size --root VENV", mldoctor, [words(&["size", "--root"]), vec![environment.clone()]].concat());
    add("du -s VENV", "du".into(), vec!["-s".into(), environment]);
    add("python -c 'import torch'", python, words(&["-c", "import torch"]));
    add("ldd -r torch/_C.*.so", "ldd".into(), vec!["-r".into(), extension.clone()]);
    add("libtree -vvv torch/_C.*.so", "libtree".into(), vec!["-vvv".into(), extension]);
    add("find site-packages -name '*.so*'", "find".into(), [vec![site], words(&["-name", "*.so*"])].concat());

    add("nvidia-smi", "nvidia-smi".into(), Vec::new());
    add("an empty static program", empty_program(&scratch)?, Vec::new());

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
            contender.costs.extend(contender.once());
            contender.again.extend(contender.once().map(|cost| cost.wall));
        }
    }
    let heads = ["ms", "times", "again", "times", "CPU ms", "MiB"].map(|head| format!("{head:>8}")).join(" ");
    println!("{:<34} {heads}", "median of each, in turns");
    let own = (contenders[0].wall(), contenders[0].again());
    for contender in &contenders {
        let (wall, again) = (contender.wall(), contender.again());
        let cpu = median(contender.costs.iter().map(|c| c.cpu)) * 1e3;
        let memory = median(contender.costs.iter().map(|c| c.memory)) / f64::from(1 << 20);
        let [ms, again_ms] = [wall, again].map(|seconds| seconds * 1e3);
        let [times, again_times] = [wall / own.0, again / own.1];
        let name = contender.name;
        println!("{name:<34} {ms:>8.1} {times:>8.2} {again_ms:>8.1} {again_times:>8.2} {cpu:>8.1} {memory:>8.1}");
    }
    Ok(())
}

impl Contender {
    /// What one run costs; `None` where the program is not installed.
    fn once(&self) -> Option<Cost> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        let used = command.spawn().ok()?.wait4().ok()?.rusage;
        let wall = start.elapsed().as_secs_f64();
        // Pages of mapped files count as memory, although others share them.
        Some(Cost { wall, cpu: (used.utime + used.stime).as_secs_f64(), memory: used.maxrss as f64 })
    }

    fn wall(&self) -> f64 {
        median(self.costs.iter().map(|c| c.wall))
    }

    fn again(&self) -> f64 {
        median(self.again.iter().copied())
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Starting and ending a process, and no more.
fn empty_program(dir: &Path) -> anyhow::Result<PathBuf> {
    let (source, program) = (dir.join("empty.c"), dir.join("empty"));
    std::fs::write(&source, "int main(void) { return 0; }\n")?;
    let status = Command::new("cc").args(["-static", "-O2", "-o"]).arg(&program).arg(&source).status();
    ensure!(status.is_ok_and(|s| s.success()), "cc cannot make a static program");
    Ok(program)
}

fn torch_dir(python: &Path) -> anyhow::Result<PathBuf> {
    let find = "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])";
    let output = Command::new(python).args(["-c", find]).output()?;
    ensure!(output.status.success(), "{} has no torch", python.display());
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}
