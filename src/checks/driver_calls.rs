//! What a return code of the driver or of NVML means here. One code has several causes: what the node and the container
//! look like tells them apart.

use super::pages::Severity;
use super::place::{give_gpu, gpu_of, gpus, node, on_node, works};
use super::{Check, Failed, Rule, device_access, driver_files, driver_missing, driver_versions, finding, gpu_state};
use super::{privileges, processes, visible_devices};
use crate::facts::node::Platform;
use crate::facts::{Driver, Facts, Observed};
use crate::finding::{Finding, Fix};
use crate::probe::{Call, Outcome};

/// The check.
pub static CHECK: Check = Check {
    ids: &[
        "dev-fabric-802",
        "dev-gvisor",
        "dev-imex",
        "dev-uvm-hmm",
        "dev-wsl-blocked",
        "drv-absent",
        "drv-call-failed",
        "drv-nodevices",
        "drv-not-loaded",
        "gpu-ecc",
        "gpu-exclusive",
        "gpu-lost",
        "gpu-mem-full",
        "gpu-mps-805",
        "gpu-reset-req",
        "ver-jit-221",
        "ver-stub-34",
    ],
    rule: Rule::ExplainCall(explain),
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
    let file = &failed.step.file;
    let found = by_code(facts, file, call, error.code)
        // An answer of NVML that says nothing is a second sign of what keeps CUDA from working.
        .or_else(|| is_nvml(call).then(|| of_cuda(facts)).flatten())
        .unwrap_or_else(|| other(call, error.code, &error.name));
    let code = error.code.map_or_else(|| "no code".to_owned(), |c| c.to_string());
    Some(found.proof(&call.name, format!("{code}: {}", error.name), Some(file.clone())))
}

fn is_nvml(call: &Call) -> bool {
    call.name.starts_with("nvml")
}

/// What keeps CUDA from being initialised, if something does.
fn of_cuda(facts: &Facts) -> Option<Finding> {
    let driver = facts.driver.as_ref()?;
    let call = driver.cuda.seen()?.calls.iter().find(|call| call.name == "cuInit")?;
    let file = driver.libcuda.as_deref().unwrap_or("libcuda.so.1");
    match &call.outcome {
        Outcome::Ok => None,
        Outcome::Error(error) => {
            let known = by_code(facts, file, call, error.code);
            Some(known.unwrap_or_else(|| other(call, error.code, &error.name)))
        }
        Outcome::Died(_) | Outcome::TimedOut(_) => processes::of_driver(call, file),
    }
}

/// What a code means, where it means something.
fn by_code(facts: &Facts, file: &str, call: &Call, code: Option<i64>) -> Option<Finding> {
    let code = code?;
    if is_nvml(call) {
        return match code {
            4 => first_access(facts),
            9 => not_answered(facts),
            15 => of_gpu(facts, call, gpu_state::lost).or_else(|| Some(lost())),
            16 => of_gpu(facts, call, gpu_state::reset).or_else(|| Some(reset())),
            17 | 999 if is_wsl_blocked(facts) => Some(wsl_blocked(facts)),
            18 => Some(driver_versions::refused(facts, code)),
            999 => unknown(facts),
            _ => None,
        };
    }
    match code {
        2 if needs_memory(call) => Some(memory_full(facts, call)),
        3 => not_initialised(facts),
        STUB_LIBRARY => Some(stub(facts, file)),
        46 => busy(facts),
        100 | 101 if !works(facts) => Some(no_device(facts)),
        214 => Some(memory_errors(facts)),
        221 => Some(no_jit()),
        304 if node(facts).is(Platform::Gvisor) => Some(gvisor(facts)),
        800 => privileges::channels(facts).map(as_error),
        802 => Some(gpu_state::fabric(facts).unwrap_or_else(gpu_state::no_fabric)),
        803 | 804 => Some(driver_versions::refused(facts, code)),
        805 | 807 => Some(mps(facts)),
        999 => unknown(facts),
        _ => None,
    }
}

/// It is known to stand in the way, whatever it is elsewhere.
fn as_error(mut found: Finding) -> Finding {
    found.severity = Severity::Error;
    found
}

/// A device node that is not as it should be explains many codes.
fn first_access(facts: &Facts) -> Option<Finding> {
    device_access::all(facts).into_iter().next()
}

