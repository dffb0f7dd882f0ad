//! What an image should not have, whatever its size.

use super::{Candidate, Seen, remove};
use crate::finding::Fix;
use crate::image::EntryKind;

/// `S_IWOTH`
const WORLD_WRITABLE: u32 = 0o002;
/// `S_ISVTX`: in such a directory only the owner of a file may remove it.
const STICKY: u32 = 0o1000;
/// `S_ISUID | S_ISGID`
const SET_ID: u32 = 0o6000;

fn found(candidate: Candidate) -> Vec<Candidate> {
    super::caches::found(candidate)
}

/// Credentials, of which only the place is told.
pub fn credentials(seen: &Seen<'_>) -> Vec<Candidate> {
    let mut candidate = Candidate::new("credentials", "whoever has the image has these credentials");
    for secret in &seen.size.secrets {
        candidate.places.insert(format!("{}:{} ({})", secret.place, secret.at, secret.what), Vec::new());
    }
    candidate.fix = Fix::dockerfile(
        "withdraw them, as a layer once made keeps them; mount a secret for the RUN that needs it",
        "RUN --mount=type=secret,id=pip,target=/etc/pip.conf pip install …",
    );
    found(candidate)
}

/// Docker does not ask how the workload is.
pub fn healthcheck(seen: &Seen<'_>) -> Vec<Candidate> {
    let mut candidate = Candidate::new("HEALTHCHECK", "the image has no HEALTHCHECK");
    if seen.size.has_healthcheck == Some(false) {
        candidate.places.insert("configuration of the image".into(), Vec::new());
    }
    candidate.fix = Fix::dockerfile(
        "let Docker ask; Kubernetes has probes of its own",
        r#"HEALTHCHECK --interval=10s --timeout=2s CMD ["mldoctor", "health"]"#,
    );
    found(candidate)
}

/// The user is root.
pub fn root(seen: &Seen<'_>) -> Vec<Candidate> {
    let mut candidate = Candidate::new("user", "the workload runs as root");
    if seen.size.uid == Some(0) {
        candidate.places.insert("uid 0".into(), Vec::new());
    }
    candidate.fix = Fix::dockerfile("run as a user without rights", "USER 65532:65532");
    found(candidate)
}

/// Files that run with the rights of their owner.
pub fn setuid(seen: &Seen<'_>) -> Vec<Candidate> {
    let mut candidate = Candidate::new("setuid", "programs that run with the rights of their owner or group");
    for (at, file) in seen.size.tree.files.iter().enumerate() {
        let mode = file.entry.mode;
        if file.entry.kind == EntryKind::File && mode & SET_ID != 0 && mode & 0o111 != 0 {
            candidate.add(seen.path(at), at);
        }
    }
    let line = remove(candidate.places.keys()).replacen("rm -rf", "chmod a-s", 1);
    candidate.fix = Fix::dockerfile("a container needs none of them", line);
    found(candidate)
}

/// What every user may change.
pub fn world_writable(seen: &Seen<'_>) -> Vec<Candidate> {
    let tree = &seen.size.tree;
    let mut candidate = Candidate::new("permissions", "any user of the container may change these");
    for dir in tree.dirs.iter().filter(|d| d.mode & WORLD_WRITABLE != 0 && d.mode & STICKY == 0) {
        candidate.places.insert(dir.path.to_string_lossy().into_owned(), Vec::new());
    }
    for (at, file) in tree.files.iter().enumerate() {
        if file.entry.kind == EntryKind::File && file.entry.mode & WORLD_WRITABLE != 0 {
            candidate.add(seen.path(at), at);
        }
    }
    let line = remove(candidate.places.keys()).replacen("rm -rf", "chmod o-w", 1);
    candidate.fix = Fix::dockerfile("take the permission away", line);
    found(candidate)
}
