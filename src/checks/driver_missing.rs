//! The driver's libraries are not found: no GPU was given to the container, only part of the driver was, or it lies where
//! nothing looks.

use super::place::{give_gpu, node, variable};
use super::{Check, Failed, Rule, file_name, finding};
use crate::facts::node::Platform;
use crate::facts::{DriverFileKind, Facts, StepOutcome};
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
        "drv-path-gke",
        "drv-runtimeclass",
        "drv-visible-void",
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
        let value = variable(facts, "NVIDIA_DRIVER_CAPABILITIES").unwrap_or("not set");
        return Some(
            finding("drv-caps-no-utility", name, "CUDA's driver is there, and NVML is not".to_owned())
                .proof("NVIDIA_DRIVER_CAPABILITIES", value, Some("environment".into()))
                .sees("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.")
                .cure(Fix::dockerfile(
                    "ask for the utilities of the driver too",
                    "ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility",
                )),
        );
    }
    Some(without_libcuda(facts, !lacks("libnvidia-ml.so.1")))
}

/// Why there is no `libcuda.so.1`.
fn without_libcuda(facts: &Facts, has_nvml: bool) -> Finding {
    let node = node(facts);
    let start = |id: &str, message: &str| {
        let found = finding(id, "libcuda.so.1", message.to_owned());
        found.sees("ImportError: libcuda.so.1: cannot open shared object file: No such file or directory")
    };
    let lies = facts
        .image
        .libraries
        .driver_files
        .iter()
        .find(|f| f.kind == DriverFileKind::Driver && file_name(&f.path).starts_with("libcuda.so") && f.size > 0);
    if let Some(file) = lies {
        let dir = file.path.rsplit_once('/').map_or("/", |(dir, _)| dir);
        if dir.starts_with("/usr/local/nvidia") {
            return start("drv-path-gke", "the driver is mounted in a directory that nothing searches")
                .proof("file", &file.path, Some("mounted by the platform".into()))
                .proof("LD_LIBRARY_PATH", variable(facts, "LD_LIBRARY_PATH").unwrap_or("not set"), None)
                .cure(Fix::dockerfile(
                    "search it; where it does not exist that does no harm",
                    format!("ENV LD_LIBRARY_PATH={dir}"),
                ));
        }
        if dir.starts_with("/usr/lib/wsl") {
            return wsl(start("dev-wsl-path", "the driver of Windows is there, and nothing searches its directory"))
                .proof("file", &file.path, None);
        }
        return start("drv-cache-stale", "the driver's libraries are there, and the loader's cache does not know them")
            .proof("file", &file.path, Some(format!("mounted: {}", file.mounted)))
            .cure(Fix {
                summary: "run ldconfig as root before the workload starts, and keep /sbin/ldconfig in the image".into(),
                dockerfile: Some("ENTRYPOINT [\"/bin/sh\", \"-c\", \"ldconfig && exec \\\"$@\\\"\", \"--\"]".into()),
                ..Fix::default()
            });
    }
    if node.is(Platform::Wsl) {
        return wsl(start("dev-wsl-path", "this is WSL, and its driver is not in the container")).proof(
            "kernel",
            "microsoft",
            Some("/proc/version".into()),
        );
    }
    let shown = |name: &str| variable(facts, name).unwrap_or("not set").to_owned();
    if has_nvml {
        return start("drv-caps-no-compute", "the driver's utilities are there, and CUDA's driver is not")
            .proof("NVIDIA_DRIVER_CAPABILITIES", shown("NVIDIA_DRIVER_CAPABILITIES"), Some("environment".into()))
            .cure(Fix::dockerfile(
                "ask for the driver's compute libraries",
                "ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility",
            ));
    }
    if node.has_nodes() {
        return start("drv-runtimeclass", "the GPU's device nodes are there, and none of the driver's libraries")
            .proof("device node", "/dev/nvidiactl", None)
            .cure(Fix {
                summary: "start it with NVIDIA's container runtime, which mounts the libraries".into(),
                docker_run: Some("docker run --runtime=nvidia --gpus all …".into()),
                kubernetes: Some("spec: { runtimeClassName: nvidia }".into()),
                dockerfile: None,
            });
    }
    let visible = shown("NVIDIA_VISIBLE_DEVICES");
    if matches!(visible.as_str(), "void" | "none" | "") {
        return start("drv-visible-void", "NVIDIA_VISIBLE_DEVICES asks for no GPU")
            .proof("NVIDIA_VISIBLE_DEVICES", format!("{visible:?}"), Some("environment".into()))
            .cure(give_gpu("leave the variable to whoever starts the container"));
    }
    start("drv-absent", "no GPU was given to this container: neither a driver nor a device node is in it")
        .proof("/dev/nvidiactl", "not there", None)
        .proof("NVIDIA_VISIBLE_DEVICES", visible, Some("environment".into()))
        .cure(give_gpu("start the container with a GPU"))
}

fn wsl(found: Finding) -> Finding {
    found.cure(Fix {
        summary: "the driver of Windows is mounted in /usr/lib/wsl/lib; install no Linux driver inside".into(),
        dockerfile: Some("ENV LD_LIBRARY_PATH=/usr/lib/wsl/lib".into()),
        docker_run: Some("docker run --gpus all …".into()),
        kubernetes: None,
    })
}
