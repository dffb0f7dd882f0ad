//! The line that brings a library into an image: the package of its distribution, or the wheel that lost it.

use crate::facts::{Distribution, Facts, Python};
use crate::finding::Fix;
use crate::image::packages::{Providers, providers, providers_for_cuda};

/// Which package manager an image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    Apt,
    Apk,
    Dnf,
}

/// The names of one thing in the three families of distributions; several packages are separated by spaces.
#[derive(Debug, Clone, Copy)]
pub struct Packages<'p> {
    /// Debian, Ubuntu.
    pub apt: &'p str,
    /// Alpine.
    pub apk: &'p str,
    /// RHEL, Fedora.
    pub dnf: &'p str,
}

/// What brings the library `name`.
pub fn that_brings(facts: &Facts, name: &str) -> Fix {
    let Some(p) = providers_here(facts, name) else {
        return Fix::words(match name.contains('*') {
            // What is looked for by a pattern may never have been there.
            true => format!("bring a file that {name} matches, or one to another place that is looked in"),
            false => format!("bring {name} back: copy the whole directory that holds it, links included"),
        });
    };
    if p.are_nvidia() && python(facts).is_some() {
        if let Some(d) = p.pypi.iter().find_map(|wanted| installed(facts, requirement_name(wanted))) {
            return Fix::dockerfile(
                format!("{} is installed, but the file is gone: put it back", d.name),
                reinstall(&d.name, &d.version),
            );
        }
        if let Some(wanted) = p.pypi.first() {
            return Fix::dockerfile(format!("install {wanted}, which brings {name}"), pip(wanted));
        }
    }
    let of_system = match manager(facts) {
        Manager::Apk => &p.alpine,
        Manager::Dnf => &p.rhel,
        Manager::Apt => &p.debian,
    };
    match (of_system.first(), p.pypi.first()) {
        (Some(package), _) => {
            let everywhere = Packages { apt: package, apk: package, dnf: package };
            Fix::dockerfile(format!("{package} brings {name}"), install(facts, everywhere))
        }
        (None, Some(wanted)) => Fix::dockerfile(format!("{wanted} brings {name}"), pip(wanted)),
        (None, None) => Fix::words(format!("bring {name} back: this distribution has no package with it")),
    }
}

/// Whether it is one of NVIDIA's libraries, which wheels bring.
pub fn is_of_nvidia(name: &str) -> bool {
    providers(name).is_some_and(|p| p.are_nvidia())
}

/// The line that installs packages of the image's distribution.
pub fn install(facts: &Facts, packages: Packages<'_>) -> String {
    match manager(facts) {
        Manager::Apk => format!("RUN apk add --no-cache {}", packages.apk),
        Manager::Dnf => format!("RUN dnf install -y {} && dnf clean all", packages.dnf),
        Manager::Apt => format!(
            "RUN apt-get update && apt-get install -y --no-install-recommends {} \\\n    && rm -rf /var/lib/apt/lists/*",
            packages.apt
        ),
    }
}

/// The line that installs a wheel.
pub fn pip(requirement: &str) -> String {
    format!("RUN pip install --no-cache-dir '{requirement}'")
}

/// The line that puts the files of an installed wheel back.
pub fn reinstall(name: &str, version: &str) -> String {
    format!("RUN pip install --force-reinstall --no-deps --no-cache-dir {name}=={version}")
}

fn manager(facts: &Facts) -> Manager {
    let os = facts.image.os.as_ref();
    let like = |what: &str| os.is_some_and(|os| os.id == what || os.like.split(' ').any(|l| l == what));
    if like("alpine") {
        Manager::Apk
    } else if like("rhel") || like("fedora") || like("centos") {
        Manager::Dnf
    } else {
        Manager::Apt
    }
}

/// The packages for the CUDA release that the environment is made for, if that is known.
fn providers_here(facts: &Facts, name: &str) -> Option<Providers> {
    cuda(facts).and_then(|release| providers_for_cuda(name, release)).or_else(|| providers(name))
}

/// CUDA release of the wheels: `nvidia-cuda-runtime-cu12 12.4.127` → 12.4.
pub fn cuda(facts: &Facts) -> Option<(u32, Option<u32>)> {
    let runtime = python(facts)?.distributions.iter().find(|d| d.name.starts_with("nvidia-cuda-runtime"))?;
    let mut parts = runtime.version.split('.').map(|p| p.parse().ok());
    Some((parts.next()??, parts.next().flatten()))
}

fn python(facts: &Facts) -> Option<&Python> {
    facts.python.as_ref().and_then(|p| p.seen())
}

fn installed<'f>(facts: &'f Facts, name: &str) -> Option<&'f Distribution> {
    python(facts)?.distributions.iter().find(|d| d.name == name)
}

/// `nvidia-cudnn-cu12` of `nvidia-cudnn-cu12==9.*`.
fn requirement_name(requirement: &str) -> &str {
    requirement.split(['=', '<', '>', '!', '~', ' ', ';']).next().unwrap_or(requirement)
}
