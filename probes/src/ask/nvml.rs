//! NVML, through nvml-wrapper. A function that an old driver lacks is one field without a value.

use std::ffi::OsStr;

use mldoctor_probes::nvml::{Fabric, Gpu, Memory, Mig, Pcie, Process, RemappedRows, System};
use mldoctor_probes::{CallError, Field, Line};
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};

use crate::dl::Loaded;
use crate::teller::Teller;

/// `NVML_FI_DEV_…` of `nvml.h`.
const REMAPPED_CORRECTABLE: FieldId = FieldId(142);
const REMAPPED_UNCORRECTABLE: FieldId = FieldId(143);
const REMAPPED_PENDING: FieldId = FieldId(144);
const REMAPPED_FAILURE: FieldId = FieldId(145);
const RECOVERY_ACTION: FieldId = FieldId(230);
/// `NVML_NVLINK_MAX_LINKS`
const MAX_LINKS: u32 = 18;

/// Asks about the system and every GPU.
pub fn ask(library: &Loaded, teller: &mut Teller) {
    let path = OsStr::new(&library.path);
    let nvml = teller.call("nvmlInit_v2".into(), || Nvml::builder().lib_path(path).init().map_err(error));
    let Ok(nvml) = nvml else { return };
    let system = System {
        driver: teller.field("nvmlSystemGetDriverVersion".into(), || nvml.sys_driver_version().map_err(error)),
        nvml: teller.field("nvmlSystemGetNVMLVersion".into(), || nvml.sys_nvml_version().map_err(error)),
        cuda: teller
            .field("nvmlSystemGetCudaDriverVersion_v2".into(), || nvml.sys_cuda_driver_version().map_err(error)),
        count: teller.field("nvmlDeviceGetCount_v2".into(), || nvml.device_count().map_err(error)),
    };
    // No driver has more; a hostile one may say so.
    let count = system.count.get().copied().unwrap_or(0).min(256);
    teller.tell(&Line::System(system));
    for index in 0..count {
        ask_gpu(&nvml, index, teller);
    }
    // nvmlShutdown may hang as any other call, and the process ends anyway.
    std::mem::forget(nvml);
}

fn ask_gpu(nvml: &Nvml, index: u32, teller: &mut Teller) {
    let mut gpu = Gpu { index, ..Gpu::default() };
    let device = match teller
        .call(format!("nvmlDeviceGetHandleByIndex_v2({index})"), || nvml.device_by_index(index).map_err(error))
    {
        Ok(device) => device,
        Err(error) => {
            gpu.handle = Field::Error(error);
            return teller.tell(&Line::Gpu(Box::new(gpu)));
        }
    };
    gpu.handle = Field::Is(());
    let mut asked = Asked { teller, device, index };
    gpu.name = asked.field("nvmlDeviceGetName", Device::name);
    gpu.uuid = asked.field("nvmlDeviceGetUUID", Device::uuid);
    gpu.pci = asked.field("nvmlDeviceGetPciInfo_v3", |d| Ok(d.pci_info()?.bus_id));
    gpu.minor = asked.field("nvmlDeviceGetMinorNumber", Device::minor_number);
    gpu.compute_capability = asked.field("nvmlDeviceGetCudaComputeCapability", |d| {
        let cc = d.cuda_compute_capability()?;
        Ok((u32::try_from(cc.major).unwrap_or(0), u32::try_from(cc.minor).unwrap_or(0)))
    });
    gpu.mig = asked.field("nvmlDeviceGetMigMode", mig);
    gpu.compute_mode = asked.field("nvmlDeviceGetComputeMode", |d| Ok(format!("{:?}", d.compute_mode()?)));
    // What comes next goes to the hardware; what is known so far is not to be lost with it.
    asked.teller.tell(&Line::Gpu(Box::new(gpu.clone())));
    gpu.memory = asked.field("nvmlDeviceGetMemoryInfo_v2", |d| {
        let memory = d.memory_info()?;
        Ok(Memory { total: memory.total, free: memory.free, used: memory.used, reserved: memory.reserved })
    });
    gpu.ecc = asked.field("nvmlDeviceGetEccMode", |d| Ok(d.is_ecc_enabled()?.currently_enabled));
    let uncorrected = |counter: EccCounter| move |d: &Device<'_>| d.total_ecc_errors(MemoryError::Uncorrected, counter);
    gpu.uncorrected_volatile = asked.field("nvmlDeviceGetTotalEccErrors(volatile)", uncorrected(EccCounter::Volatile));
    gpu.uncorrected_aggregate =
        asked.field("nvmlDeviceGetTotalEccErrors(aggregate)", uncorrected(EccCounter::Aggregate));
    gpu.remapped_rows = asked.field("nvmlDeviceGetFieldValues(remapped rows)", |d| {
        let wanted = [REMAPPED_CORRECTABLE, REMAPPED_UNCORRECTABLE, REMAPPED_PENDING, REMAPPED_FAILURE];
        let [correctable, uncorrectable, pending, failed] = values(d, wanted)?;
        Ok(RemappedRows { correctable, uncorrectable, pending: pending != 0, failed: failed != 0 })
    });
    gpu.pages_pending = asked.field("nvmlDeviceGetRetiredPagesPendingStatus", Device::are_pages_pending_retired);
    gpu.recovery_action =
        asked.field("nvmlDeviceGetFieldValues(recovery action)", |d| Ok(values(d, [RECOVERY_ACTION])?[0]));
    gpu.temperature = asked.field("nvmlDeviceGetTemperature", |d| d.temperature(TemperatureSensor::Gpu));
    gpu.clock_reasons =
        asked.field("nvmlDeviceGetCurrentClocksEventReasons", |d| Ok(reasons(d.current_throttle_reasons()?)));
    gpu.persistence = asked.field("nvmlDeviceGetPersistenceMode", Device::is_in_persistent_mode);
    gpu.fabric = asked.field("nvmlDeviceGetGpuFabricInfo", |d| fabric(nvml, d));
    gpu.processes = asked.field("nvmlDeviceGetComputeRunningProcesses_v3", |d| {
        let memory = |used| match used {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        };
        let all = d.running_compute_processes()?;
        Ok(all.into_iter().map(|p| Process { pid: p.pid, memory: memory(p.used_gpu_memory) }).collect())
    });
    gpu.virtualization =
        asked.field("nvmlDeviceGetVirtualizationMode", |d| Ok(format!("{:?}", d.virtualization_mode()?)));
    gpu.pcie = asked.field("nvmlDeviceGetCurrPcieLinkGeneration", |d| {
        Ok(Pcie {
            generation: d.current_pcie_link_gen()?,
            max_generation: d.max_pcie_link_gen()?,
            width: d.current_pcie_link_width()?,
            max_width: d.max_pcie_link_width()?,
        })
    });
    gpu.nvlinks = asked.field("nvmlDeviceGetNvLinkState", |d| {
        // A GPU answers for the links that it has.
        Ok((0..MAX_LINKS).map_while(|link| d.link_wrapper_for(link).is_active().ok()).collect())
    });
    asked.teller.tell(&Line::Gpu(Box::new(gpu)));
}

