//! Packages that compile CUDA code when they are first used, without a compiler for it; and installed twice over.

use super::pages::Severity;
use super::place::variable;
use super::{Check, Rule, Surveyed, finding};
use crate::facts::{Distribution, Facts, Observed};
use crate::finding::{Finding, Fix};

/// Packages that want nvcc.
pub static COMPILERS: Check =
    Check { ids: &["jit-cudahome-bad", "jit-deepspeed", "jit-flashinfer"], rule: Rule::Survey(compilers) };
/// Distributions that bring the same package.
pub static SEVERAL: Check = Check { ids: &["plt-cupy-multi", "plt-ort-multi"], rule: Rule::Survey(several) };

fn compilers(facts: &Facts) -> Surveyed {
    Surveyed::found([cuda_home(facts), deepspeed(facts), flashinfer(facts)].into_iter().flatten().collect())
}

/// A distribution that is used, as far as that is known.
fn used<'f>(facts: &'f Facts, name: &str) -> Option<&'f Distribution> {
    let required = facts.python.as_ref()?.seen()?.required.as_ref();
    installed(facts, name).filter(|_| required.is_none_or(|all| all.iter().any(|r| r == name)))
}

fn installed<'f>(facts: &'f Facts, name: &str) -> Option<&'f Distribution> {
    facts.python.as_ref()?.seen()?.distributions.iter().find(|d| d.name == name)
}

/// A variable that names one directory.
fn cuda_home(facts: &Facts) -> Option<Finding> {
    let toolkit = &facts.image.surroundings.toolkit;
    let (name, value) = ["CUDA_HOME", "CUDA_PATH"].into_iter().find_map(|name| Some((name, variable(facts, name)?)))?;
    let is_list = value.contains(':');
    if value.is_empty() || (!is_list && toolkit.exists) {
        return None;
    }
    let message =
        if is_list { "is a list, where one directory is expected" } else { "names a directory that is not there" };
    let mut found = finding("jit-cudahome-bad", name, format!("{name} {message}"))
        .sees(format!("/bin/sh: 1: {value}/bin/nvcc: not found"))
        .proof(name, value, Some("environment".into()))
        .cure(Fix::dockerfile("name the one directory, or remove the variable", format!("ENV {name}=/usr/local/cuda")));
    if !is_list {
        found.severity = Severity::Note;
    }
    Some(found)
}

/// DeepSpeed asks nvcc for its version when it looks which of its operators can be built.
fn deepspeed(facts: &Facts) -> Option<Finding> {
    let deepspeed = used(facts, "deepspeed")?;
    let toolkit = &facts.image.surroundings.toolkit;
    if toolkit.nvcc.is_some() || toolkit.deepspeed_prebuilt {
        return None;
    }
    let sees = match &toolkit.home {
        Some(home) => format!("FileNotFoundError: [Errno 2] No such file or directory: '{home}/bin/nvcc'"),
        None => "MissingCUDAException: CUDA_HOME does not exist, unable to compile CUDA op(s)".to_owned(),
    };
    Some(
        finding("jit-deepspeed", "deepspeed", "DeepSpeed builds its operators with nvcc, which is not there")
            .sees(sees)
            .proof("deepspeed", &deepspeed.version, Some(deepspeed.location.clone()))
            .proof("CUDA_HOME", toolkit.home.as_deref().unwrap_or("none"), Some(toolkit.home_by.clone()))
            .proof("operators built at installation", "none", None)
            .cure(Fix::dockerfile(
                "build them where the compiler is, and copy what was installed",
                format!("RUN DS_BUILD_OPS=1 pip install --no-build-isolation deepspeed=={}", deepspeed.version),
            )),
    )
}

