//! One ELF file as the dynamic loader sees it: program headers and what `PT_DYNAMIC` points to, never sections.
//!
//! Section headers may be stripped and are not what the loader reads. Every offset in the file is untrusted: an
//! accessor answers nothing for what lies outside the file, and no table is followed further than the file is long.
//! Files are mapped, so that symbol tables of libraries of gigabytes cost only the pages that are looked at.

mod symbols;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use object::elf::{self, FileHeader64, ProgramHeader64};
use object::{LittleEndian, pod};

use super::Mapping;

use symbols::{GnuHash, SysvHash};
pub use symbols::{Name, Symbol, VersionDefinition, VersionNames, VersionNeed, Wanted, WantedVersion};

const LE: LittleEndian = LittleEndian;
/// `DF_1_NODEFLIB`: neither cache hits in default directories nor the default directories (`-z nodefaultlib`).
pub const DF_1_NODEFLIB: u64 = 0x800;
/// `DF_1_NOOPEN`: may not be opened with `dlopen`.
pub const DF_1_NOOPEN: u64 = 0x40;
/// `DF_1_PIE`: position-independent executable.
pub const DF_1_PIE: u64 = 0x0800_0000;

/// What the loader rejects before it looks at segments, with glibc's own words (`elf/dl-load.c`, `open_verify`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HeaderError {
    /// Fewer bytes than an ELF header.
    #[error("file too short")]
    TooShort,
    /// No ELF magic.
    #[error("invalid ELF header")]
    NotElf,
    /// Another class (32-bit); the search goes on.
    #[error("wrong ELF class: ELFCLASS32")]
    Class,
    /// Big-endian.
    #[error("ELF file data encoding not little-endian")]
    Encoding,
    /// `EI_VERSION` is not 1.
    #[error("ELF file version ident does not match current one")]
    IdentVersion,
    /// `EI_OSABI` is neither System V nor GNU.
    #[error("ELF file OS ABI invalid")]
    OsAbi,
    /// `EI_ABIVERSION` is not one that the loader knows.
    #[error("ELF file ABI version invalid")]
    AbiVersion,
    /// Bytes after `EI_ABIVERSION` are not zero.
    #[error("nonzero padding in e_ident")]
    Padding,
    /// `e_version` is not 1.
    #[error("ELF file version does not match current one")]
    Version,
    /// For another processor; the search goes on.
    #[error("wrong machine")]
    Machine,
    /// Neither `ET_DYN` nor `ET_EXEC`.
    #[error("only ET_DYN and ET_EXEC can be loaded")]
    Type,
    /// `e_phentsize` is not that of this class.
    #[error("ELF file's phentsize not the expected size")]
    PhentSize,
    /// The program headers lie beyond the end of the file.
    #[error("cannot read file data")]
    Unreadable,
}

/// What is wrong with the segments, with glibc's words (`_dl_map_object_from_fd`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SegmentError {
    /// A `PT_LOAD` whose address and offset differ modulo the page size.
    #[error("ELF load command address/offset not page-aligned")]
    Misaligned,
    /// No `PT_LOAD`.
    #[error("object file has no loadable segments")]
    NoSegments,
    /// `ET_EXEC` given to `dlopen`.
    #[error("cannot dynamically load executable")]
    Executable,
    /// No `PT_DYNAMIC` with content; usually a separate debug-information file.
    #[error("object file has no dynamic section")]
    NoDynamic,
    /// A segment that reaches beyond the end of the file: mapping succeeds, the first access to a lost page is SIGBUS.
    #[error("file is truncated")]
    Truncated,
}

/// The processor a file is for (`e_machine`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Machine(pub u16);

impl Machine {
    /// `EM_X86_64`
    pub const X86_64: Machine = Machine(62);
    /// `EM_AARCH64`
    pub const AARCH64: Machine = Machine(183);

    /// The machine this program was built for.
    pub const fn host() -> Machine {
        if cfg!(target_arch = "aarch64") { Machine::AARCH64 } else { Machine::X86_64 }
    }

