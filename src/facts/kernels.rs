//! The device code that is compiled into the files of a workload.

use serde::{Deserialize, Serialize};

use crate::driver::Cuda;
use crate::image::fatbin::Fatbin;

/// The device code of one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernels {
    /// The target, as in `kernels:<target>`.
    pub target: String,
    /// The distribution that brings it.
    pub distribution: Option<String>,
    /// Release of the CUDA runtime in its process, where that is known.
    pub cuda: Option<Cuda>,
    /// Files with device code.
    pub modules: Vec<Module>,
    /// Device code in other forms, which was not examined: what, and why.
    pub unexamined: Vec<(String, String)>,
}

/// A file with device code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Its path, links resolved.
    pub path: String,
    /// Whose it is.
    pub role: Role,
    /// Whether the process of the target maps it.
    pub mapped: bool,
    /// Its code.
    pub code: Fatbin,
}

/// Whose code a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// That of the target itself.
    Own,
    /// That of a framework which the target uses.
    Framework,
    /// Something else that the target loads.
    Other,
    /// One of NVIDIA's libraries, which choose their kernels themselves and keep many of them as data.
    Nvidia,
}
