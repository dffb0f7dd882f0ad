//! What several test programs share: tiny ELF files and the trees that they stand in.

#![allow(dead_code, reason = "not every test program uses all of it")]

pub mod debian;
pub mod driver;
pub mod elf;
pub mod fatbin;
pub mod podman;
pub mod schema;
pub mod strace;
pub mod tree;

use std::env;

/// Says that something cannot be tested here; with `MLDOCTOR_TEST_ALL=1` that is a failure.
pub fn skip(why: &str) {
    assert!(env::var_os("MLDOCTOR_TEST_ALL").is_none_or(|v| v != "1"), "cannot be skipped here: {why}");
    println!("SKIPPED: {why}");
}