    /// Name as `uname -m` prints it, or the number.
    pub fn name(self) -> String {
        match self {
            Machine::X86_64 => "x86_64".into(),
            Machine::AARCH64 => "aarch64".into(),
            Machine(3) => "i386".into(),
            Machine(40) => "arm".into(),
            Machine(n) => format!("e_machine {n}"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Load {
    vaddr: u64,
    offset: u64,
    filesz: u64,
}

/// A dependency named by the dynamic section, in the order of its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependency<'e> {
    /// `DT_NEEDED`
    Needed(&'e OsStr),
    /// `DT_AUXILIARY`: loaded before the object itself if it is there.
    Auxiliary(&'e OsStr),
    /// `DT_FILTER`: loaded before the object itself; must be there.
    Filter(&'e OsStr),
}

/// Offsets into the file, taken from the dynamic section. Zero where there is none.
#[derive(Debug, Default)]
struct Dynamic {
    entries: (usize, usize),
    strtab: usize,
    strtab_size: usize,
    symtab: usize,
    versym: usize,
    verneed: usize,
    verdef: usize,
    soname: Option<u64>,
    rpath: Option<u64>,
    runpath: Option<u64>,
    flags: u64,
    flags_1: u64,
    rela: (usize, usize),
    rela_relative: usize,
    jmprel: (usize, usize),
    gnu: Option<GnuHash>,
    sysv: Option<SysvHash>,
}

/// An ELF file, mapped. 64-bit and little-endian; anything else is a [`HeaderError`].
#[derive(Debug)]
pub struct Elf {
    map: Mapping,
    kind: elf::FileType,
    machine: Machine,
    loads: Vec<Load>,
    dynamic: Dynamic,
    interp: Option<(usize, usize)>,
    /// Offset and size of each `PT_NOTE`.
    notes: Vec<(usize, usize)>,
    segments: Result<(), SegmentError>,
    has_dynamic: bool,
}

/// Offset of `e_shstrndx`.
const SECTION_NAMES_AT: usize = 62;
/// Type of the note with the build id.
const NT_GNU_BUILD_ID: u32 = 3;
/// The note that holds program properties.
const NT_GNU_PROPERTY_TYPE_0: u32 = 5;
/// The property that names levels of x86-64.
const GNU_PROPERTY_X86_ISA_1_NEEDED: u32 = 0xc000_8002;
/// Most bytes of a file name or version that are read.
const MAX_STRING: usize = 4096;

impl Elf {
    /// Reads the headers of a mapped file for the processor `machine`.
    ///
    /// # Errors
    /// In the order in which `open_verify` in glibc's `elf/dl-load.c` tests them.
    pub fn parse(map: Mapping, machine: Machine) -> Result<Self, HeaderError> {
        let data: &[u8] = &map;
        let (header, _) = pod::from_bytes::<FileHeader64<LittleEndian>>(data).map_err(|()| HeaderError::TooShort)?;
        let ident = &header.e_ident;
        let bytes = data.get(..16).unwrap_or(&[]);
        if ident.magic != elf::ELFMAG {
            return Err(HeaderError::NotElf);
        }
        if bytes[4] != 2 {
            return Err(HeaderError::Class);
        }
        if bytes[5] != 1 {
            return Err(HeaderError::Encoding);
        }
        if bytes[6] != 1 {
            return Err(HeaderError::IdentVersion);
        }
        if bytes[7] != 0 && bytes[7] != 3 {
            return Err(HeaderError::OsAbi);
        }
        // Only GNU files may carry an ABI version, and only small ones are known (`VALID_ELF_ABIVERSION`).
        if bytes[8] != 0 && (bytes[7] != 3 || bytes[8] > 4) {
            return Err(HeaderError::AbiVersion);
        }
        if bytes[9..].iter().any(|&b| b != 0) {
            return Err(HeaderError::Padding);
        }
        if header.e_version.get(LE) != 1 {
            return Err(HeaderError::Version);
        }
        let found = Machine(u16_at(data, 18).unwrap_or(0));
        if found != machine {
            return Err(HeaderError::Machine);
        }
        let kind = header.e_type.get(LE);
        if kind != elf::ET_DYN && kind != elf::ET_EXEC {
            return Err(HeaderError::Type);
        }
        if usize::from(header.e_phentsize.get(LE)) != size_of::<ProgramHeader64<LittleEndian>>() {
            return Err(HeaderError::PhentSize);
        }
        let count = usize::from(header.e_phnum.get(LE));
        let at = usize::try_from(header.e_phoff.get(LE)).map_err(|_| HeaderError::Unreadable)?;
        let (segments, _) = data
            .get(at..)
            .ok_or(())
            .and_then(|d| pod::slice_from_bytes::<ProgramHeader64<LittleEndian>>(d, count))
            .map_err(|()| HeaderError::Unreadable)?;

        let mut loads = Vec::new();
        let mut dynamic_at = None;
        let mut empty_dynamic = false;
        let mut interp = None;
        let mut notes = Vec::new();
        let mut problem = Ok(());
        for s in segments {
            let (offset, filesz) = (s.p_offset.get(LE), s.p_filesz.get(LE));
            match s.p_type.get(LE) {
                elf::PT_LOAD => {
                    let vaddr = s.p_vaddr.get(LE);
                    if vaddr.wrapping_sub(offset) & 0xfff != 0 {
                        problem = problem.and(Err(SegmentError::Misaligned));
                    }
                    if offset.checked_add(filesz).is_none_or(|end| end > data.len() as u64) {
                        problem = problem.and(Err(SegmentError::Truncated));
                    }
                    loads.push(Load { vaddr, offset, filesz });
                }
                elf::PT_DYNAMIC if filesz == 0 => empty_dynamic = true,
                elf::PT_DYNAMIC => dynamic_at = Some((s.p_vaddr.get(LE), filesz)),
                elf::PT_INTERP => interp = Some((offset as usize, filesz as usize)),
                elf::PT_NOTE => notes.push((offset as usize, filesz as usize)),
                _ => {}
            }
        }
        if loads.is_empty() {
            problem = Err(SegmentError::NoSegments);
        } else if problem.is_ok() && (empty_dynamic || (dynamic_at.is_none() && kind == elf::ET_DYN)) {
            problem = Err(SegmentError::NoDynamic);
        }
        let mut this = Self {
            kind,
            machine: found,
            loads,
            dynamic: Dynamic::default(),
            interp,
            notes,
            segments: problem,
            has_dynamic: dynamic_at.is_some(),
            map,
        };
        if let Some((vaddr, size)) = dynamic_at {
            this.read_dynamic(vaddr, size);
        }
        Ok(this)
    }

    fn read_dynamic(&mut self, vaddr: u64, size: u64) {
        let Some(start) = self.offset_of(vaddr) else { return };
        let end = start.saturating_add(size as usize).min(self.map.len());
        let mut d = Dynamic { entries: (start, end), ..Dynamic::default() };
        let (mut rela_size, mut jmprel_size, mut rela, mut jmprel) = (0, 0, 0, 0);
        let (mut gnu, mut sysv) = (None, None);
        for (tag, value) in entries(&self.map, (start, end)) {
            let at = || self.offset_of(value).unwrap_or(0);
            match tag {
                5 => d.strtab = at(),
                10 => d.strtab_size = value as usize,
                6 => d.symtab = at(),
                4 => sysv = self.offset_of(value),
                0x6fff_fef5 => gnu = self.offset_of(value),
                14 => d.soname = Some(value),
                15 => d.rpath = Some(value),
                29 => d.runpath = Some(value),
                30 => d.flags = value,
                0x6fff_fffb => d.flags_1 = value,
                0x6fff_fff0 => d.versym = at(),
                0x6fff_fffe => d.verneed = at(),
                0x6fff_fffc => d.verdef = at(),
                7 => rela = at(),
                8 => rela_size = value as usize,
                0x6fff_fff9 => d.rela_relative = value as usize,
                23 => jmprel = at(),
                2 => jmprel_size = value as usize,
                _ => {}
            }
        }
        d.rela = (rela, rela_size);
        d.jmprel = (jmprel, jmprel_size);
        d.gnu = gnu.and_then(|at| GnuHash::read(&self.map, at));
        d.sysv = sysv.and_then(|at| SysvHash::read(&self.map, at));
        self.dynamic = d;
    }

    /// File offset of a virtual address, if a segment's file content covers it.
    fn offset_of(&self, vaddr: u64) -> Option<usize> {
        let load = self.loads.iter().find(|l| vaddr >= l.vaddr && vaddr - l.vaddr < l.filesz)?;
        let at = usize::try_from(load.offset.checked_add(vaddr - load.vaddr)?).ok()?;
        (at < self.map.len()).then_some(at)
    }

    /// The bytes of the file.
    pub fn data(&self) -> &[u8] {
        &self.map
    }

    /// Processor.
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// `ET_EXEC`: linked to a fixed address.
    pub fn is_fixed_executable(&self) -> bool {
        self.kind == elf::ET_EXEC
    }

    /// Whether `dlopen` refuses it as a position-independent executable.
    pub fn is_pie(&self) -> bool {
        self.dynamic.flags_1 & DF_1_PIE != 0
    }

    /// Whether there is a dynamic section at all; a static executable has none.
    pub fn is_dynamic(&self) -> bool {
        self.has_dynamic
    }

    /// What would keep the loader from mapping it.
    ///
    /// # Errors
    /// In the order of `_dl_map_object_from_fd`.
    pub fn segments(&self) -> Result<(), SegmentError> {
        self.segments
    }

    /// `PT_INTERP`: the program interpreter, that is the dynamic loader.
    pub fn interpreter(&self) -> Option<&OsStr> {
        let (at, len) = self.interp?;
        let bytes = self.map.get(at..at.checked_add(len)?)?;
        let text = bytes.split(|&b| b == 0).next()?;
        (!text.is_empty()).then(|| OsStr::from_bytes(text))
    }

    /// The bytes of the file in two parts, of which the first begins with `.rodata`, where texts stand: a search need
    /// not read the machine code before it.
    pub fn data_from_texts(&self) -> [&[u8]; 2] {
        let texts = self.sections_named(&[b".rodata"]).and_then(|found| found.first().copied());
        let (before, texts) = self.map.split_at(texts.map_or(0, |(start, _)| start));
        [texts, before]
    }

    /// The bytes of the file without the sections of these names; all of it where the section headers are gone or say
    /// nothing of use. Only to save reading: the loader never looks at sections.
    pub fn data_without(&self, sections: &[&[u8]]) -> Vec<&[u8]> {
        let mut holes = self.sections_named(sections).unwrap_or_default();
        holes.sort_unstable();
        let (mut parts, mut at) = (Vec::new(), 0);
        for (start, end) in holes {
            parts.extend(self.map.get(at..start));
            at = at.max(end);
        }
        parts.extend(self.map.get(at..));
        parts
    }

    fn sections_named(&self, names: &[&[u8]]) -> Option<Vec<(usize, usize)>> {
        let (header, _) = pod::from_bytes::<FileHeader64<LittleEndian>>(&self.map).ok()?;
        let at = usize::try_from(header.e_shoff.get(LE)).ok()?;
        let count = usize::from(header.e_shnum.get(LE));
        let (sections, _) =
            pod::slice_from_bytes::<elf::SectionHeader64<LittleEndian>>(self.map.get(at..)?, count).ok()?;
        let strings = sections.get(usize::from(u16_at(&self.map, SECTION_NAMES_AT)?))?.sh_offset.get(LE) as usize;
        let found = sections.iter().filter_map(|s| {
            let rest = self.map.get(strings.checked_add(s.sh_name.get(LE) as usize)?..)?;
            let name = &rest[..memchr::memchr(0, rest)?];
            let (start, size) = (s.sh_offset.get(LE) as usize, s.sh_size.get(LE) as usize);
            let end = start.checked_add(size)?;
            (names.contains(&name) && end <= self.map.len()).then_some((start, end))
        });
        Some(found.collect())
    }

    /// The linker's build id (`NT_GNU_BUILD_ID`), in hexadecimal: the same for two files only if they come from one link.
    pub fn build_id(&self) -> Option<String> {
        self.gnu_note(NT_GNU_BUILD_ID).map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Levels of x86-64 without which the file does not work (`GNU_PROPERTY_X86_ISA_1_NEEDED` of the x86-64 psABI): bit 0
    /// is the baseline, bit 3 `x86-64-v4`.
    pub fn isa_needed(&self) -> u32 {
        let mut rest = self.gnu_note(NT_GNU_PROPERTY_TYPE_0).unwrap_or_default();
        // Type and size of each property; then its data, padded to 8 bytes.
        while let (Some(kind), Some(size)) = (u32_at(rest, 0), u32_at(rest, 4)) {
            if kind == GNU_PROPERTY_X86_ISA_1_NEEDED && size == 4 {
                return u32_at(rest, 8).unwrap_or(0);
            }
            let size = (size as usize).next_multiple_of(8);
            rest = rest.get(size.saturating_add(8)..).unwrap_or_default();
        }
        0
    }

    /// The content of a note of GNU's.
    fn gnu_note(&self, kind: u32) -> Option<&[u8]> {
        self.notes.iter().find_map(|&(at, size)| {
            let mut rest = self.map.get(at..at.checked_add(size)?)?;
            // Name size, description size, type; then name and description, each padded to 4 bytes.
            while let Some((head, body)) = rest.split_at_checked(12) {
                let (name, length) = (u32_at(head, 0)? as usize, u32_at(head, 4)? as usize);
                let start = name.checked_next_multiple_of(4)?;
                let description = body.get(start..start.checked_add(length)?)?;
                if u32_at(head, 8)? == kind && body.starts_with(b"GNU\0") {
                    return Some(description);
                }
                rest = body.get(start + length.checked_next_multiple_of(4)?..)?;
            }
            None
        })
    }

    /// `DT_SONAME`
    pub fn soname(&self) -> Option<&OsStr> {
        self.dynamic.soname.and_then(|at| self.string(at))
    }

    /// `DT_RPATH`, which counts only where there is no `DT_RUNPATH` (`elf/get-dynamic-info.h`).
    pub fn rpath(&self) -> Option<&OsStr> {
        if self.dynamic.runpath.is_some() { None } else { self.dynamic.rpath.and_then(|at| self.string(at)) }
    }

    /// `DT_RUNPATH`
    pub fn runpath(&self) -> Option<&OsStr> {
        self.dynamic.runpath.and_then(|at| self.string(at))
    }

    /// `DT_FLAGS_1`
    pub fn flags_1(&self) -> u64 {
        self.dynamic.flags_1
    }

    /// `DF_BIND_NOW` in `DT_FLAGS` or `DF_1_NOW` in `DT_FLAGS_1`.
    pub fn binds_now(&self) -> bool {
        self.dynamic.flags & 0x8 != 0 || self.dynamic.flags_1 & 0x1 != 0
    }

    /// `DF_SYMBOLIC` in `DT_FLAGS`, or the older `DT_SYMBOLIC`.
    pub fn is_symbolic(&self) -> bool {
        self.dynamic.flags & 0x2 != 0 || entries(&self.map, self.dynamic.entries).any(|(tag, _)| tag == 16)
    }

    /// `DT_NEEDED`, `DT_AUXILIARY` and `DT_FILTER` in the order of the dynamic section.
    pub fn dependencies(&self) -> impl Iterator<Item = Dependency<'_>> {
        entries(&self.map, self.dynamic.entries).filter_map(|(tag, value)| match tag {
            1 => self.string(value).map(Dependency::Needed),
            0x7fff_fffd => self.string(value).map(Dependency::Auxiliary),
            0x7fff_ffff => self.string(value).map(Dependency::Filter),
            _ => None,
        })
    }

    /// The names in `DT_NEEDED`.
    pub fn needed(&self) -> impl Iterator<Item = &OsStr> {
        self.dependencies().filter_map(|d| match d {
            Dependency::Needed(name) => Some(name),
            Dependency::Auxiliary(_) | Dependency::Filter(_) => None,
        })
    }

    /// A string of the dynamic string table.
    fn string(&self, at: u64) -> Option<&OsStr> {
        self.bytes_at(usize::try_from(at).ok()?).map(OsStr::from_bytes)
    }

    fn strtab(&self) -> &[u8] {
        let start = self.dynamic.strtab;
        if start == 0 {
            return &[];
        }
        let end = start.saturating_add(self.dynamic.strtab_size).min(self.map.len());
        self.map.get(start..end).unwrap_or(&[])
    }

    fn bytes_at(&self, at: usize) -> Option<&[u8]> {
        let rest = self.strtab().get(at..)?;
        let rest = &rest[..rest.len().min(64 * 1024)];
        Some(&rest[..memchr::memchr(0, rest)?])
    }
}

/// Entries of the dynamic section up to `DT_NULL`.
fn entries(data: &[u8], (start, end): (usize, usize)) -> impl Iterator<Item = (u64, u64)> {
    data.get(start..end)
        .unwrap_or(&[])
        .chunks_exact(16)
        .filter_map(|e| Some((u64_at(e, 0)?, u64_at(e, 8)?)))
        .take_while(|&(tag, _)| tag != 0)
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(data.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(data.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
