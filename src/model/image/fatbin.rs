//! Which GPUs the device code in a file is compiled for, from the headers of its fat binaries.
//!
//! `nvcc` puts the code of each translation unit into `.nv_fatbin` as a region: a header, and one entry for each target,
//! whose own header tells kind, target and PTX version. The CUDA runtime hands whole regions to the driver, which
//! chooses the entry. Entries may be compressed; only headers are read. The layout is NVIDIA's and not published; it was compared with `cuobjdump` on the libraries of
//! `tests/acceptance/fatbins.rs`.
//!
//! What cannot be read is told ([`Fatbin::unread`]), because no code and unknown code are different answers.

use serde::{Deserialize, Serialize};

use super::sections::{Part, Pieces, Sections, sections, u16_of, u32_of, u64_of};
use crate::driver::{Code, ComputeCapability, Isa, Target, Variant};

/// The device code of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fatbin {
    /// Its regions. A kernel is in one of them, and runs where that one has code.
    pub regions: Vec<Regions>,
    /// Why some of it was not read; none where everything was.
    pub unread: Option<String>,
}

/// Regions with code for the same targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regions {
    /// How many.
    pub count: u64,
    /// Whether they were linked on the device (`__nv_relfatbin`): the result is another region, and the driver links
    /// their PTX again where that one does not run ("JIT linking" in the documentation of `nvcc`).
    pub linked: bool,
    /// Their code, sorted by its kind.
    pub code: Vec<Amount>,
}

/// How much code there is of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// The kind.
    pub code: Code,
    /// Entries.
    pub entries: u64,
    /// Bytes in the file, headers included.
    pub bytes: u64,
}

impl Fatbin {
    /// How much there is of each kind, without what was linked into something else.
    pub fn amounts(&self) -> Vec<Amount> {
        let mut all: Vec<Amount> = Vec::new();
        for amount in self.regions.iter().filter(|r| !r.linked).flat_map(|r| &r.code) {
            add(&mut all, *amount);
        }
        all
    }
}

/// Adds to the amounts of a sorted list.
fn add(all: &mut Vec<Amount>, amount: Amount) {
    match all.binary_search_by(|a| a.code.cmp(&amount.code)) {
        Ok(at) => {
            all[at].entries += amount.entries;
            all[at].bytes += amount.bytes;
        }
        Err(at) => all.insert(at, amount),
    }
}

/// How a region begins: magic, version 1, and the 16 bytes of its header, of which the last eight are the size of what
/// follows.
const REGION_HEADER: [u8; 8] = [0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0];
/// How a wrapper in `.nvFatBinSegment` begins: magic, version 1.
const WRAPPER: [u8; 8] = [0xb1, 0x43, 0x62, 0x46, 1, 0, 0, 0];
/// Segments of one file that are searched.
const MAX_SEGMENTS: u64 = 8;
/// Bytes of a segment that are searched.
const MAX_DATA: u64 = 16 * 1024 * 1024;
/// Regions and entries read from one file; the largest libraries have some ten thousand.
const MAX_STEPS: u64 = 1 << 18;
/// Kinds of code in a region, and kinds of regions in a file; the largest libraries have some thirty.
const MAX_KINDS: usize = 256;
/// Padding between regions, in bytes, that is no sign of a foreign section.
const MAX_PADDING: u64 = 64;
/// Bytes at the start of a section of data in which modules are looked for.
const DATA_START: u64 = 64 * 1024;

/// Members of an archive that are read; the largest static libraries have some thousand.
const MAX_MEMBERS: usize = 1 << 14;

/// Reads the device code of a file: an ELF file with fat binaries, an archive of such (`ar`), a fat binary alone, or PTX as text. `None` where
/// there is none.
pub fn read(mut file: Pieces<'_>) -> Option<Fatbin> {
    let start = file.bytes::<8>(0)?;
    let mut walk = Walk::default();
    if start.starts_with(b"\x7fELF\x02\x01") {
        walk.elf(&mut file);
    } else if start == REGION_HEADER {
        let whole = Part { at: 0, size: file.size() };
        walk.regions("the file", &mut file, whole, false);
    } else if start == *b"!<arch>\n" {
        walk.archive(&file);
    } else if start == *b"!<thin>\n" {
        walk.unread("the archive names other files, which are not opened");
    } else {
        walk.ptx_text(&file);
    }
    let Walk { regions, unread, .. } = walk;
    (!regions.is_empty() || unread.is_some()).then_some(Fatbin { regions, unread })
}

