//! `check --against`: is here what a run used elsewhere?

use std::collections::BTreeSet;
use std::path::Path;

use crate::facts::{Recorded, RecordedDiffers, RecordedMissing};
use crate::image::Rootfs;
use crate::image::elf::{Elf, Machine};
use crate::record::profile::{Library, Profile};

/// What is expected to differ between any two containers: work in progress, and what the runtime mounts.
const OF_THE_RUN: &[&str] = &["/tmp", "/var/tmp", "/run", "/var/run", "/var/log"];

/// Compares the image with a profile.
pub fn compare(rootfs: &Rootfs, profile: &Profile) -> Recorded {
    let mut recorded = Recorded { not_observed: profile.not_observed.iter().cloned().collect(), ..Recorded::default() };
    let modules: BTreeSet<&str> = profile.modules.values().map(String::as_str).collect();
    let of_the_run = |path: &str| OF_THE_RUN.iter().any(|dir| Path::new(path).starts_with(dir));
    for (path, used) in &profile.files {
        let wanted = used.opened && !profile.written.contains(path) && !of_the_run(path);
        if !wanted {
            continue;
        }
        recorded.compared += 1;
        let library = profile.libraries.get(path);
        if rootfs.exists(Path::new(path)) {
            recorded.differs.extend(library.and_then(|library| differs(rootfs, path, library)));
            continue;
        }
        let kind = match library {
            Some(_) => "library",
            None if profile.programs.contains_key(path) => "program",
            None if modules.contains(path.as_str()) => "module",
            None => "file",
        };
        let by = used.by.iter().cloned().collect();
        recorded.missing.push(RecordedMissing { kind: kind.to_owned(), path: path.clone(), by });
    }
    recorded
}

fn differs(rootfs: &Rootfs, path: &str, library: &Library) -> Option<RecordedDiffers> {
    let elf = rootfs.map(Path::new(path)).ok().and_then(|(map, _)| Elf::parse(map, Machine::host()).ok());
    let soname = elf.as_ref().and_then(Elf::soname).map(|s| s.to_string_lossy().into_owned());
    let build_id = elf.as_ref().and_then(Elf::build_id);
    let said = |soname: &Option<String>, build_id: &Option<String>| {
        let or = |value: &Option<String>, none: &str| value.clone().unwrap_or_else(|| none.to_owned());
        format!("{}, {}", or(soname, "no SONAME"), or(build_id, "no build id"))
    };
    let other_soname = elf.is_none() || soname != library.soname;
    (other_soname || build_id != library.build_id).then(|| RecordedDiffers {
        path: path.to_owned(),
        recorded: said(&library.soname, &library.build_id),
        found: if elf.is_some() { said(&soname, &build_id) } else { "no shared object".into() },
        other_soname,
    })
}
