//! What the driver and the CUDA libraries say when they are asked, each by a child process of its own.

use mldoctor_probes::library::{Family, Said};
use mldoctor_probes::{Line, cuda, nvml};
use serde::{Deserialize, Serialize};

use super::Observed;
use crate::driver::{ComputeCapability, Gpu};
use crate::probe::Run;

/// What was asked of the driver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Driver {
    /// Path of `libcuda.so.1` as the workload would find it; none if it would not.
    pub libcuda: Option<String>,
    /// Path of `libnvidia-ml.so.1` as a program would find it.
    pub libnvml: Option<String>,
    /// The file behind `libcuda`, links resolved: its name tells the release.
    #[serde(default)]
    pub libcuda_file: Option<String>,
    /// The file behind `libnvml`, links resolved.
    #[serde(default)]
    pub libnvml_file: Option<String>,
    /// The CUDA driver API.
    pub cuda: Observed<Run>,
    /// NVML.
    pub nvml: Observed<Run>,
    /// A kernel on every GPU, if that was asked for.
    pub computed: Option<Observed<Run>>,
}

impl Driver {
    /// What CUDA says of the system.
    pub fn cuda(&self) -> Option<&cuda::Cuda> {
        self.cuda.seen()?.lines.iter().find_map(|line| match line {
            Line::Cuda(cuda) => Some(cuda),
            _ => None,
        })
    }

    /// How many GPUs there are: CUDA's word on it, and where it was not asked anew, NVML's.
    pub fn count(&self) -> Option<i32> {
        match (&self.cuda, self.cuda()) {
            (Observed::NotAsked, _) => i32::try_from(*self.system()?.count.get()?).ok(),
            (_, cuda) => cuda?.count.get().copied(),
        }
    }

    /// What CUDA says of each device.
    pub fn devices(&self) -> impl Iterator<Item = &cuda::Device> {
        self.cuda.seen().into_iter().flat_map(|run| &run.lines).filter_map(|line| match line {
            Line::Device(device) => Some(device),
            _ => None,
        })
    }

    /// What NVML says of the system.
    pub fn system(&self) -> Option<&nvml::System> {
        self.nvml.seen()?.lines.iter().find_map(|line| match line {
            Line::System(system) => Some(system),
            _ => None,
        })
    }

    /// What NVML says of each GPU; the last word on each counts.
    pub fn gpus(&self) -> Vec<&nvml::Gpu> {
        let mut gpus: Vec<&nvml::Gpu> = Vec::new();
        for line in self.nvml.seen().into_iter().flat_map(|run| &run.lines) {
            if let Line::Gpu(gpu) = line {
                match gpus.iter_mut().find(|known| known.index == gpu.index) {
                    Some(known) => *known = gpu,
                    None => gpus.push(gpu),
                }
            }
        }
        gpus
    }

    /// The GPUs that CUDA gives to the workload; where it does not answer, those that NVML knows. Of equal ones, one.
    pub fn to_compute_on(&self) -> Vec<Gpu> {
        let cuda = self.devices().map(|d| {
            let cc = d.compute_capability.get().copied();
            (d.name.get(), cc.and_then(|(major, minor)| Some((u32::try_from(major).ok()?, u32::try_from(minor).ok()?))))
        });
        let nvml = self.gpus().into_iter().map(|g| (g.name.get(), g.compute_capability.get().copied()));
        let answers = self.cuda().and_then(|c| c.count.get()).is_some();
        let known = if answers { cuda.collect::<Vec<_>>() } else { nvml.collect() };
        let mut gpus: Vec<Gpu> = Vec::new();
        for (name, cc) in known {
            let Some((major, minor)) = cc else { continue };
            let cc = ComputeCapability { major, minor };
            let gpu = Gpu { name: name.cloned().unwrap_or_else(|| format!("sm_{}", cc.sm())), cc };
            if !gpus.contains(&gpu) {
                gpus.push(gpu);
            }
        }
        gpus
    }
}

/// What came of trying one of the CUDA libraries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Library {
    /// Which.
    pub family: Family,
    /// Its path, and before it those of the libraries that it needs, as the workload has them.
    pub paths: Vec<String>,
    /// What came of it.
    pub run: Observed<Run>,
}

impl Library {
    /// What it says of itself.
    pub fn said(&self) -> Option<&Said> {
        self.run.seen()?.lines.iter().find_map(|line| match line {
            Line::Library(said) => Some(said),
            _ => None,
        })
    }

    /// Every object that its process had at the end.
    pub fn mapped(&self) -> Option<&[String]> {
        self.run.seen()?.lines.iter().find_map(|line| match line {
            Line::Mapped { paths } => Some(paths.as_slice()),
            _ => None,
        })
    }
}
