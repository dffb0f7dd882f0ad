//! Which variables of the workload's environment are told.

use crate::loader::Environment;

/// Variables that bear on loading, on the driver, or on what CUDA does.
const SHOWN: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "VIRTUAL_ENV",
    "CC",
    "CXX",
    "OMP_NUM_THREADS",
    "COMPUTE_PROFILE",
    "XDG_CACHE_HOME",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "LOGNAME",
    "FLASHINFER_WORKSPACE_BASE",
    "VLLM_CACHE_ROOT",
];
/// Beginnings of such variables.
const SHOWN_PREFIXES: &[&str] = &[
    "LD_",
    "PYTHON",
    "CONDA_PREFIX",
    "CUDA_",
    "NVIDIA_",
    "NSIGHT_",
    "NCCL_",
    "NVSHMEM_",
    "TORCH",
    "PYTORCH_",
    "TRITON_",
    "BNB_",
    "CUDNN_",
    "CUBLAS_",
    "CUPY_",
    "NUMBA_",
    "XLA_",
    "TF_",
    "GLIBC_TUNABLES",
];
/// Parts of names whose values nobody else is to read.
const SECRETS: &[&str] = &["TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "API_KEY", "APIKEY", "PRIVATE_KEY"];

/// Whether a variable of this name holds what nobody else is to read.
pub fn is_secret(name: &str) -> bool {
    SECRETS.iter().any(|part| name.contains(part))
}

/// The variables that are shown, none of them a secret.
pub fn shown_environment(env: &Environment) -> Vec<(String, String)> {
    let is_shown = |name: &str| {
        !is_secret(name) && (SHOWN.contains(&name) || SHOWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
    };
    env.iter()
        .filter(|(name, _)| name.to_str().is_some_and(is_shown))
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect()
}
