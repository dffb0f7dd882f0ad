//! What the CUDA driver API says.

use serde::{Deserialize, Serialize};

use crate::Field;

/// The driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cuda {
    /// `cuDriverGetVersion`, such as 12020.
    pub version: Field<i32>,
    /// `cuDeviceGetCount`
    pub count: Field<i32>,
}

/// One device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Ordinal.
    pub ordinal: i32,
    /// Product name.
    pub name: Field<String>,
    /// UUID as NVML writes it.
    pub uuid: Field<String>,
    /// Major and minor compute capability.
    pub compute_capability: Field<(i32, i32)>,
    /// Memory in bytes.
    pub memory: Field<u64>,
    /// `CU_DEVICE_ATTRIBUTE_COMPUTE_MODE`: 0 default, 2 prohibited, 3 exclusive process.
    pub compute_mode: Field<i32>,
    /// Integrated GPU, as of Tegra.
    pub integrated: Field<bool>,
    /// What came of computing on it, if that was asked for.
    pub computed: Field<()>,
}
