//! What a return code of the driver or of NVML means here. One code has several causes: what the node and the container
//! look like tells them apart.

use super::place::{give_gpu, gpus, node, on_node};
use super::{Check, Failed, Rule, device_access, driver_versions, finding, privileges, visible_devices};
use crate::facts::node::Platform;
use crate::facts::{Facts, Observed};
use crate::finding::{Finding, Fix};
use crate::probe::Outcome;

/// The check.
pub static CHECK: Check = Check {
    ids: &[
        "dev-fabric-802",
        "dev-gvisor",
        "dev-imex",
        "dev-uvm-hmm",
        "dev-wsl-blocked",
        "drv-call-failed",
        "drv-nodevices",
        "drv-not-loaded",
        "gpu-exclusive",
        "gpu-lost",
        "gpu-mem-full",
        "gpu-mps-805",
        "gpu-reset-req",
        "ver-jit-221",
        "ver-stub-34",
    ],
    rule: Rule::Explain(explain),
};

fn explain(failed: &Failed<'_>, facts: &Facts) -> Option<Finding> {
    if failed.subject.capability != "gpu" {
        return None;
    }
    if failed.absent("gpu").is_some() {
        return Some(no_device(facts));
    }
    let call = failed.call()?;
    let Outcome::Error(error) = &call.outcome else { return None };
    let is_nvml = call.name.starts_with("nvml");
    let code = error.code;
    let found = match (is_nvml, code) {
        (false, Some(34)) => stub(failed),
        (false, Some(100 | 101)) => no_device(facts),
        (false, Some(3)) => not_initialised(facts),
        (false, Some(46)) => busy(facts),
        (false, Some(2)) => memory_full(facts, &call.name),
        (false, Some(221)) => no_jit(),
        (false, Some(304)) if node(facts).is(Platform::Gvisor) => gvisor(facts),
        (false, Some(800)) => not_permitted(),
        (false, Some(802)) => fabric(),
        (false, Some(803 | 804)) | (true, Some(18)) => driver_versions::mismatch(facts)?,
        (false, Some(805 | 807)) => mps(facts),
        (false, Some(999)) | (true, Some(999)) => unknown(facts, &call.name, code),
        (true, Some(4)) => first_access(facts).unwrap_or_else(|| other(&call.name, code, &error.name)),
        (true, Some(9)) => not_loaded(facts),
        (true, Some(15)) => lost(&call.name),
        (true, Some(16)) => reset(&call.name),
        (true, Some(17)) => wsl_blocked(facts),
        _ => other(&call.name, code, &error.name),
    };
    let code = code.map_or_else(|| "no code".to_owned(), |c| c.to_string());
    Some(found.proof(&call.name, format!("{code}: {}", error.name), Some(failed.step.file.clone())))
}

/// A device node that is not as it should be explains many codes.
fn first_access(facts: &Facts) -> Option<Finding> {
    device_access::all(facts).into_iter().next()
}

fn no_device(facts: &Facts) -> Finding {
    if let Some(found) = visible_devices::hides(facts).or_else(|| first_access(facts)) {
        return found;
    }
    let place = node(facts);
    if place.is(Platform::Gvisor) {
        return gvisor(facts);
    }
    let known = place.module_gpus.seen().copied().unwrap_or(0);
    if matches!(place.driver, Observed::Seen(_)) && known > 0 {
        return finding(
            "drv-nodevices",
            "GPU",
            "the kernel module is loaded, and none of its GPUs could be initialised",
        )
        .proof("GPUs of the module", known.to_string(), Some("/proc/driver/nvidia/gpus".into()))
        .sees("No devices were found")
        .cure(on_node("look for RmInitAdapter in dmesg: firmware and flavour of the module must fit the GPU"));
    }
    if place.has_nodes() {
        return finding("drv-nodevices", "GPU", "the driver knows no GPU")
            .proof("device nodes", "there", None)
            .sees("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected")
            .cure(on_node("nvidia-smi -L must show the GPUs"));
    }
    not_loaded(facts)
}

