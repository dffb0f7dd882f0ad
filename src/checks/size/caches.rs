//! What installers leave behind.

use std::path::Path;

use super::{Candidate, Seen, remove};
use crate::facts::size::Kind;
use crate::finding::Fix;

/// Caches of package managers of distributions, with what in them is one.
const SYSTEM: &[(&str, &str)] = &[
    (
        "/var/lib/apt/lists",
        "RUN apt-get update && apt-get install -y --no-install-recommends … && rm -rf /var/lib/apt/lists/*",
    ),
    (
        "/var/cache/apt",
        "RUN apt-get install -y --no-install-recommends … && apt-get clean && rm -f /var/cache/apt/*.bin",
    ),
    ("/var/cache/apk", "RUN apk add --no-cache …"),
    ("/etc/apk/cache", "RUN apk add --no-cache …"),
    ("/var/cache/dnf", "RUN dnf install -y … && dnf clean all"),
    ("/var/cache/libdnf5", "RUN dnf install -y … && dnf clean all"),
    ("/var/cache/yum", "RUN yum install -y … && yum clean all"),
    ("/var/cache/zypp", "RUN zypper install -y … && zypper clean --all"),
];

/// Files below directories of these ends; they stay if something leads into them.
fn cache(seen: &Seen<'_>, subject: &str, message: &str, is_cache: impl Fn(&Path) -> bool, fix: Fix) -> Vec<Candidate> {
    let tree = &seen.size.tree;
    let mut candidate = Candidate::new(subject, message);
    for at in (0..tree.dirs.len()).filter(|at| is_cache(&tree.dirs[*at].path)) {
        let dir = &tree.dirs[at].path;
        for file in seen.below(at) {
            candidate.add(dir.to_string_lossy(), file);
        }
        let leads_here = |(_, to): &&(usize, std::path::PathBuf)| to.starts_with(dir);
        if let Some((link, _)) =
            seen.size.targets.iter().find(leads_here).filter(|(l, _)| !seen.dir(*l).starts_with(dir))
        {
            candidate.stays = Some(format!("{} is a link into it", seen.path(*link)));
        }
    }
    let used = seen.first_used(candidate.files());
    candidate.stays = candidate.stays.or(used);
    candidate.fix = fix;
    found(candidate)
}

/// A candidate with files, or none.
pub fn found(candidate: Candidate) -> Vec<Candidate> {
    if candidate.places.is_empty() && candidate.parts.is_empty() { Vec::new() } else { vec![candidate] }
}

/// pip and the installers that work like it.
pub fn pip(seen: &Seen<'_>) -> Vec<Candidate> {
    let is_cache =
        |dir: &Path| [".cache/pip", ".cache/pypoetry", ".cache/pdm", ".cache/pipenv"].iter().any(|c| dir.ends_with(c));
    let fix = Fix::dockerfile(
        "keep no cache in the RUN that installs, or keep it in a cache mount outside of the image",
        "RUN pip install --no-cache-dir …",
    );
    cache(seen, "pip's cache", "downloads that pip keeps for the next install, which an image never has", is_cache, fix)
}

/// uv.
pub fn uv(seen: &Seen<'_>) -> Vec<Candidate> {
    let fix = Fix::dockerfile(
        "keep the cache in a cache mount, and copy out of it",
        "ENV UV_LINK_MODE=copy\nRUN --mount=type=cache,target=/root/.cache/uv uv sync --locked",
    );
    let message = "wheels that uv keeps for the next install, which an image never has";
    cache(seen, "uv's cache", message, |dir| dir.ends_with(".cache/uv"), fix)
}

/// conda's downloaded packages: `pkgs` beside `conda-meta`. Most are hard links to what is installed.
pub fn conda(seen: &Seen<'_>) -> Vec<Candidate> {
    let tree = &seen.size.tree;
    let is_cache = |dir: &Path| {
        dir.ends_with("pkgs") && dir.parent().is_some_and(|prefix| tree.dir(&prefix.join("conda-meta")).is_some())
    };
    let fix = Fix::dockerfile("clean up in the RUN that installs", "RUN conda install -y … && conda clean -afy");
    cache(seen, "conda's packages", "packages that conda keeps after it has installed them", is_cache, fix)
}

/// Lists and archives of the distribution's package manager.
pub fn packages(seen: &Seen<'_>) -> Vec<Candidate> {
    let tree = &seen.size.tree;
    let mut candidate = Candidate::new("package lists", "lists and archives of packages, fetched anew by each install");
    let mut lines = Vec::new();
    for (path, line) in SYSTEM {
        let Some(dir) = tree.dir(Path::new(path)) else { continue };
        let before = candidate.places.len();
        for file in seen.below(dir).filter(|at| tree.files[*at].entry.allocated > 0) {
            candidate.add(*path, file);
        }
        if candidate.places.len() > before {
            lines.push(*line);
        }
    }
    candidate.fix = Fix::dockerfile("remove them in the RUN that installs", lines.join("\n"));
    found(candidate)
}

/// Wheels, packages and installers of which no package manager knows.
pub fn left(seen: &Seen<'_>) -> Vec<Candidate> {
    let mut candidate =
        Candidate::new("package files", "package files that were left behind after they were installed");
    // `ensurepip` and `virtualenv` install from the wheels that they bring.
    let is_source = |dir: &str| {
        ["ensurepip/_bundled", "/usr/share/python-wheels", "seed/wheels/embed"].iter().any(|d| dir.contains(d))
    };
    let on_path: Vec<&str> =
        seen.facts.python.iter().filter_map(|p| p.seen()).flat_map(|p| &p.sys_path).map(String::as_str).collect();
    for at in seen.of_kind(Kind::Data) {
        let name = seen.name(at);
        let is_package = [&b".whl"[..], b".deb", b".rpm", b".conda"].iter().any(|e| name.ends_with(e))
            || (name.starts_with(b"cuda_") && name.ends_with(b".run"));
        let dir = seen.dir(at).to_string_lossy();
        let path = seen.path(at);
        if is_package && seen.size.owners[at].is_none() && !is_source(&dir) && !on_path.contains(&path.as_str()) {
            candidate.add(path, at);
        }
    }
    candidate.fix = Fix::dockerfile(
        "bind them for the RUN that installs them, instead of copying them into the image",
        format!(
            "RUN --mount=type=bind,target=/wheels pip install --no-cache-dir /wheels/*.whl\n# now: {}",
            remove(candidate.places.keys())
        ),
    );
    found(candidate)
}
