//! What is known about GPUs, CUDA releases and drivers: which code runs on which GPU, and from which driver on.
//!
//! The knowledge is data, one file per table with its sources in it: `capabilities.tsv`, `products.tsv`,
//! `releases.tsv`. A row that no second source confirms says so, and gives no error. Each table is parsed once, when it
//! is first asked.

mod gpu;
mod reach;
mod release;
mod requirement;
mod target;

pub use gpu::{CAPABILITIES, Capability, Class, Gpu, UnknownGpu};
pub use reach::{Reach, is_general, reach};
pub use release::{RELEASES, Release, Version, minimum, newest};
pub use requirement::{Properties, satisfies};
pub use target::{Code, ComputeCapability, Cuda, Isa, Target, Variant};

/// Fields of the rows of a table, without comments and empty lines.
fn rows<const N: usize>(table: &'static str) -> impl Iterator<Item = [&'static str; N]> {
    let lines = table.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines.filter_map(|l| l.split('\t').collect::<Vec<_>>().try_into().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_well_formed() {
        for (table, text, fields) in [
            ("capabilities", include_str!("capabilities.tsv"), 7),
            ("products", include_str!("products.tsv"), 3),
            ("releases", include_str!("releases.tsv"), 5),
        ] {
            let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
            for line in lines {
                assert_eq!(line.split('\t').count(), fields, "{table}: {line}");
                assert!(line.split('\t').all(|f| !f.is_empty() && f.trim() == f), "{table}: {line}");
            }
        }
    }

    #[test]
    fn the_tables_agree_with_each_other() {
        for c in CAPABILITIES.iter() {
            for cuda in [c.first, c.last].into_iter().flatten() {
                assert!(Release::of(cuda).is_some(), "sm_{}: CUDA {cuda} is in no row of the releases", c.cc.sm());
            }
            assert!(c.first.zip(c.last).is_none_or(|(first, last)| first <= last), "sm_{}", c.cc.sm());
        }
        for gpu in gpu::PRODUCTS.iter() {
            let of = Capability::of(gpu.cc).unwrap_or_else(|| panic!("{}: no row for {}", gpu.name, gpu.cc));
            assert_eq!(of.is_tegra, gpu.class == Class::Tegra, "{}", gpu.name);
        }
        // A GPU is only shown in a table of current ones if it has a product to stand for it.
        for c in CAPABILITIES.iter().filter(|c| c.shown.is_some()) {
            assert_eq!(Gpu::parse(c.shown.unwrap()).unwrap().cc, c.cc);
        }
    }
}