fn flashinfer(facts: &Facts) -> Option<Finding> {
    let flashinfer = used(facts, "flashinfer-python")?;
    let toolkit = &facts.image.surroundings.toolkit;
    // Of another release both are ignored; the built kernels carry the release of CUDA behind a plus.
    let fits = |name: &str| {
        installed(facts, name).is_some_and(|d| d.version.split('+').next() == flashinfer.version.split('+').next())
    };
    let companions = fits("flashinfer-cubin") && fits("flashinfer-jit-cache");
    let compiles = toolkit.nvcc.is_some() && toolkit.ninja.is_some();
    if companions || compiles {
        return None;
    }
    let sees = match (&toolkit.nvcc, &toolkit.home) {
        (Some(_), _) => "FileNotFoundError: [Errno 2] No such file or directory: 'ninja'".to_owned(),
        (None, Some(home)) => format!("/bin/sh: 1: {home}/bin/nvcc: not found"),
        (None, None) => {
            "RuntimeError: Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't exist".to_owned()
        }
    };
    let shown = |name: &str| installed(facts, name).map_or("not installed", |d| d.version.as_str()).to_owned();
    let version = &flashinfer.version;
    Some(
        finding(
            "jit-flashinfer",
            "flashinfer-python",
            "FlashInfer compiles its kernels, and has nothing to do it with",
        )
        .sees(sees)
        .proof("flashinfer-python", version, Some(flashinfer.location.clone()))
        .proof("flashinfer-cubin", shown("flashinfer-cubin"), None)
        .proof("flashinfer-jit-cache", shown("flashinfer-jit-cache"), None)
        .proof("nvcc", toolkit.nvcc.as_deref().unwrap_or("not found"), None)
        .proof("ninja", toolkit.ninja.as_deref().unwrap_or("not found"), None)
        .cure(Fix::dockerfile(
            "install both companions of the same release",
            format!("RUN pip install flashinfer-cubin=={version} flashinfer-jit-cache=={version}"),
        )),
    )
}

/// Finding id, the directory that all of them fill, the distribution to keep, beginnings of the others' names.
const SAME_PACKAGE: &[(&str, &str, &str, &[&str])] = &[
    ("plt-cupy-multi", "cupy", "cupy-cuda12x", &["cupy", "cupy-cuda", "cupy-rocm"]),
    ("plt-ort-multi", "onnxruntime", "onnxruntime-gpu", &["onnxruntime", "onnxruntime-"]),
];
/// Distributions with such a name that bring another package.
const OTHER_PACKAGE: &[&str] =
    &["onnxruntime-extensions", "onnxruntime-genai", "onnxruntime-genai-cuda", "onnxruntime-tools"];

fn several(facts: &Facts) -> Surveyed {
    let Some(python) = facts.python.as_ref().and_then(Observed::seen) else {
        return Surveyed::not_applicable("no Python");
    };
    let found = SAME_PACKAGE.iter().filter_map(|(id, package, keep, names)| {
        let is_one = |d: &&Distribution| {
            let (whole, begun) = names.split_first().map_or(("", &[][..]), |(whole, begun)| (*whole, begun));
            let is_named = d.name == whole || begun.iter().any(|b| d.name.starts_with(b));
            is_named && !OTHER_PACKAGE.contains(&d.name.as_str())
        };
        let all: Vec<&Distribution> = python.distributions.iter().filter(is_one).collect();
        let place = &all.first()?.location;
        if all.len() < 2 || all.iter().any(|d| d.location != *place) {
            return None;
        }
        let mut found = finding(id, *package, format!("{} distributions have written into {package}/", all.len()));
        for one in &all {
            found = found.proof(&one.name, &one.version, Some(one.location.clone()));
        }
        let others: Vec<&str> = all.iter().map(|d| d.name.as_str()).collect();
        Some(found.cure(Fix::dockerfile(
            "remove all, since removing one takes files of the others along, and install one",
            format!("RUN pip uninstall -y {} && pip install {keep}", others.join(" ")),
        )))
    });
    Surveyed::found(found.collect())
}
