//! `CUDA_VISIBLE_DEVICES`: which GPUs the workload sees of those that the container has (CUDA C++ Programming Guide,
//! environment variables).

use mldoctor_probes::nvml::Gpu;

use super::pages::Severity;
use super::place::{gpus, variable, works};
use super::{Check, Rule, Surveyed, finding};
use crate::facts::{Driver, Facts};
use crate::finding::{Finding, Fix};

/// The check.
pub static CHECK: Check = Check { ids: &["gpu-cvd-empty", "gpu-cvd-foreign-uuid"], rule: Rule::Survey(survey) };

fn survey(facts: &Facts) -> Surveyed {
    if variable(facts, "CUDA_VISIBLE_DEVICES").is_none() {
        return Surveyed::not_applicable("CUDA_VISIBLE_DEVICES is not set");
    }
    match hides(facts) {
        Some(found) if hides_all(facts) && !works(facts) => Surveyed::found(vec![found.breaks("gpu")]),
        other => Surveyed::found(other.map(as_warning).into_iter().collect()),
    }
}

/// Some GPUs are left to work with.
fn as_warning(mut found: Finding) -> Finding {
    found.severity = Severity::Warning;
    found
}

/// Entries up to the first that is not valid; what comes after it is ignored.
fn entries(facts: &Facts) -> Option<(Vec<&str>, Option<&str>)> {
    let value = variable(facts, "CUDA_VISIBLE_DEVICES")?;
    let gpus = gpus(facts);
    let uuids: Vec<&str> =
        gpus.iter().flat_map(|g| g.uuid.get().map(String::as_str).into_iter().chain(mig_devices(g))).collect();
    let mut valid = Vec::new();
    for entry in value.split(',').map(str::trim) {
        let is_valid = match entry.parse::<i64>() {
            Ok(index) => index >= 0 && (gpus.is_empty() || usize::try_from(index).is_ok_and(|i| i < gpus.len())),
            Err(_) if entry.starts_with("GPU-") || entry.starts_with("MIG-") => {
                uuids.is_empty() || uuids.iter().any(|uuid| uuid.starts_with(entry))
            }
            Err(_) => false,
        };
        if !is_valid {
            return Some((valid, Some(entry)));
        }
        valid.push(entry);
    }
    Some((valid, None))
}

fn mig_devices(gpu: &Gpu) -> impl Iterator<Item = &str> {
    gpu.mig.get().into_iter().flat_map(|mig| &mig.devices).map(String::as_str)
}

/// Whether a GPU is not the workload's, because the variable names others.
///
/// Where CUDA lists as many devices as are named, those are the workload's. Else numbers count in the order of NVML where
/// the GPUs are alike, or `CUDA_DEVICE_ORDER` says so.
pub fn is_hidden(facts: &Facts, gpu: &Gpu) -> bool {
    let Some((valid, _)) = entries(facts).filter(|(valid, _)| !valid.is_empty()) else { return false };
    let own = || gpu.uuid.get().map(String::as_str).into_iter().chain(mig_devices(gpu));
    let seen: Vec<Option<&String>> =
        facts.driver.iter().flat_map(Driver::devices).map(|device| device.uuid.get()).collect();
    if seen.len() == valid.len() && seen.iter().all(Option::is_some) {
        return !seen.into_iter().flatten().any(|uuid| own().any(|own| own == uuid));
    }
    let gpus = gpus(facts);
    let is_ordered = variable(facts, "CUDA_DEVICE_ORDER") == Some("PCI_BUS_ID")
        || gpus.iter().all(|other| other.name.get().is_some() && other.name.get() == gpu.name.get());
    valid.iter().all(|entry| match entry.parse::<u32>() {
        Ok(index) => is_ordered && index != gpu.index,
        Err(_) => gpu.uuid.get().is_some() && gpu.mig.get().is_some() && !own().any(|own| own.starts_with(entry)),
    })
}

/// Whether it leaves none.
pub fn hides_all(facts: &Facts) -> bool {
    entries(facts).is_some_and(|(valid, _)| valid.is_empty())
}

/// What the variable hides that it was not meant to, if anything.
pub fn hides(facts: &Facts) -> Option<Finding> {
    let value = variable(facts, "CUDA_VISIBLE_DEVICES")?;
    let (valid, invalid) = entries(facts)?;
    let invalid = invalid?;
    let id = if invalid.starts_with("GPU-") || invalid.starts_with("MIG-") {
        "gpu-cvd-foreign-uuid"
    } else {
        "gpu-cvd-empty"
    };
    let message = match (id, valid.len()) {
        ("gpu-cvd-foreign-uuid", 0) => {
            format!("CUDA_VISIBLE_DEVICES names {invalid}, which this container does not have")
        }
        (_, 0) => format!("CUDA_VISIBLE_DEVICES={value:?} hides every GPU"),
        (_, n) => format!("CUDA_VISIBLE_DEVICES ends at {invalid:?}: {n} GPUs are left"),
    };
    let mut found =
        finding(id, "CUDA_VISIBLE_DEVICES", message).proof("value", format!("{value:?}"), Some("environment".into()));
    for gpu in gpus(facts) {
        if let Some(uuid) = gpu.uuid.get() {
            found = found.proof("GPU", format!("{}: {uuid}", gpu.index), Some("NVML".into()));
        }
    }
    Some(found.sees("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected").cure(Fix {
        summary: "unset it: the container sees the GPUs that it was given, counted from 0".into(),
        dockerfile: Some("# remove: ENV CUDA_VISIBLE_DEVICES=…".into()),
        ..Fix::default()
    }))
}
