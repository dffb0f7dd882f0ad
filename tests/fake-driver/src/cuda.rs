//! The driver API. Device memory is host memory, and the one kernel is done by `cuLaunchKernel` itself.

use std::ffi::{c_char, c_int, c_void};

use crate::{before, put, scenario};

fn device(index: c_int) -> &'static crate::Gpu {
    &scenario().gpus[usize::try_from(index).unwrap()]
}

call! {
    fn cuInit(_flags: u32) {}
    fn cuDriverGetVersion(version: *mut c_int) { *version = scenario().cuda; }
    fn cuDeviceGetCount(count: *mut c_int) {
        *count = scenario().cuda_count.unwrap_or(c_int::try_from(scenario().gpus.len()).unwrap());
    }
    fn cuDeviceGet(handle: *mut c_int, ordinal: c_int) { *handle = ordinal; }
    fn cuDeviceGetName(name: *mut c_char, length: c_int, index: c_int) {
        put(&device(index).name, name, usize::try_from(length).unwrap());
    }
    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], index: c_int) {
        let hex: Vec<u8> = device(index).uuid.bytes().skip(4).filter(|b| *b != b'-').collect();
        for (to, pair) in (*uuid).iter_mut().zip(hex.chunks(2)) {
            *to = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        }
    }
    fn cuDeviceGetAttribute(value: *mut c_int, what: c_int, index: c_int) {
        *value = match what {
            75 => device(index).cc.0,
            76 => device(index).cc.1,
            20 => c_int::try_from(device(index).compute_mode).unwrap(),
            _ => 0,
        };
    }
    fn cuDeviceTotalMem_v2(bytes: *mut usize, index: c_int) {
        *bytes = usize::try_from(device(index).memory_total).unwrap();
    }
    fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, _device: c_int) { *context = std::ptr::dangling_mut(); }
    fn cuCtxSetCurrent(_context: *mut c_void) {}
    fn cuMemAlloc_v2(memory: *mut u64, size: usize) { *memory = libc::malloc(size) as u64; }
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, size: usize) {
        std::ptr::copy_nonoverlapping(from.cast::<u8>(), to as *mut u8, size);
    }
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, size: usize) {
        std::ptr::copy_nonoverlapping(from as *const u8, to.cast::<u8>(), size);
    }
    fn cuModuleLoadData(module: *mut *mut c_void, _image: *const c_void) { *module = std::ptr::dangling_mut(); }
    fn cuModuleGetFunction(function: *mut *mut c_void, _module: *mut c_void, _name: *const c_char) {
        *function = std::ptr::dangling_mut();
    }
    fn cuLaunchKernel(
        _kernel: *mut c_void, _x: u32, _y: u32, _z: u32, _bx: u32, _by: u32, _bz: u32, _shared: u32,
        _stream: *mut c_void, arguments: *mut *mut c_void, _extra: *mut *mut c_void
    ) {
        let data = *(*arguments).cast::<u64>() as *mut u32;
        let count = *(*arguments.add(1)).cast::<u32>();
        for i in 0..count as usize {
            *data.add(i) = *data.add(i) * 3 + 1;
        }
    }
    fn cuCtxSynchronize() {}
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: c_int, name: *mut *const c_char) -> c_int {
    let known = match code {
        2 => c"CUDA_ERROR_OUT_OF_MEMORY",
        3 => c"CUDA_ERROR_NOT_INITIALIZED",
        34 => c"CUDA_ERROR_STUB_LIBRARY",
        46 => c"CUDA_ERROR_DEVICE_UNAVAILABLE",
        100 => c"CUDA_ERROR_NO_DEVICE",
        101 => c"CUDA_ERROR_INVALID_DEVICE",
        214 => c"CUDA_ERROR_ECC_UNCORRECTABLE",
        221 => c"CUDA_ERROR_JIT_COMPILER_NOT_FOUND",
        222 => c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        304 => c"CUDA_ERROR_OPERATING_SYSTEM",
        800 => c"CUDA_ERROR_NOT_PERMITTED",
        802 => c"CUDA_ERROR_SYSTEM_NOT_READY",
        803 => c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        804 => c"CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
        805 => c"CUDA_ERROR_MPS_CONNECTION_FAILED",
        _ => c"CUDA_ERROR_UNKNOWN",
    };
    // SAFETY: the pointer is that of the caller.
    unsafe { *name = known.as_ptr() };
    0
}
