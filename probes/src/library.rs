//! CUDA libraries that can be asked what they are, and tried, without a GPU.

use serde::{Deserialize, Serialize};

use crate::CallError;

/// A family of libraries: a child process asks one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "they are called what NVIDIA calls them")]
pub enum Family {
    Cudart,
    Nvrtc,
    NvJitLink,
    Cublas,
    CublasLt,
    Cudnn,
    Cufft,
    Curand,
    Cusparse,
    CusparseLt,
    Cusolver,
    Nccl,
    NvJpeg,
    Cupti,
    Cufile,
    Nvshmem,
}

impl Family {
    /// All of them, in the order in which they are tried.
    pub const ALL: &[Family] = &[
        Self::Cudart,
        Self::Nvrtc,
        Self::NvJitLink,
        Self::Cublas,
        Self::CublasLt,
        Self::Cudnn,
        Self::Cufft,
        Self::Curand,
        Self::Cusparse,
        Self::CusparseLt,
        Self::Cusolver,
        Self::Nccl,
        Self::NvJpeg,
        Self::Cupti,
        Self::Cufile,
        Self::Nvshmem,
    ];

    /// The name of the library, without `lib` and version.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cudart => "cudart",
            Self::Nvrtc => "nvrtc",
            Self::NvJitLink => "nvJitLink",
            Self::Cublas => "cublas",
            Self::CublasLt => "cublasLt",
            Self::Cudnn => "cudnn",
            Self::Cufft => "cufft",
            Self::Curand => "curand",
            Self::Cusparse => "cusparse",
            Self::CusparseLt => "cusparseLt",
            Self::Cusolver => "cusolver",
            Self::Nccl => "nccl",
            Self::NvJpeg => "nvjpeg",
            Self::Cupti => "cupti",
            Self::Cufile => "cufile",
            Self::Nvshmem => "nvshmem_host",
        }
    }

    /// The opposite.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|f| f.name() == name)
    }

    /// The family that a SONAME belongs to: `libcublas.so.12`.
    #[must_use]
    pub fn of_soname(soname: &str) -> Option<Self> {
        Self::from_name(soname.strip_prefix("lib")?.split_once(".so")?.0)
    }
}

/// What a library says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Its release, as it tells it.
    pub version: String,
    /// Architectures that NVRTC compiles for, such as 90, and what came of compiling a kernel for each.
    pub compiled: Vec<(u32, Option<CallError>)>,
}
