//! The driver has two halves, libraries and a kernel module, and they must fit: the same release, or a compat package
//! that is newer than the module.

use std::cmp::Ordering;

use super::place::{failed_with, node, on_node, release_in_name, variable, works};
use super::{Check, Failed, Rule, Surveyed, finding, hardware};
use crate::driver::{Class, Version};
use crate::facts::{Driver, DriverFileKind, Facts};
use crate::finding::{Finding, Fix};
use crate::loader::LoadError;
use crate::probe::Outcome;

/// The check.
pub static CHECK: Check =
    Check { ids: &["drv-mismatch", "ver-803-compat", "ver-803-mixed", "ver-804"], rule: Rule::Survey(survey) };

/// Images of NVIDIA's catalogue, which tell what driver they were made with.
pub static NGC: Check = Check { ids: &["ver-ngc-compat-msg"], rule: Rule::Survey(ngc) };
/// Functions that a driver of today has and this one has not.
pub static SYMBOLS: Check = Check { ids: &["ver-libcuda-missing-symbol"], rule: Rule::Explain(missing_symbol) };

fn ngc(facts: &Facts) -> Surveyed {
    let Some(made_with) = variable(facts, "CUDA_DRIVER_VERSION") else {
        return Surveyed::not_applicable("CUDA_DRIVER_VERSION is not set");
    };
    let place = node(facts);
    let Some(module) = place.driver.seen().filter(|module| numbers(&module.version) < numbers(made_with)) else {
        return Surveyed::found(Vec::new());
    };
    let message = format!("the image was built for driver {made_with}, and the node has {}", module.version);
    Surveyed::found(vec![
        finding("ver-ngc-compat-msg", "CUDA_DRIVER_VERSION", message)
            .proof("CUDA_DRIVER_VERSION", made_with, Some("environment".into()))
            .proof("kernel module", &module.version, Some("/proc/driver/nvidia/version".into()))
            .cure(on_node("nothing, if everything that is required works; else update the driver")),
    ])
}

