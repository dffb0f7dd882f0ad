//! `cargo xtask dist`: the static files that are shipped, with the promises that they must keep, and their manual.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use object::LittleEndian;
use object::elf::{FileHeader64, PT_DYNAMIC, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::manual;

/// Largest shipped file, in bytes.
const MAX_SIZE: u64 = 2_750_000;
/// Newest glibc that the probe may ask for.
const GLIBC: (u32, u32) = (2, 17);
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];
/// The standard library is built with the program, to be small: without the tables and the code that print backtraces,
/// and with the shorter of its two ways to sort. Cargo has the options behind a variable that lets a stable compiler take
/// unstable ones.
const BUILD_STD: &[&str] = &["-Z", "build-std=std,panic_abort", "-Z", "build-std-features=optimize_for_size"];
const UNSTABLE: (&str, &str) = ("RUSTC_BOOTSTRAP", "1");

/// Builds for every architecture into `dist/`, and checks what was built.
pub fn run() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?.to_owned();
    let dist = root.join("dist");
    fs::create_dir_all(&dist)?;
    manual::write(&dist)?;
    let probes = build_probes(&root)?;
    for arch in ARCHITECTURES {
        check_probe(Path::new(&probes.replace("{arch}", arch)))?;
    }
    // Both at once: the linker's optimiser keeps one processor busy.
    let targets = ARCHITECTURES.map(|arch| format!("{arch}-unknown-linux-musl"));
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&root).args(["build", "--release", "--locked", "--bin", "mldoctor"]).args(BUILD_STD);
    cargo.args(targets.iter().flat_map(|target| ["--target", target]));
    call(cargo.env(UNSTABLE.0, UNSTABLE.1).env("MLDOCTOR_PROBES_BIN", &probes)).with_context(|| {
        format!("is everything installed? rustup target add {targets:?}; rustup component add rust-src")
    })?;
    for (arch, target) in ARCHITECTURES.iter().zip(&targets) {
        let built = root.join("target").join(target).join("release/mldoctor");
        let file = dist.join(format!("mldoctor-{arch}"));
        fs::copy(&built, &file).with_context(|| format!("cannot copy {}", built.display()))?;
        check_file(&file)?;
        check_start(arch, &file)?;
    }
    Ok(())
}

/// The probes, linked for the oldest glibc that NVIDIA's libraries run on: their path, with `{arch}` for the processor.
fn build_probes(root: &Path) -> anyhow::Result<String> {
    let dir = root.join("target/probes");
    let targets = ARCHITECTURES.map(|arch| format!("{arch}-unknown-linux-gnu.{}.{}", GLIBC.0, GLIBC.1));
    call(
        Command::new("cargo")
            .current_dir(root)
            .args(["zigbuild", "--release", "--locked", "--package", "mldoctor-probes"])
            .args(targets.iter().flat_map(|target| ["--target", target]))
            .arg("--target-dir")
            .arg(&dir)
            .args(BUILD_STD)
            .env(UNSTABLE.0, UNSTABLE.1)
            .env("RUSTFLAGS", "-C force-unwind-tables=no"),
    )
    .context("is it installed? pip install cargo-zigbuild ziglang; rustup target add …-unknown-linux-gnu")?;
    Ok(format!("{}/{{arch}}-unknown-linux-gnu/release/mldoctor-probes", dir.display()))
}

/// No version of glibc above the floor, and no library that a small image may lack.
fn check_probe(file: &Path) -> anyhow::Result<()> {
    let data = fs::read(file)?;
    let bad = |e: object::read::Error| anyhow::anyhow!("{}: {e}", file.display());
    let header = FileHeader64::<LittleEndian>::parse(&*data).map_err(bad)?;
    let sections = header.sections(LittleEndian, &*data).map_err(bad)?;
    let (needs, strings) =
        sections.gnu_verneed(LittleEndian, &*data).map_err(bad)?.context("the probe wants no versions at all")?;
    let strings = sections.strings(LittleEndian, &*data, strings).map_err(bad)?;
    let mut needs = needs;
    while let Some((need, mut versions)) = needs.next().map_err(bad)? {
        let library = String::from_utf8_lossy(need.file(LittleEndian, strings).map_err(bad)?).into_owned();
        ensure!(!library.starts_with("libgcc_s"), "the probe needs {library}, which small images lack");
        while let Some(version) = versions.next().map_err(bad)? {
            let name = String::from_utf8_lossy(version.name(LittleEndian, strings).map_err(bad)?).into_owned();
            let numbers = name.strip_prefix("GLIBC_").and_then(|v| {
                let mut parts = v.split('.').map(str::parse::<u32>);
                Some((parts.next()?.ok()?, parts.next()?.ok()?))
            });
            ensure!(numbers.is_none_or(|n| n <= GLIBC), "the probe needs {name} of {library}");
        }
    }
    let segments = header.program_headers(LittleEndian, &*data).map_err(bad)?;
    ensure!(
        segments.iter().any(|s| s.p_type(LittleEndian) == PT_INTERP),
        "the probe is static: it cannot load anything"
    );
    Ok(())
}

