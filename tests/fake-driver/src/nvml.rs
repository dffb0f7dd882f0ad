//! NVML. A device handle is the index of the GPU and one; that of a MIG device starts at a thousand.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

use nvml_wrapper_sys::bindings::{
    nvmlFieldValue_t, nvmlGpuFabricInfo_t, nvmlMemory_v2_t, nvmlPciInfo_t, nvmlProcessInfo_t,
};

use crate::{Gpu, before, put, scenario};

type Handle = *mut c_void;

/// Those about one GPU, whose index counts.
macro_rules! gpu {
    ($(fn $name:ident($gpu:ident $(, $arg:ident: $type:ty)*) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        #[allow(unused_unsafe, reason = "some do nothing dangerous")]
        pub unsafe extern "C" fn $name(handle: Handle $(, $arg: $type)*) -> c_int {
            let index = handle as usize - 1;
            let special = format!("{}({index})", stringify!($name));
            if let Some(code) = before(stringify!($name)).or_else(|| before(&special)) {
                return code;
            }
            let $gpu: &Gpu = &scenario().gpus[index.min(scenario().gpus.len() - 1)];
            // SAFETY: pointers are those of the caller.
            unsafe { $body }
        }
    )*};
}

const NOT_SUPPORTED: c_int = 3;
const NOT_FOUND: c_int = 6;
const INSUFFICIENT_SIZE: c_int = 7;

