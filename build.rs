//! Embeds the probe: the file named by `MLDOCTOR_PROBES_BIN`, or one built here for the host.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=MLDOCTOR_PROBES_BIN");
    println!("cargo::rerun-if-changed=probes");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let embedded = out.join("mldoctor-probes");
    let probe = match env::var_os("MLDOCTOR_PROBES_BIN") {
        Some(file) => PathBuf::from(file),
        None if architecture("TARGET") == architecture("HOST") => build(&out),
        // A probe for the host would be of no use to the target: none is embedded.
        None => return fs::write(embedded, []).expect("OUT_DIR can be written"),
    };
    println!("cargo::rerun-if-changed={}", probe.display());
    fs::copy(&probe, embedded).unwrap_or_else(|e| panic!("cannot take {}: {e}", probe.display()));
}

fn architecture(triple: &str) -> String {
    let triple = env::var(triple).expect("cargo sets it");
    triple.split('-').next().unwrap_or_default().to_owned()
}

/// Its own target directory, for the one of this build is locked; without the flags of this build, which may be for
/// another target or for a linter.
fn build(out: &Path) -> PathBuf {
    let target = out.join("probes-target");
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    cargo.args(["build", "--release", "--package", "mldoctor-probes", "--target-dir"]).arg(&target);
    for name in ["RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "the probe does not build");
    target.join("release/mldoctor-probes")
}
