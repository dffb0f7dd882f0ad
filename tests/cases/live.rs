//! Cases of a running container. Everything is healthy but for what the case says:
//!
//! ```toml
//! [case.node]                               # changes to the node, see src/facts/node.rs
//! devices = { "/dev/nvidiactl" = { open = "EPERM" }, "/dev/nvidia0" = "gone" }
//! [case.driver]                             # changes to the driver, see tests/fake-driver/src/lib.rs
//! libcuda = "missing"                       # or the path that it is shown with; so with libnvml
//! mounted = ["/usr/lib/libcuda.so.1"]       # files of the tree that do not belong to the image
//! calls = { cuInit = { code = 100 } }
//! nvml_only = true                          # CUDA is not asked anew, as by most calls of health
//! deadline = 8                              # seconds that each child has; 2 where none is given
//! [case.library]                            # a CUDA library that import:torch uses; calls as above
//! family = "cudnn"
//! part = "torch.conv"                       # a part of torch that uses it
//! mapped = "/opt/other/libcudnn.so.9"       # where it is said to have come from
//! ```
//!
//! The driver is a real library, and real child processes ask it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mldoctor::facts::{Facts, Observed};
use mldoctor::loader::{Environment, Failure, LoadError};
use mldoctor::observe::live::{self, DriverPaths, Plan, Prober};
use mldoctor::observe::{Depth, Live};
use mldoctor_probes::Line;
use mldoctor_probes::library::Family;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Case;
use crate::support::driver::fake_driver;

const NODE: &str = r#"
driver = { seen = { version = "570.124.06", open = true } }
parameters = { RmProfilingAdminOnly = "0" }
module_gpus = { seen = 1 }
pci_gpus = { seen = 1 }
majors = { seen = { nvidia-frontend = 195, nvidia-uvm = 511 } }
mounts = { seen = { "/" = { kind = "overlay", options = ["rw"] } } }
process = { uid = 0, gids = [0], capabilities = 0xa80425fb, seccomp = 2 }
[devices]
"/dev/nvidiactl" = { number = [195, 255], mode = 0o666, open = "ok" }
"/dev/nvidia0" = { number = [195, 0], mode = 0o666, open = "ok" }
"/dev/nvidia-uvm" = { number = [511, 0], mode = 0o666, open = "ok" }
"#;

const DRIVER: &str = r#"
driver = "570.124.06"
cuda = 12080
gpus = [{}]
"#;

#[derive(Clone, Deserialize)]
pub struct Driver {
    libcuda: Option<String>,
    libnvml: Option<String>,
    #[serde(default)]
    mounted: Vec<String>,
    deadline: Option<u64>,
    #[serde(default)]
    nvml_only: bool,
    #[serde(flatten)]
    scenario: toml::Table,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Library {
    family: Family,
    mapped: Option<String>,
    part: Option<String>,
    /// Its child process could not be started.
    #[serde(default)]
    not_started: bool,
}

/// A healthy table with changes.
fn changed<T: DeserializeOwned>(healthy: &str, changes: Option<&toml::Table>) -> T {
    fn merge(into: &mut toml::Table, from: &toml::Table) {
        for (key, value) in from {
            match (into.get_mut(key), value) {
                (Some(toml::Value::Table(into)), toml::Value::Table(from))
                    // Of the variants of an enumeration only one can be.
                    if !["seen", "absent", "failed"].iter().any(|v| from.contains_key(*v) && !into.contains_key(*v)) =>
                {
                    merge(into, from);
                }
                (_, toml::Value::String(text)) if text == "gone" => _ = into.remove(key),
                _ => _ = into.insert(key.clone(), value.clone()),
            }
        }
    }
    let mut table: toml::Table = toml::from_str(healthy).unwrap();
    changes.inspect(|changes| merge(&mut table, changes));
    table.try_into().unwrap()
}

/// The path that a driver library is found at, or that nothing finds it.
fn found(name: &str, given: Option<&String>) -> Result<String, Failure> {
    if given.is_some_and(|given| given == "missing") {
        let missing = LoadError::Missing {
            name: name.to_owned(),
            requested_by: "libcudart.so.12".to_owned(),
            searched: Vec::new(),
            reason: "No such file or directory".to_owned(),
            other_class: false,
        };
        return Err(Failure { errors: vec![missing], loaded: Vec::new() });
    }
    Ok(fake_driver().to_str().unwrap().to_owned())
}

pub fn add(facts: &mut Facts, case: &Case) {
    let driver = case.driver.as_ref();
    let scenario: toml::Table = changed(DRIVER, driver.map(|d| &d.scenario));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("scenario.json");
    fs::write(&file, serde_json::to_string(&scenario).unwrap()).unwrap();
    let mut env = Environment::default();
    env.set("FAKE_DRIVER", &file);
    let depth = match driver {
        Some(driver) if driver.nvml_only => Depth::Nvml,
        _ if case.deep => Depth::Deep,
        _ => Depth::Check,
    };
    let live = Live {
        probe: None,
        deadline: Duration::from_secs(driver.and_then(|d| d.deadline).unwrap_or(2)),
        until: None,
        depth,
        node: PathBuf::from("/"),
        inside: None,
    };
    let prober = Prober::new(&live, env, Path::new("/"), None).unwrap();
    let paths = DriverPaths {
        libcuda: found("libcuda.so.1", driver.and_then(|d| d.libcuda.as_ref())),
        libnvml: found("libnvidia-ml.so.1", driver.and_then(|d| d.libnvml.as_ref())),
    };
    let plans: Vec<Plan> = case
        .library
        .iter()
        .flat_map(|library| {
            let path = dir.path().join(format!("lib{}.so.9", library.family.name()));
            fs::copy(fake_driver(), &path).unwrap();
            let paths = vec![path.to_str().unwrap().to_owned()];
            let capabilities = ["import:torch".to_owned()].into_iter().chain(library.part.clone());
            capabilities.map(move |capability| Plan { family: library.family, paths: paths.clone(), capability })
        })
        .collect();
    let (mut driver_facts, mut libraries) = prober.ask(Some(&paths), &plans);
    for (shown, own) in [
        (driver.and_then(|d| d.libcuda.clone()), &mut driver_facts.libcuda),
        (driver.and_then(|d| d.libnvml.clone()), &mut driver_facts.libnvml),
    ] {
        if own.is_some() {
            *own = shown.or_else(|| own.take());
        }
    }
    if let (Some(mapped), Some(Observed::Seen(run))) =
        (case.library.as_ref().and_then(|l| l.mapped.clone()), libraries.first_mut().map(|l| &mut l.run))
    {
        run.lines.retain(|line| !matches!(line, Line::Mapped { .. }));
        run.lines.push(Line::Mapped { paths: vec![mapped] });
    }
    if case.library.as_ref().is_some_and(|l| l.not_started) {
        libraries.iter_mut().for_each(|l| l.run = Observed::Failed("Resource temporarily unavailable".into()));
    }
    driver_facts.libcuda_file.clone_from(&driver_facts.libcuda);
    driver_facts.libnvml_file.clone_from(&driver_facts.libnvml);
    for file in &mut facts.image.libraries.driver_files {
        file.mounted = driver.is_some_and(|d| d.mounted.contains(&file.path));
    }
    let node = changed(NODE, case.node.as_ref());
    facts.subjects.push(live::gpu(Some(&paths), &driver_facts, &node));
    live::add_libraries(&mut facts.subjects, &plans, &libraries);
    facts.node = Some(node);
    facts.driver = Some(driver_facts);
    facts.libraries = libraries;
}