/// A GPU that is asked one thing after the other.
struct Asked<'t, 'n> {
    teller: &'t mut Teller,
    device: Device<'n>,
    index: u32,
}

impl<'n> Asked<'_, 'n> {
    /// `call` names the function, with what else it is called for; the GPU is added.
    fn field<T>(&mut self, call: &str, ask: impl FnOnce(&Device<'n>) -> Result<T, NvmlError>) -> Field<T> {
        let index = self.index;
        let call = match call.strip_suffix(')') {
            Some(call) => format!("{call}, {index})"),
            None => format!("{call}({index})"),
        };
        self.teller.field(call, || ask(&self.device).map_err(error))
    }
}

fn mig(device: &Device<'_>) -> Result<Mig, NvmlError> {
    let mode = device.mig_mode()?;
    let mut mig = Mig { enabled: mode.current == 1, pending: mode.pending == 1, devices: Vec::new() };
    if mig.enabled {
        // Not every place holds an instance.
        for index in 0..device.mig_device_count()?.min(64) {
            if let Ok(instance) = device.mig_device_by_index(index) {
                mig.devices.push(instance.uuid()?);
            }
        }
    }
    Ok(mig)
}

fn values<const N: usize>(device: &Device<'_>, wanted: [FieldId; N]) -> Result<[u64; N], NvmlError> {
    let mut found = [0; N];
    for (place, sample) in found.iter_mut().zip(device.field_values_for(&wanted)?) {
        *place = match sample?.value? {
            SampleValue::U32(value) => value.into(),
            SampleValue::U64(value) => value,
            SampleValue::I64(value) => u64::try_from(value).unwrap_or(0),
            SampleValue::F64(_) => return Err(NvmlError::NotSupported),
        };
    }
    Ok(found)
}

fn reasons(reasons: ThrottleReasons) -> Vec<String> {
    // A GPU that has nothing to do, or that its owner has set a clock for, is not held down.
    let harmless = ThrottleReasons::GPU_IDLE | ThrottleReasons::APPLICATIONS_CLOCKS_SETTING | ThrottleReasons::NONE;
    (reasons - harmless).iter_names().map(|(name, _)| name.to_lowercase()).collect()
}

fn fabric(nvml: &Nvml, device: &Device<'_>) -> Result<Fabric, NvmlError> {
    let function = nvml.lib().nvmlDeviceGetGpuFabricInfo.as_ref();
    let function = function.map_err(|_| NvmlError::FunctionNotFound)?;
    // SAFETY: a plain structure, of which every bit pattern is a value.
    let mut info: nvml_wrapper_sys::bindings::nvmlGpuFabricInfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the handle belongs to this library, and the pointer is valid for the call.
    nvml_wrapper::error::nvml_try(unsafe { function(device.handle(), &raw mut info) })?;
    let clustered = info.clusterUuid.iter().any(|byte| *byte != 0);
    Ok(Fabric { state: info.state.into(), status: info.status, clustered })
}

/// The number of NVML's code, where it is one of NVML's, and its name.
fn error(error: NvmlError) -> CallError {
    let own = !matches!(
        error,
        NvmlError::Utf8Error(_)
            | NvmlError::NulError(_)
            | NvmlError::LibloadingError(_)
            | NvmlError::FailedToLoadSymbol(_)
            | NvmlError::StringTooLong { .. }
            | NvmlError::IncorrectBits(_)
            | NvmlError::SetReleaseFailed
            | NvmlError::GetPciInfoFailed
            | NvmlError::PciInfoToCFailed
    );
    let name = error.to_string();
    CallError { code: own.then(|| u32::from(error).into()), name }
}