call! {
    fn nvmlInit_v2() {}
    fn nvmlShutdown() {}
    fn nvmlSystemGetDriverVersion(text: *mut c_char, length: c_uint) { put(&scenario().driver, text, length as usize); }
    fn nvmlSystemGetNVMLVersion(text: *mut c_char, length: c_uint) {
        put(&format!("12.{}", scenario().driver), text, length as usize);
    }
    fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) { *version = scenario().cuda; }
    fn nvmlDeviceGetCount_v2(count: *mut c_uint) { *count = c_uint::try_from(scenario().gpus.len()).unwrap(); }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, handle: *mut Handle) -> c_int {
    let name = "nvmlDeviceGetHandleByIndex_v2";
    if let Some(code) = before(name).or_else(|| before(&format!("{name}({index})"))) {
        return code;
    }
    // SAFETY: the pointer is that of the caller.
    unsafe { *handle = (index as usize + 1) as Handle };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(handle: Handle, text: *mut c_char, length: c_uint) -> c_int {
    let number = handle as usize;
    let uuid = if number >= 1000 {
        let all: Vec<&String> = scenario().gpus.iter().flat_map(|g| g.mig.iter().flatten()).collect();
        all[number - 1000].clone()
    } else {
        if let Some(code) =
            before("nvmlDeviceGetUUID").or_else(|| before(&format!("nvmlDeviceGetUUID({})", number - 1)))
        {
            return code;
        }
        scenario().gpus[number - 1].uuid.clone()
    };
    // SAFETY: the buffer is that of the caller.
    unsafe { put(&uuid, text, length as usize) };
    0
}

gpu! {
    fn nvmlDeviceGetName(gpu, text: *mut c_char, length: c_uint) {
        put(&gpu.name, text, length as usize);
        0
    }
    fn nvmlDeviceGetPciInfo_v3(_gpu, info: *mut nvmlPciInfo_t) {
        std::ptr::write_bytes(info, 0, 1);
        put("00000000:17:00.0", (&raw mut (*info).busId).cast(), 32);
        0
    }
    fn nvmlDeviceGetMinorNumber(_gpu, minor: *mut c_uint) { *minor = 0; 0 }
    fn nvmlDeviceGetCudaComputeCapability(gpu, major: *mut c_int, minor: *mut c_int) {
        (*major, *minor) = gpu.cc;
        0
    }
    fn nvmlDeviceGetMigMode(gpu, current: *mut c_uint, pending: *mut c_uint) {
        let enabled = gpu.mig.is_some();
        (*current, *pending) = (c_uint::from(enabled), c_uint::from(enabled != gpu.mig_pending));
        0
    }
    fn nvmlDeviceGetMaxMigDeviceCount(_gpu, count: *mut c_uint) { *count = 7; 0 }
    fn nvmlDeviceGetMigDeviceHandleByIndex(gpu, index: c_uint, handle: *mut Handle) {
        if index as usize >= gpu.mig.as_ref().map_or(0, Vec::len) {
            return NOT_FOUND;
        }
        *handle = (1000 + index as usize) as Handle;
        0
    }
    fn nvmlDeviceGetComputeMode(gpu, mode: *mut c_uint) { *mode = gpu.compute_mode; 0 }
    fn nvmlDeviceGetMemoryInfo_v2(gpu, memory: *mut nvmlMemory_v2_t) {
        (*memory).total = gpu.memory_total;
        (*memory).used = gpu.memory_used;
        (*memory).free = gpu.memory_total - gpu.memory_used;
        (*memory).reserved = 0;
        0
    }
    fn nvmlDeviceGetEccMode(_gpu, current: *mut c_uint, pending: *mut c_uint) { (*current, *pending) = (1, 1); 0 }
    fn nvmlDeviceGetTotalEccErrors(gpu, _kind: c_uint, _counter: c_uint, count: *mut c_ulonglong) {
        *count = gpu.uncorrected;
        0
    }
    fn nvmlDeviceGetFieldValues(gpu, count: c_int, values: *mut nvmlFieldValue_t) {
        for i in 0..usize::try_from(count).unwrap() {
            let field = &mut *values.add(i);
            let value = match field.fieldId {
                142 => gpu.remapped_rows[0],
                143 => gpu.remapped_rows[1],
                144 => gpu.remapped_rows[2],
                145 => gpu.remapped_rows[3],
                _ => gpu.recovery_action,
            };
            field.nvmlReturn = 0;
            field.valueType = 1; // NVML_VALUE_TYPE_UNSIGNED_INT
            field.value.uiVal = value;
        }
        0
    }
    fn nvmlDeviceGetRetiredPagesPendingStatus(gpu, pending: *mut c_uint) { *pending = c_uint::from(gpu.pages_pending); 0 }
    fn nvmlDeviceGetTemperature(gpu, _sensor: c_uint, temperature: *mut c_uint) { *temperature = gpu.temperature; 0 }
    fn nvmlDeviceGetCurrentClocksThrottleReasons(gpu, reasons: *mut c_ulonglong) { *reasons = gpu.clock_reasons; 0 }
    fn nvmlDeviceGetPersistenceMode(gpu, mode: *mut c_uint) { *mode = c_uint::from(gpu.persistence); 0 }
    fn nvmlDeviceGetGpuFabricInfo(gpu, info: *mut nvmlGpuFabricInfo_t) {
        let Some((state, status)) = gpu.fabric else { return NOT_SUPPORTED };
        (*info).state = state;
        (*info).status = status;
        (*info).clusterUuid[0] = u8::from(gpu.clustered) as _;
        0
    }
    fn nvmlDeviceGetComputeRunningProcesses_v3(gpu, count: *mut c_uint, list: *mut nvmlProcessInfo_t) {
        let room = *count as usize;
        *count = c_uint::try_from(gpu.processes.len()).unwrap();
        if room < gpu.processes.len() {
            return INSUFFICIENT_SIZE;
        }
        for (i, (pid, memory)) in gpu.processes.iter().enumerate() {
            std::ptr::write_bytes(list.add(i), 0, 1);
            (*list.add(i)).pid = *pid;
            (*list.add(i)).usedGpuMemory = *memory;
        }
        0
    }
    fn nvmlDeviceGetVirtualizationMode(gpu, mode: *mut c_uint) { *mode = gpu.virtualization; 0 }
    fn nvmlDeviceGetCurrPcieLinkGeneration(_gpu, value: *mut c_uint) { *value = 5; 0 }
    fn nvmlDeviceGetMaxPcieLinkGeneration(_gpu, value: *mut c_uint) { *value = 5; 0 }
    fn nvmlDeviceGetCurrPcieLinkWidth(_gpu, value: *mut c_uint) { *value = 16; 0 }
    fn nvmlDeviceGetMaxPcieLinkWidth(_gpu, value: *mut c_uint) { *value = 16; 0 }
    fn nvmlDeviceGetNvLinkState(gpu, link: c_uint, active: *mut c_uint) {
        let Some(state) = gpu.nvlinks.get(link as usize) else { return NOT_SUPPORTED };
        *active = c_uint::from(*state);
        0
    }
}
