//! The CUDA libraries of a real installation, each loaded and asked by a child process, and the PTX of the probe given to
//! NVIDIA's own assembler. No GPU is needed for any of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Failed;
use mldoctor::facts::{Facts, Observed};
use mldoctor::probe::Outcome;
use mldoctor_probes::library::Family;
use serde_json::Value;

use crate::{Change, Installation, Run, findings, must};

/// `mldoctor check` or `mldoctor facts` of torch in a container, which this machine is taken for.
fn ask(at: &Installation, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mldoctor"));
    command.args(arguments).arg("--deadline=120s").arg("--python").arg(at.python()).arg("torch");
    command.env_remove("LD_LIBRARY_PATH").env_remove("PYTHONPATH").output().unwrap().stdout
}

fn facts(at: &Installation) -> Facts {
    serde_json::from_slice(&ask(at, &["facts", "--deep"])).unwrap()
}

fn report(at: &Installation) -> Value {
    serde_json::from_slice(&ask(at, &["check", "--format=json"])).unwrap()
}

/// What is tried with one installation.
pub fn trials(at: &Installation) -> Vec<(String, Run)> {
    let mut trials: Vec<(String, Run)> = vec![
        ("every CUDA library answers".into(), Box::new(every_library_answers)),
        ("the kernel of the probe is one for ptxas".into(), Box::new(ptxas_takes_the_kernel)),
        ("without a driver nothing but the driver is missed".into(), Box::new(only_the_driver_is_missed)),
    ];
    for library in at.libraries() {
        let name = library.file_name().unwrap().to_string_lossy().into_owned();
        let (part, id) = match name.as_str() {
            name if name.starts_with("libnvrtc-builtins") && !name.contains("alt") => {
                ("torch.jit", "lib-nvrtc-builtins")
            }
            name if name.starts_with("libcudnn_") && !is_optional(name) => ("torch.conv", "lib-cudnn-sub"),
            _ => continue,
        };
        trials.push((format!("in a container, without {name}"), Box::new(move |at| breaks(at, &library, part, id))));
    }
    trials
}

/// Parts of cuDNN that it goes on without.
fn is_optional(name: &str) -> bool {
    name.starts_with("libcudnn_ext.") || name.starts_with("libcudnn_engines_tensor_ir.")
}

fn every_library_answers(at: &Installation) -> Result<(), Failed> {
    let facts = facts(at);
    let mut families = BTreeSet::new();
    for library in &facts.libraries {
        let Observed::Seen(run) = &library.run else {
            return Err(format!("{:?} was not tried: {:?}", library.family, library.run).into());
        };
        if let Some(call) = run.calls.iter().find(|call| call.outcome != Outcome::Ok) {
            return Err(format!("{:?}: {call:?}", library.family).into());
        }
        // Which is only loaded where there is no driver.
        if library.family == Family::Cupti && facts.driver.as_ref().is_some_and(|d| d.libcuda.is_none()) {
            families.insert(library.family);
            continue;
        }
        let Some(said) = library.said().filter(|said| !said.version.is_empty()) else {
            return Err(format!("{:?} tells no version", library.family).into());
        };
        let own = library.paths.last().unwrap();
        if !library.mapped().is_some_and(|mapped| mapped.iter().any(|path| is_same(path, own))) {
            return Err(format!("{own} was foretold, and {:?} mapped", library.mapped()).into());
        }
        if library.family == Family::Nvrtc
            && (said.compiled.len() < 5 || said.compiled.iter().any(|(_, e)| e.is_some()))
        {
            return Err(format!("NVRTC has compiled {:?}", said.compiled).into());
        }
        families.insert(library.family);
    }
    let wanted = [
        Family::Cudart,
        Family::Nvrtc,
        Family::NvJitLink,
        Family::Cublas,
        Family::CublasLt,
        Family::Cudnn,
        Family::Cufft,
        Family::Cusparse,
        Family::CusparseLt,
        Family::Cusolver,
        Family::Nccl,
        Family::Cupti,
    ];
    let missing: Vec<_> = wanted.iter().filter(|family| !families.contains(family)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("nobody has asked {missing:?}").into()) }
}

fn is_same(one: &str, other: &str) -> bool {
    one == other || fs::canonicalize(one).ok() == fs::canonicalize(other).ok()
}

fn only_the_driver_is_missed(at: &Installation) -> Result<(), Failed> {
    if Path::new("/proc/driver/nvidia").exists() {
        return Ok(());
    }
    let report = report(at);
    let errors: Vec<String> = findings(&report).into_iter().filter(|f| f.starts_with("error ")).collect();
    let broken = broken(&report);
    if errors == ["error drv-absent"] && broken.contains("gpu") && !broken.contains("import:torch") {
        return Ok(());
    }
    Err(format!("found {errors:?}, broken {broken:?}").into())
}

fn broken(report: &Value) -> BTreeSet<String> {
    let all = report["capabilities"].as_array().unwrap().iter();
    all.filter(|c| c["status"] == "broken").map(|c| c["id"].as_str().unwrap().to_owned()).collect()
}

fn breaks(at: &Installation, library: &Path, part: &str, id: &str) -> Result<(), Failed> {
    // Out of the directory: a file of another name beside it would tell where it has gone.
    let dir = tempfile::tempdir_in(&at.dir).unwrap();
    let (path, aside) = (at.site_packages().join(library), dir.path().join("taken"));
    fs::rename(&path, &aside).unwrap();
    let _change = Change { back: vec![(aside, path)], added: Vec::new() };
    let report = report(at);
    let all = report["capabilities"].as_array().unwrap();
    let capability = all.iter().find(|c| c["id"] == part).unwrap();
    // Releases that open the part while they are imported fail there already.
    let names_it = capability["blockers"].as_array().unwrap().iter().any(|b| b == id);
    if capability["status"] == "broken" && (names_it || broken(&report).contains("import:torch")) {
        return Ok(());
    }
    Err(format!("{capability}").into())
}

/// The text between the quotes of the constant.
fn kernel() -> String {
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("probes/src/ask/compute.rs")).unwrap();
    let (_, rest) = source.split_once("const KERNEL: &CStr = c\"").unwrap();
    rest.split_once("\";").unwrap().0.to_owned()
}

/// For the oldest architecture that this ptxas knows and for the newest that every one knows.
fn ptxas_takes_the_kernel(at: &Installation) -> Result<(), Failed> {
    let ptxas = at.site_packages().join("triton/backends/nvidia/bin/ptxas");
    let dir = tempfile::tempdir().unwrap();
    let (source, object): (PathBuf, PathBuf) = (dir.path().join("kernel.ptx"), dir.path().join("kernel.cubin"));
    fs::write(&source, kernel()).unwrap();
    for target in ["sm_75", "sm_90"] {
        must(Command::new(&ptxas).arg("--gpu-name").arg(target).arg(&source).arg("-o").arg(&object));
        let made = fs::read(&object).unwrap();
        if !made.starts_with(b"\x7fELF") {
            return Err(format!("{target}: no object file").into());
        }
    }
    Ok(())
}
