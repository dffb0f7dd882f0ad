//! `cuda.pathfinder` of NVIDIA's cuda-python, by which CuPy (14 and later), numba-cuda and others find CUDA's libraries.
//!
//! The order of `load_nvidia_dynamic_lib` (`_dynamic_libs/load_nvidia_dynamic_lib.py`, `search_steps.py`): the wheels in
//! the interpreter's own site-packages, `CONDA_PREFIX`, the loader's search for the bare name, `CUDA_PATH` or
//! `CUDA_HOME`. The bare names are in the list, so a library that is loaded already comes before all of them.

/// Library, its names from the newest to the oldest, and its directories in the wheels of CUDA 13 and of CUDA 12
/// (`_dynamic_libs/descriptor_catalog.py`).
const LIBRARIES: &[(&str, &[&str], [&str; 2])] = &[
    ("cudart", &["libcudart.so.13", "libcudart.so.12"], ["cu13/lib", "cuda_runtime/lib"]),
    ("nvrtc", &["libnvrtc.so.13", "libnvrtc.so.12"], ["cu13/lib", "cuda_nvrtc/lib"]),
    ("nvvm", &["libnvvm.so.4", "libnvvm.so"], ["cu13/lib", "cuda_nvcc/nvvm/lib64"]),
    ("nvJitLink", &["libnvJitLink.so.13", "libnvJitLink.so.12"], ["cu13/lib", "nvjitlink/lib"]),
    ("cublasLt", &["libcublasLt.so.13", "libcublasLt.so.12"], ["cu13/lib", "cublas/lib"]),
    ("cublas", &["libcublas.so.13", "libcublas.so.12"], ["cu13/lib", "cublas/lib"]),
    ("cufft", &["libcufft.so.12", "libcufft.so.11"], ["cu13/lib", "cufft/lib"]),
    ("curand", &["libcurand.so.11", "libcurand.so.10"], ["cu13/lib", "curand/lib"]),
    ("cusolver", &["libcusolver.so.12", "libcusolver.so.11"], ["cu13/lib", "cusolver/lib"]),
    ("cusparse", &["libcusparse.so.12"], ["cu13/lib", "cusparse/lib"]),
];

/// The names and paths that it tries for a library, as an [`Open`](super::Open) has them. None for an unknown library.
pub fn names(library: &str) -> Vec<String> {
    let Some((name, sonames, wheels)) = LIBRARIES.iter().find(|l| l.0 == library) else { return Vec::new() };
    let is_nvvm = *name == "nvvm";
    let directories: &[&str] = if is_nvvm { &["nvvm/lib64"] } else { &["lib64", "lib"] };
    let all = |prefix: &str, directories: &[&str]| -> Vec<String> {
        directories.iter().flat_map(|d| sonames.iter().map(move |s| format!("{prefix}/{d}/{s}"))).collect()
    };
    let mut names = all("{packages}/nvidia", wheels);
    names.extend(all("$CONDA_PREFIX", directories));
    names.extend(sonames.iter().map(|s| (*s).to_owned()));
    names.extend(all("$CUDA_PATH|CUDA_HOME", directories));
    if is_nvvm {
        // At last beside a libcudart that the loader finds; where that is in /usr/local/cuda, this is beside it.
        names.extend(all("/usr/local/cuda", directories));
    }
    names
}

/// The SONAME of a library in a release of CUDA.
pub fn soname(library: &str, cuda_major: Option<u32>) -> Option<String> {
    let (_, sonames, _) = LIBRARIES.iter().find(|l| l.0 == library)?;
    let own = if cuda_major == Some(12) { sonames.last() } else { sonames.first() };
    own.map(|name| (*name).to_owned())
}

/// The message where nothing is found.
pub fn not_found(library: &str) -> Option<String> {
    let (_, sonames, _) = LIBRARIES.iter().find(|l| l.0 == library)?;
    Some(format!("Failure finding \"{}\"", sonames.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_a_search() {
        let names = names("cublas");
        let at = |name: &str| names.iter().position(|n| n == name).expect(name);
        assert!(at("{packages}/nvidia/cu13/lib/libcublas.so.13") < at("{packages}/nvidia/cublas/lib/libcublas.so.12"));
        assert!(at("{packages}/nvidia/cublas/lib/libcublas.so.12") < at("libcublas.so.13"));
        assert!(at("libcublas.so.12") < at("$CUDA_PATH|CUDA_HOME/lib64/libcublas.so.13"));
        assert!(names.iter().all(|n| !n.contains("nvvm")));
    }
}
