//! Device code in real wheels: the entries that mldoctor counts by kind, target and PTX version must be those that
//! NVIDIA's `cuobjdump` lists, and those of torch must be what torch says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use super::{Installation, shared_objects, wheel};

/// Wheels of CUDA 11, 12 and 13, some 800 MB with the tools.
const WHEELS: &[&str] = &[
    "cupy-cuda11x==13.6.0",
    "nvidia-curand-cu11==10.3.0.86",
    "nvidia-nccl-cu11==2.21.5",
    "bitsandbytes==0.45.5",
    "jax-cuda12-plugin==0.8.3",
    "nvidia-nvjpeg-cu12==12.4.0.76",
    "torchvision==0.21.0",
    "xformers==0.0.29.post3",
    "nvidia-cusparselt-cu13==0.8.1",
    "nvidia-nvjpeg==13.3.2.43",
];
/// Tried too with `MLDOCTOR_TEST_FATBINS=all`, some 2 GB.
const MORE: &[&str] = &[
    "sgl-kernel==0.3.21",
    "nvidia-cublas==13.1.0.3",
    "nvidia-nccl-cu13==2.32.3",
    "cupy-cuda13x==14.2.0",
    "warp-lang==1.19.0",
];
/// Wheels with a `cuobjdump`, and where: that of CUDA 13.5, and that of 12.8 for code that the newer one refuses.
const TOOLS: [(&str, &str); 2] = [
    ("nvidia-cuda-cuobjdump==13.5.37", "nvidia/cu13/bin/cuobjdump"),
    ("triton==3.5.0", "triton/backends/nvidia/bin/cuobjdump"),
];

/// How often there is each kind of code, such as `sm_90a` or `ptx 8.4 compute_90`.
type Counts = BTreeMap<String, u64>;

/// One trial for each wheel that is there or may be installed, and three for each PyTorch.
pub fn trials(torch: &[Arc<Installation>], may_install: bool) -> Vec<Trial> {
    let all = std::env::var("MLDOCTOR_TEST_FATBINS").is_ok_and(|v| v == "all");
    let wheels = WHEELS.iter().chain(if all { MORE } else { &[] });
    let tools: Option<Vec<PathBuf>> = TOOLS.iter().map(|(of, path)| Some(wheel(of, may_install)?.join(path))).collect();
    let Some(tools) = tools.map(Arc::new) else { return Vec::new() };
    let mut trials = Vec::new();
    for requirement in wheels {
        let Some(dir) = wheel(requirement, may_install) else { continue };
        let tools = Arc::clone(&tools);
        trials.push(Trial::test(format!("device code of {requirement}"), move || {
            let files: Vec<PathBuf> = shared_objects(&dir).iter().map(|file| dir.join(file)).collect();
            compare(&tools, &files)
        }));
    }
    for at in torch {
        let library = at.site_packages().join("torch/lib/libtorch_cuda.so");
        let (name, tools) = (format!("device code of torch {}", at.release), Arc::clone(&tools));
        let file = library.clone();
        trials.push(Trial::test(format!("{name}, entry by entry"), move || compare(&tools, &[file])));
        let whole = Arc::clone(at);
        trials.push(Trial::test(format!("{name}, as its whole import maps it"), move || without_python(&whole)));
        let at = Arc::clone(at);
        trials.push(Trial::test(format!("{name}, by its own account"), move || own_account(&at, &library)));
    }
    trials
}

fn compare(cuobjdump: &[PathBuf], files: &[PathBuf]) -> Result<(), Failed> {
    let facts = facts(files);
    let mut found = 0;
    for file in files {
        let (own, listed) = (counts(&facts, file), listed(cuobjdump, file));
        if own != listed {
            return Err(format!("{}: {own:?}, and cuobjdump lists {listed:?}", file.display()).into());
        }
        found += own.values().sum::<u64>();
    }
    println!("{found} entries in {} files", files.len());
    if found > 0 { Ok(()) } else { Err("no file has device code".into()) }
}

