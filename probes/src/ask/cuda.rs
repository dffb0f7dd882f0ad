//! The CUDA driver API (`cuda.h`): initialisation and devices, without a context, which would take memory of the GPU.

use std::ffi::{c_char, c_int};

use mldoctor_probes::cuda::{Cuda, Device};
use mldoctor_probes::{CallError, Field, Line};

use crate::dl::{self, Loaded};
use crate::teller::Teller;

/// `CUresult`
pub type Code = c_int;

/// The library, with what gives its codes a name.
pub struct Api<'l> {
    pub library: &'l Loaded,
    error_name: Option<unsafe extern "C" fn(Code, *mut *const c_char) -> Code>,
}

impl<'l> Api<'l> {
    fn new(library: &'l Loaded) -> Self {
        // SAFETY: CUresult cuGetErrorName(CUresult, const char **); since CUDA 6.0.
        Self { library, error_name: unsafe { library.function("cuGetErrorName") }.ok() }
    }

    /// Success, or the code with its name.
    pub fn check(&self, code: Code) -> Result<(), CallError> {
        if code == 0 {
            return Ok(());
        }
        let mut name = std::ptr::null();
        if let Some(function) = self.error_name {
            // SAFETY: stores a pointer to a constant, or nothing.
            unsafe { function(code, &raw mut name) };
        }
        // SAFETY: null, or that constant.
        let name = unsafe { dl::text(name) }.unwrap_or_else(|| format!("CUDA error {code}"));
        Err(CallError { code: Some(code.into()), name })
    }
}

/// Asks what can be asked; gives the API if it could be initialised, with the number of devices.
pub fn ask<'l>(library: &'l Loaded, teller: &mut Teller) -> Option<(Api<'l>, c_int)> {
    let api = Api::new(library);
    let mut cuda = Cuda {
        version: teller.field("cuDriverGetVersion".into(), || {
            // SAFETY: CUresult cuDriverGetVersion(int *); needs no initialisation.
            let function: unsafe extern "C" fn(*mut c_int) -> Code = unsafe { library.function("cuDriverGetVersion")? };
            let mut version = 0;
            // SAFETY: the pointer is valid for the call.
            api.check(unsafe { function(&raw mut version) })?;
            Ok(version)
        }),
        count: Field::NotAsked,
    };
    let initialised = teller.call("cuInit".into(), || {
        // SAFETY: CUresult cuInit(unsigned int); the flags must be 0.
        let function: unsafe extern "C" fn(u32) -> Code = unsafe { library.function("cuInit")? };
        // SAFETY: as above.
        api.check(unsafe { function(0) })
    });
    if initialised.is_ok() {
        cuda.count = teller.field("cuDeviceGetCount".into(), || {
            // SAFETY: CUresult cuDeviceGetCount(int *).
            let function: unsafe extern "C" fn(*mut c_int) -> Code = unsafe { library.function("cuDeviceGetCount")? };
            let mut count = 0;
            // SAFETY: the pointer is valid for the call.
            api.check(unsafe { function(&raw mut count) })?;
            Ok(count)
        });
    }
    let count = cuda.count.get().copied();
    teller.tell(&Line::Cuda(cuda));
    // No driver has more; a hostile one may say so.
    let count = count?.clamp(0, 256);
    for ordinal in 0..count {
        let device = ask_device(&api, ordinal, teller);
        teller.tell(&Line::Device(device));
    }
    Some((api, count))
}

/// `CUdevice_attribute`
const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
const COMPUTE_CAPABILITY_MINOR: c_int = 76;
const COMPUTE_MODE: c_int = 20;
const INTEGRATED: c_int = 18;

