//! Root file systems of Debian releases, made with debootstrap once and kept below `target/acceptance`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of a release with nothing but the C++ library.
pub fn root(release: &str) -> Result<PathBuf, String> {
    root_with(release, "", &["libstdc++6"])
}

/// The root of a release with these packages, under a name of its own. Made only if everything is to be tested; tells why there is none.
pub fn root_with(release: &str, name: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let dash = if name.is_empty() { "" } else { "-" };
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target/acceptance").join(format!("root-{release}{dash}{name}"));
    let complete = root.join("complete");
    if !rustix::process::geteuid().is_root() {
        return Err("another root file system needs root".into());
    }
    if complete.exists() {
        return Ok(root);
    }
    if std::env::var_os("MLDOCTOR_TEST_ALL").is_none_or(|v| v != "1") {
        return Err(format!("{} is not there (MLDOCTOR_TEST_ALL=1 makes it)", root.display()));
    }
    let _ = std::fs::remove_dir_all(&root);
    std::fs::create_dir_all(root.parent().unwrap()).unwrap();
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", &format!("--include={}", packages.join(",")), release]).arg(&root);
    match command.output() {
        Ok(output) if output.status.success() => {
            std::fs::write(complete, "").unwrap();
            Ok(root)
        }
        Ok(output) => Err(format!("debootstrap {release}: {}", String::from_utf8_lossy(&output.stdout))),
        Err(e) => Err(format!("debootstrap is not installed: {e}")),
    }
}
