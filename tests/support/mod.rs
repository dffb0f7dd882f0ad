//! What several test programs share: tiny ELF files and the trees that they stand in.

#![allow(dead_code, reason = "not every test program uses all of it")]

pub mod debian;
pub mod elf;
pub mod fatbin;
pub mod tree;

use std::path::PathBuf;
use std::{env, fs};

/// Says that something cannot be tested here; with `MLDOCTOR_TEST_ALL=1` that is a failure.
pub fn skip(why: &str) {
    assert!(env::var_os("MLDOCTOR_TEST_ALL").is_none_or(|v| v != "1"), "cannot be skipped here: {why}");
    println!("SKIPPED: {why}");
}

/// The library that cargo has built beside this program: a driver that does what a scenario says.
pub fn fake_driver() -> PathBuf {
    let deps = env::current_exe().unwrap().parent().unwrap().to_owned();
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("libfake_driver") && name.ends_with(".so")
    };
    let built = fs::read_dir(deps).unwrap().map(|entry| entry.unwrap().path()).filter(is_it);
    built.max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap()).unwrap()
}
