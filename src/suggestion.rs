//! What somebody may have meant who typed a name that is not there.

/// How alike two names must be to be taken for a slip, as clap has it for options.
const ALIKE: f64 = 0.7;

/// The end of a message about a name that is not known: the nearest of the `known` ones, if one is near.
pub fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    let best = known.map(|k| (strsim::jaro(name, k), k)).max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(alike, _)| *alike > ALIKE).map_or_else(String::new, |(_, k)| format!("; is {k} meant?"))
}

/// The one of the `known` names that differs by a letter or two, so that it is hardly another word: one slip (a letter
/// too much, too few or wrong, or two in the wrong order) for three letters.
pub fn slip<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let best = known.map(|k| (strsim::osa_distance(name, k), k)).min_by_key(|(slips, _)| *slips);
    best.filter(|(slips, _)| *slips > 0 && *slips <= name.len() / 3).map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told_from_other_words() {
        let known = || ["check", "health", "exec", "libs", "matrix", "size", "list", "facts"].into_iter();
        for (name, meant) in [("chek", "check"), ("helth", "health"), ("exce", "exec"), ("lib", "libs")] {
            assert_eq!(slip(name, known()), Some(meant));
        }
        for name in ["torch", "metrics", "check", "json", "jax", "lightning", ""] {
            assert_eq!(slip(name, known()), None, "{name}");
        }
        assert_eq!(nearest("haelth", known()), "; is health meant?");
        assert_eq!(nearest("torch", known()), "");
    }
}
