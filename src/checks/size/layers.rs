//! What the layers of an image hold that nobody sees.

use super::{Candidate, Seen, human};
use crate::finding::Fix;

/// Hidden bytes below which nothing is said: lists of packages and users are written again and again.
const LEAST: u64 = 1_000_000;
/// Paths that are told.
const TOLD: usize = 20;

/// Files that a later layer replaces or removes.
pub fn hidden(seen: &Seen<'_>) -> Vec<Candidate> {
    let Some(layers) = seen.size.layers.as_ref().filter(|layers| layers.hidden() >= LEAST) else { return Vec::new() };
    let message = format!(
        "{} of the {} in {} layers are replaced or removed by later ones, and pulled all the same (efficiency {} %)",
        human(layers.hidden()),
        human(layers.bytes),
        layers.count,
        layers.efficiency(),
    );
    let mut candidate = Candidate::new("layers", message);
    // They are not among the files that are seen, so nothing of those goes.
    candidate.note = true;
    let mut paths: Vec<_> = layers.written_again.iter().collect();
    paths.sort_by_key(|(_, versions)| std::cmp::Reverse(versions.hidden));
    for (path, versions) in paths.into_iter().take(TOLD) {
        let place = format!("/{} ({}, by layer {})", path.display(), human(versions.hidden), versions.by);
        candidate.parts.insert(place, versions.hidden);
    }
    candidate.fix = Fix::dockerfile(
        "remove a file in the RUN that makes it; or copy what is left into a stage of its own",
        "FROM scratch\nCOPY --from=builder / /",
    );
    vec![candidate]
}
