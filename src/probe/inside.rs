//! Into another container: a child joins the control group and the namespaces of a process there, becomes its user, and
//! only then starts what it is told to. What it then may and may not open is what the process may.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use rustix::process::{Gid, Signal, Uid};
use rustix::thread::{
    LinkNameSpaceType, move_into_link_name_space, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::exit::Exit;
use crate::image::Credentials;

/// The argument that makes this program such a child.
pub const ENTER: &str = "enter";
/// Namespaces in the order in which they can be joined: the one of users gives the right to join the others, and after
/// that of mounts no path of this container leads anywhere.
const NAMESPACES: &[(&str, LinkNameSpaceType)] = &[
    ("user", LinkNameSpaceType::User),
    ("ipc", LinkNameSpaceType::InterProcessCommunication),
    ("net", LinkNameSpaceType::Network),
    ("pid", LinkNameSpaceType::ProcessID),
    ("mnt", LinkNameSpaceType::Mount),
];
/// What it takes, for whoever is refused.
const NEEDED: &str = "CAP_SYS_ADMIN, CAP_SYS_CHROOT and CAP_SYS_PTRACE";

/// A process of the other container, and the user that it runs as.
#[derive(Debug, Clone)]
pub struct Inside {
    /// Its number here.
    pub pid: u32,
    /// Its user there.
    pub user: Credentials,
}

impl Inside {
    /// What starts `program` there, in its working directory `cwd`, with the arguments that are added.
    pub(super) fn command(&self, program: &Path, cwd: &Path) -> Command {
        let ids = std::iter::once(&self.user.uid).chain(&self.user.gids);
        let user: Vec<String> = ids.map(u32::to_string).collect();
        let mut command = Command::new("/proc/self/exe");
        command.arg(ENTER).arg(self.pid.to_string()).arg(user.join(":")).arg(cwd).arg("--").arg(program);
        command
    }
}

/// The child: goes there, runs `command`, and ends as that does.
///
/// # Errors
/// What this process may not do, and the Linux capability that it would take.
pub fn enter(inside: &Inside, cwd: &Path, command: &[OsString]) -> anyhow::Result<Exit> {
    let proc = PathBuf::from(format!("/proc/{}", inside.pid));
    join_cgroup(&proc).with_context(|| format!("cannot join the control group of process {}", inside.pid))?;
    let refused = |what: &str| format!("cannot join the {what} namespace of process {}; it takes {NEEDED}", inside.pid);
    let own = Path::new("/proc/self/ns");
    let mut namespaces = Vec::new();
    for (name, kind) in NAMESPACES {
        let path = proc.join("ns").join(name);
        if fs::read_link(own.join(name)).ok() != Some(fs::read_link(&path).with_context(|| refused(name))?) {
            namespaces.push((name, kind, fs::File::open(&path).with_context(|| refused(name))?));
        }
    }
    for (name, kind, file) in namespaces {
        move_into_link_name_space(rustix::fd::AsFd::as_fd(&file), Some(*kind)).with_context(|| refused(name))?;
    }
    let groups: Vec<Gid> = inside.user.gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(inside.user.uid), groups.first().copied().unwrap_or(Gid::ROOT));
    if uid != rustix::process::geteuid() || gid != rustix::process::getegid() {
        set_thread_groups(&groups)
            .and_then(|()| set_thread_res_gid(gid, gid, gid))
            .and_then(|()| set_thread_res_uid(uid, uid, uid))
            .with_context(|| format!("cannot become user {}", inside.user.uid))?;
    }
    let (program, rest) = command.split_first().context("nothing to start")?;
    // Only a child is in the namespace of process ids, without which its /proc knows nothing of it.
    let mut child = Command::new(program);
    let status = child.args(rest).current_dir(cwd).status();
    let status = status.with_context(|| format!("cannot start {} there", program.to_string_lossy()))?;
    if let Some(signal) = status.signal().and_then(Signal::from_named_raw) {
        // The end of the child is the end of this process, for whoever waits for it.
        rustix::process::kill_process(rustix::process::getpid(), signal)?;
    }
    Ok(Exit::Of(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)))
}

/// Which devices may be opened is decided by control group: by the one of the unified hierarchy, or by that of the
/// controller `devices` (cgroups(7)).
fn join_cgroup(proc: &Path) -> anyhow::Result<()> {
    let of = |proc: &Path| fs::read_to_string(proc.join("cgroup")).with_context(|| proc.display().to_string());
    let theirs = of(proc)?;
    if theirs == of(Path::new("/proc/self"))? {
        return Ok(());
    }
    let root = Path::new("/sys/fs/cgroup");
    for line in theirs.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let hierarchy = match controllers {
            "" if root.join("cgroup.controllers").exists() => root.to_owned(),
            "" => root.join("unified"),
            "devices" => root.join("devices"),
            _ => continue,
        };
        let file = hierarchy.join(path.trim_start_matches('/')).join("cgroup.procs");
        if hierarchy.exists() {
            fs::write(&file, "0")
                .with_context(|| format!("{}: it takes {NEEDED} and a writable /sys/fs/cgroup", file.display()))?;
        }
    }
    Ok(())
}
