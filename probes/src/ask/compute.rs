//! A kernel on every GPU: a context, memory, a module from PTX, and the result.
//!
//! It takes some hundred megabytes of each GPU for as long as it runs, and a GPU in exclusive mode altogether, so it
//! is only done when asked for.

use std::ffi::{CStr, c_char, c_int, c_void};

use mldoctor_probes::cuda::Device;
use mldoctor_probes::{CallError, Field, Line};

use super::cuda::{self, Api, Code};
use crate::dl::Loaded;
use crate::teller::Teller;

/// Each word of the data becomes three times itself and one. PTX for the oldest GPUs that drivers in use know is
/// compiled by the driver for all later ones.
const KERNEL: &CStr = c"
.version 6.0
.target sm_50
.address_size 64
.visible .entry mldoctor(.param .u64 data, .param .u32 count)
{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [data];
    ld.param.u32 %r1, [count];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.u32 %r6, [%rd4];
    mad.lo.u32 %r7, %r6, 3, 1;
    st.global.u32 [%rd4], %r7;
DONE:
    ret;
}
";

/// Words of the data.
const COUNT: u32 = 1 << 18;
/// Threads of a block.
const BLOCK: u32 = 256;

/// Computes on every device.
pub fn ask(library: &Loaded, teller: &mut Teller) {
    let Some((api, count)) = cuda::ask(library, teller) else { return };
    for ordinal in 0..count {
        let computed = match compute(&api, ordinal, teller) {
            Ok(()) => Field::Is(()),
            Err(error) => Field::Error(error),
        };
        teller.tell(&Line::Device(Device { ordinal, computed, ..Device::default() }));
    }
}

fn compute(api: &Api<'_>, ordinal: c_int, teller: &mut Teller) -> Result<(), CallError> {
    let library = api.library;
    let mut step = |name: &str, make: &mut dyn FnMut() -> Result<Code, CallError>| {
        teller.call(format!("{name}({ordinal})"), || api.check(make()?))
    };
    let mut device: c_int = 0;
    let mut context: *mut c_void = std::ptr::null_mut();
    step("cuDeviceGet", &mut || {
        // SAFETY: CUresult cuDeviceGet(CUdevice *, int); the pointer is valid for the call.
        unsafe {
            let function: unsafe extern "C" fn(*mut c_int, c_int) -> Code = library.function("cuDeviceGet")?;
            Ok(function(&raw mut device, ordinal))
        }
    })?;
    // The primary context is the one that runtime libraries use.
    step("cuDevicePrimaryCtxRetain", &mut || {
        // SAFETY: CUresult cuDevicePrimaryCtxRetain(CUcontext *, CUdevice).
        unsafe {
            let function: unsafe extern "C" fn(*mut *mut c_void, c_int) -> Code =
                library.function("cuDevicePrimaryCtxRetain")?;
            Ok(function(&raw mut context, device))
        }
    })?;
    step("cuCtxSetCurrent", &mut || {
        // SAFETY: CUresult cuCtxSetCurrent(CUcontext); the context was made above.
        unsafe {
            let function: unsafe extern "C" fn(*mut c_void) -> Code = library.function("cuCtxSetCurrent")?;
            Ok(function(context))
        }
    })?;
    let mut data: Vec<u32> = (0..COUNT).collect();
    let size = data.len() * 4;
    let mut memory: u64 = 0;
    step("cuMemAlloc_v2", &mut || {
        // SAFETY: CUresult cuMemAlloc_v2(CUdeviceptr *, size_t); a device pointer has 64 bits.
        unsafe {
            let function: unsafe extern "C" fn(*mut u64, usize) -> Code = library.function("cuMemAlloc_v2")?;
            Ok(function(&raw mut memory, size))
        }
    })?;
    step("cuMemcpyHtoD_v2", &mut || {
        // SAFETY: CUresult cuMemcpyHtoD_v2(CUdeviceptr, const void *, size_t); both sides have this size.
        unsafe {
            let function: unsafe extern "C" fn(u64, *const c_void, usize) -> Code =
                library.function("cuMemcpyHtoD_v2")?;
            Ok(function(memory, data.as_ptr().cast(), size))
        }
    })?;
    let (mut module, mut kernel): (*mut c_void, *mut c_void) = (std::ptr::null_mut(), std::ptr::null_mut());
    step("cuModuleLoadData", &mut || {
        // SAFETY: CUresult cuModuleLoadData(CUmodule *, const void *); PTX is given as a C string.
        unsafe {
            let function: unsafe extern "C" fn(*mut *mut c_void, *const c_void) -> Code =
                library.function("cuModuleLoadData")?;
            Ok(function(&raw mut module, KERNEL.as_ptr().cast()))
        }
    })?;
    step("cuModuleGetFunction", &mut || {
        // SAFETY: CUresult cuModuleGetFunction(CUfunction *, CUmodule, const char *).
        unsafe {
            let function: unsafe extern "C" fn(*mut *mut c_void, *mut c_void, *const c_char) -> Code =
                library.function("cuModuleGetFunction")?;
            Ok(function(&raw mut kernel, module, c"mldoctor".as_ptr()))
        }
    })?;
    step("cuLaunchKernel", &mut || {
        let mut count = COUNT;
        let mut arguments: [*mut c_void; 2] = [(&raw mut memory).cast(), (&raw mut count).cast()];
        // SAFETY: CUresult cuLaunchKernel(CUfunction, 6 × unsigned int, unsigned int, CUstream, void **, void **); the
        // arguments are read during the call.
        unsafe {
            type Launch = unsafe extern "C" fn(
                *mut c_void,
                u32,
                u32,
                u32,
                u32,
                u32,
                u32,
                u32,
                *mut c_void,
                *mut *mut c_void,
                *mut *mut c_void,
            ) -> Code;
            let function: Launch = library.function("cuLaunchKernel")?;
            let null = std::ptr::null_mut();
            let blocks = COUNT / BLOCK;
            Ok(function(kernel, blocks, 1, 1, BLOCK, 1, 1, 0, null, arguments.as_mut_ptr(), null.cast()))
        }
    })?;
    step("cuCtxSynchronize", &mut || {
        // SAFETY: CUresult cuCtxSynchronize(void).
        unsafe {
            let function: unsafe extern "C" fn() -> Code = library.function("cuCtxSynchronize")?;
            Ok(function())
        }
    })?;
    step("cuMemcpyDtoH_v2", &mut || {
        // SAFETY: CUresult cuMemcpyDtoH_v2(void *, CUdeviceptr, size_t); both sides have this size.
        unsafe {
            let function: unsafe extern "C" fn(*mut c_void, u64, usize) -> Code =
                library.function("cuMemcpyDtoH_v2")?;
            Ok(function(data.as_mut_ptr().cast(), memory, size))
        }
    })?;
    // What is left is given back when the process ends.
    let wrong = data.iter().zip(0..COUNT).filter(|(got, i)| **got != i * 3 + 1).count();
    if wrong > 0 {
        return Err(CallError { code: None, name: format!("{wrong} of {COUNT} results are wrong") });
    }
    Ok(())
}
