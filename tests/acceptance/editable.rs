//! Editable installations as the build back ends of today make them, with their source and without it.

use std::fs;
use std::path::Path;
use std::process::Command;

use libtest_mimic::{Failed, Trial};

use super::{agree, must};

/// A back end, what it needs in the environment, and its part of `pyproject.toml`.
const BACKENDS: [(&str, &str, &str); 6] = [
    ("setuptools", "setuptools.build_meta", "[tool.setuptools]\npackages = ['app', 'app_data']"),
    ("hatchling editables", "hatchling.build", "[tool.hatch.build.targets.wheel]\npackages = ['app', 'app_data']"),
    (
        "pdm-backend editables",
        "pdm.backend",
        "[tool.pdm.build]\nincludes = ['app', 'app_data']\neditable-backend = 'editables'",
    ),
    (
        "poetry-core",
        "poetry.core.masonry.api",
        "[tool.poetry]\npackages = [{ include = 'app' }, { include = 'app_data' }]",
    ),
    (
        "scikit-build-core cmake ninja",
        "scikit_build_core.build",
        "[tool.scikit-build]\nwheel.packages = ['app', 'app_data']\nwheel.cmake = false",
    ),
    ("flit-core", "flit_core.buildapi", ""),
];

fn run(needs: &str, backend: &str, table: &str) -> Result<(), Failed> {
    let dir = tempfile::tempdir().unwrap();
    let (venv, project) = (dir.path().join("venv"), dir.path().join("project"));
    must(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    let python = venv.join("bin/python");
    let pip = |arguments: &[&str]| {
        let mut pip = Command::new(&python);
        must(pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(arguments));
    };
    pip(&["--upgrade", "pip"]);
    pip(&["--upgrade"].into_iter().chain(needs.split(' ')).collect::<Vec<_>>());
    for (file, text) in [
        ("app/__init__.py", "'''An application.'''\n__version__ = '1'\nfrom .part import data\n"),
        ("app/part.py", if backend.starts_with("flit") { "data = 1\n" } else { "import app_data as data\n" }),
        ("app_data/__init__.py", ""),
    ] {
        let path = project.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let head = format!("[build-system]\nrequires = []\nbuild-backend = '{backend}'\n");
    let about = "[project]\nname = 'app'\nversion = '1'\ndescription = 'An application.'\n";
    fs::write(project.join("pyproject.toml"), format!("{head}{about}{table}\n")).unwrap();
    pip(&["--no-build-isolation", "--editable", project.to_str().unwrap()]);
    agrees(&python, true)?;
    fs::rename(&project, dir.path().join("elsewhere")).unwrap();
    agrees(&python, false)
}

/// What Python says and what is predicted.
fn agrees(python: &Path, expected: bool) -> Result<(), Failed> {
    let (imports, report) = agree(python, "app", &[])?;
    assert_eq!(imports, expected, "{:#}", report["findings"]);
    let verdict = if expected { "ready" } else { "not-ready" };
    if report["verdict"] != verdict {
        return Err(format!("{:#}", report["findings"]).into());
    }
    let findings = report["findings"].as_array().unwrap();
    let told = findings.iter().any(|f| f["id"] == "py-module-missing" && f.to_string().contains("does not exist"));
    assert_eq!(told, !expected, "{findings:#?}");
    Ok(())
}

/// One for each back end; they are fetched from PyPI.
pub fn trials(may_install: bool) -> Vec<Trial> {
    let backends = BACKENDS.iter().filter(|_| may_install);
    let trial = |(needs, backend, table): &'static (&str, &str, &str)| {
        Trial::test(format!("editable: {backend}"), || run(needs, backend, table))
    };
    backends.map(trial).collect()
}