#[derive(Default)]
struct Walk {
    regions: Vec<Regions>,
    /// Regions and entries so far.
    steps: u64,
    unread: Option<String>,
}

impl Walk {
    fn unread(&mut self, why: impl Into<String>) {
        self.unread.get_or_insert(why.into());
    }

    /// Every member of a static library: a header of text (`ar.h`), and the file.
    fn archive(&mut self, file: &Pieces<'_>) {
        const HEADER: u64 = 60;
        let mut at = 8;
        for _ in 0..MAX_MEMBERS {
            if at >= file.size() {
                return;
            }
            let header = file.piece(at, HEADER, HEADER);
            let size = header.get(48..58).and_then(|size| std::str::from_utf8(size).ok()?.trim_end().parse().ok());
            let rest = file.size().checked_sub(at + HEADER).filter(|_| header.ends_with(b"`\n"));
            let size = size.filter(|size: &u64| rest.is_some_and(|rest| *size <= rest));
            let Some(size) = size else { return self.unread("the archive is cut short") };
            let mut member = file.within(Part { at: at + HEADER, size });
            if member.bytes::<6>(0) == Some(*b"\x7fELF\x02\x01") {
                self.elf(&mut member);
            }
            at += HEADER + size.next_multiple_of(2);
        }
        self.unread("the archive has more members than are read");
    }

    fn elf(&mut self, file: &mut Pieces<'_>) {
        const EM_CUDA: u16 = 190;
        const ET_REL: u16 = 1;
        let Some(header) = file.bytes::<64>(0) else { return self.unread("its header is cut short") };
        // What is not linked yet is to be linked from all its parts, and these are what there is.
        let is_linked = u16_of(&header, 16) != ET_REL;
        if u16_of(&header, 18) == EM_CUDA {
            return self.unread("a cubin by itself does not tell whether it is for one architecture alone");
        }
        let sections = match sections(file) {
            Sections::Read(sections) => sections,
            Sections::Unreadable => return self.unread("its section headers cannot be read"),
            // The runtime finds the code through wrappers among the writable data, and these no tool can strip.
            Sections::None => {
                if has_wrapper(file) {
                    self.unread("its section headers are stripped");
                }
                return;
            }
        };
        let (mut examined, mut elsewhere) = (0, 0);
        for (name, part) in sections {
            match name.as_slice() {
                b".nv_fatbin" => {
                    examined += part.size;
                    self.regions(".nv_fatbin", file, part, false);
                }
                b"__nv_relfatbin" => self.regions("__nv_relfatbin", file, part, is_linked),
                // Modules that a library hands to the driver by itself, kept as data.
                b".cask_resource" => elsewhere += part.size,
                b".data" | b".ldata" | b".rodata" | b".lrodata" => {
                    let start = file.piece(part.at, part.size, DATA_START);
                    if memchr::memmem::find(&start, &REGION_HEADER).is_some() {
                        elsewhere += part.size;
                    }
                }
                _ => {}
            }
        }
        // A few kernels that are kept apart do not change what the others need.
        if elsewhere > examined {
            self.unread("most of its code is kept as data");
        }
    }

    /// The regions of a section, one behind the other.
    fn regions(&mut self, section: &str, file: &mut Pieces<'_>, part: Part, linked: bool) {
        let end = part.at + part.size;
        let (mut at, mut padding) = (part.at, 0);
        while at < end {
            let start = file.bytes::<8>(at).filter(|_| end - at >= 8);
            if start == Some([0; 8]) && padding < MAX_PADDING {
                (at, padding) = (at + 8, padding + 8);
                continue;
            }
            if start.is_some_and(|start| start != REGION_HEADER) {
                return self.unread(format!("{section} holds something else than fat binaries"));
            }
            let size = file.bytes::<16>(at).filter(|_| end - at >= 16).map(|header| u64_of(&header, 8));
            let Some(size) = size.filter(|size| *size <= end - at - 16) else {
                return self.unread(format!("{section} is cut short"));
            };
            (at, padding) = (at + 16, 0);
            if let Err(why) = self.region(file, Part { at, size }, linked) {
                return self.unread(format!("{section} {why}"));
            }
            at += size;
        }
    }

