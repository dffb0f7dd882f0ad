//! Any text as what Python keeps about installations: `pyvenv.cfg`, RECORD, names of metadata directories, sources.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mldoctor::python::distributions::{is_shared_object, parse_info_name, parse_record};
use mldoctor::python::interpreter::Cfg;
use mldoctor::python::source::scan;

fuzz_target!(|data: &[u8]| {
    let _ = scan(data);
    let text = String::from_utf8_lossy(data);
    let _ = Cfg::parse(&text);
    for listed in parse_record(&text) {
        let _ = is_shared_object(&listed.path);
    }
    for line in text.lines() {
        let _ = parse_info_name(line);
    }
});