fn missing_symbol(failed: &Failed<'_>, facts: &Facts) -> Option<Finding> {
    let LoadError::Undefined { object, symbol, .. } = failed.load()? else { return None };
    // `cuMemCreate`, and not `cudaMalloc` or `cublasCreate`.
    let is_of_driver = symbol.strip_prefix("cu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()));
    let libcuda = failed.loaded(|soname| soname == "libcuda.so.1").filter(|_| is_of_driver)?;
    let found = finding(
        "ver-libcuda-missing-symbol",
        object,
        format!("{} needs {symbol}, which this driver does not have", super::file_name(object)),
    );
    let real = facts.driver.as_ref().and_then(cuda_file).unwrap_or(&libcuda.path);
    Some(
        with_module(found.proof("libcuda.so.1", real, Some(libcuda.via)), facts)
            .cure(on_node("update the driver, or use the release of the package that is built for its CUDA")),
    )
}

fn survey(facts: &Facts) -> Surveyed {
    if facts.node.is_none() {
        return match &facts.assumed.driver {
            Some(host) => Surveyed::found(foretold(facts, host).map(|f| f.breaks("gpu")).into_iter().collect()),
            None => Surveyed::not_applicable("only the image is judged"),
        };
    }
    // A compat package that is newer than the module is what such packages are for; CUDA says where it may not be.
    let is_allowed = |found: &Finding| found.id == "ver-804" && failed_with(facts, 804).is_none();
    let found = mismatch(facts).filter(|found| !works(facts) && !is_allowed(found));
    Surveyed::found(found.map(|f| f.breaks("gpu")).into_iter().collect())
}

/// What comes of the driver `host` where the image makes its compat package come before whatever the node brings, as
/// `LD_LIBRARY_PATH` does.
fn foretold(facts: &Facts, host: &Version) -> Option<Finding> {
    let compat = facts.image.libraries.driver_files.iter().find(|f| f.kind == DriverFileKind::Compat && f.used)?;
    let listed = variable(facts, "LD_LIBRARY_PATH")?.split([':', ';']).any(|entry| leads_to(entry, &compat.path));
    let release = release_in_name(&compat.path).filter(|_| listed)?;
    let is_geforce = || hardware::gpus(facts).iter().any(|gpu| gpu.class() == Some(Class::Geforce));
    let found = of_compat(facts, &compat.path, release, &host.to_string())?;
    let is_certain = found.id != "ver-804" || is_geforce();
    is_certain.then(|| {
        found.proof("compat package", release, Some(compat.path.clone())).proof("--driver", host.to_string(), None)
    })
}

/// Whether a directory of `LD_LIBRARY_PATH` is that of a compat package's file; `/usr/local/cuda` is a link.
fn leads_to(entry: &str, file: &str) -> bool {
    let entry = entry.trim_end_matches('/');
    entry.ends_with("/compat") || file.rsplit_once('/').is_some_and(|(dir, _)| dir == entry)
}

/// How a compat package of another release than the module works out.
fn of_compat(facts: &Facts, file: &str, release: &str, module: &str) -> Option<Finding> {
    Some(match numbers(release).cmp(&numbers(module)) {
        Ordering::Less => finding(
            "ver-803-compat",
            file,
            format!("the compat package {release} of the image is older than the driver {module} of the node"),
        )
        .sees("Error 803: system has unsupported display driver / cuda driver combination")
        .cure(off_the_path(facts, file)),
        Ordering::Equal => return None,
        Ordering::Greater => {
            forbidden(file, format!("the image brings a newer driver, {release}, for the module {module}"))
        }
    })
}

/// Numbers of a release, so that 535.9 is older than 535.104.
pub fn numbers(release: &str) -> Vec<u32> {
    release.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// CUDA answers 803 or 804, or NVML 18: the files say why, or else that answer has to do.
pub fn refused(facts: &Facts, code: i64) -> Finding {
    let fits = |found: &Finding| match code {
        803 => found.id != "ver-804",
        804 => found.id == "ver-804",
        // NVML has no compat packages.
        _ => matches!(found.id.as_str(), "drv-mismatch" | "ver-803-mixed"),
    };
    if let Some(found) = mismatch(facts).filter(fits) {
        return found;
    }
    let driver = facts.driver.as_ref();
    let library = if code == 18 { driver.and_then(nvml_file) } else { driver.and_then(cuda_file) };
    let library = library.unwrap_or(if code == 18 { "libnvidia-ml.so.1" } else { "libcuda.so.1" });
    let found = match code {
        803 => mixed(facts, library, "libcuda does not fit the kernel module of the driver".into()),
        804 => forbidden(library, "the image brings a newer driver, which this GPU does not take".into()),
        _ => mismatched(facts, library, "NVML does not fit the kernel module of the driver".into()),
    };
    with_module(found.proof("library", library, None), facts)
}

fn cuda_file(driver: &Driver) -> Option<&str> {
    driver.libcuda_file.as_deref().or(driver.libcuda.as_deref())
}

fn nvml_file(driver: &Driver) -> Option<&str> {
    driver.libnvml_file.as_deref().or(driver.libnvml.as_deref())
}

fn with_module(found: Finding, facts: &Facts) -> Finding {
    match node(facts).driver.seen() {
        Some(module) => found.proof("kernel module", &module.version, Some("/proc/driver/nvidia/version".into())),
        None => found,
    }
}

/// How the libraries and the kernel module do not fit, if so.
pub fn mismatch(facts: &Facts) -> Option<Finding> {
    let driver = facts.driver.as_ref()?;
    let module = node(facts).driver.seen()?.version.clone();
    let odd = |file: Option<&str>| {
        let file = file?.to_owned();
        let release = release_in_name(&file).filter(|release| *release != module)?.to_owned();
        Some((file, release))
    };
    let (cuda, nvml) = (odd(cuda_file(driver)), odd(nvml_file(driver)));
    let show = |found: Finding, odd: &[&(String, String)]| {
        let found =
            odd.iter().fold(found, |found, (file, release)| found.proof("library", release, Some(file.clone())));
        with_module(found, facts)
    };
    let Some(cuda) = cuda else {
        let nvml = nvml?;
        let found =
            mismatched(facts, &nvml.0, format!("NVML's library is of {}, and the driver's module of {module}", nvml.1));
        return Some(show(found, &[&nvml]));
    };
    let (file, release) = &cuda;
    if file.contains("/compat/") {
        let found = of_compat(facts, file, release, &module)?;
        return Some(show(found, &[&cuda]));
    }
    if let Some(nvml) = nvml.as_ref().filter(|_| nvml_says_so(driver)) {
        let found =
            mismatched(facts, file, format!("the driver's libraries are of {release}, and its module of {module}"));
        return Some(show(found, &[&cuda, nvml]));
    }
    let found = mixed(facts, file, format!("libcuda is of release {release}, and the kernel module of {module}"));
    Some(show(found, &[&cuda]))
}

/// NVML does not work either, or was not asked.
fn nvml_says_so(driver: &Driver) -> bool {
    let calls = driver.nvml.seen().map(|run| run.calls.as_slice()).unwrap_or_default();
    calls.iter().all(|call| call.name != "nvmlInit_v2" || call.outcome != Outcome::Ok)
}

fn mismatched(facts: &Facts, file: &str, message: String) -> Finding {
    finding("drv-mismatch", file, message)
        .sees("Failed to initialize NVML: Driver/library version mismatch")
        .cure(renew(facts, file))
}

fn mixed(facts: &Facts, file: &str, message: String) -> Finding {
    finding("ver-803-mixed", file, message)
        .sees("Error 803: system has unsupported display driver / cuda driver combination")
        .cure(renew(facts, file))
}

fn forbidden(file: &str, message: String) -> Finding {
    finding("ver-804", file, message)
        .sees("Error 804: forward compatibility was attempted on non supported HW")
        .cure(on_node("update the driver; only data-centre GPUs take a compat package"))
}

/// A directory is searched because a variable or a file says so.
fn off_the_path(facts: &Facts, file: &str) -> Fix {
    let summary = "take it off the search path: the driver of the node is newer than what it is for";
    let listed: Vec<&str> = variable(facts, "LD_LIBRARY_PATH").unwrap_or_default().split([':', ';']).collect();
    let is_it = |entry: &&str| leads_to(entry, file);
    if listed.iter().any(is_it) {
        let rest: Vec<&str> = listed.into_iter().filter(|entry| !is_it(entry)).collect();
        return Fix::dockerfile(summary, format!("ENV LD_LIBRARY_PATH={}", rest.join(":")));
    }
    Fix::dockerfile(summary, "RUN rm -f /etc/ld.so.conf.d/*compat*.conf && ldconfig")
}

fn renew(facts: &Facts, file: &str) -> Fix {
    if facts.image.libraries.driver_files.iter().any(|f| f.path == file && !f.mounted) {
        return Fix::dockerfile(
            "remove the driver's libraries from the image: those of the node are mounted when it starts",
            "RUN rm -f /usr/lib/*-linux-gnu/libcuda.so* /usr/lib/*-linux-gnu/libnvidia-*.so*",
        );
    }
    Fix {
        summary:
            "start the container anew, so that it gets the libraries of today; if that does not help, the node was \
                  updated without a reboot: reboot it"
                .into(),
        docker_run: Some("docker restart <container>".into()),
        kubernetes: Some("kubectl delete pod <pod>".into()),
        dockerfile: None,
    }
}
