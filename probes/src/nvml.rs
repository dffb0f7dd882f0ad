//! What NVML says: of the driver, and of each GPU.

use serde::{Deserialize, Serialize};

use crate::Field;

/// The driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// `nvmlSystemGetDriverVersion`, such as `535.104.05`.
    pub driver: Field<String>,
    /// `nvmlSystemGetNVMLVersion`
    pub nvml: Field<String>,
    /// `nvmlSystemGetCudaDriverVersion_v2`, such as 12020.
    pub cuda: Field<i32>,
    /// `nvmlDeviceGetCount_v2`
    pub count: Field<u32>,
}

/// One GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    /// Index in NVML.
    pub index: u32,
    /// `nvmlDeviceGetHandleByIndex_v2`: no value if there is no handle, and then no other field either.
    pub handle: Field<()>,
    /// Product name.
    pub name: Field<String>,
    /// `GPU-…`
    pub uuid: Field<String>,
    /// PCI bus id.
    pub pci: Field<String>,
    /// Number of the device node.
    pub minor: Field<u32>,
    /// Major and minor compute capability.
    pub compute_capability: Field<(u32, u32)>,
    /// Memory.
    pub memory: Field<Memory>,
    /// Multi-instance GPU.
    pub mig: Field<Mig>,
    /// `Default`, `ExclusiveProcess`, `Prohibited`, …
    pub compute_mode: Field<String>,
    /// Whether ECC is enabled.
    pub ecc: Field<bool>,
    /// Uncorrected errors since the driver was loaded.
    pub uncorrected_volatile: Field<u64>,
    /// Uncorrected errors in the life of the GPU.
    pub uncorrected_aggregate: Field<u64>,
    /// Rows of memory that were remapped.
    pub remapped_rows: Field<RemappedRows>,
    /// Pages that wait for a restart of the driver to be retired.
    pub pages_pending: Field<bool>,
    /// `nvmlDeviceGpuRecoveryAction_t`: 0 none, 1 reset, 2 reboot, 3 drain peer-to-peer, 4 drain and reset.
    pub recovery_action: Field<u64>,
    /// Temperature in °C.
    pub temperature: Field<u32>,
    /// Why clocks are held down.
    pub clock_reasons: Field<Vec<String>>,
    /// Persistence mode; the persistence daemon holds GPUs without it.
    pub persistence: Field<bool>,
    /// NVSwitch fabric.
    pub fabric: Field<Fabric>,
    /// Processes with a context, as far as they are seen from this process namespace.
    pub processes: Field<Vec<Process>>,
    /// `Bare`, `PassThrough`, `Vgpu`, `HostVgpu` or `HostVsga`.
    pub virtualization: Field<String>,
    /// PCI Express link.
    pub pcie: Field<Pcie>,
    /// Whether each NVLink is active.
    pub nvlinks: Field<Vec<bool>>,
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What can be allocated.
    pub free: u64,
    /// What is allocated.
    pub used: u64,
    /// What the driver keeps for itself.
    pub reserved: u64,
}

/// Multi-instance GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mig {
    /// Current mode.
    pub enabled: bool,
    /// Mode after the next reset.
    pub pending: bool,
    /// UUIDs of the devices that can be seen, `MIG-…`.
    pub devices: Vec<String>,
}

/// `nvmlDeviceGetRemappedRows`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemappedRows {
    /// After correctable errors.
    pub correctable: u64,
    /// After uncorrectable errors.
    pub uncorrectable: u64,
    /// A remapping waits for a reset.
    pub pending: bool,
    /// A remapping was not possible.
    pub failed: bool,
}

/// `nvmlDeviceGetGpuFabricInfo`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fabric {
    /// 0 not supported, 1 not started, 2 in progress, 3 completed.
    pub state: u32,
    /// `nvmlReturn_t` of the registration, once completed.
    pub status: u32,
    /// Whether it spans nodes: then it has a UUID of its own (`clusterUuid`).
    #[serde(default)]
    pub clustered: bool,
}

/// A process with a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id, as the driver knows it.
    pub pid: u32,
    /// Its memory in bytes, where known.
    pub memory: Option<u64>,
}

/// PCI Express link: generation and width, now and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pcie {
    /// Generation.
    pub generation: u32,
    /// Highest generation of this GPU in this system.
    pub max_generation: u32,
    /// Lanes.
    pub width: u32,
    /// Most lanes.
    pub max_width: u32,
}
