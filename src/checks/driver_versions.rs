//! The driver has two halves, libraries and a kernel module, and they must fit: the same release, or a compat package
//! that is newer than the module.

use super::place::{node, on_node, release_in_name, works};
use super::{Check, Rule, Surveyed, finding};
use crate::facts::Facts;
use crate::finding::{Finding, Fix};

/// The check.
pub static CHECK: Check =
    Check { ids: &["drv-mismatch", "ver-803-compat", "ver-803-mixed", "ver-804"], rule: Rule::Survey(survey) };

fn survey(facts: &Facts) -> Surveyed {
    if facts.node.is_none() {
        return Surveyed::not_applicable("only the image is judged");
    }
    let found = mismatch(facts).filter(|f| !works(facts) && (f.id != "ver-804" || is_forbidden(facts)));
    Surveyed::found(found.map(|f| f.breaks("gpu")).into_iter().collect())
}

/// Numbers of a release, so that 535.9 is older than 535.104.
pub fn numbers(release: &str) -> Vec<u32> {
    release.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// How the libraries and the kernel module do not fit, if so.
pub fn mismatch(facts: &Facts) -> Option<Finding> {
    let driver = facts.driver.as_ref()?;
    let module = node(facts).driver.seen()?.version.clone();
    let real = |path: &Option<String>| {
        let path = path.as_ref()?;
        // The link says nothing; the file behind it has the release in its name.
        let files = &facts.image.libraries.driver_files;
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        let name = path.rsplit('/').next()?.split(".so").next()?;
        let beside = files.iter().find(|f| {
            f.path.starts_with(dir) && f.path.contains(&format!("/{name}.so.")) && release_in_name(&f.path).is_some()
        });
        release_in_name(path).map_or_else(|| beside.map(|f| f.path.clone()), |_| Some(path.clone()))
    };
    let file = real(&driver.libcuda).or_else(|| real(&driver.libnvml))?;
    let library = release_in_name(&file)?.to_owned();
    if library == module {
        return None;
    }
    let is_compat = file.contains("/compat/");
    let is_older = numbers(&library) < numbers(&module);
    let say = |id: &str, message: String| {
        finding(id, &file, message).proof("library", &library, Some(file.clone())).proof(
            "kernel module",
            &module,
            Some("/proc/driver/nvidia/version".into()),
        )
    };
    Some(match (is_compat, is_older) {
        (true, true) => say(
            "ver-803-compat",
            format!("the compat package {library} of the image is older than the driver {module} of the node"),
        )
        .sees("Error 803: system has unsupported display driver / cuda driver combination")
        .cure(Fix::dockerfile(
            "take it off the search path: the driver of the node is newer than what it is for",
            "RUN rm -f /etc/ld.so.conf.d/*compat*.conf && ldconfig",
        )),
        (true, false) => say("ver-804", format!("the image brings a newer driver, {library}, for the module {module}"))
            .sees("Error 804: forward compatibility was attempted on non supported HW")
            .cure(on_node("update the driver; only data-centre GPUs take a compat package")),
        (false, _) if file.contains("libcuda") => {
            say("ver-803-mixed", format!("libcuda is of release {library}, and the kernel module of {module}"))
                .sees("Error 803: system has unsupported display driver / cuda driver combination")
                .cure(renew())
        }
        (false, _) => {
            say("drv-mismatch", format!("the driver's libraries are of {library}, and its module of {module}"))
                .sees("Failed to initialize NVML: Driver/library version mismatch")
                .cure(renew())
        }
    })
}

fn renew() -> Fix {
    Fix {
        summary:
            "start the container anew, so that it gets the libraries of today; if that does not help, the node was \
                  updated without a reboot. Libraries of a driver that lie in the image must go"
                .into(),
        dockerfile: Some("RUN rm -f /usr/lib/*-linux-gnu/lib{cuda,nvidia-}*.so*".into()),
        ..Fix::default()
    }
}

/// Forward compatibility is known not to work: CUDA has said so.
fn is_forbidden(facts: &Facts) -> bool {
    let calls = facts.driver.as_ref().and_then(|d| d.cuda.seen()).map(|run| run.calls.as_slice()).unwrap_or_default();
    calls.iter().any(|call| matches!(&call.outcome, crate::probe::Outcome::Error(e) if e.code == Some(804)))
}
