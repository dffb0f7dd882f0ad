//! The version of the driver, and what the CUDA of the workload wants of it.

use super::hardware::driver;
use super::{Check, Rule, Surveyed, file_name, finding};
use crate::driver::{Cuda, Release};
use crate::facts::Facts;
use crate::finding::Fix;

/// A driver older than the CUDA of the workload.
pub static OLD: Check = Check { ids: &["ver-driver-old"], rule: Rule::Survey(old) };
/// Compilers at run time that write what the driver does not read.
pub static NUMBA: Check = Check { ids: &["ver-numba-ptx"], rule: Rule::Survey(numba) };

/// Releases of CUDA whose runtime something maps, with the file. From 11 on, only the major number is certain.
pub fn runtimes(facts: &Facts) -> impl Iterator<Item = (Cuda, &str)> {
    let mapped = facts.subjects.iter().flat_map(|s| &s.mapped);
    mapped.filter_map(|m| {
        let mut numbers = m.soname.strip_prefix("libcudart.so.")?.split('.').map_while(|n| n.parse().ok());
        let (major, minor) = (numbers.next()?, numbers.next().unwrap_or(0));
        Some((Cuda { major, minor }, m.path.as_str()))
    })
}

fn old(facts: &Facts) -> Surveyed {
    let Some(driver) = driver(facts) else { return Surveyed::not_applicable("no driver is known") };
    let mut findings = Vec::new();
    for (runtime, path) in runtimes(facts) {
        let Some(wanted) = driver.is_too_old_for(runtime) else { continue };
        let found = finding(
            "ver-driver-old",
            path,
            format!("CUDA {} needs driver {wanted} or later, and this is {}", name(runtime), driver.name()),
        )
        .sees("CUDA driver version is insufficient for CUDA runtime version")
        .proof("runtime", file_name(path), Some(path.to_owned()))
        .proof("driver", driver.name(), driver.brings())
        .breaks("gpu")
        .cure(Fix::words(format!(
            "update the driver of the node, use wheels for an older CUDA, or on a data-centre GPU add \
             cuda-compat-{}-x",
            runtime.major
        )));
        if !findings.contains(&found) {
            findings.push(found);
        }
    }
    Surveyed::found(findings)
}

/// `10.2`, and from 11 on the major number.
fn name(runtime: Cuda) -> String {
    if runtime.major >= 11 { runtime.major.to_string() } else { runtime.to_string() }
}

/// Numba hands PTX of its NVVM to the driver, unless nvJitLink is there to do the driver's part.
fn numba(facts: &Facts) -> Surveyed {
    let Some(driver) = driver(facts) else { return Surveyed::not_applicable("no driver is known") };
    let mut mapped = facts.subjects.iter().flat_map(|s| &s.mapped);
    let Some(numba) = mapped.find(|m| m.path.contains("/numba/") || m.path.contains("/numba_cuda/")) else {
        return Surveyed::not_applicable("the workload does not load Numba");
    };
    let installed = facts.python.as_ref().and_then(|p| p.seen()).map_or(&[][..], |p| &p.distributions);
    let has = |start: &str| installed.iter().any(|d| d.name.starts_with(start));
    let compiler =
        installed.iter().filter(|d| ["nvidia-cuda-nvcc", "nvidia-nvvm"].iter().any(|n| d.name.starts_with(n)));
    let compiler = compiler.filter_map(|d| Some((d, d.version.parse::<Cuda>().ok()?))).max_by_key(|(_, cuda)| *cuda);
    let is_linked = has("pynvjitlink") || (has("numba-cuda") && has("nvidia-nvjitlink"));
    let (Some((distribution, cuda)), Some(own)) = (compiler.filter(|_| !is_linked), driver.cuda) else {
        return Surveyed::found(Vec::new());
    };
    let (Some(written), Some(known)) = (Release::of(cuda), Release::of(own)) else {
        return Surveyed::found(Vec::new());
    };
    if written.isa <= known.isa {
        return Surveyed::found(Vec::new());
    }
    let message =
        format!("Numba writes the PTX of CUDA {cuda}, and driver {} compiles that of {own} only", driver.name());
    Surveyed::found(vec![
        finding("ver-numba-ptx", &numba.path, message)
            .sees(format!("Unsupported .version {}; current version is '{}'", written.isa, known.isa))
            .proof("compiler", format!("{} {}", distribution.name, distribution.version), None)
            .proof("driver", driver.name(), driver.brings())
            .cure(Fix::dockerfile(
                "let nvJitLink compile it, or pin the compiler to the CUDA of the driver",
                format!("RUN pip install --no-cache-dir 'numba-cuda[cu{}]'", own.major),
            )),
    ])
}
