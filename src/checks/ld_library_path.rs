//! `LD_LIBRARY_PATH` that takes libraries away from the wheels that brought them.

use super::{Check, Rule, Surveyed, file_name, finding};
use crate::facts::Facts;
use crate::finding::Fix;

/// The check.
pub static CHECK: Check = Check { ids: &["lib-ldpath-shadow"], rule: Rule::Survey(survey) };

fn survey(facts: &Facts) -> Surveyed {
    if !facts.image.env.iter().any(|(name, value)| name == "LD_LIBRARY_PATH" && !value.is_empty()) {
        return Surveyed::not_applicable("LD_LIBRARY_PATH is not set");
    }
    let findings = facts
        .subjects
        .iter()
        .flat_map(|s| &s.mapped)
        .filter_map(|m| {
            let instead = m.without_ld_library_path.as_ref()?;
            // Only what is taken from a wheel is surprising; that is what the variable is for otherwise.
            if !instead.contains("/site-packages/") && !instead.contains("/dist-packages/") {
                return None;
            }
            Some(
                finding(
                    "lib-ldpath-shadow",
                    &m.soname,
                    format!("LD_LIBRARY_PATH replaces the {} of the wheels by another copy", file_name(&m.soname)),
                )
                .proof("loaded", &m.path, Some(m.via.clone()))
                .proof("without it", instead, None)
                .cure(Fix::dockerfile("unset it: wheels find their own libraries", "ENV LD_LIBRARY_PATH=")),
            )
        })
        .collect();
    Surveyed::found(findings)
}
