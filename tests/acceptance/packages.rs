//! Imports of real packages that find or load their modules in a way of their own, whole and with one library taken away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use super::{must, shared_objects};

/// What is installed, what is imported, and the directories whose libraries are taken away in turn.
const PACKAGES: [(&str, &str, &[&str]); 13] = [
    // Takes itself out of `sys.modules` and imports itself again.
    ("opencv-python-headless==5.0.0.93", "cv2", &["cv2"]),
    // A function that returns early; SWIG's wrapper.
    ("faiss-cpu==1.15.1", "faiss", &["faiss"]),
    // Modules of Cython that import one another.
    ("asyncpg==0.32.0", "asyncpg", &["asyncpg"]),
    // Its `_vendor` is put into `sys.path`.
    ("setuptools==80.9.0", "setuptools", &["setuptools"]),
    // `try: set` with `except NameError`.
    ("pytz==2026.6", "pytz", &["pytz"]),
    // `import __main__`
    ("dill==0.4.1", "dill", &["dill"]),
    // What they open with ctypes.
    ("lightgbm==4.7.0", "lightgbm", &["lightgbm"]),
    ("llvmlite==0.44.0", "llvmlite.binding", &["llvmlite"]),
    ("soundfile==0.14.0", "soundfile", &["_soundfile_data"]),
    ("decord==0.6.0", "decord", &["decord"]),
    ("apache-tvm-ffi==0.1.15.post2", "tvm_ffi", &["tvm_ffi/lib"]),
    // What it opens for all processes, and what one package of RAPIDS opens for another.
    ("usearch==2.26.6", "usearch", &["usearch", "numkong"]),
    ("rmm-cu12==26.2.0", "rmm", &["librmm", "rapids_logger"]),
];

fn run(requirement: &str, module: &str, directories: &[&str]) -> Result<(), Failed> {
    let temporary = tempfile::tempdir().unwrap();
    let venv = temporary.path().join("venv");
    must(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    let python = venv.join("bin/python");
    must(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--no-cache-dir", requirement]));
    assert!(compare(&python, module)?, "{requirement} cannot be imported");
    let lib = fs::read_dir(venv.join("lib")).unwrap().next().unwrap().unwrap().path();
    let directories = directories.iter().map(|dir| lib.join("site-packages").join(dir));
    let below = |dir: PathBuf| shared_objects(&dir).into_iter().map(move |l| dir.join(l));
    let libraries: Vec<PathBuf> = directories.flat_map(below).collect();
    for library in &libraries {
        let aside = temporary.path().join("aside");
        fs::rename(library, &aside).unwrap();
        let outcome = compare(&python, module);
        fs::rename(&aside, library).unwrap();
        outcome.map_err(|e| format!("without {}: {e:?}", library.display()))?;
    }
    println!("{} libraries", libraries.len());
    Ok(())
}

/// Whether the import works, which must be what is predicted.
fn compare(python: &Path, module: &str) -> Result<bool, Failed> {
    let real = Command::new(python).args(["-c", &format!("import {module}")]).current_dir("/").output().unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_mldoctor"));
    check.args(["check", "--image", "--format", "json", "--python"]).arg(python).arg(module).current_dir("/");
    let report: Value = serde_json::from_slice(&check.output().unwrap().stdout).map_err(|e| e.to_string())?;
    let id = format!("import:{module}");
    let import = report["capabilities"].as_array().unwrap().iter().find(|c| c["id"] == *id).unwrap();
    let expected = if real.status.success() { "ok" } else { "broken" };
    if import["status"] != expected {
        return Err(format!("{}, and {import}\n{:#}", String::from_utf8_lossy(&real.stderr), report["findings"]).into());
    }
    Ok(real.status.success())
}

/// One for each package; they are fetched from PyPI.
pub fn trials(may_install: bool) -> Vec<Trial> {
    let packages = PACKAGES.iter().filter(|_| may_install);
    let trial = |(requirement, module, directories): &'static (&str, &str, &[&str])| {
        Trial::test(format!("import of {requirement}"), || run(requirement, module, directories))
    };
    packages.map(trial).collect()
}
