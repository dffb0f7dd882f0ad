//! What an image stands on: distribution, CUDA and its flavour, conda, NVIDIA's framework images.

use std::path::Path;

use crate::facts::Facts;
use crate::facts::size::{Kind, Size};

/// What was recognised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Base {
    /// `ID` and `VERSION_ID` of os-release: `debian 12`.
    pub os: Option<String>,
    /// CUDA outside of Python packages.
    pub cuda: Option<Cuda>,
    /// Prefix of conda, with the bytes below it.
    pub conda: Option<(String, u64)>,
    /// One of NVIDIA's framework images.
    pub ngc: bool,
}

/// CUDA as a distribution or NVIDIA's images install it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cuda {
    /// Release, such as `12.4`, where a directory tells.
    pub release: Option<String>,
    /// As the tags of `nvidia/cuda` name it: `base`, `runtime`, `devel`.
    pub flavour: &'static str,
    /// Whether cuDNN is there too.
    pub cudnn: bool,
    /// Bytes.
    pub bytes: u64,
}

/// Recognises it.
pub fn of(facts: &Facts, size: &Size) -> Base {
    let tree = &size.tree;
    let os = facts.image.os.as_ref().map(|os| format!("{} {}", os.id, os.version).trim().to_owned());
    let totals = tree.totals();
    let conda = tree
        .dirs
        .iter()
        .filter(|d| d.path.ends_with("conda-meta") && d.path.parent().is_some_and(|p| !p.ends_with("pkgs")))
        .find_map(|d| Some((tree.dirs[d.parent].path.to_str()?.to_owned(), totals[d.parent])));
    Base { os, cuda: cuda(size), conda, ngc: size.ngc }
}

fn cuda(size: &Size) -> Option<Cuda> {
    let tree = &size.tree;
    let is_toolkit = |dir: &Path| dir.to_string_lossy().starts_with("/usr/local/cuda");
    let has =
        |start: &str| size.system_cuda.iter().any(|at| tree.files[*at].entry.name.to_string_lossy().starts_with(start));
    let has_nvcc = tree
        .files
        .iter()
        .zip(&size.kinds)
        .any(|(f, kind)| *kind == Kind::Program && f.entry.name == "nvcc" && is_toolkit(&tree.dirs[f.dir].path));
    let flavour = if has_nvcc {
        "devel"
    } else if has("libcublas.so") {
        "runtime"
    } else if has("libcudart.so") {
        "base"
    } else {
        return None;
    };
    let elsewhere = size.system_cuda.iter().filter(|at| !is_toolkit(&tree.dirs[tree.files[**at].dir].path));
    let toolkit = tree.files.iter().filter(|f| is_toolkit(&tree.dirs[f.dir].path));
    let bytes = toolkit.chain(elsewhere.map(|at| &tree.files[*at])).map(|f| f.bytes()).sum();
    Some(Cuda { release: size.cuda.clone(), flavour, cudnn: has("libcudnn"), bytes })
}
