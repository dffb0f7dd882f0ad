//! Libraries that are there but do not fit together: a version or a symbol that the one wants and the other lacks.

use super::{Check, Failed, Rule, file_name, finding};
use crate::facts::Facts;
use crate::finding::{Finding, Fix};
use crate::loader::LoadError;

/// The check.
pub static CHECK: Check = Check {
    ids: &[
        "lib-cublaslt",
        "lib-cudnn-mix",
        "lib-flash-abi",
        "lib-glibc",
        "lib-glibcxx",
        "lib-nccl-mix",
        "lib-nvjitlink",
        "lib-symbol",
        "lib-te-cublas",
        "lib-version",
    ],
    rule: Rule::Explain(explain),
};

fn explain(failed: &Failed<'_>, facts: &Facts) -> Option<Finding> {
    match failed.load()? {
        LoadError::Version { object, version, from, requires } => {
            Some(of_version(facts, object, version, from, requires))
        }
        LoadError::Undefined { object, symbol, version, file, .. } => {
            Some(of_symbol(failed, facts, object, symbol, version.as_deref(), file.as_deref()))
        }
        _ => None,
    }
}

fn of_version(facts: &Facts, object: &str, version: &str, from: &str, requires: &str) -> Finding {
    let release = facts.image.loader.as_ref().and_then(|l| l.release.clone());
    let (id, message, fix) = if version.starts_with("GLIBC_") {
        let have = release.map_or_else(String::new, |r| format!(", and this image has {r}"));
        (
            "lib-glibc",
            format!("{} is built for glibc {}{have}", file_name(object), version.trim_start_matches("GLIBC_")),
            Fix::dockerfile(
                "use a base image with a glibc at least as new, or a wheel built for an older one (manylinux)",
                format!("FROM {}", base_with_glibc(version)),
            ),
        )
    } else if version.starts_with("GLIBCXX_") || version.starts_with("CXXABI_") {
        (
            "lib-glibcxx",
            format!("{} needs {version}, and the libstdc++ that is loaded is older", file_name(object)),
            Fix::dockerfile(
                "let the newer libstdc++ win: install it, and take older copies off LD_LIBRARY_PATH",
                "RUN apt-get update && apt-get install -y --no-install-recommends libstdc++6",
            ),
        )
    } else {
        (
            id_of_library(requires).unwrap_or("lib-version"),
            format!("{} wants {version} of {requires}, and the copy that is loaded lacks it", file_name(object)),
            take_off_path(facts, from),
        )
    };
    finding(id, from, message)
        .proof("wanted by", object, Some(format!("Verneed {requires}")))
        .proof("version", version, None)
        .proof("loaded", from, Some(how_found(facts, from)))
        .cure(fix)
}

