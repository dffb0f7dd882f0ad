//! `ARCHITECTURE.md` is what the folder tree says. Cargo builds the program for this test as it builds all others, so that
//! who has run the tests can run it without another build.

use std::process::Command;

#[test]
fn architecture_is_not_old() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["docs", "--check"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
