//! Whether the code of a file runs on a GPU, region by region, as the driver chooses among the entries of each.

use super::target::{Code, ComputeCapability, Cuda, Isa, Variant};
use crate::image::fatbin::{Fatbin, Regions};

/// How the code of a file gets to a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// As machine code.
    Native,
    /// As PTX of this version, which the driver compiles when it is first used.
    Ptx(Isa),
    /// Not at all.
    No,
    /// There is no code for it in what was read, and not all was read.
    Unknown,
}

/// How the code of `fatbin`, which `cuda` made if that is known, gets to a GPU.
///
/// Libraries have kernels for one architecture beside those for all, and choose among them at run time. So what counts
/// are the regions with code for no particular architecture, if there are any; and the library runs if some of these
/// do, for a library may do less on an older GPU.
pub fn reach(fatbin: &Fatbin, gpu: ComputeCapability, cuda: Option<Cuda>) -> Reach {
    let (linked, loaded): (Vec<&Regions>, Vec<&Regions>) = fatbin.regions.iter().partition(|r| r.linked);
    let has_general = loaded.iter().any(|r| is_general(r));
    let (mut native, mut compiled, mut isa) = (0, 0, None);
    for regions in loaded.iter().filter(|r| !has_general || is_general(r)) {
        if regions.code.iter().any(|a| matches!(a.code, Code::Sass(t) if t.runs_on(gpu, cuda))) {
            native += regions.count;
        } else if let Some(needs) = ptx(regions, gpu) {
            compiled += regions.count;
            isa = isa.max(Some(needs));
        }
    }
    if native > 0 && native >= compiled {
        return Reach::Native;
    }
    // What has been linked is linked again from all its parts, or not at all.
    let again = || linked.iter().map(|r| ptx(r, gpu)).collect::<Option<Vec<_>>>()?.into_iter().max();
    match isa.or_else(again) {
        Some(isa) => Reach::Ptx(isa),
        None if fatbin.unread.is_none() => Reach::No,
        None => Reach::Unknown,
    }
}

/// Whether regions have code that is not for one architecture or family alone.
pub fn is_general(regions: &Regions) -> bool {
    regions.code.iter().any(|a| a.code.target().variant == Variant::Plain)
}

/// The PTX of a region that the driver can compile for a GPU: it takes that for the newest target.
fn ptx(regions: &Regions, gpu: ComputeCapability) -> Option<Isa> {
    let usable = regions.code.iter().filter_map(|a| match a.code {
        Code::Ptx(target, isa) if target.compiles_for(gpu) => Some((target, isa)),
        _ => None,
    });
    usable.max().map(|(_, isa)| isa)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::fatbin::Amount;

    fn fatbin(regions: &[(u64, &[&str])]) -> Fatbin {
        let amount = |code: &&str| Amount { code: code.parse().unwrap(), entries: 1, bytes: 64 };
        let regions = regions.iter().map(|(count, code)| Regions {
            count: *count,
            linked: false,
            code: code.iter().map(amount).collect(),
        });
        Fatbin { regions: regions.collect(), ..Fatbin::default() }
    }

    fn on(fatbin: &Fatbin, sm: u32) -> Reach {
        reach(fatbin, ComputeCapability::from_sm(sm), None)
    }

    #[test]
    fn one_region() {
        let f = fatbin(&[(1, &["sm_80", "sm_90a", "ptx 8.4 compute_80"])]);
        assert_eq!(on(&f, 89), Reach::Native);
        assert_eq!(on(&f, 90), Reach::Native);
        assert_eq!(on(&f, 100), Reach::Ptx(Isa { major: 8, minor: 4 }));
        assert_eq!(on(&f, 75), Reach::No);
    }

    #[test]
    fn kernels_for_one_architecture_beside_the_others() {
        let f = fatbin(&[(300, &["sm_80", "sm_90"]), (2, &["sm_100a"])]);
        assert_eq!(on(&f, 100), Reach::No, "nearly nothing runs there");
        assert_eq!(on(&f, 90), Reach::Native);
        assert_eq!(on(&fatbin(&[(2, &["sm_100a"])]), 100), Reach::Native);
    }

    #[test]
    fn more_than_half_has_to_be_compiled() {
        let f = fatbin(&[(3, &["sm_80"]), (1, &["sm_80", "sm_90"]), (4, &["sm_80", "ptx 8.0 compute_80"])]);
        assert_eq!(on(&f, 90), Reach::Ptx(Isa { major: 8, minor: 0 }));
        assert_eq!(on(&f, 80), Reach::Native);
    }

    #[test]
    fn what_was_linked_on_the_device_is_linked_again() {
        let mut f = fatbin(&[(1, &["sm_80"])]);
        let mut link = |parts: &[&str]| {
            let regions = fatbin(&[(1, parts)]).regions;
            f.regions.extend(regions.into_iter().map(|r| Regions { linked: true, ..r }));
            on(&f, 90)
        };
        assert_eq!(link(&["sm_80", "ptx 8.4 compute_80"]), Reach::Ptx(Isa { major: 8, minor: 4 }));
        assert_eq!(link(&["sm_80"]), Reach::No);
    }

    #[test]
    fn unread_is_not_no() {
        let mut f = fatbin(&[(1, &["sm_80"])]);
        f.unread = Some("…".into());
        assert_eq!((on(&f, 80), on(&f, 90)), (Reach::Native, Reach::Unknown));
    }
}