fn of_symbol(
    failed: &Failed<'_>,
    facts: &Facts,
    object: &str,
    symbol: &str,
    version: Option<&str>,
    file: Option<&str>,
) -> Finding {
    let by = file_name(object);
    let is_torch_symbol = ["_ZN3c10", "_ZNK3c10", "_ZN2at", "_ZNK2at", "_ZN5torch", "_ZNK5torch", "_ZN8torch"]
        .iter()
        .any(|p| symbol.starts_with(p))
        || symbol.contains("N3c10")
        || symbol.contains("N2at");
    let library = version.filter(|v| v.starts_with("lib")).or(file);
    let provider = library.and_then(|l| failed.subject.mapped.iter().find(|m| m.soname == l));
    let (id, message, fix) = if symbol.starts_with("__nvJitLink") || symbol.starts_with("nvJitLink") {
        (
            "lib-nvjitlink",
            format!("{by} wants {symbol}, and the libnvJitLink that is loaded is older"),
            take_off_path(facts, provider.map_or("", |p| p.path.as_str())),
        )
    } else if symbol.starts_with("cublasLt") {
        let id = if by.contains("transformer_engine") { "lib-te-cublas" } else { "lib-cublaslt" };
        (
            id,
            format!("{by} wants {symbol}, and the libcublasLt that is loaded is older"),
            take_off_path(facts, provider.map_or("", |p| p.path.as_str())),
        )
    } else if symbol.starts_with("nccl") || symbol.starts_with("pnccl") {
        (
            "lib-nccl-mix",
            format!("{by} wants {symbol}, and the NCCL that is loaded lacks it"),
            Fix::dockerfile(
                "keep one NCCL: the one that torch pins",
                "RUN pip uninstall -y nvidia-nccl-cu11 && pip install --force-reinstall --no-deps nvidia-nccl-cu12",
            ),
        )
    } else if symbol.contains("cudnn") {
        (
            "lib-cudnn-mix",
            format!("{by} wants {symbol}, and the cuDNN that is loaded is another release"),
            take_off_path(facts, provider.map_or("", |p| p.path.as_str())),
        )
    } else if is_torch_symbol && !object.contains("/torch/") {
        let abi = if symbol.contains("cxx11") {
            ", built with the C++11 string ABI"
        } else if symbol.contains("Ss") {
            ", built with the old string ABI"
        } else {
            ""
        };
        (
            "lib-flash-abi",
            format!("{by} was built for another torch{abi}"),
            Fix::dockerfile(
                "install the wheel of the extension that names this torch, CUDA and C++ ABI, or build it here",
                "RUN pip install --no-build-isolation --no-binary :all: <extension>",
            ),
        )
    } else {
        (
            "lib-symbol",
            format!("{by} refers to {symbol}, which no loaded library defines"),
            Fix::words("install releases of the two that belong together, and keep one copy of each"),
        )
    };
    let subject = provider.map_or(object, |p| p.path.as_str());
    let mut found = finding(id, subject, message).proof("wanted by", object, None).proof(
        "symbol",
        match version {
            Some(v) => format!("{symbol}, version {v}"),
            None => symbol.to_owned(),
        },
        None,
    );
    if let Some(provider) = provider {
        found = found.proof("loaded", &provider.path, Some(provider.via.clone()));
    }
    found.cure(fix)
}

fn id_of_library(name: &str) -> Option<&'static str> {
    match name.split(".so").next()? {
        "libnvJitLink" => Some("lib-nvjitlink"),
        "libcublasLt" | "libcublas" => Some("lib-cublaslt"),
        "libnccl" => Some("lib-nccl-mix"),
        stem if stem.starts_with("libcudnn") => Some("lib-cudnn-mix"),
        _ => None,
    }
}

fn how_found(facts: &Facts, path: &str) -> String {
    let mapped = facts.subjects.iter().flat_map(|s| &s.mapped).find(|m| m.path == path);
    mapped.map_or_else(|| "search".to_owned(), |m| m.via.clone())
}

fn take_off_path(facts: &Facts, path: &str) -> Fix {
    let dir = path.rsplit_once('/').map_or("", |(d, _)| d);
    match facts.image.env.iter().find(|(name, _)| name == "LD_LIBRARY_PATH") {
        Some((_, value)) => {
            let rest: Vec<&str> =
                value.split([':', ';']).filter(|d| d.trim_end_matches('/') != dir && !d.is_empty()).collect();
            Fix::dockerfile(
                "take the directory off LD_LIBRARY_PATH: the wheels find their own libraries",
                format!("ENV LD_LIBRARY_PATH={}", rest.join(":")),
            )
        }
        None => Fix::words(format!("let the copy that belongs to it win, and remove the one in {dir}")),
    }
}

/// A base image that is known to have a glibc of at least `version`.
fn base_with_glibc(version: &str) -> &'static str {
    let minor: u32 = version.trim_start_matches("GLIBC_2.").split('.').next().and_then(|m| m.parse().ok()).unwrap_or(0);
    match minor {
        ..=31 => "debian:bullseye-slim",
        32..=36 => "debian:bookworm-slim",
        37..=39 => "ubuntu:24.04",
        _ => "debian:trixie-slim",
    }
}