    /// The entries of a region.
    fn region(&mut self, file: &mut Pieces<'_>, part: Part, linked: bool) -> Result<(), &'static str> {
        let mut region = Regions { count: 1, linked, code: Vec::new() };
        let mut rest = part;
        while rest.size > 0 {
            let header = file.bytes::<64>(rest.at).filter(|_| rest.size >= 64).ok_or("ends within an entry")?;
            let header_size = u64::from(u32_of(&header, 4));
            let size = u64_of(&header, 8).checked_add(header_size);
            let size = size.filter(|s| header_size >= 64 && *s <= rest.size);
            let bytes = size.ok_or("has an entry with an impossible size")?;
            add(&mut region.code, Amount { code: code_of(&header)?, entries: 1, bytes });
            self.step()?;
            if region.code.len() > MAX_KINDS {
                return Err("has more kinds of entries than are told apart");
            }
            rest = Part { at: rest.at + bytes, size: rest.size - bytes };
        }
        self.step()?;
        if region.code.is_empty() { Ok(()) } else { self.count(region) }
    }

    fn step(&mut self) -> Result<(), &'static str> {
        self.steps += 1;
        if self.steps > MAX_STEPS { Err("has more entries than are read") } else { Ok(()) }
    }

    /// Adds a region to those with the same code.
    fn count(&mut self, region: Regions) -> Result<(), &'static str> {
        let alike = |known: &Regions| {
            let mut pairs = known.code.iter().zip(&region.code);
            known.linked == region.linked
                && known.code.len() == region.code.len()
                && pairs.all(|(known, own)| known.code == own.code)
        };
        match self.regions.iter().position(alike) {
            Some(at) => {
                let known = &mut self.regions[at];
                known.count += 1;
                region.code.into_iter().for_each(|amount| add(&mut known.code, amount));
            }
            None if self.regions.len() >= MAX_KINDS => return Err("has more kinds of regions than are told apart"),
            None => self.regions.push(region),
        }
        Ok(())
    }

    /// A PTX module as text: its first two directives are `.version` and `.target`.
    fn ptx_text(&mut self, file: &Pieces<'_>) {
        let start = file.piece(0, file.size(), 4096);
        let start = String::from_utf8_lossy(&start);
        let value = |directive: &str| {
            let line = start.lines().find_map(|l| l.trim_start().strip_prefix(directive))?;
            line.split([' ', '\t', ',', ';']).find(|v| !v.is_empty())
        };
        let isa = value(".version").and_then(|v| v.parse::<Isa>().ok());
        let target = value(".target").and_then(|v| v.strip_prefix("sm_")?.parse::<Target>().ok());
        if let (Some(isa), Some(target)) = (isa, target) {
            let amount = Amount { code: Code::Ptx(target, isa), entries: 1, bytes: file.size() };
            self.regions.push(Regions { count: 1, linked: false, code: vec![amount] });
        }
    }
}

/// Kind and target of an entry.
fn code_of(header: &[u8]) -> Result<Code, &'static str> {
    const PTX: u16 = 1;
    const ELF: u16 = 2;
    /// The target has the letter `a`, and `f`.
    const ARCHITECTURE: u64 = 1 << 20;
    const FAMILY: u64 = 1 << 21;
    if u16_of(header, 2) != 0x0101 {
        return Err("has an entry of an unknown version");
    }
    let variant = match u64_of(header, 0x28) & (ARCHITECTURE | FAMILY) {
        0 => Variant::Plain,
        ARCHITECTURE => Variant::Architecture,
        FAMILY => Variant::Family,
        _ => return Err("has an entry with two kinds of targets"),
    };
    let target = match u32_of(header, 0x1c) {
        sm @ 10..10_000 => Target { cc: ComputeCapability::from_sm(sm), variant },
        _ => return Err("has an entry for an impossible target"),
    };
    match u16_of(header, 0) {
        PTX => Ok(Code::Ptx(target, Isa { major: u16_of(header, 0x1a).into(), minor: u16_of(header, 0x18).into() })),
        ELF => Ok(Code::Sass(target)),
        _ => Err("has an entry of an unknown kind"),
    }
}

/// Whether a writable segment holds the wrapper of a fat binary.
fn has_wrapper(file: &mut Pieces<'_>) -> bool {
    const PT_LOAD: u32 = 1;
    const PF_W: u32 = 2;
    const SIZE: u64 = 56;
    let Some(header) = file.bytes::<64>(0) else { return false };
    let count = u64::from(u16_of(&header, 0x38));
    let headers = file.piece(u64_of(&header, 0x20), count * SIZE, MAX_SEGMENTS * SIZE);
    headers.chunks_exact(SIZE as usize).any(|h| {
        let is_writable = u32_of(h, 0) == PT_LOAD && u32_of(h, 4) & PF_W != 0;
        let data = || file.piece(u64_of(h, 8), u64_of(h, 32), MAX_DATA);
        is_writable && memchr::memmem::find(&data(), &WRAPPER).is_some()
    })
}