/// `torch.cuda.get_arch_list()` asks for this, but only where there is a GPU. It is the list that everything was
/// compiled for; some kernels are compiled for more.
fn own_account(at: &Installation, library: &Path) -> Result<(), Failed> {
    let python = Command::new(at.python()).args(["-c", "import torch; print(torch._C._cuda_getArchFlags())"]).output();
    let flags = String::from_utf8(python.unwrap().stdout).unwrap();
    let mut flags: Vec<&str> = flags.split_whitespace().collect();
    let facts = facts(&[library.to_owned()]);
    let mut everywhere: Option<Vec<String>> = None;
    for regions in module(&facts, library).unwrap()["code"]["regions"].as_array().unwrap() {
        let code = regions["code"].as_array().unwrap().iter().map(|a| a["code"].as_str().unwrap().to_owned());
        let code: Vec<String> = code.collect();
        everywhere = Some(match everywhere {
            Some(known) => known.into_iter().filter(|c| code.contains(c)).collect(),
            None => code,
        });
    }
    let mut everywhere = everywhere.unwrap_or_default();
    everywhere.sort();
    flags.sort_unstable();
    if everywhere == flags { Ok(()) } else { Err(format!("{everywhere:?}, and torch says {flags:?}").into()) }
}

/// `matrix` loads `torch._C` alone. The files with device code must be those of all that `import torch` does.
fn without_python(at: &Installation) -> Result<(), Failed> {
    let python = at.python();
    let of = |command: &[&str]| {
        let arguments = command.iter().map(PathBuf::from).chain(["--python".into(), python.clone(), "torch".into()]);
        answer(&arguments.collect::<Vec<_>>())
    };
    let paths = |modules: &Value| -> BTreeSet<String> {
        modules.as_array().unwrap().iter().map(|m| m["path"].as_str().unwrap().to_owned()).collect()
    };
    let facts = of(&["facts", "--image"]);
    let whole = paths(&facts["kernels"][0]["modules"]);
    let matrix = paths(&of(&["matrix", "--image", "--format", "json"])["modules"]);
    if whole == matrix && !whole.is_empty() { Ok(()) } else { Err(format!("{matrix:?}, not {whole:?}").into()) }
}

fn facts(files: &[PathBuf]) -> Value {
    answer(&[&["facts".into(), "--image".into()], files].concat())
}

/// The JSON that the program prints.
fn answer(arguments: &[PathBuf]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_mldoctor")).args(arguments).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!("{arguments:?}: no JSON ({e}): {}", String::from_utf8_lossy(&output.stderr));
    })
}

fn module<'f>(facts: &'f Value, file: &Path) -> Option<&'f Value> {
    let real = file.canonicalize().unwrap();
    let modules = facts["kernels"].as_array().unwrap().iter().flat_map(|k| k["modules"].as_array().unwrap());
    modules.into_iter().find(|m| Path::new(m["path"].as_str().unwrap()) == real)
}

/// What mldoctor counts in a file. All of it must have been read, but for what is kept as data.
fn counts(facts: &Value, file: &Path) -> Counts {
    let mut counts = Counts::new();
    let Some(module) = module(facts, file) else { return counts };
    let unread = module["code"]["unread"].as_str();
    assert!(unread.is_none_or(|why| why.contains("kept as data")), "{}: {unread:?}", file.display());
    for regions in module["code"]["regions"].as_array().unwrap().iter().filter(|r| r["linked"] == false) {
        for amount in regions["code"].as_array().unwrap() {
            *counts.entry(amount["code"].as_str().unwrap().to_owned()).or_default() +=
                amount["entries"].as_u64().unwrap();
        }
    }
    counts
}

/// What `cuobjdump` lists: a block of lines for each entry. The newest that understands the whole file tells.
fn listed(cuobjdump: &[PathBuf], file: &Path) -> Counts {
    let run = |tool: &PathBuf| Command::new(tool).arg(file).output().unwrap();
    let refuses =
        |o: &Output| ["removed", "Invalid ELF"].iter().any(|w| String::from_utf8_lossy(&o.stderr).contains(w));
    let output = cuobjdump.iter().map(run).find(|o| !refuses(o)).expect("one of the tools understands the file");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut counts = Counts::new();
    for block in text.split("\nFatbin ").skip(1) {
        let field = |name: &str| block.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(" = ")).unwrap();
        let target = field("arch").strip_prefix("sm_").unwrap();
        let code = match block.split(' ').next() {
            Some("elf") => format!("sm_{target}"),
            Some("ptx") => {
                let isa = field("code version").trim_matches(['[', ']']).replace(',', ".");
                format!("ptx {isa} compute_{target}")
            }
            other => format!("{other:?} {target}"),
        };
        *counts.entry(code).or_default() += 1;
    }
    counts
}
