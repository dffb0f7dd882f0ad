//! Places that are no ordinary Linux host with a graphics card: Jetson, a virtual machine per container, another processor.

use super::place::{node, on_node, works};
use super::{Check, Failed, Rule, Surveyed, finding};
use crate::facts::Facts;
use crate::facts::node::Platform;
use crate::finding::{Finding, Fix};
use crate::loader::LoadError;

/// A CUDA library that Jetson's runtime should have mounted.
pub static JETSON: Check = Check { ids: &["plt-jetson-libs"], rule: Rule::Explain(jetson) };
/// What the platform is.
pub static PLATFORM: Check =
    Check { ids: &["plt-jetson-nvml", "plt-kata", "plt-multiarch"], rule: Rule::Survey(platform) };

/// Beginnings of the names of CUDA's libraries; those of the driver are told elsewhere.
const CUDA: &[&str] = &[
    "libcublas",
    "libcudart",
    "libcudnn",
    "libcufft",
    "libcurand",
    "libcusolver",
    "libcusparse",
    "libnvrtc",
    "libnvinfer",
];

fn jetson(failed: &Failed<'_>, facts: &Facts) -> Option<Finding> {
    let LoadError::Missing { name, .. } = failed.load()? else { return None };
    let release = facts.image.surroundings.tegra.as_deref();
    let is_jetson = release.is_some() || node(facts).is(Platform::Tegra);
    if !is_jetson || !CUDA.iter().any(|library| name.starts_with(library)) {
        return None;
    }
    Some(
        finding("plt-jetson-libs", name, format!("{name} is not there: images for JetPack 4 get CUDA from the host"))
            .proof("needed by", &failed.step.file, None)
            .proof("release", release.unwrap_or("not told"), Some("/etc/nv_tegra_release".into()))
            .cure(Fix {
                summary: "start it with the NVIDIA runtime, with a tag that matches the L4T release of the host".into(),
                docker_run: Some("docker run --runtime nvidia …".into()),
                kubernetes: Some("runtimeClassName: nvidia".into()),
                dockerfile: None,
            }),
    )
}

fn platform(facts: &Facts) -> Surveyed {
    Surveyed::found([integrated(facts), virtual_machine(facts)].into_iter().flatten().chain(processor(facts)).collect())
}

/// NVML has little to say of a GPU that is part of the processor.
fn integrated(facts: &Facts) -> Option<Finding> {
    let node = facts.node.as_ref()?;
    let driver = facts.driver.as_ref()?;
    // Where it is not there at all nobody expects anything of it.
    let nvml = driver.libnvml.as_ref()?;
    (node.is(Platform::Tegra) && works(facts) && driver.gpus().is_empty()).then(|| {
        finding("plt-jetson-nvml", "NVML", "NVML says nothing of the GPU of a Jetson; CUDA does")
            .proof("platform", "Tegra", None)
            .proof("libnvidia-ml.so.1", nvml, None)
            .cure(Fix::words("ask CUDA for memory and names; tegrastats tells load and temperature"))
    })
}

fn virtual_machine(facts: &Facts) -> Option<Finding> {
    let node = facts.node.as_ref()?;
    (node.is(Platform::Kata) && !works(facts)).then(|| {
        finding("plt-kata", "Kata Containers", "the container is a virtual machine, and the driver has to be in it")
            .proof("kernel command line", "of a Kata guest", Some("/proc/cmdline".into()))
            .proof("cuInit", "no GPU", None)
            .cure(on_node(
                "pass the GPU through with VFIO, with a guest image that has the driver (kata-qemu-nvidia-gpu)",
            ))
    })
}

/// Nothing of the image starts here.
fn processor(facts: &Facts) -> Vec<Finding> {
    let Some(program) = &facts.image.surroundings.other_machine else { return Vec::new() };
    let own = &facts.target.arch;
    let found = || {
        finding("plt-multiarch", &program.path, format!("the image is for {}, and this machine is {own}", program.arch))
            .sees(format!("exec {}: exec format error", program.path))
            .proof(&program.path, &program.arch, Some("e_machine".into()))
            .cure(Fix {
                summary: "take the image for this processor, or examine it on a machine of its own kind".into(),
                docker_run: Some(format!("docker run --platform linux/{} …", docker_name(own))),
                kubernetes: Some(format!("nodeSelector: {{ kubernetes.io/arch: {} }}", docker_name(&program.arch))),
                dockerfile: Some("# docker buildx build --platform linux/amd64,linux/arm64 …".into()),
            })
    };
    if facts.subjects.is_empty() {
        return vec![found()];
    }
    facts.subjects.iter().map(|subject| found().breaks(&subject.capability)).collect()
}

fn docker_name(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
