//! The libraries of the CUDA toolkit: what each says it is. All of them answer without a GPU.

use std::ffi::c_int;

use mldoctor_probes::library::{Family, Said};
use mldoctor_probes::{CallError, Line};

use super::nvrtc;
use crate::dl::Loaded;
use crate::teller::Teller;

/// How a library tells its version.
enum Version {
    /// `int f(int *)`
    Number(&'static str),
    /// `size_t f(void)`
    Returned(&'static str),
    /// `int f(int *, int *)`: major and minor.
    Pair(&'static str),
    /// `int f(libraryPropertyType, int *)`: 0 major, 1 minor, 2 patch level.
    Property(&'static str),
    /// `void f(int *, int *, int *)`
    Triple(&'static str),
}

fn version_of(family: Family) -> Version {
    match family {
        Family::Cudart => Version::Number("cudaRuntimeGetVersion"),
        Family::Nvrtc => Version::Pair("nvrtcVersion"),
        Family::NvJitLink => Version::Pair("nvJitLinkVersion"),
        Family::Cublas => Version::Property("cublasGetProperty"),
        Family::CublasLt => Version::Returned("cublasLtGetVersion"),
        Family::Cudnn => Version::Returned("cudnnGetVersion"),
        Family::Cufft => Version::Number("cufftGetVersion"),
        Family::Curand => Version::Number("curandGetVersion"),
        Family::Cusparse => Version::Property("cusparseGetProperty"),
        Family::CusparseLt => Version::Property("cusparseLtGetProperty"),
        Family::Cusolver => Version::Property("cusolverGetProperty"),
        Family::Nccl => Version::Number("ncclGetVersion"),
        Family::NvJpeg => Version::Property("nvjpegGetProperty"),
        Family::Cupti => Version::Number("cuptiGetVersion"),
        Family::Cufile => Version::Number("cuFileGetVersion"),
        Family::Nvshmem => Version::Triple("nvshmemx_vendor_get_version_info"),
    }
}

/// Asks what the library is, and lets NVRTC compile: for the oldest and the newest architecture, or for every one.
pub fn ask(family: Family, library: &Loaded, teller: &mut Teller, for_all: bool) {
    let version = match version_of(family) {
        Version::Number(name) => teller.call(name.into(), || {
            // SAFETY: a function of this form, see the headers of the toolkit.
            let function: unsafe extern "C" fn(*mut c_int) -> c_int = unsafe { library.function(name)? };
            let mut value = 0;
            // SAFETY: the pointer is valid for the call.
            check(unsafe { function(&raw mut value) })?;
            Ok(value.to_string())
        }),
        Version::Returned(name) => teller.call(name.into(), || {
            // SAFETY: as above.
            let function: unsafe extern "C" fn() -> usize = unsafe { library.function(name)? };
            // SAFETY: it takes nothing.
            Ok(unsafe { function() }.to_string())
        }),
        Version::Pair(name) => teller.call(name.into(), || {
            // SAFETY: as above.
            let function: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int = unsafe { library.function(name)? };
            let (mut major, mut minor) = (0, 0);
            // SAFETY: the pointers are valid for the call.
            check(unsafe { function(&raw mut major, &raw mut minor) })?;
            Ok(format!("{major}.{minor}"))
        }),
        Version::Property(name) => teller.call(name.into(), || {
            // SAFETY: as above.
            let function: unsafe extern "C" fn(c_int, *mut c_int) -> c_int = unsafe { library.function(name)? };
            let mut parts = [0; 3];
            for (property, value) in (0..).zip(&mut parts) {
                // SAFETY: the pointer is valid for the call.
                check(unsafe { function(property, value) })?;
            }
            Ok(format!("{}.{}.{}", parts[0], parts[1], parts[2]))
        }),
        Version::Triple(name) => teller.call(name.into(), || {
            // SAFETY: as above.
            let function: unsafe extern "C" fn(*mut c_int, *mut c_int, *mut c_int) = unsafe { library.function(name)? };
            let (mut major, mut minor, mut patch) = (0, 0, 0);
            // SAFETY: the pointers are valid for the call.
            unsafe { function(&raw mut major, &raw mut minor, &raw mut patch) };
            Ok(format!("{major}.{minor}.{patch}"))
        }),
    };
    let Ok(version) = version else { return };
    let compiled = if family == Family::Nvrtc { nvrtc::compile(library, teller, for_all) } else { Vec::new() };
    teller.tell(&Line::Library(Said { version, compiled }));
}

fn check(code: c_int) -> Result<(), CallError> {
    if code == 0 { Ok(()) } else { Err(CallError { code: Some(code.into()), name: format!("error {code}") }) }
}
