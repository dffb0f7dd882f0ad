//! Imports of real packages that find or load their modules in a way of their own, whole and with one library taken away.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use super::{Change, Installation, agree, command, must, shared_objects, wheel};

/// What is installed, what is imported, and the directories whose libraries are taken away in turn.
const PACKAGES: [(&str, &str, &[&str]); 21] = [
    // Takes itself out of `sys.modules` and imports itself again.
    ("opencv-python-headless==5.0.0.93", "cv2", &["cv2"]),
    // A function that returns early; SWIG's wrapper.
    ("faiss-cpu==1.15.1", "faiss", &["faiss"]),
    // Modules of Cython that import one another.
    ("asyncpg==0.32.0", "asyncpg", &["asyncpg"]),
    // Modules of Cython that came with their sources.
    ("cytoolz==1.2.0", "cytoolz", &["cytoolz"]),
    // A star import of NumPy as a text; modules of Cython that import those of SciPy; a handler that calls what raises.
    ("scikit-learn==1.9.1", "sklearn", &["numpy/random", "scipy/_lib", "sklearn/__check_build"]),
    // What its classes ask NumPy for.
    ("pandas==3.1.1", "pandas", &["numpy/random"]),
    // Compiled code that imports NumPy, which no statement of Python does.
    ("pycocotools==2.0.11", "pycocotools.mask", &["numpy.libs"]),
    // The source of a lost module is imported in its place, and raises what no handler catches.
    ("requests==2.32.5", "requests", &["charset_normalizer"]),
    // A directory of stubs beside the extension module; what cffi made.
    ("cryptography==50.0.2", "cryptography.fernet", &["."]),
    // What computed names import, and what a variable decides.
    ("pyzmq==27.3.0", "zmq", &["zmq", "pyzmq.libs"]),
    ("zstandard==0.25.0", "zstandard", &["zstandard"]),
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
/// What is built for PyTorch 2.6.0 and loads its operators itself.
const BESIDE_TORCH: [(&str, &str, &str); 2] =
    [("torchvision==0.21.0", "torchvision", "torchvision"), ("torchaudio==2.6.0", "torchaudio", "torchaudio/lib")];

fn run(requirement: &str, module: &str, directories: &[&str]) -> Result<(), Failed> {
    let temporary = tempfile::tempdir().unwrap();
    let venv = temporary.path().join("venv");
    must(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    let python = venv.join("bin/python");
    must(Command::new(&python).args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-cache-dir",
        "--no-compile",
        requirement,
    ]));
    let lib = fs::read_dir(venv.join("lib")).unwrap().next().unwrap().unwrap().path().join("site-packages");
    take_away_each(&python, module, &[], directories.iter().map(|dir| lib.join(dir)))
}

/// Beside PyTorch, which they are built for.
fn run_with_torch(torch: &Installation, requirement: &str, module: &str, directory: &str) -> Result<(), Failed> {
    let dirs = [requirement, "pillow==11.3.0"].map(|requirement| wheel(requirement, true).unwrap());
    let path = dirs.each_ref().map(|dir| dir.to_str().unwrap()).join(":");
    take_away_each(&torch.python(), module, &[("PYTHONPATH", path)], [dirs[0].join(directory)])
}

/// Imports a module as it is, and without each library of some directories.
fn take_away_each(
    python: &Path,
    module: &str,
    env: &[(&str, String)],
    directories: impl IntoIterator<Item = PathBuf>,
) -> Result<(), Failed> {
    let (imports, report) = agree(python, module, env)?;
    assert!(imports, "{:#}", report["findings"]);
    loads_no_more(python, module, env)?;
    let below = |dir: PathBuf| shared_objects(&dir).into_iter().map(move |l| dir.join(l));
    let libraries: Vec<PathBuf> = directories.into_iter().flat_map(below).collect();
    for library in &libraries {
        let _change = Change::take_away(library.clone());
        agree(python, module, env).map_err(|e| format!("without {}: {e:?}", library.display()))?;
    }
    println!("{} libraries", libraries.len());
    Ok(())
}

/// The extension modules of packages that the import is said to load are loaded: one that is not would be a false alarm
/// once it is gone.
fn loads_no_more(python: &Path, module: &str, env: &[(&str, String)]) -> Result<(), Failed> {
    let maps = format!("import {module}; print(open('/proc/self/maps').read())");
    let maps = command(python, env).args(["-c", &maps]).output().unwrap().stdout;
    let mapped = std::str::from_utf8(&maps).unwrap().lines().filter_map(|line| line.split_once('/'));
    let loaded: BTreeSet<String> = mapped.map(|(_, path)| format!("/{path}")).collect();
    let mut mldoctor = command(env!("CARGO_BIN_EXE_mldoctor"), env);
    let facts = mldoctor.args(["facts", "--image", "--python"]).arg(python).arg(module).output().unwrap().stdout;
    let facts: Value = serde_json::from_slice(&facts).unwrap();
    let steps = facts["subjects"].as_array().unwrap().iter().flat_map(|s| s["steps"].as_array().unwrap());
    let imported =
        steps.filter(|s| s["how"] == "import" && s["weight"] == "required").filter_map(|s| s["file"].as_str());
    let not_loaded: Vec<&str> = imported.filter(|f| f.contains("-packages/") && !loaded.contains(*f)).collect();
    if not_loaded.is_empty() { Ok(()) } else { Err(format!("said to be loaded, and not: {not_loaded:#?}").into()) }
}

/// One for each package; they are fetched from PyPI.
pub fn trials(torch: &[Arc<Installation>], may_install: bool) -> Vec<Trial> {
    let alone = PACKAGES.iter().map(|(requirement, module, directories)| {
        Trial::test(format!("import of {requirement}"), || run(requirement, module, directories))
    });
    let built_for_it = torch.iter().filter(|at| at.release == "2.6.0");
    let beside = built_for_it.flat_map(|at| {
        BESIDE_TORCH.iter().map(|(requirement, module, directory)| {
            let at = Arc::clone(at);
            Trial::test(format!("import of {requirement}"), move || run_with_torch(&at, requirement, module, directory))
        })
    });
    alone.chain(beside).filter(|_| may_install).collect()
}
