//! What profiles name, what the required capabilities load, and the few files that every container wants.

use std::collections::BTreeMap;
use std::path::Path;

use super::tree::NodeId;
use super::{Plan, Wanted};
use crate::image::{EntryKind, Rootfs};

/// What programs of any kind expect, recorded or not: a run on one machine asks for no name of another user, follows no
/// name service, and checks no certificate. Those that end in `/` stay with all that is in them, `/.` as directories alone.
const EXPECTED: &[(&str, &[&str])] = &[
    ("users and groups", &["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/nsswitch.conf", "/etc/login.defs"]),
    ("names of hosts", &["/etc/hosts", "/etc/host.conf", "/etc/resolv.conf", "/etc/services", "/etc/protocols"]),
    ("the loader's configuration", &["/etc/ld.so.conf", "/etc/ld.so.conf.d/", "/etc/ld.so.cache"]),
    ("the time zone", &["/etc/localtime", "/etc/timezone"]),
    ("the system's name", &["/etc/os-release", "/usr/lib/os-release", "/etc/debian_version", "/etc/alpine-release"]),
    (
        "certificates",
        &[
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/ssl/cert.pem",
            "/etc/ssl/openssl.cnf",
            "/etc/pki/tls/certs/",
            "/etc/pki/ca-trust/extracted/pem/",
            "/usr/lib/ssl/openssl.cnf",
        ],
    ),
    (
        "empty directories",
        &["/tmp/.", "/var/tmp/.", "/run/.", "/proc/.", "/sys/.", "/dev/.", "/root/.", "/home/.", "/var/run/."],
    ),
];
/// Parts of the C library that are opened by name for users and hosts (`nss/nsswitch.c` in glibc).
const NAME_SERVICES: &[&str] = &["libnss_files.so.2", "libnss_dns.so.2", "libnss_compat.so.2", "libresolv.so.2"];

/// Keeps what is named.
pub fn decide(plan: &mut Plan, rootfs: &Rootfs, wanted: &Wanted<'_>, needed: &BTreeMap<NodeId, String>) {
    expected(plan, rootfs);
    for (&id, capability) in needed {
        let reason = plan.reason(true, "loaded", &format!("{capability} needs it"));
        plan.set(id, reason);
    }
    let opened = plan.reason(true, "recorded", "a recorded run opened it");
    let looked_at = plan.reason(true, "looked at", "a recorded run asked whether it is there");
    let mut lost = 0u64;
    for (path, used) in &wanted.profile.files {
        let path = Path::new(path);
        let Some(id) = node(plan, rootfs, path) else {
            lost += u64::from(used.opened);
            continue;
        };
        if used.opened || !plan.stays(id) {
            plan.set(id, if used.opened { opened } else { looked_at });
        }
    }
    if lost > 0 {
        plan.notes.insert(format!("{lost} files that were opened in a recorded run are not in the image"));
    }
}

/// What a path leads to; the link itself where it leads nowhere.
fn node(plan: &Plan, rootfs: &Rootfs, path: &Path) -> Option<NodeId> {
    let real = rootfs.canonicalize(path).or_else(|_| rootfs.canonicalize_parent(path)).ok()?;
    plan.tree.id(&real)
}

fn expected(plan: &mut Plan, rootfs: &Rootfs) {
    for (what, paths) in EXPECTED {
        let reason = plan.reason(true, what, "programs of any kind expect it");
        for path in *paths {
            let bare = Path::new(path.trim_end_matches(['/', '.']));
            let Some(id) = node(plan, rootfs, bare) else { continue };
            plan.set(id, reason);
            if path.ends_with('/') {
                let dir = plan.tree.nodes[id].path.clone();
                let inside = |n: &super::tree::Node| n.kind != EntryKind::Link && n.path.starts_with(&dir);
                let ids: Vec<NodeId> =
                    plan.tree.nodes.iter().enumerate().filter(|(_, n)| inside(n)).map(|(id, _)| id).collect();
                for id in ids {
                    plan.set(id, reason);
                }
            }
        }
    }
    let reason = plan.reason(true, "name services", "the C library opens them by name");
    for id in 0..plan.tree.nodes.len() {
        let name = plan.tree.nodes[id].path.file_name().and_then(|n| n.to_str());
        if name.is_some_and(|n| NAME_SERVICES.contains(&n))
            && let Some(target) = node(plan, rootfs, &plan.tree.nodes[id].path)
        {
            plan.set(target, reason);
        }
    }
}
