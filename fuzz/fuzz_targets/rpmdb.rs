//! Any bytes as the database of rpm.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mldoctor::image::rpmdb;

fuzz_target!(|data: &[u8]| {
    let _ = rpmdb::read(data);
});