/// No program interpreter, nothing needed, not too large.
fn check_file(file: &Path) -> anyhow::Result<()> {
    let data = fs::read(file)?;
    let size = data.len() as u64;
    ensure!(size <= MAX_SIZE, "{} has {size} bytes, more than {MAX_SIZE}", file.display());
    let header = FileHeader64::<LittleEndian>::parse(&*data).map_err(|e| anyhow::anyhow!("{}: {e}", file.display()))?;
    let segments = header.program_headers(LittleEndian, &*data).map_err(|e| anyhow::anyhow!("{e}"))?;
    ensure!(
        !segments.iter().any(|s| s.p_type(LittleEndian) == PT_INTERP),
        "{} has a program interpreter: it is not static",
        file.display()
    );
    for segment in segments.iter().filter(|s| s.p_type(LittleEndian) == PT_DYNAMIC) {
        let entries = segment.dynamic(LittleEndian, &*data).map_err(|e| anyhow::anyhow!("{e}"))?;
        let needed = entries.unwrap_or_default().iter().any(|d| d.d_tag.get(LittleEndian) == object::elf::DT_NEEDED);
        ensure!(!needed, "{} needs shared libraries", file.display());
    }
    Ok(())
}

/// It starts: here, or under the emulator, and in an empty root.
fn check_start(arch: &str, file: &Path) -> anyhow::Result<()> {
    if arch == std::env::consts::ARCH {
        call(Command::new(file).arg("--version"))?;
        return check_empty_root(file);
    }
    let emulator = format!("qemu-{arch}-static");
    if Command::new(&emulator).arg("--version").output().is_err() {
        bail!("{emulator} is not installed (Debian: qemu-user-static), so the {arch} file cannot be tried");
    }
    call(Command::new(emulator).arg(file).arg("--version"))
}

/// In a directory with nothing else in it, not even /proc, that nothing can be written to, as a user that nobody knows.
/// Only root may change the root, and not every root: the builder of a Dockerfile mounts nothing.
fn check_empty_root(file: &Path) -> anyhow::Result<()> {
    let mount = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\"";
    let namespace = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]);
        command
    };
    let root: PathBuf = std::env::temp_dir().join(format!("mldoctor-empty-{}", std::process::id()));
    fs::create_dir_all(&root)?;
    if !namespace(mount).arg(&root).output().is_ok_and(|o| o.status.success()) {
        println!("skipped: {} in an empty root, for nothing can be mounted here", file.display());
        return Ok(fs::remove_dir_all(&root)?);
    }
    fs::copy(file, root.join("mldoctor"))?;
    // A mount namespace of its own, in which the directory is read-only.
    let script = format!("{mount} && shift && exec chroot --userspec=12345:12345 \"$ROOT\" \"$@\"");
    let answers = |arguments: &[&str]| namespace(&script).arg(&root).args(arguments).env("ROOT", &root).output();
    let list = answers(&["/mldoctor", "list"]);
    let check = answers(&["/mldoctor", "check", "--image", "/mldoctor"]);
    fs::remove_dir_all(&root)?;
    ensure!(list?.status.success(), "{} does not answer in an empty root", file.display());
    let said = String::from_utf8_lossy(&check?.stdout).into_owned();
    ensure!(said.starts_with("READY"), "{} says of itself in an empty root: {said}", file.display());
    Ok(())
}

fn call(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