#[cfg(test)]
#[path = "../../../tests/support/fatbin.rs"]
mod made;

#[cfg(test)]
mod tests {
    use super::made::{region, with_sections};
    use super::*;

    const HEADER: &[u8] = b"\x7fELF\x02\x01\x01";

    fn elf(sections: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut header = HEADER.to_vec();
        header.resize(64, 0);
        with_sections(header, sections)
    }

    fn of(data: &[u8]) -> Option<Fatbin> {
        read(data.into())
    }

    fn codes(fatbin: &Fatbin) -> Vec<String> {
        fatbin.amounts().iter().map(|a| format!("{} ×{}", a.code, a.entries)).collect()
    }

    #[test]
    fn entries_tell_their_target() {
        let entries = ["sm_80", "sm_90a", "sm_120f compressed", "ptx 8.4 compute_90", "sm_80"];
        let file = elf(&[(".text", vec![0; 100]), (".nv_fatbin", [region(&entries), region(&["sm_80"])].concat())]);
        let fatbin = of(&file).unwrap();
        assert_eq!(codes(&fatbin), ["sm_80 ×3", "sm_90a ×1", "sm_120f ×1", "ptx 8.4 compute_90 ×1"]);
        assert_eq!(fatbin.amounts()[0].bytes, 3 * 104);
        assert_eq!(fatbin.regions.iter().map(|r| r.count).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(fatbin.unread, None);
        assert_eq!(of(&elf(&[(".text", vec![0; 100])])), None);
    }

    #[test]
    fn what_was_linked_is_told_apart() {
        let linked = region(&["sm_80", "ptx 8.4 compute_80"]);
        let fatbin = of(&elf(&[("__nv_relfatbin", linked), (".nv_fatbin", region(&["sm_80"]))])).unwrap();
        assert_eq!(codes(&fatbin), ["sm_80 ×1"]);
        assert_eq!(fatbin.regions.iter().filter(|r| r.linked).count(), 1);
    }

    #[test]
    fn regions_of_a_kind_are_counted() {
        let section =
            [region(&["sm_80", "sm_90"]), vec![0; 8], region(&["sm_90"]), region(&["sm_90", "sm_80"])].concat();
        let fatbin = of(&elf(&[(".nv_fatbin", section)])).unwrap();
        assert_eq!(fatbin.regions.iter().map(|r| (r.count, r.code.len())).collect::<Vec<_>>(), [(2, 2), (1, 1)]);
    }

    #[test]
    fn other_forms() {
        assert_eq!(codes(&of(&region(&["sm_75"])).unwrap()), ["sm_75 ×1"]);
        let text =
            b"//\n// Generated by NVIDIA NVVM Compiler\n//\n\n.version 8.4\n.target sm_90a, debug\n.address_size 64\n";
        assert_eq!(codes(&of(text).unwrap()), ["ptx 8.4 compute_90a ×1"]);
        let unread = |data: &[u8]| of(data).and_then(|f| f.unread);
        assert!(unread(b"!<arch>\nlibx.o/ ").is_some_and(|why| why.contains("cut short")));
        assert!(unread(b"!<thin>\nlibx.o/ ").is_some_and(|why| why.contains("other files")));
        let mut cubin = elf(&[]);
        cubin[18] = 190;
        assert!(unread(&cubin).is_some_and(|why| why.contains("cubin")));
        for data in [&b""[..], b"#!/bin/sh\n.version\n", b"PK\x03\x04abcdefgh", b"\x7fELF\x01\x01\x01\0\0\0\0\0"] {
            assert_eq!(of(data), None);
        }
    }

    #[test]
    fn members_of_an_archive() {
        let mut object = elf(&[("__nv_relfatbin", region(&["sm_80"])), (".nv_fatbin", region(&["sm_90"]))]);
        object[16] = 1;
        let member = |name: &str, content: &[u8]| {
            let header = format!("{name:<48}{:<10}`\n", content.len());
            [header.as_bytes(), content, &b"\n"[..content.len() % 2]].concat()
        };
        let archive = [b"!<arch>\n".to_vec(), member("/", b"abc"), member("a.o/", &object), member("b.o/", &object)];
        let archive = archive.concat();
        let read = of(&archive).unwrap();
        assert_eq!(codes(&read), ["sm_80 ×2", "sm_90 ×2"]);
        assert_eq!(read.unread, None);
        assert!(of(&archive[..archive.len() - 8]).unwrap().unread.is_some());
        assert_eq!(of(b"!<arch>\n"), None);
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let unread = |section: Vec<u8>| of(&elf(&[(".nv_fatbin", section)])).unwrap().unread.unwrap();
        let whole = region(&["sm_80", "sm_90"]);
        assert!(unread(whole[..100].to_vec()).contains("cut short"));
        assert!(unread(whole[..10].to_vec()).contains("cut short"));
        assert!(unread([whole.clone(), b"something else than code".to_vec()].concat()).contains("something else"));
        let spoilt = |at: usize, value: u8| {
            let mut section = whole.clone();
            section[at] = value;
            unread(section)
        };
        assert!(spoilt(16 + 4, 8).contains("impossible size"));
        assert!(spoilt(16 + 15, 0xff).contains("impossible size"));
        assert!(spoilt(16 + 2, 2).contains("unknown version"));
        assert!(spoilt(16, 9).contains("unknown kind"));
        assert!(spoilt(16 + 0x1f, 0xff).contains("impossible target"));
        assert!(spoilt(16 + 0x2a, 0x30).contains("two kinds"));
    }

    #[test]
    fn stripped_headers_are_no_absence() {
        let mut file = elf(&[(".nv_fatbin", region(&["sm_80"]))]);
        file[0x28..0x30].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(of(&file).unwrap().unread.unwrap().contains("cannot be read"));
        // Without a table, the wrapper in a writable segment tells.
        file[0x28..0x30].fill(0);
        assert_eq!(of(&file), None);
        let at = file.len() as u64;
        file[0x20..0x28].copy_from_slice(&at.to_le_bytes());
        file[0x38] = 1;
        let mut segment = [0u8; 56];
        segment[..8].copy_from_slice(&[1, 0, 0, 0, 6, 0, 0, 0]);
        segment[8..16].copy_from_slice(&(at + 56).to_le_bytes());
        segment[32] = 24;
        file.extend(segment);
        file.extend([0; 8].iter().chain(&WRAPPER).chain(&[0; 8]));
        assert!(of(&file).unwrap().unread.unwrap().contains("stripped"));
    }

    #[test]
    fn code_kept_as_data_is_told() {
        let data = [vec![7; 500], region(&["sm_90"]), vec![7; 4000]].concat();
        let unread = |fatbin: Vec<u8>| of(&elf(&[(".data", data.clone()), (".nv_fatbin", fatbin)])).unwrap().unread;
        assert!(unread(region(&["sm_52"])).unwrap().contains("kept as data"));
        assert_eq!(unread(region(&["sm_80"; 60])), None);
    }

    /// Nothing that a file holds makes reading it end in a panic or in much work, and a file whose headers are spoilt
    /// never passes for one that was read in full with less code.
    #[test]
    fn hostile_files() {
        let whole = elf(&[
            (".data", [vec![0; 64], region(&["sm_90"])].concat()),
            ("__nv_relfatbin", region(&["sm_80", "ptx 8.4 compute_80"])),
            (".nv_fatbin", [region(&["sm_80", "sm_90a compressed"]), region(&["ptx 9.0 compute_120f"])].concat()),
        ]);
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        for _ in 0..200_000 {
            let mut file = whole.clone();
            for _ in 0..=random(4) {
                let at = random(file.len());
                file[at] = [0, 1, 0x10, 0x7f, 0x80, 0xff, file[at] ^ 1 << random(8)][random(7)];
            }
            if random(4) == 0 {
                file.truncate(random(file.len()));
            }
            let _ = of(&file);
        }
        for cut in 8..whole.len() {
            let read = of(&whole[..cut]);
            assert!(read.is_some_and(|f| f.unread.is_some()), "cut after {cut} bytes");
        }
    }

    #[test]
    fn much_of_nothing_is_not_read_for_ever() {
        let empty: Vec<u8> = region(&[]).repeat(MAX_STEPS as usize + 1);
        assert!(of(&empty).unwrap().unread.unwrap().contains("more entries"));
        let kinds: Vec<String> = (0..=MAX_KINDS).map(|n| format!("sm_{}", 100 + n)).collect();
        let many: Vec<u8> = kinds.iter().flat_map(|k| region(&[k.as_str()])).collect();
        assert!(of(&many).unwrap().unread.unwrap().contains("more kinds"));
    }
}