/// What NVML says of the GPU that a call is about.
fn of_gpu(facts: &Facts, call: &Call, state: fn(&mldoctor_probes::nvml::Gpu) -> Option<Finding>) -> Option<Finding> {
    let index: u32 = super::place::index_of(call).parse().ok()?;
    gpus(facts).into_iter().find(|gpu| gpu.index == index).and_then(state)
}

fn no_device(facts: &Facts) -> Finding {
    let place = node(facts);
    let hidden = visible_devices::hides(facts).filter(|_| visible_devices::hides_all(facts));
    if let Some(found) = hidden.or_else(|| first_access(facts)) {
        return found;
    }
    if is_wsl_blocked(facts) {
        return wsl_blocked(facts);
    }
    if place.is(Platform::Gvisor) {
        return gvisor(facts);
    }
    if !place.has_nodes() {
        return nothing_behind(facts);
    }
    if let Some(found) = gpu_state::of_none_usable(facts).or_else(|| driver_missing::of_manager(facts)) {
        return found;
    }
    let found = |message: &str| {
        finding("drv-nodevices", "GPU", message).sees("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected")
    };
    if place.is(Platform::Tegra) {
        return found("the driver knows no GPU").proof("platform", "Tegra", None).cure(Fix {
            summary: "use an image for the L4T release of the node, which /etc/nv_tegra_release there tells".into(),
            docker_run: Some("docker run --runtime nvidia …".into()),
            ..Fix::default()
        });
    }
    let seen = gpus(facts).len();
    if seen > 0 {
        return found("CUDA sees no GPU, and NVML does")
            .proof("GPUs of NVML", seen.to_string(), Some("nvmlDeviceGetCount_v2".into()))
            .cure(on_node("look for NVRM and Xid in dmesg"));
    }
    let known = place.module_gpus.seen().copied().unwrap_or(0);
    if known > 0 {
        return found("the kernel module is loaded, and none of its GPUs could be initialised")
            .proof("GPUs of the module", known.to_string(), Some("/proc/driver/nvidia/gpus".into()))
            .sees("No devices were found")
            .cure(on_node("look for RmInitAdapter in dmesg: firmware and flavour of the module must fit the GPU"));
    }
    found("the driver knows no GPU")
        .proof("device nodes", "there", None)
        .cure(on_node("nvidia-smi -L must show the GPUs"))
}

/// NVML finds no kernel module.
fn not_answered(facts: &Facts) -> Option<Finding> {
    let place = node(facts);
    let has_module = matches!(place.driver, Observed::Seen(_));
    let elsewhere = [Platform::Wsl, Platform::Tegra, Platform::Gvisor].iter().any(|p| place.is(*p));
    if is_wsl_blocked(facts) {
        return Some(wsl_blocked(facts));
    }
    // With the module loaded and its nodes there, something else is the matter.
    first_access(facts).or_else(|| (!(elsewhere || has_module && place.has_nodes())).then(|| nothing_behind(facts)))
}

