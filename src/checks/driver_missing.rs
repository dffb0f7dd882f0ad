//! The driver's libraries are not found: no GPU was given to the container, only part of the driver was, or it lies where
//! nothing looks.

use mldoctor_probes::nvml::Gpu;

use super::driver_calls::{STUB_LIBRARY, stub};
use super::place::{failed_with, give_gpu, gpus, node, on_node, variable};
use super::{Check, Failed, Rule, file_name, finding};
use crate::facts::node::{Node, Platform, Written};
use crate::facts::{DriverFile, DriverFileKind, Facts, Observed, StepOutcome};
use crate::finding::{Finding, Fix};
use crate::loader::LoadError;

/// The check.
pub static CHECK: Check = Check {
    ids: &[
        "dev-wsl-path",
        "drv-absent",
        "drv-cache-stale",
        "drv-caps-no-compute",
        "drv-caps-no-utility",
        "drv-ldconfig-fail",
        "drv-path-gke",
        "drv-runtimeclass",
        "drv-visible-void",
        "ver-vgpu-host",
    ],
    rule: Rule::Explain(explain),
};

fn explain(failed: &Failed<'_>, facts: &Facts) -> Option<Finding> {
    if failed.subject.capability != "gpu" {
        return None;
    }
    let LoadError::Missing { name, .. } = failed.load()? else { return None };
    let lacks = |library: &str| {
        failed.subject.steps.iter().any(|s| s.file == library && matches!(s.outcome, StepOutcome::Failed(_)))
    };
    if name.starts_with("libnvidia-ml") && !lacks("libcuda.so.1") {
        if failed_with(facts, STUB_LIBRARY).is_some() {
            let file = facts.driver.as_ref().and_then(|driver| driver.libcuda.as_deref());
            return Some(stub(facts, file.unwrap_or("libcuda.so.1")));
        }
        return Some(
            of_capabilities(facts, "utility", "drv-caps-no-utility", name, "CUDA's driver is there, and NVML is not")
                .sees("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system."),
        );
    }
    Some(without_libcuda(facts, !lacks("libnvidia-ml.so.1")))
}

/// A part of the driver that was not asked for, or that the node does not have.
fn of_capabilities(facts: &Facts, wanted: &str, id: &str, library: &str, message: &str) -> Finding {
    let value = variable(facts, "NVIDIA_DRIVER_CAPABILITIES").filter(|value| !value.is_empty());
    let found = finding(id, library, message).proof(
        "NVIDIA_DRIVER_CAPABILITIES",
        value.unwrap_or("not set"),
        Some("environment".into()),
    );
    // Where it is not set, today's runtime mounts both parts; those of old asked for the utilities alone.
    if value.is_some_and(|value| value.split(',').any(|part| matches!(part.trim(), "all") || part.trim() == wanted)) {
        return found.cure(on_node(format!(
            "the runtime was asked for {wanted} and has not mounted {library}: see that the node's driver has it"
        )));
    }
    found.cure(Fix {
        summary: format!("ask for the driver's {wanted} libraries"),
        dockerfile: Some("ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility".into()),
        docker_run: Some("docker run -e NVIDIA_DRIVER_CAPABILITIES=compute,utility …".into()),
        kubernetes: None,
    })
}

