//! Libraries that are there but do not fit together: a version or a symbol that the one wants and the other lacks.

use super::package::{self, Packages};
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
            Some(of_version(failed, facts, object, version, from, requires))
        }
        LoadError::Undefined { object, symbol, version, file, .. } => {
            Some(of_symbol(failed, facts, object, symbol, version.as_deref(), file.as_deref()))
        }
        _ => None,
    }
}

fn of_version(failed: &Failed<'_>, facts: &Facts, object: &str, version: &str, from: &str, requires: &str) -> Finding {
    let release = facts.image.loader.as_ref().and_then(|l| l.release.clone());
    let by = file_name(object);
    let (id, message, fix) = if let Some(number) = version.strip_prefix("GLIBC_") {
        let have = release.map_or_else(String::new, |r| format!(", and this image has {r}"));
        (
            "lib-glibc",
            format!("{by} is built for glibc {number}{have}"),
            Fix::dockerfile(
                "use a base image with a glibc at least as new, or a wheel built for an older one (manylinux)",
                format!("FROM {}", base_with_glibc(number)),
            ),
        )
    } else if version.starts_with("GLIBCXX_") || version.starts_with("CXXABI_") {
        let packages = Packages { apt: "libstdc++6", apk: "libstdc++", dnf: "libstdc++" };
        (
            "lib-glibcxx",
            format!("{by} needs {version}, and the libstdc++ that is loaded is older"),
            Fix::dockerfile(
                "let the newer libstdc++ win: install it, and take older copies off LD_LIBRARY_PATH",
                package::install(facts, packages),
            ),
        )
    } else {
        (
            id_of_library(requires).unwrap_or("lib-version"),
            format!("{by} wants {version} of {requires}, and the copy that is loaded lacks it"),
            take_off_path(facts, [from, object]),
        )
    };
    let via = failed.loaded(|soname| soname == requires).map(|l| l.via);
    finding(id, from, message)
        .proof("wanted by", object, Some(format!("Verneed {requires}")))
        .proof("version", version, None)
        .proof("loaded", from, via)
        .cure(fix)
}

/// What is known of the symbols of one library.
struct Family {
    /// How they begin.
    prefixes: &'static [&'static str],
    /// The library, without its version.
    library: &'static str,
    id: &'static str,
    name: &'static str,
}

const FAMILIES: &[Family] = &[
    Family {
        prefixes: &["__nvJitLink", "nvJitLink"],
        library: "libnvJitLink.so",
        id: "lib-nvjitlink",
        name: "nvJitLink",
    },
    Family { prefixes: &["cublasLt"], library: "libcublasLt.so", id: "lib-cublaslt", name: "cublasLt" },
    Family { prefixes: &["nccl", "pnccl"], library: "libnccl.so", id: "lib-nccl-mix", name: "NCCL" },
    Family { prefixes: &["cudnn"], library: "libcudnn", id: "lib-cudnn-mix", name: "cuDNN" },
];

fn of_symbol(
    failed: &Failed<'_>,
    facts: &Facts,
    object: &str,
    symbol: &str,
    version: Option<&str>,
    file: Option<&str>,
) -> Finding {
    let by = file_name(object);
    let family = FAMILIES.iter().find(|f| {
        f.prefixes.iter().any(|p| symbol.starts_with(p)) || file.is_some_and(|file| file.starts_with(f.library))
    });
    let provider = match (file, family) {
        (Some(file), _) => failed.loaded(|soname| soname == file),
        (None, Some(family)) => failed.loaded(|soname| soname.starts_with(family.library)),
        (None, None) => None,
    };
    let there = provider.as_ref().map_or("", |p| p.path.as_str());
    let (id, message, fix) = if let Some(family) = family {
        let id = match family.id {
            "lib-cublaslt" if by.contains("transformer_engine") => "lib-te-cublas",
            id => id,
        };
        let fix = if id == "lib-nccl-mix" { one_nccl() } else { take_off_path(facts, [there, object]) };
        (id, format!("{by} wants {symbol}, and the {} that is loaded is another release", family.name), fix)
    } else if is_of_torch(symbol) && !object.contains("/torch/") {
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
    let shown = version.map_or_else(|| symbol.to_owned(), |v| format!("{symbol}, version {v}"));
    let mut found = finding(id, if there.is_empty() { object } else { there }, message)
        .proof("wanted by", object, None)
        .proof("symbol", shown, None);
    if let Some(provider) = provider {
        found = found.proof("loaded", provider.path, Some(provider.via));
    }
    found.cure(fix)
}

/// Mangled names of functions and classes in the namespaces of PyTorch.
fn is_of_torch(symbol: &str) -> bool {
    ["N3c10", "NK3c10", "N2at", "NK2at", "N5torch", "NK5torch"].iter().any(|n| symbol.contains(n))
}

fn id_of_library(name: &str) -> Option<&'static str> {
    FAMILIES.iter().find(|f| name.starts_with(f.library)).map(|f| f.id)
}

/// The line that leaves one NCCL.
pub(super) fn one_nccl() -> Fix {
    Fix::dockerfile(
        "keep one NCCL: the one that torch pins",
        "RUN pip uninstall -y nvidia-nccl-cu11 && pip install --force-reinstall --no-deps nvidia-nccl-cu12",
    )
}

/// The line that lets the libraries that belong together find each other: without the directories of `paths` on
/// `LD_LIBRARY_PATH`.
fn take_off_path(facts: &Facts, paths: [&str; 2]) -> Fix {
    let dirs = paths.map(|path| path.rsplit_once('/').map_or("", |(d, _)| d));
    let set = facts.image.env.iter().find(|(name, _)| name == "LD_LIBRARY_PATH").map(|(_, value)| value.as_str());
    let listed: Vec<&str> = set.unwrap_or("").split([':', ';']).filter(|d| !d.is_empty()).collect();
    let rest: Vec<&str> = listed.iter().filter(|d| !dirs.contains(&d.trim_end_matches('/'))).copied().collect();
    if rest.len() < listed.len() {
        return Fix::dockerfile(
            "take the directory off LD_LIBRARY_PATH: the wheels find their own libraries",
            format!("ENV LD_LIBRARY_PATH={}", rest.join(":")),
        );
    }
    Fix::words(format!("let the copy that belongs to it win, and remove the one in {}", dirs[0]))
}

/// A base image that is known to have a glibc of at least this release.
fn base_with_glibc(release: &str) -> &'static str {
    let minor: u32 = release.strip_prefix("2.").and_then(|m| m.split('.').next()?.parse().ok()).unwrap_or(0);
    match minor {
        ..=31 => "debian:bullseye-slim",
        32..=36 => "debian:bookworm-slim",
        37..=39 => "ubuntu:24.04",
        _ => "debian:trixie-slim",
    }
}
