//! What comes with packages and is not run: tests, documentation, debug sections, second copies.

use std::collections::BTreeMap;

use super::caches::found;
use super::{Candidate, Seen, quoted, remove};
use crate::facts::size::Kind;
use crate::finding::Fix;

/// Longest list of paths in a cure.
const MOST_PATHS: usize = 8;

/// Test suites that no other file names, and those that one does.
pub fn tests(seen: &Seen<'_>) -> Vec<Candidate> {
    let tree = &seen.size.tree;
    let mut goes = Candidate::new("tests", "test suites of installed packages; no other module names them");
    let mut stays: BTreeMap<String, Candidate> = BTreeMap::new();
    for suite in &seen.size.tests {
        let place = tree.dirs[*suite].path.to_string_lossy().into_owned();
        let named = seen.size.sources.tests.get(suite).map(|by| format!("{} names {}", seen.path(*by), short(&place)));
        let candidate = match named.or_else(|| seen.first_used(seen.below(*suite))) {
            None => &mut goes,
            Some(why) => stays.entry(why.clone()).or_insert_with(|| {
                let mut candidate = Candidate::new("tests", "");
                candidate.stays = Some(why);
                candidate
            }),
        };
        candidate.add_all(place, seen.below(*suite));
    }
    let lines = if goes.places.len() <= MOST_PATHS {
        remove(goes.places.keys())
    } else {
        let excepted: Vec<String> =
            stays.values().flat_map(|c| c.places.keys()).map(|p| format!("! -path {} ", quoted(p))).collect();
        let roots: Vec<&str> = package_roots(goes.places.keys());
        format!("RUN … && find {} -depth -type d -name tests {}-exec rm -rf {{}} +", roots.join(" "), excepted.concat())
    };
    goes.fix = Fix::dockerfile("in the RUN that installs the packages", lines);
    stays.into_values().chain([goes]).flat_map(found).collect()
}

/// The directories of packages that paths lie in.
fn package_roots<'p>(paths: impl Iterator<Item = &'p String>) -> Vec<&'p str> {
    let root = |p: &'p String| p.find("-packages/").map(|at| &p[..at + "-packages".len()]);
    let mut roots: Vec<&str> = paths.filter_map(root).collect();
    roots.sort_unstable();
    roots.dedup();
    roots
}

/// The end of a path that is enough to know it by.
fn short(path: &str) -> &str {
    path.rsplit_once("-packages/").map_or(path, |(_, rest)| rest)
}

/// Manual pages and the like.
pub fn documentation(seen: &Seen<'_>) -> Vec<Candidate> {
    let mut candidate = Candidate::new("documentation", "manual pages and documents; licences are not counted");
    for at in seen.of_kind(Kind::Documentation).filter(|at| seen.size.tree.files[*at].entry.allocated > 0) {
        let dir = seen.dir(at).to_string_lossy();
        let end = dir.find("/share/").and_then(|at| dir[at + 7..].find('/').map(|n| at + 7 + n)).unwrap_or(dir.len());
        candidate.add(&dir[..end], at);
    }
    candidate.fix = Fix::dockerfile(
        "keep dpkg from unpacking them, before anything is installed",
        "RUN printf 'path-exclude /usr/share/%s/*\\n' doc man info > /etc/dpkg/dpkg.cfg.d/nodoc \\\n && echo 'path-include /usr/share/doc/*/copyright' >> /etc/dpkg/dpkg.cfg.d/nodoc",
    );
    found(candidate)
}

/// Sections that only debuggers read.
pub fn debug(seen: &Seen<'_>) -> Vec<Candidate> {
    let mut candidate =
        Candidate::new("debug sections", "sections .debug_* of shared objects and programs; nothing loads them");
    let mut files: Vec<(usize, u64)> = seen.size.debug.iter().copied().filter(|(at, _)| !seen.gone[*at]).collect();
    files.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    candidate.parts = files.iter().map(|(at, bytes)| (seen.path(*at), *bytes)).collect();
    let more = files.len().saturating_sub(MOST_PATHS);
    let rest = if more > 0 { format!("   # and {more} more") } else { String::new() };
    let files: Vec<String> = files.iter().take(MOST_PATHS).map(|(at, _)| quoted(&seen.path(*at))).collect();
    candidate.fix = Fix::dockerfile(
        "in the stage that builds or installs them",
        format!("RUN strip --strip-debug {}{rest}", files.join(" \\\n    ")),
    );
    found(candidate)
}

/// Files with one content.
///
/// Two shared objects in different directories stay: as one file under two names the loader would map them once, and two
/// wheels would share what each has for itself now (`_dl_map_object_from_fd`, which compares device and inode).
pub fn duplicates(seen: &Seen<'_>) -> Vec<Candidate> {
    let mut goes = Candidate::new("duplicates", "files with the same content as another");
    let mut stays = Candidate::new("duplicates", "");
    let mut lines = Vec::new();
    let mut groups: Vec<&Vec<usize>> = seen.size.copies.iter().collect();
    groups.sort_by_key(|g| std::cmp::Reverse(seen.size.tree.files[g[0]].entry.allocated));
    for group in groups {
        let group: Vec<usize> = group.iter().copied().filter(|at| !seen.gone[*at]).collect();
        let Some((first, rest)) = group.split_first() else { continue };
        for at in rest {
            let beside = seen.dir(*at) == seen.dir(*first);
            let executed = matches!(seen.size.kinds[*at], Kind::SharedObject | Kind::Program);
            if executed && !beside {
                stays.add(seen.path(*at), *at);
                continue;
            }
            let (from, to) = (seen.path(*first), seen.path(*at));
            let name = from.rsplit('/').next().unwrap_or(&from);
            let (option, from) = if beside { ("-sf", name) } else { ("-f", from.as_str()) };
            lines.push(format!("ln {option} {} {}", quoted(from), quoted(&to)));
            goes.add(format!("{to}, as {from}"), *at);
        }
    }
    stays.stays = Some("equal libraries of two packages: linked, the loader would take them for one".into());
    let more = lines.len().saturating_sub(MOST_PATHS);
    lines.truncate(MOST_PATHS);
    let rest = if more > 0 { format!("\n# and {more} more, listed by --format json") } else { String::new() };
    goes.fix = Fix::dockerfile(
        "links instead of copies, in the RUN that brings them; COPY of single files makes copies of links",
        format!("RUN {}{rest}", lines.join(" \\\n && ")),
    );
    [goes, stays].into_iter().flat_map(found).collect()
}

/// `__pycache__`: costs bytes, saves time.
pub fn bytecode(seen: &Seen<'_>) -> Vec<Candidate> {
    let mut candidate = Candidate::new("__pycache__", "compiled Python: without it, each start compiles again");
    for at in seen.of_kind(Kind::Bytecode) {
        let dir = seen.dir(at).to_string_lossy();
        let end = dir.find("-packages").map_or(dir.len(), |at| at + "-packages".len());
        let end = if end < dir.len() { end } else { dir.find("/__pycache__").unwrap_or(dir.len()) };
        candidate.add(&dir[..end], at);
    }
    candidate.note = true;
    candidate.fix = Fix::dockerfile(
        "keep it, unless the image starts seldom",
        "RUN PYTHONDONTWRITEBYTECODE=1 pip install --no-compile …",
    );
    found(candidate)
}
