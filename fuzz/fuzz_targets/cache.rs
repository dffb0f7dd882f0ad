//! Any bytes as `ld.so.cache`.
#![no_main]

use std::ffi::OsStr;

use libfuzzer_sys::fuzz_target;
use mldoctor::image::elf::Machine;
use mldoctor::loader::Cache;

fuzz_target!(|data: &[u8]| {
    if let Some(cache) = Cache::parse(data.to_vec(), Machine::host()) {
        let hwcaps = ["x86-64-v3".to_owned(), "x86-64-v2".to_owned()];
        for name in ["libc.so.6", "libcuda.so.1", ""] {
            let _ = cache.lookup(OsStr::new(name), &hwcaps);
        }
    }
});
