//! Real containers, started by podman without systemd: images and everything else it keeps lie below
//! `target/acceptance/podman`, beside nothing of the machine's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Podman raises limits to what a login shell on a server would have, which a container in a container may not.
const CONFIGURATION: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=1024:4096\"]\n";
/// Named, because the one that podman would choose may not be installed.
const RUNTIME: &str = "/usr/sbin/runc";

/// Podman with a storage of its own.
pub struct Podman {
    dir: PathBuf,
}

impl Podman {
    /// Tells why there is none, or why it cannot be used here.
    pub fn open() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("containers are started as root here".into());
        }
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/acceptance/podman");
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        fs::write(dir.join("containers.conf"), CONFIGURATION).map_err(|e| e.to_string())?;
        let podman = Self { dir };
        match podman.command().arg("info").output() {
            Ok(output) if output.status.success() => Ok(podman),
            Ok(output) => Err(format!("podman info: {}", String::from_utf8_lossy(&output.stderr))),
            Err(e) => Err(format!("podman is not installed: {e}")),
        }
    }

    /// `podman` with what every command needs; the subcommand is still to be named.
    pub fn command(&self) -> Command {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", self.dir.join("containers.conf"));
        command.args(["--cgroup-manager", "cgroupfs"]);
        if Path::new(RUNTIME).exists() {
            command.args(["--runtime", RUNTIME]);
        }
        command.arg("--root").arg(self.dir.join("storage")).arg("--runroot").arg(self.dir.join("run"));
        command
    }

    /// Makes an image of a root file system, unless it was made before.
    pub fn import(&self, root: &Path, image: &str) -> Result<(), String> {
        let known = self.command().args(["image", "exists", image]).status().map_err(|e| e.to_string())?;
        if known.success() {
            return Ok(());
        }
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(root).args(["--exclude=./complete", "-c", "."]).stdout(Stdio::piped());
        let mut tar = tar.spawn().map_err(|e| format!("tar: {e}"))?;
        let archive = tar.stdout.take().ok_or("tar has no output")?;
        let output = self.command().args(["import", "-", image]).stdin(archive).output().map_err(|e| e.to_string())?;
        let packed = tar.wait().map_err(|e| e.to_string())?;
        if packed.success() && output.status.success() {
            Ok(())
        } else {
            Err(format!("podman import: {}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// Runs a command in a container of its own, with options of `podman run`.
    pub fn run(&self, options: &[&str], image: &str, command: &[&str]) -> Output {
        let mut run = self.command();
        run.args(["run", "--rm", "--network", "none"]).args(options).arg(image).args(command);
        run.output().expect("podman was there before")
    }
}
