//! `LD_LIBRARY_PATH` that takes libraries away from the wheels that brought them.

use std::collections::BTreeMap;

use super::{Check, Rule, Surveyed, file_name, finding};
use crate::facts::{Facts, Mapped};
use crate::finding::{Finding, Fix};

/// The check.
pub static CHECK: Check = Check { ids: &["lib-ldpath-shadow"], rule: Rule::Survey(survey) };

fn survey(facts: &Facts) -> Surveyed {
    if !facts.image.env.iter().any(|(name, value)| name == "LD_LIBRARY_PATH" && !value.is_empty()) {
        return Surveyed::not_applicable("LD_LIBRARY_PATH is not set");
    }
    let mut by_dir: BTreeMap<&str, BTreeMap<&str, (&Mapped, &str)>> = BTreeMap::new();
    for mapped in facts.subjects.iter().flat_map(|s| &s.mapped) {
        // Only what is taken from a wheel is surprising; that is what the variable is for otherwise.
        let is_wheel = |path: &&str| path.contains("/site-packages/") || path.contains("/dist-packages/");
        if let Some(instead) = mapped.without_ld_library_path.as_deref().filter(is_wheel) {
            let dir = mapped.path.rsplit_once('/').map_or("", |(dir, _)| dir);
            by_dir.entry(dir).or_default().insert(&mapped.soname, (mapped, instead));
        }
    }
    Surveyed::found(by_dir.into_iter().map(|(dir, taken)| of_directory(dir, &taken)).collect())
}

fn of_directory(dir: &str, taken: &BTreeMap<&str, (&Mapped, &str)>) -> Finding {
    let found = match taken.keys().collect::<Vec<_>>()[..] {
        [soname] => {
            let message = format!("LD_LIBRARY_PATH replaces the {} of the wheels by another copy", file_name(soname));
            finding("lib-ldpath-shadow", *soname, message)
        }
        _ => {
            let message = format!("LD_LIBRARY_PATH replaces {} libraries of the wheels by other copies", taken.len());
            finding("lib-ldpath-shadow", dir, message)
        }
    };
    let show = |found: Finding, (mapped, instead): &(&Mapped, &str)| {
        found.proof("loaded", &mapped.path, Some(mapped.via.clone())).proof("without it", *instead, None)
    };
    taken
        .values()
        .fold(found, show)
        .cure(Fix::dockerfile("unset it: wheels find their own libraries", "ENV LD_LIBRARY_PATH="))
}
