//! Imports of real packages that find or load their modules in a way of their own, whole and with one library taken away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use super::{must, shared_objects};

/// What is installed, and the package whose libraries are taken away in turn.
const PACKAGES: [(&str, &str); 6] = [
    // Takes itself out of `sys.modules` and imports itself again.
    ("opencv-python-headless==5.0.0.93", "cv2"),
    // A function that returns early; SWIG's wrapper.
    ("faiss-cpu==1.15.1", "faiss"),
    // Modules of Cython that import one another.
    ("asyncpg==0.32.0", "asyncpg"),
    // Its `_vendor` is put into `sys.path`.
    ("setuptools==80.9.0", "setuptools"),
    // `try: set` with `except NameError`.
    ("pytz==2026.6", "pytz"),
    // `import __main__`
    ("dill==0.4.1", "dill"),
];

fn run(requirement: &str, module: &str) -> Result<(), Failed> {
    let temporary = tempfile::tempdir().unwrap();
    let venv = temporary.path().join("venv");
    must(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    let python = venv.join("bin/python");
    must(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--no-cache-dir", requirement]));
    assert!(compare(&python, module)?, "{requirement} cannot be imported");
    let lib = fs::read_dir(venv.join("lib")).unwrap().next().unwrap().unwrap().path();
    let package = lib.join("site-packages").join(module);
    let libraries: Vec<PathBuf> = shared_objects(&package).into_iter().map(|l| package.join(l)).collect();
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
    let trial = |(requirement, module): &'static (&str, &str)| {
        Trial::test(format!("import of {requirement}"), || run(requirement, module))
    };
    packages.map(trial).collect()
}