fn not_loaded(facts: &Facts) -> Finding {
    let place = node(facts);
    let has_module = matches!(place.driver, Observed::Seen(_));
    let (message, cure) = if has_module {
        let cure = give_gpu("give it a GPU; libraries of a driver that lie in the image do not count");
        ("the driver's libraries are here, and no GPU was given to this container", cure)
    } else {
        ("the driver's libraries are here, and its kernel module is not loaded", on_node("modprobe nvidia"))
    };
    finding("drv-not-loaded", "driver", message)
        .proof("/proc/driver/nvidia/version", if has_module { "there" } else { "not there" }, None)
        .proof("/dev/nvidiactl", if place.has_nodes() { "there" } else { "not there" }, None)
        .sees("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
        .cure(cure)
}

fn stub(failed: &Failed<'_>) -> Finding {
    finding("ver-stub-34", &failed.step.file, "a linker stub stands in the place of the driver")
        .sees("CUDA driver is a stub library")
        .cure(Fix::dockerfile(
            "use the stubs only while linking: LIBRARY_PATH, never LD_LIBRARY_PATH",
            format!("RUN rm -f {}", failed.step.file),
        ))
}

fn not_initialised(facts: &Facts) -> Finding {
    if let Some(found) = first_access(facts) {
        return found;
    }
    finding("dev-uvm-hmm", "nvidia-uvm", "every device node is as it should be, and CUDA cannot be initialised")
        .sees("CUDA_ERROR_NOT_INITIALIZED: initialization error")
        .cure(on_node(
            "if dmesg shows request_free_mem_region() err -34: options nvidia_uvm uvm_disable_hmm=1 in /etc/modprobe.d",
        ))
}

fn busy(facts: &Facts) -> Finding {
    let modes: Vec<String> =
        gpus(facts).iter().filter_map(|g| Some(format!("{}: {}", g.index, g.compute_mode.get()?))).collect();
    finding("gpu-exclusive", "compute mode", "another process has the GPU for itself, or nobody may compute on it")
        .proof(
            "compute mode",
            if modes.is_empty() { "not known".into() } else { modes.join(", ") },
            Some("NVML".into()),
        )
        .sees("CUDA error: all CUDA-capable devices are busy or unavailable")
        .cure(on_node("nvidia-smi -c 0, or use MPS"))
}

fn memory_full(facts: &Facts, call: &str) -> Finding {
    let mut found = finding("gpu-mem-full", call, "there is no memory left on a GPU for so much as a context");
    for gpu in gpus(facts) {
        if let Some(memory) = gpu.memory.get() {
            let (free, total) = (memory.free >> 20, memory.total >> 20);
            found =
                found.proof("memory", format!("GPU {}: {free} of {total} MiB free", gpu.index), Some("NVML".into()));
        }
    }
    found
        .sees("torch.OutOfMemoryError: CUDA out of memory.")
        .cure(Fix::words("end what holds it: other containers on the node are not seen from here"))
}

fn no_jit() -> Finding {
    finding("ver-jit-221", "libnvidia-ptxjitcompiler.so.1", "the driver's PTX compiler is not in the container")
        .sees("CUDA_ERROR_JIT_COMPILER_NOT_FOUND: PTX JIT compiler library not found")
        .cure(give_gpu("let NVIDIA's runtime inject the driver: libcuda alone is not enough"))
}

fn gvisor(facts: &Facts) -> Finding {
    let driver = node(facts).driver.seen().map_or("not known".to_owned(), |d| d.version.clone());
    finding("dev-gvisor", "gVisor", "gVisor passes on what it knows of this driver's calls, and that is not enough")
        .proof("kernel", "gVisor", Some("/proc/version".into()))
        .proof("driver", driver, None)
        .sees("CUDA_ERROR_OPERATING_SYSTEM: OS call failed or operation not supported on this OS")
        .cure(on_node("run a driver release that nvproxy supports (runsc nvproxy list-supported-drivers)"))
}

fn not_permitted() -> Finding {
    finding("dev-imex", "/dev/nvidia-caps-imex-channels", "the GPU refuses what needs an IMEX channel")
        .sees("CUDA_ERROR_NOT_PERMITTED: operation not permitted")
        .cure(privileges::imex_cure())
}

fn fabric() -> Finding {
    finding("dev-fabric-802", "NVSwitch", "the NVSwitch fabric is not ready")
        .sees("Error 802: system not yet initialized")
        .cure(on_node("start nvidia-fabricmanager of the same release as the driver, and wait until it is done"))
}

fn mps(facts: &Facts) -> Finding {
    let pipe = super::place::variable(facts, "CUDA_MPS_PIPE_DIRECTORY").unwrap_or("/tmp/nvidia-mps").to_owned();
    finding("gpu-mps-805", &pipe, "CUDA is told to use MPS, and cannot reach its server")
        .proof("pipe directory", &pipe, Some("CUDA_MPS_PIPE_DIRECTORY".into()))
        .sees("Error 805: MPS client failed to connect to the MPS control daemon or the MPS server")
        .cure(Fix {
            summary: "share the pipe directory and the IPC namespace of the node, as the user that runs the server"
                .into(),
            docker_run: Some("docker run --ipc=host -v /tmp/nvidia-mps:/tmp/nvidia-mps …".into()),
            ..Fix::default()
        })
}

fn unknown(facts: &Facts, call: &str, code: Option<i64>) -> Finding {
    first_access(facts).unwrap_or_else(|| other(call, code, "unknown error"))
}

fn lost(call: &str) -> Finding {
    finding("gpu-lost", call, "a GPU has fallen off the bus")
        .sees("Unable to determine the device handle for GPU: GPU is lost. Reboot the system to recover this GPU")
        .cure(on_node("reboot it; if it happens again, look at its power, its heat and its slot"))
}

fn reset(call: &str) -> Finding {
    finding("gpu-reset-req", call, "a GPU has to be reset")
        .cure(on_node("nvidia-smi --gpu-reset, with nothing running on it"))
}

fn wsl_blocked(facts: &Facts) -> Finding {
    let has_dxg = node(facts).device("/dev/dxg").is_some();
    finding("dev-wsl-blocked", "/dev/dxg", "Windows does not let this system use the GPU")
        .proof("/dev/dxg", if has_dxg { "there" } else { "not there" }, None)
        .sees("Failed to initialize NVML: GPU access blocked by the operating system")
        .cure(Fix::words("update the driver of Windows, and remove Linux driver packages from WSL and from the image"))
}

/// A code that nothing here explains: told as it is.
fn other(call: &str, code: Option<i64>, name: &str) -> Finding {
    let code = code.map_or_else(String::new, |c| format!(" ({c})"));
    finding("drv-call-failed", call, format!("{call} fails: {name}{code}"))
        .sees(name.to_owned())
        .cure(on_node("look for NVRM and Xid in dmesg, and restart the container"))
}
