//! Variables of the image that tell NVIDIA's container runtime what to do, and some that change what CUDA does.

use super::pages::Severity;
use super::place::{gpus, variable};
use super::{Check, Rule, Surveyed, finding, hardware};
use crate::driver::{Properties, satisfies};
use crate::facts::{Facts, Scope};
use crate::finding::{Finding, Fix};

/// What the container runtime is told (`internal/config/image` of nvidia-container-toolkit).
pub static RUNTIME: Check =
    Check { ids: &["drv-legacy-image", "drv-require", "drv-visible-all-baked"], rule: Rule::Survey(runtime) };
/// Variables of debuggers and profilers that were left behind.
pub static LEFT_BEHIND: Check = Check { ids: &["env-debug"], rule: Rule::Survey(left_behind) };

fn runtime(facts: &Facts) -> Surveyed {
    let found = [all_baked(facts), legacy(facts)];
    let requirements = facts.image.env.iter().filter(|(name, _)| name.starts_with("NVIDIA_REQUIRE_"));
    let required = requirements.filter_map(|(name, value)| require(facts, name, value));
    Surveyed::found(found.into_iter().flatten().chain(required).collect())
}

/// An image that asks for every GPU gets every GPU, whether or not the orchestrator gave it one.
fn all_baked(facts: &Facts) -> Option<Finding> {
    // In a running container the variable may come from whoever started it.
    if facts.target.scope != Scope::Image || variable(facts, "NVIDIA_VISIBLE_DEVICES") != Some("all") {
        return None;
    }
    Some(
        finding("drv-visible-all-baked", "NVIDIA_VISIBLE_DEVICES", "the image asks for every GPU of the node")
            .proof("NVIDIA_VISIBLE_DEVICES", "all", Some("environment of the image".into()))
            .proof("GPUs seen", gpus(facts).len().to_string(), None)
            .cure(Fix::dockerfile("let whoever starts the container say so", "ENV NVIDIA_VISIBLE_DEVICES=void")),
    )
}

/// `IsLegacy`: a CUDA version without requirements makes the runtime invent both.
fn legacy(facts: &Facts) -> Option<Finding> {
    let version = variable(facts, "CUDA_VERSION")?;
    if variable(facts, "NVIDIA_REQUIRE_CUDA").is_some() {
        return None;
    }
    Some(
        finding("drv-legacy-image", "CUDA_VERSION", "the container runtime takes this for an image of old")
            .proof("CUDA_VERSION", version, Some("environment of the image".into()))
            .proof("NVIDIA_REQUIRE_CUDA", "not set", None)
            .cure(Fix::dockerfile("define both or neither", "ENV NVIDIA_REQUIRE_CUDA=\"cuda>=12.0\"")),
    )
}

/// A condition on the driver. A container that runs has been started in spite of it.
fn require(facts: &Facts, name: &str, value: &str) -> Option<Finding> {
    // As `strconv.ParseBool` reads it.
    let is_disabled =
        variable(facts, "NVIDIA_DISABLE_REQUIRE").is_some_and(|v| ["1", "t", "T", "TRUE", "true", "True"].contains(&v));
    let driver = hardware::driver(facts);
    let gpus = hardware::gpus(facts);
    let arch = gpus.first().map(|g| g.cc).filter(|first| gpus.iter().all(|g| g.cc == *first));
    let known = driver.as_ref().map_or_else(Properties::default, |d| Properties {
        driver: d.version.as_ref(),
        cuda: d.cuda,
        arch,
    });
    let answer = satisfies(value, known);
    if is_disabled || answer == Some(true) {
        return None;
    }
    let is_refused = answer == Some(false) && facts.assumed.driver.is_some();
    let message = match driver.filter(|_| is_refused) {
        Some(driver) => format!("driver {} does not satisfy {value:?}: the container is not started", driver.name()),
        None => format!("the container is only started where the driver satisfies {value:?}"),
    };
    let found = finding("drv-require", name, message)
        .proof(name, value, Some("environment of the image".into()))
        .sees(format!("nvidia-container-cli: requirement error: unsatisfied condition: {value}"))
        .cure(Fix {
            summary: "an older driver of the same CUDA major may do, though".into(),
            docker_run: Some("docker run -e NVIDIA_DISABLE_REQUIRE=true …".into()),
            ..Fix::default()
        });
    Some(if is_refused { Finding { severity: Severity::Error, ..found.breaks("gpu") } } else { found })
}

/// Variable, what it does.
const LEFT_BEHIND_VARIABLES: &[(&str, &str)] = &[
    ("CUDA_LAUNCH_BLOCKING", "every kernel waits for its end"),
    ("CUDA_INJECTION64_PATH", "a library is loaded into every CUDA process"),
    ("NSIGHT_CUDA_DEBUGGER", "a debugger is attached"),
    ("CUDA_ENABLE_COREDUMP_ON_EXCEPTION", "an error writes gigabytes"),
    ("CUDA_DEVICE_WAITS_ON_EXCEPTION", "an error hangs the process"),
    ("CUDA_PROFILE", "a profiler is active"),
    ("COMPUTE_PROFILE", "a profiler is active"),
    ("CUDA_CACHE_DISABLE", "kernels are compiled anew at every start"),
    ("CUDA_FORCE_PTX_JIT", "machine code is ignored, and everything compiled at every start"),
    ("CUDA_DISABLE_PTX_JIT", "nothing is compiled for GPUs without machine code"),
];

fn left_behind(facts: &Facts) -> Surveyed {
    let set = LEFT_BEHIND_VARIABLES.iter().filter_map(|(name, what)| {
        let value = variable(facts, name).filter(|value| !value.is_empty() && *value != "0")?;
        let mut found = finding("env-debug", *name, format!("{name} is set: {what}"))
            .proof(name, value, Some("environment".into()))
            .cure(Fix::dockerfile("remove it", format!("ENV {name}=")));
        found.severity = Severity::Note;
        Some(found)
    });
    Surveyed::found(set.collect())
}