fn ask_device(api: &Api<'_>, ordinal: c_int, teller: &mut Teller) -> Device {
    let library = api.library;
    // CUdevice is an int; a handle cannot be had for an ordinal that is not there.
    let handle = teller.field(format!("cuDeviceGet({ordinal})"), || {
        // SAFETY: CUresult cuDeviceGet(CUdevice *, int).
        let function: unsafe extern "C" fn(*mut c_int, c_int) -> Code = unsafe { library.function("cuDeviceGet")? };
        let mut device = 0;
        // SAFETY: the pointer is valid for the call.
        api.check(unsafe { function(&raw mut device, ordinal) })?;
        Ok(device)
    });
    let mut device = Device { ordinal, ..Device::default() };
    let handle = match handle {
        Field::Is(handle) => handle,
        Field::Error(error) => {
            device.name = Field::Error(error);
            return device;
        }
        Field::NotAsked => return device,
    };
    device.name = teller.field(format!("cuDeviceGetName({ordinal})"), || {
        // SAFETY: CUresult cuDeviceGetName(char *, int, CUdevice).
        let function: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> Code =
            unsafe { library.function("cuDeviceGetName")? };
        let mut name = [0u8; 256];
        // SAFETY: the length is that of the buffer, whose last byte stays 0.
        api.check(unsafe { function(name.as_mut_ptr().cast(), 255, handle) })?;
        Ok(String::from_utf8_lossy(name.split(|b| *b == 0).next().unwrap_or_default()).into_owned())
    });
    device.uuid = teller.field(format!("cuDeviceGetUuid_v2({ordinal})"), || {
        // SAFETY: CUresult cuDeviceGetUuid_v2(CUuuid *, CUdevice), and the same without _v2 before CUDA 11.4, which for
        // MIG gives the UUID of the whole GPU.
        let function: unsafe extern "C" fn(*mut [u8; 16], c_int) -> Code =
            unsafe { library.function("cuDeviceGetUuid_v2").or_else(|_| library.function("cuDeviceGetUuid"))? };
        let mut uuid = [0u8; 16];
        // SAFETY: the pointer is valid for the call.
        api.check(unsafe { function(&raw mut uuid, handle) })?;
        Ok(shown_uuid(&uuid))
    });
    let mut attribute = |what: c_int, name: &str| {
        teller.field(format!("cuDeviceGetAttribute({name}, {ordinal})"), || {
            // SAFETY: CUresult cuDeviceGetAttribute(int *, CUdevice_attribute, CUdevice).
            let function: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> Code =
                unsafe { library.function("cuDeviceGetAttribute")? };
            let mut value = 0;
            // SAFETY: the pointer is valid for the call.
            api.check(unsafe { function(&raw mut value, what, handle) })?;
            Ok(value)
        })
    };
    let major = attribute(COMPUTE_CAPABILITY_MAJOR, "COMPUTE_CAPABILITY_MAJOR");
    let minor = attribute(COMPUTE_CAPABILITY_MINOR, "COMPUTE_CAPABILITY_MINOR");
    device.compute_capability = match (major, minor) {
        (Field::Is(major), Field::Is(minor)) => Field::Is((major, minor)),
        (Field::Error(e), _) | (_, Field::Error(e)) => Field::Error(e),
        _ => Field::NotAsked,
    };
    device.compute_mode = attribute(COMPUTE_MODE, "COMPUTE_MODE");
    device.integrated = match attribute(INTEGRATED, "INTEGRATED") {
        Field::Is(value) => Field::Is(value != 0),
        Field::Error(e) => Field::Error(e),
        Field::NotAsked => Field::NotAsked,
    };
    device.memory = teller.field(format!("cuDeviceTotalMem_v2({ordinal})"), || {
        // SAFETY: CUresult cuDeviceTotalMem_v2(size_t *, CUdevice).
        let function: unsafe extern "C" fn(*mut usize, c_int) -> Code =
            unsafe { library.function("cuDeviceTotalMem_v2")? };
        let mut bytes = 0usize;
        // SAFETY: the pointer is valid for the call.
        api.check(unsafe { function(&raw mut bytes, handle) })?;
        Ok(bytes as u64)
    });
    device
}

/// `GPU-01234567-89ab-cdef-0123-456789abcdef`
fn shown_uuid(bytes: &[u8; 16]) -> String {
    let mut text = String::from("GPU-");
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text += &format!("{byte:02x}");
    }
    text
}
