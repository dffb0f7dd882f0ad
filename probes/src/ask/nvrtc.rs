//! NVRTC compiles without a GPU: a small kernel for each architecture that it knows.

use std::ffi::{CString, c_char, c_int, c_void};

use mldoctor_probes::CallError;

use crate::dl::{self, Loaded};
use crate::teller::Teller;

/// Uses a header that is built in and a library function, so that `libnvrtc-builtins` is needed.
const KERNEL: &std::ffi::CStr = c"
extern \"C\" __global__ void scale(float *data, float by, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) data[i] = sqrtf(data[i]) * by;
}
";

type Program = *mut c_void;

struct Api<'l> {
    library: &'l Loaded,
}

impl Api<'_> {
    fn check(&self, code: c_int) -> Result<(), CallError> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: const char *nvrtcGetErrorString(nvrtcResult); it gives a constant.
        let name = unsafe {
            let function = self.library.function::<unsafe extern "C" fn(c_int) -> *const c_char>("nvrtcGetErrorString");
            function.ok().and_then(|function| dl::text(function(code)))
        };
        Err(CallError { code: Some(code.into()), name: name.unwrap_or_else(|| format!("NVRTC error {code}")) })
    }

    fn architectures(&self) -> Result<Vec<u32>, CallError> {
        // SAFETY: nvrtcResult nvrtcGetNumSupportedArchs(int *) and nvrtcGetSupportedArchs(int *), since CUDA 11.2; the
        // second fills as many as the first tells.
        unsafe {
            let number: unsafe extern "C" fn(*mut c_int) -> c_int =
                self.library.function("nvrtcGetNumSupportedArchs")?;
            let list: unsafe extern "C" fn(*mut c_int) -> c_int = self.library.function("nvrtcGetSupportedArchs")?;
            let mut count = 0;
            self.check(number(&raw mut count))?;
            let mut found = vec![0 as c_int; usize::try_from(count).unwrap_or(0).min(1_000)];
            self.check(list(found.as_mut_ptr()))?;
            Ok(found.into_iter().filter_map(|a| u32::try_from(a).ok()).collect())
        }
    }

    fn compile(&self, architecture: u32) -> Result<(), CallError> {
        let option = CString::new(format!("--gpu-architecture=compute_{architecture}")).unwrap_or_default();
        let options = [option.as_ptr()];
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: nvrtcResult nvrtcCreateProgram(nvrtcProgram *, const char *, const char *, int, const char *const *,
        // const char *const *), nvrtcCompileProgram(nvrtcProgram, int, const char *const *),
        // nvrtcGetProgramLogSize(nvrtcProgram, size_t *), nvrtcGetProgramLog(nvrtcProgram, char *); all strings end
        // with 0, and the log has the size that was told.
        unsafe {
            type Create = unsafe extern "C" fn(
                *mut Program,
                *const c_char,
                *const c_char,
                c_int,
                *const *const c_char,
                *const *const c_char,
            ) -> c_int;
            let create: Create = self.library.function("nvrtcCreateProgram")?;
            let compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int =
                self.library.function("nvrtcCompileProgram")?;
            let null = std::ptr::null();
            self.check(create(&raw mut program, KERNEL.as_ptr(), c"kernel.cu".as_ptr(), 0, null, null))?;
            let mut outcome = self.check(compile(program, 1, options.as_ptr()));
            if let Err(error) = &mut outcome
                && let Some(log) = self.log(program)
            {
                error.name = format!("{}: {log}", error.name);
            }
            outcome
        }
    }

    /// # Safety
    /// The program was made by this library.
    unsafe fn log(&self, program: Program) -> Option<String> {
        // SAFETY: see `compile`.
        unsafe {
            let size_of: unsafe extern "C" fn(Program, *mut usize) -> c_int =
                self.library.function("nvrtcGetProgramLogSize").ok()?;
            let log: unsafe extern "C" fn(Program, *mut c_char) -> c_int =
                self.library.function("nvrtcGetProgramLog").ok()?;
            let mut size = 0usize;
            self.check(size_of(program, &raw mut size)).ok()?;
            let mut text = vec![0u8; size.min(1 << 20) + 1];
            if size < text.len() {
                self.check(log(program, text.as_mut_ptr().cast())).ok()?;
            }
            let text = String::from_utf8_lossy(text.split(|b| *b == 0).next()?).trim().to_owned();
            (!text.is_empty()).then_some(text)
        }
    }
}

/// What came of compiling for each architecture, or for the oldest and the newest alone. One takes some 15 ms, and what
/// goes wrong, such as a missing `libnvrtc-builtins`, goes wrong for all.
pub fn compile(library: &Loaded, teller: &mut Teller, for_all: bool) -> Vec<(u32, Option<CallError>)> {
    let api = Api { library };
    let Ok(mut architectures) = teller.call("nvrtcGetSupportedArchs".into(), || api.architectures()) else {
        return Vec::new();
    };
    if !for_all {
        let (first, last) = (architectures.first().copied(), architectures.last().copied());
        architectures.retain(|a| Some(*a) == first || Some(*a) == last);
    }
    architectures
        .into_iter()
        .map(|a| (a, teller.call(format!("nvrtcCompileProgram(compute_{a})"), || api.compile(a)).err()))
        .collect()
}