/// The driver's libraries are there, and nothing of the kernel's side.
fn nothing_behind(facts: &Facts) -> Finding {
    let place = node(facts);
    let has_module = matches!(place.driver, Observed::Seen(_));
    let found = if has_module {
        finding("drv-absent", "libcuda.so.1", "the driver's libraries are here, and no GPU was given to this container")
            .sees("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected")
            .cure(give_gpu("start the container with a GPU; libraries of a driver that lie in the image do not count"))
    } else {
        finding("drv-not-loaded", "driver", "the driver's libraries are here, and its kernel module is not loaded")
            .sees("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
            .cure(on_node("sudo modprobe nvidia; if that fails, install the driver for the kernel that runs"))
    };
    found.proof("/proc/driver/nvidia/version", if has_module { "there" } else { "not there" }, None).proof(
        "/dev/nvidiactl",
        match place.device("/dev/nvidiactl") {
            Some(_) if place.is_backed("/dev/nvidiactl") => "there",
            Some(_) => "there, and no driver behind it",
            None => "not there",
        },
        None,
    )
}

/// `CUDA_ERROR_STUB_LIBRARY`
pub const STUB_LIBRARY: i64 = 34;

/// CUDA has got a linker stub.
pub fn stub(facts: &Facts, file: &str) -> Finding {
    // What the files tell says how it came to be found.
    if let Some(found) = driver_files::stub_of(facts) {
        return found;
    }
    finding("ver-stub-34", file, "a linker stub stands in the place of the driver")
        .sees("CUDA driver is a stub library")
        .cure(Fix::dockerfile(
            "use the stubs only while linking: LIBRARY_PATH, never LD_LIBRARY_PATH",
            format!("RUN rm -f {file}"),
        ))
}

fn not_initialised(facts: &Facts) -> Option<Finding> {
    let place = node(facts);
    if let Some(found) = first_access(facts) {
        return Some(found);
    }
    if place.is(Platform::Gvisor) {
        return Some(gvisor(facts));
    }
    if place.is(Platform::Wsl) || place.is(Platform::Tegra) {
        return None;
    }
    if !place.has_nodes() {
        return Some(nothing_behind(facts));
    }
    Some(
        finding("dev-uvm-hmm", "nvidia-uvm", "every device node is as it should be, and CUDA cannot be initialised")
            .proof("/dev/nvidia-uvm", "can be opened", Some("open(2)".into()))
            .sees("CUDA_ERROR_NOT_INITIALIZED: initialization error")
            .cure(on_node(
                "if dmesg shows request_free_mem_region() err -34: \
                 echo 'options nvidia_uvm uvm_disable_hmm=1' | sudo tee /etc/modprobe.d/uvm.conf, and reboot",
            )),
    )
}

fn busy(facts: &Facts) -> Option<Finding> {
    gpu_state::without_instance(facts).or_else(|| gpu_state::exclusive(facts)).map(as_error)
}

/// Calls that fail for want of memory on the GPU; that of the others would be the host's.
fn needs_memory(call: &Call) -> bool {
    ["cuDevicePrimaryCtxRetain(", "cuCtx", "cuMem", "cuModule", "cuLaunchKernel("]
        .iter()
        .any(|name| call.name.starts_with(name))
}

fn memory_full(facts: &Facts, call: &Call) -> Finding {
    let (shown, gpu) = gpu_of(facts, call);
    let mut found = finding("gpu-mem-full", &shown, format!("{shown} has no memory left for so much as a context"));
    if let Some(memory) = gpu.and_then(|gpu| gpu.memory.get()) {
        let (free, total) = (memory.free >> 20, memory.total >> 20);
        found = found.proof("memory", format!("{free} of {total} MiB free"), Some("NVML".into()));
    }
    found
        .sees("torch.OutOfMemoryError: CUDA out of memory.")
        .cure(Fix::words("end what holds it: other containers on the node are not seen from here"))
}

/// CUDA met an error of the memory.
fn memory_errors(facts: &Facts) -> Finding {
    gpus(facts).into_iter().find_map(gpu_state::ecc).map_or_else(
        || {
            finding("gpu-ecc", "GPU", "a GPU has had an uncorrectable memory error")
                .sees("CUDA error: uncorrectable ECC error encountered")
                .cure(on_node("drain it and reset the GPU"))
        },
        as_error,
    )
}

fn no_jit() -> Finding {
    finding("ver-jit-221", "libnvidia-ptxjitcompiler.so.1", "the driver's PTX compiler is not in the container")
        .sees("CUDA_ERROR_JIT_COMPILER_NOT_FOUND: PTX JIT compiler library not found")
        .cure(give_gpu("let NVIDIA's runtime mount the driver: libcuda alone is not enough"))
}

fn gvisor(facts: &Facts) -> Finding {
    let driver = facts.driver.as_ref().and_then(Driver::system).and_then(|system| system.driver.get().cloned());
    let driver = driver.or_else(|| node(facts).driver.seen().map(|d| d.version.clone()));
    finding("dev-gvisor", "gVisor", "gVisor does not pass on what this release of the driver asks for")
        .proof("kernel", "gVisor", Some("/proc/version".into()))
        .proof("driver", driver.unwrap_or_else(|| "not known".into()), None)
        .sees("CUDA_ERROR_OPERATING_SYSTEM: OS call failed or operation not supported on this OS")
        .cure(on_node("run a driver release that runsc nvproxy list-supported-drivers names, with --nvproxy"))
}

fn mps(facts: &Facts) -> Finding {
    let place = node(facts);
    let pipe = super::place::variable(facts, "CUDA_MPS_PIPE_DIRECTORY").unwrap_or("/tmp/nvidia-mps").to_owned();
    let mounted = place.mounted(&pipe).map_or("not mounted here", |_| "mounted here");
    finding("gpu-mps-805", &pipe, "CUDA is told to use MPS, and cannot reach its server")
        .proof("pipe directory", format!("{pipe}: {mounted}"), Some("CUDA_MPS_PIPE_DIRECTORY".into()))
        .proof("user", place.process.uid.to_string(), None)
        .sees("Error 805: MPS client failed to connect to the MPS control daemon or the MPS server")
        .cure(Fix {
            summary: "share the pipe directory and the IPC namespace of the node, as the user that runs the server"
                .into(),
            docker_run: Some(format!("docker run --ipc=host -v {pipe}:{pipe} …")),
            kubernetes: Some("spec: { hostIPC: true }  # and a hostPath volume for the pipe directory".into()),
            dockerfile: None,
        })
}

/// An error without a cause of its own: where the container or the GPUs are not as they should be, that is it.
fn unknown(facts: &Facts) -> Option<Finding> {
    first_access(facts)
        .or_else(|| is_wsl_blocked(facts).then(|| wsl_blocked(facts)))
        .or_else(|| gpu_state::of_none_usable(facts).filter(|_| !works(facts)))
        .or_else(|| driver_missing::of_manager(facts).filter(|_| !works(facts)))
}

/// A GPU that NVML does not tell more of.
fn lost() -> Finding {
    finding("gpu-lost", "GPU", "a GPU has fallen off the bus")
        .sees("Unable to determine the device handle for GPU: GPU is lost. Reboot the system to recover this GPU")
        .cure(on_node("reboot it; if it happens again, look at its power, its heat and its slot"))
}

fn reset() -> Finding {
    finding("gpu-reset-req", "GPU", "a GPU has to be reset")
        .cure(on_node("nvidia-smi --gpu-reset, with nothing running on it"))
}

/// WSL without its device, or with a driver that Windows does not answer.
fn is_wsl_blocked(facts: &Facts) -> bool {
    let place = node(facts);
    let calls = facts.driver.as_ref().and_then(|d| d.nvml.seen()).map(|run| run.calls.as_slice()).unwrap_or_default();
    let refused = |call: &Call| matches!(&call.outcome, Outcome::Error(e) if matches!(e.code, Some(9 | 17 | 999)));
    let is_refused = calls.iter().any(|call| call.name == "nvmlInit_v2" && refused(call));
    place.is(Platform::Wsl) && (place.device("/dev/dxg").is_none() || is_refused)
}

fn wsl_blocked(facts: &Facts) -> Finding {
    let has_dxg = node(facts).device("/dev/dxg").is_some();
    let mut found = finding("dev-wsl-blocked", "/dev/dxg", "Windows does not let this system use the GPU").proof(
        "/dev/dxg",
        if has_dxg { "there" } else { "not there" },
        None,
    );
    let driver = facts.driver.as_ref();
    for path in [driver.and_then(|d| d.libcuda.clone()), driver.and_then(|d| d.libnvml.clone())].into_iter().flatten() {
        let whose = if path.starts_with("/usr/lib/wsl/") { "of Windows" } else { "not in /usr/lib/wsl" };
        found = found.proof("library", path, Some(whose.into()));
    }
    found.sees("Failed to initialize NVML: GPU access blocked by the operating system").cure(Fix {
        summary: "update the driver of Windows, and remove Linux driver packages from WSL and from the image".into(),
        docker_run: Some("docker run --gpus all …".into()),
        ..Fix::default()
    })
}

/// A code that nothing here explains: told as it is.
fn other(call: &Call, code: Option<i64>, name: &str) -> Finding {
    let code = code.map_or_else(String::new, |c| format!(" ({c})"));
    finding("drv-call-failed", &call.name, format!("{} fails: {name}{code}", call.name))
        .sees(name.to_owned())
        .cure(on_node("look for NVRM and Xid in dmesg, and restart the container"))
}
