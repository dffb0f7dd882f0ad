//! Any bytes as a file with device code. What was read in full accounts for no more bytes than there are, is told in a
//! facts file as it is, and can be compared with every GPU.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mldoctor::driver::{CAPABILITIES, Code, Cuda, reach};
use mldoctor::image::fatbin::{self, Fatbin};
use mldoctor::image::sections::compatible_branches;

/// A release with each of the rules for Tegra.
const RELEASES: [Option<Cuda>; 3] =
    [None, Some(Cuda { major: 12, minor: 4 }), Some(Cuda { major: 13, minor: 2 })];

fuzz_target!(|data: &[u8]| {
    let _ = compatible_branches(&mut data.into());
    let Some(fatbin) = fatbin::read(data.into()) else { return };
    // Sections may overlap, so only what stands alone has to add up.
    if !data.starts_with(b"\x7fELF") && fatbin.unread.is_none() {
        let headers: u64 = fatbin.regions.iter().map(|r| 16 * r.count).sum();
        let is_text = matches!(fatbin.regions[..], [ref r] if matches!(r.code[..], [a] if matches!(a.code, Code::Ptx(..))));
        let bytes: u64 = fatbin.amounts().iter().map(|a| a.bytes).sum();
        assert!(bytes + if is_text { 0 } else { headers } <= data.len() as u64);
    }
    let told = serde_json::to_value(&fatbin).expect("facts can be written");
    assert_eq!(serde_json::from_value::<Fatbin>(told).expect("and read"), fatbin);
    for gpu in CAPABILITIES.iter() {
        for cuda in RELEASES {
            let _ = reach(&fatbin, gpu.cc, cuda);
        }
    }
});
