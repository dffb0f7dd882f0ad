//! The GPUs and the driver that the workload is judged for: those that are named, else those that are seen.

use super::file_name;
use super::place::node;
use crate::driver::{Class, Cuda, Gpu, Isa, Release, Version, minimum, newest};
use crate::facts::{Driver, DriverFileKind, Facts};

/// A driver, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its own version.
    pub version: Option<Version>,
    /// The release of CUDA that it brings.
    pub cuda: Option<Cuda>,
    /// Whether it said so itself, and not a table.
    pub is_seen: bool,
}

/// The GPUs.
pub fn gpus(facts: &Facts) -> Vec<Gpu> {
    facts.assumed.gpus(facts.driver.as_ref())
}

/// Where the GPUs are known from.
pub fn source(facts: &Facts) -> &'static str {
    if facts.assumed.gpus.is_empty() { "the driver" } else { "--gpu" }
}

/// The driver that programs meet.
pub fn driver(facts: &Facts) -> Option<Installed> {
    if let Some(host) = &facts.assumed.driver {
        let version = compat(facts, host).unwrap_or_else(|| host.clone());
        let cuda = Release::of_driver(&version).filter(|r| r.confirmed).map(|r| r.cuda);
        return Some(Installed { version: Some(version), cuda, is_seen: false });
    }
    let seen = facts.driver.as_ref();
    let by_cuda = seen.and_then(Driver::cuda).and_then(|c| c.version.get());
    let by_nvml = seen.and_then(Driver::system).and_then(|s| s.cuda.get());
    // As `cuDriverGetVersion` has it: 12020 is 12.2.
    let cuda = by_cuda.or(by_nvml).and_then(|n| u32::try_from(*n).ok()).filter(|n| *n >= 1_000);
    let cuda = cuda.map(|n| Cuda { major: n / 1_000, minor: n % 1_000 / 10 });
    let version = seen.and_then(Driver::system).and_then(|s| s.driver.get()).and_then(|v| v.parse().ok());
    let version = version.or_else(|| node(facts).driver.seen()?.version.parse().ok());
    (version.is_some() || cuda.is_some()).then_some(Installed { version, cuda, is_seen: true })
}

/// The driver of the `cuda-compat` package in the image, and the branches that it works with. The container toolkit
/// wants it to be the only one in its directory.
pub fn in_image(facts: &Facts) -> Option<(Version, Option<&[u32]>)> {
    let mut found = None;
    for file in facts.image.libraries.driver_files.iter().filter(|f| f.kind == DriverFileKind::Compat) {
        let Some(Ok(version)) = file_name(&file.path).strip_prefix("libcuda.so.").map(str::parse::<Version>) else {
            continue;
        };
        // `libcuda.so.1` is the link's name, and no version.
        match (version.branch() < 100, &found) {
            (true, _) => {}
            (false, None) => found = Some((version, file.branches.as_deref())),
            (false, Some(_)) => return None,
        }
    }
    found
}

/// The rule of the container toolkit (`cmd/nvidia-cdi-hook/cudacompat`): newer than the host's driver, whose branch it
/// names; or where it names none, of a newer branch. It is not for GeForce.
fn compat(facts: &Facts, host: &Version) -> Option<Version> {
    let is_geforce = gpus(facts).iter().any(|g| g.class() == Some(Class::Geforce));
    let (version, branches) = in_image(facts).filter(|_| !is_geforce)?;
    let fits = match branches {
        Some(branches) => branches.contains(&host.branch()) && !host.reaches(&version),
        None => version.branch() > host.branch(),
    };
    fits.then_some(version)
}

impl Installed {
    /// Whether it compiles PTX of a version, where that is known.
    pub fn compiles(&self, isa: Isa) -> Option<bool> {
        if let Some(cuda) = self.cuda {
            return match Release::of(cuda) {
                Some(release) => Some(isa <= release.isa),
                // What is newer than the table compiles at least what the table knows.
                None => Some(true).filter(|_| cuda > newest().cuda && isa <= newest().isa),
            };
        }
        let first = Release::of_ptx(isa)?.driver.as_ref()?;
        Some(true).filter(|_| self.version.as_ref().is_some_and(|own| own.reaches(first)))
    }

    /// The driver that a runtime wants at least, if this one is older.
    pub fn is_too_old_for(&self, runtime: Cuda) -> Option<&'static Version> {
        let wanted = minimum(runtime)?;
        let suffices = match (self.cuda.filter(|_| self.is_seen), &self.version) {
            // From 11 on, the major release alone counts.
            (Some(cuda), _) if runtime.major >= 11 => cuda.major >= runtime.major,
            (Some(cuda), _) => cuda >= runtime,
            (None, Some(version)) => version.reaches(wanted),
            (None, None) => true,
        };
        (!suffices).then_some(wanted)
    }

    /// Its version, or what takes its place: `535.104.05`, `of CUDA 12.2`.
    pub fn name(&self) -> String {
        match (&self.version, self.cuda) {
            (Some(version), _) => version.to_string(),
            (None, Some(cuda)) => format!("of CUDA {cuda}"),
            (None, None) => "of an unknown release".to_owned(),
        }
    }

    /// What it brings, in words.
    pub fn brings(&self) -> Option<String> {
        let cuda = self.cuda?;
        let isa = Release::of(cuda).map_or_else(String::new, |r| format!(", PTX up to {}", r.isa));
        Some(format!("CUDA {cuda}{isa}"))
    }
}