/// Why there is no `libcuda.so.1`.
fn without_libcuda(facts: &Facts, has_nvml: bool) -> Finding {
    const SEEN: &str = "libcuda.so.1: cannot open shared object file: No such file or directory";
    let node = node(facts);
    let start = |id: &str, message: &str| finding(id, "libcuda.so.1", message).sees(SEEN);
    let lies = facts
        .image
        .libraries
        .driver_files
        .iter()
        .find(|f| f.kind == DriverFileKind::Driver && file_name(&f.path).starts_with("libcuda.so") && f.size > 0);
    if let Some(file) = lies {
        let dir = file.path.rsplit_once('/').map_or("/", |(dir, _)| dir);
        let path = variable(facts, "LD_LIBRARY_PATH").filter(|value| !value.is_empty()).unwrap_or("not set");
        if dir.starts_with("/usr/lib/wsl") {
            return wsl(start("dev-wsl-path", "the driver of Windows is there, and nothing searches its directory"))
                .proof("file", &file.path, None)
                .proof("LD_LIBRARY_PATH", path, Some("environment".into()));
        }
        if dir.starts_with("/usr/local/nvidia") {
            return start("drv-path-gke", "the driver is mounted in a directory that nothing searches")
                .proof("file", &file.path, file.mounted.then(|| "mounted".into()))
                .proof("LD_LIBRARY_PATH", path, Some("environment".into()))
                .cure(Fix::dockerfile(
                    "search it; where it does not exist that does no harm",
                    format!("ENV LD_LIBRARY_PATH={dir}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"),
                ));
        }
        return not_in_cache(node, file).sees(SEEN);
    }
    if node.is(Platform::Wsl) {
        return wsl(start("dev-wsl-path", "this is WSL, and its driver is not in the container")).proof(
            "/dev/dxg",
            if node.device("/dev/dxg").is_some() { "there" } else { "not there" },
            None,
        );
    }
    if let Some(found) = of_manager(facts) {
        return found.sees(SEEN);
    }
    if has_nvml {
        return of_capabilities(
            facts,
            "compute",
            "drv-caps-no-compute",
            "libcuda.so.1",
            "the driver's utilities are there, and CUDA's driver is not",
        )
        .sees(SEEN);
    }
    let visible = variable(facts, "NVIDIA_VISIBLE_DEVICES");
    let shown = visible.map_or("not set".to_owned(), |value| format!("{value:?}"));
    if let Some(path) = node.nodes().next() {
        return start("drv-runtimeclass", "the GPU's device nodes are there, and none of the driver's libraries")
            .proof("device node", path, None)
            .proof("NVIDIA_VISIBLE_DEVICES", shown, Some("environment".into()))
            .cure(Fix {
                summary: "start it with NVIDIA's container runtime, which mounts the libraries".into(),
                docker_run: Some("docker run --runtime=nvidia --gpus all …".into()),
                kubernetes: Some("spec: { runtimeClassName: nvidia }".into()),
                dockerfile: None,
            });
    }
    if matches!(visible, Some("void" | "none" | "")) {
        return start("drv-visible-void", "NVIDIA_VISIBLE_DEVICES asks for no GPU")
            .proof("NVIDIA_VISIBLE_DEVICES", shown, Some("environment".into()))
            .proof("/dev/nvidiactl", "not there", None)
            .cure(give_gpu("leave the variable to whoever starts the container"));
    }
    start("drv-absent", "no GPU was given to this container: neither a driver nor a device node is in it")
        .proof("/dev/nvidiactl", "not there", None)
        .proof("NVIDIA_VISIBLE_DEVICES", shown, Some("environment".into()))
        .cure(give_gpu("start the container with a GPU"))
}

/// It lies in a directory that only the cache could lead to. Who wrote the cache last tells who left the driver out.
fn not_in_cache(node: &Node, file: &DriverFile) -> Finding {
    let whose = if file.mounted { "mounted" } else { "part of the image" };
    let written = match node.cache_written {
        Observed::Seen(Written::BeforeStart) => "before the container was started",
        Observed::Seen(Written::SinceStart) => "since the container was started",
        Observed::Absent(_) => "never: it is not there",
        Observed::Failed(_) | Observed::NotAsked => "not known",
    };
    let nobody = matches!(node.cache_written, Observed::Absent(_) | Observed::Seen(Written::BeforeStart));
    let found = if file.mounted && nobody {
        let message = "the driver was mounted, and the loader's cache was not written anew";
        finding("drv-ldconfig-fail", "libcuda.so.1", message).cure(Fix {
            summary:
                "on the node: ldconfig = \"@/sbin/ldconfig\" in /etc/nvidia-container-runtime/config.toml, so that \
                      the runtime uses its own; until then run ldconfig as root before the workload starts"
                    .into(),
            dockerfile: Some(ENTRYPOINT.into()),
            ..Fix::default()
        })
    } else {
        let message = "the driver's libraries are there, and the loader's cache does not know them";
        finding("drv-cache-stale", "libcuda.so.1", message).cure(Fix::dockerfile(
            "run ldconfig as root before the workload starts, and keep /sbin/ldconfig in the image",
            ENTRYPOINT,
        ))
    };
    found.proof("file", &file.path, Some(whose.into())).proof("cache written", written, Some("/etc/ld.so.cache".into()))
}

const ENTRYPOINT: &str = "ENTRYPOINT [\"/bin/sh\", \"-c\", \"ldconfig && exec \\\"$@\\\"\", \"--\"]";

/// A hypervisor's driver, which divides GPUs for virtual machines and has no CUDA.
pub fn of_manager(facts: &Facts) -> Option<Finding> {
    let gpus = gpus(facts);
    let is_host = |gpu: &&&Gpu| gpu.virtualization.get().is_some_and(|mode| mode.starts_with("Host"));
    let gpu = gpus.iter().find(is_host)?;
    Some(
        finding("ver-vgpu-host", "driver", "the node runs the manager of vGPU, a driver without CUDA")
            .proof(
                "virtualization",
                gpu.virtualization.get().map_or("?", String::as_str),
                Some("nvmlDeviceGetVirtualizationMode".into()),
            )
            .sees("CUDA driver version is insufficient for CUDA runtime version")
            .cure(on_node("run this in a virtual machine with the guest driver, or install the data-centre driver")),
    )
}

fn wsl(found: Finding) -> Finding {
    found.cure(Fix {
        summary: "the driver of Windows is mounted in /usr/lib/wsl/lib; install no Linux driver inside".into(),
        dockerfile: Some("ENV LD_LIBRARY_PATH=/usr/lib/wsl/lib".into()),
        docker_run: Some("docker run --gpus all …".into()),
        kubernetes: None,
    })
}
