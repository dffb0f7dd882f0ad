//! Symbols, their versions, and how the loader finds one by its name: `DT_SYMTAB` with `DT_GNU_HASH` or `DT_HASH`, and the
//! tables of versions.

use std::ffi::OsStr;

use super::{Elf, MAX_STRING, u16_at, u32_at, u64_at};

/// Verneed and Verdef records followed in one file; real files have dozens.
const MAX_VERSION_RECORDS: usize = 10_000;
/// Version index and default-or-hidden flag of a defined symbol.
const VERSYM_HIDDEN: u16 = 0x8000;
const SYMBOL_SIZE: usize = 24;
const RELA_SIZE: usize = 24;

/// A version that an object wants from one of its dependencies (one Vernaux record).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionNeed<'e> {
    /// File name in the Verneed record.
    pub file: &'e OsStr,
    /// Version name.
    pub version: &'e [u8],
    /// `VER_FLG_WEAK`: its absence is not an error.
    pub weak: bool,
    /// Index that the version table uses for it.
    pub index: u16,
    /// Whether only a default definition may satisfy it (bit 15 of `vna_other`).
    pub hidden: bool,
}

/// A version that an object defines (one Verdef record).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionDefinition<'e> {
    /// Version name.
    pub version: &'e [u8],
    /// Index in the version table.
    pub index: u16,
    /// `VER_FLG_BASE`: the file's own name, not a version of symbols.
    pub base: bool,
}

/// What version a reference asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedVersion<'e> {
    /// Name of the version.
    pub name: &'e [u8],
    /// See [`VersionNeed::hidden`].
    pub hidden: bool,
}

/// Which definitions satisfy a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'e> {
    /// Those of a version, or those that answer where none is asked for: glibc.
    Version(Option<WantedVersion<'e>>),
    /// Whatever the version, but for definitions that are hidden behind theirs: musl.
    AnyVisible,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct GnuHash {
    buckets: u32,
    symbol_base: u32,
    bloom_mask: u32,
    bloom_shift: u32,
    bloom: usize,
    bucket: usize,
    chain: usize,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct SysvHash {
    buckets: u32,
    chains: u32,
    bucket: usize,
    chain: usize,
}

impl GnuHash {
    pub(super) fn read(data: &[u8], at: usize) -> Option<Self> {
        let (buckets, symbol_base) = (u32_at(data, at)?, u32_at(data, at + 4)?);
        let (words, shift) = (u32_at(data, at + 8)?, u32_at(data, at + 12)?);
        if buckets == 0 || words == 0 {
            return None;
        }
        let bloom = at + 16;
        let bucket = bloom.checked_add(words as usize * 8)?;
        let chain = bucket.checked_add(buckets as usize * 4)?;
        Some(Self { buckets, symbol_base, bloom_mask: words - 1, bloom_shift: shift, bloom, bucket, chain })
    }
}

impl SysvHash {
    pub(super) fn read(data: &[u8], at: usize) -> Option<Self> {
        let (buckets, chains) = (u32_at(data, at)?, u32_at(data, at + 4)?);
        if buckets == 0 {
            return None;
        }
        let bucket = at + 8;
        let chain = bucket.checked_add(buckets as usize * 4)?;
        // No table is longer than the file.
        let chains = chains.min(u32::try_from(data.len().saturating_sub(chain) / 4).unwrap_or(u32::MAX));
        Some(Self { buckets, chains, bucket, chain })
    }
}

impl Elf {
    /// Versions wanted from other files, in file order.
    pub fn version_needs(&self) -> Vec<VersionNeed<'_>> {
        let mut needs = Vec::new();
        let mut at = self.dynamic.verneed;
        while at != 0 && at < self.map.len() && needs.len() < MAX_VERSION_RECORDS {
            let Some((file, first, next)) = (|| {
                let file = self.string(u64::from(u32_at(&self.map, at + 4)?))?;
                Some((file, u32_at(&self.map, at + 8)? as usize, u32_at(&self.map, at + 12)? as usize))
            })() else {
                break;
            };
            let mut aux = at.saturating_add(first);
            while aux < self.map.len() && needs.len() < MAX_VERSION_RECORDS {
                let Some((need, step)) = (|| {
                    let flags = u16_at(&self.map, aux + 4)?;
                    let other = u16_at(&self.map, aux + 6)?;
                    let version = self.bytes_at(u32_at(&self.map, aux + 8)? as usize)?;
                    let need = VersionNeed {
                        file,
                        version,
                        weak: flags & 2 != 0,
                        index: other & !VERSYM_HIDDEN,
                        hidden: other & VERSYM_HIDDEN != 0,
                    };
                    Some((need, u32_at(&self.map, aux + 12)? as usize))
                })() else {
                    break;
                };
                needs.push(need);
                if step == 0 {
                    break;
                }
                aux = aux.saturating_add(step);
            }
            if next == 0 {
                break;
            }
            at = at.saturating_add(next);
        }
        needs
    }

    /// Whether the file has symbol versions of its own (`DT_VERDEF`).
    pub fn defines_versions(&self) -> bool {
        self.dynamic.verdef != 0
    }

    /// Versions that the file defines, in file order.
    pub fn version_definitions(&self) -> Vec<VersionDefinition<'_>> {
        let mut found = Vec::new();
        let mut at = self.dynamic.verdef;
        while at != 0 && at < self.map.len() && found.len() < MAX_VERSION_RECORDS {
            let Some((definition, next)) = (|| {
                let flags = u16_at(&self.map, at + 2)?;
                let index = u16_at(&self.map, at + 4)? & !VERSYM_HIDDEN;
                let aux = at.checked_add(u32_at(&self.map, at + 12)? as usize)?;
                let version = self.bytes_at(u32_at(&self.map, aux)? as usize)?;
                let definition = VersionDefinition { version, index, base: flags & 1 != 0 };
                Some((definition, u32_at(&self.map, at + 16)? as usize))
            })() else {
                break;
            };
            found.push(definition);
            if next == 0 {
                break;
            }
            at = at.saturating_add(next);
        }
        found
    }

    /// Indices of the symbols that the file may want from elsewhere.
    ///
    /// With `DT_GNU_HASH` everything below the table's symbol base is undefined or local, and every defined symbol is
    /// above it; with `DT_HASH` the number of chains is the number of symbols. A file that exports nothing may have
    /// an empty hash table; then the relocations tell how far the table reaches.
    pub fn unhashed_symbols(&self) -> std::ops::Range<u32> {
        let end = match (self.dynamic.gnu, self.dynamic.sysv) {
            (Some(gnu), _) if !self.gnu_hash_is_empty(&gnu) => gnu.symbol_base,
            (_, Some(sysv)) => sysv.chains,
            _ => self.relocations().map(|(symbol, _)| symbol.saturating_add(1)).max().unwrap_or(0),
        };
        let fit = self.map.len().saturating_sub(self.dynamic.symtab) / SYMBOL_SIZE;
        1..end.min(u32::try_from(fit).unwrap_or(u32::MAX)).max(1)
    }

    fn gnu_hash_is_empty(&self, gnu: &GnuHash) -> bool {
        (0..gnu.buckets.min(64)).all(|i| u32_at(&self.map, gnu.bucket + i as usize * 4).unwrap_or(0) == 0)
    }

    /// A symbol of the dynamic symbol table.
    pub fn symbol(&self, index: u32) -> Option<Symbol> {
        if self.dynamic.symtab == 0 {
            return None;
        }
        let at = self.dynamic.symtab.checked_add(index as usize * SYMBOL_SIZE)?;
        let raw: &[u8; SYMBOL_SIZE] = self.map.get(at..)?.first_chunk()?;
        Some(Symbol {
            name: u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]),
            info: raw[4],
            other: raw[5],
            section: u16::from_le_bytes([raw[6], raw[7]]),
            has_value: raw[8..16] != [0; 8],
        })
    }

    /// Name of a symbol.
    pub fn symbol_name(&self, symbol: &Symbol) -> Option<&[u8]> {
        self.bytes_at(symbol.name as usize)
    }

    /// Entry of the version table for a symbol; `None` where the file has no such table.
    pub fn symbol_version(&self, index: u32) -> Option<u16> {
        if self.dynamic.versym == 0 {
            return None;
        }
        u16_at(&self.map, self.dynamic.versym + index as usize * 2)
    }

    /// Symbol indices and relocation types in the order in which the loader applies them with `RTLD_NOW`:
    /// `DT_RELA` without the leading relative ones, then `DT_JMPREL`. The flag says whether it is in `DT_JMPREL`.
    pub fn relocations(&self) -> impl Iterator<Item = (u32, bool)> {
        let table = |(at, size): (usize, usize), skip: usize| {
            let end = at.saturating_add(size).min(self.map.len());
            let start = at.saturating_add(skip.saturating_mul(RELA_SIZE)).min(end);
            self.map.get(start..end).unwrap_or(&[]).chunks_exact(RELA_SIZE).filter_map(|r| u32_at(r, 12))
        };
        let (rela, jmprel) = (self.dynamic.rela, self.dynamic.jmprel);
        table(rela, self.dynamic.rela_relative)
            .map(|s| (s, false))
            .chain(table(jmprel, 0).map(|s| (s, true)))
            .filter(|(s, _)| *s != 0)
    }

    /// Whether the file has the function that Python calls to make the module of this name of it (PEP 489).
    pub fn makes_module(&self, name: &str, versions: &VersionNames) -> bool {
        self.defines(&Name::new(format!("PyInit_{name}").as_bytes()), Wanted::Version(None), versions)
    }

    /// Whether the file has a definition that satisfies a reference to `name` (`do_lookup_x` and `check_match` in
    /// glibc's `elf/dl-lookup.c`, `find_sym2` in musl's `ldso/dynlink.c`). `versions` is this file's own table from
    /// [`Elf::version_names`].
    pub fn defines(&self, name: &Name<'_>, wanted: Wanted<'_>, versions: &VersionNames) -> bool {
        let mut unversioned = Unversioned::default();
        let found = if let Some(gnu) = self.dynamic.gnu {
            self.gnu_lookup(&gnu, name, wanted, versions, &mut unversioned)
        } else if let Some(sysv) = self.dynamic.sysv {
            self.sysv_lookup(&sysv, name, wanted, versions, &mut unversioned)
        } else {
            None
        };
        // Exactly one default version where none was asked for is no ambiguity (`num_versions == 1`).
        let found = found.or(if unversioned.count == 1 { unversioned.symbol } else { None });
        found.is_some_and(|s| s.is_global() && !s.binds_locally())
    }

    fn gnu_lookup(
        &self,
        gnu: &GnuHash,
        name: &Name<'_>,
        wanted: Wanted<'_>,
        versions: &VersionNames,
        unversioned: &mut Unversioned,
    ) -> Option<Symbol> {
        let hash = name.gnu;
        let word = u64_at(&self.map, gnu.bloom + ((hash / 64) & gnu.bloom_mask) as usize * 8)?;
        if (word >> (hash % 64)) & (word >> (hash.checked_shr(gnu.bloom_shift).unwrap_or(0) % 64)) & 1 == 0 {
            return None;
        }
        let mut index = u32_at(&self.map, gnu.bucket + (hash % gnu.buckets) as usize * 4)?;
        if index < gnu.symbol_base {
            return None;
        }
        loop {
            let chain = u32_at(&self.map, gnu.chain + (index - gnu.symbol_base) as usize * 4)?;
            if (chain ^ hash) >> 1 == 0
                && let Some(found) = self.check_match(index, name, wanted, versions, unversioned)
            {
                return Some(found);
            }
            if chain & 1 != 0 {
                return None;
            }
            index = index.checked_add(1)?;
        }
    }

    fn sysv_lookup(
        &self,
        sysv: &SysvHash,
        name: &Name<'_>,
        wanted: Wanted<'_>,
        versions: &VersionNames,
        unversioned: &mut Unversioned,
    ) -> Option<Symbol> {
        let mut index = u32_at(&self.map, sysv.bucket + (sysv_hash(name.bytes) % sysv.buckets) as usize * 4)?;
        // A hostile chain may be a ring.
        for _ in 0..sysv.chains {
            if index == 0 || index >= sysv.chains {
                return None;
            }
            if let Some(found) = self.check_match(index, name, wanted, versions, unversioned) {
                return Some(found);
            }
            index = u32_at(&self.map, sysv.chain + index as usize * 4)?;
        }
        None
    }

    fn check_match(
        &self,
        index: u32,
        name: &Name<'_>,
        wanted: Wanted<'_>,
        versions: &VersionNames,
        unversioned: &mut Unversioned,
    ) -> Option<Symbol> {
        let symbol = self.symbol(index)?;
        if !symbol.is_definition() || !self.name_is(&symbol, name.bytes) {
            return None;
        }
        let Some(raw) = self.symbol_version(index).filter(|_| versions.any) else { return Some(symbol) };
        let (own, hidden) = (raw & !VERSYM_HIDDEN, raw & VERSYM_HIDDEN != 0);
        match wanted {
            Wanted::AnyVisible => (!hidden).then_some(symbol),
            Wanted::Version(Some(wanted)) => match versions.name(self, own) {
                Some(name) if name == wanted.name => Some(symbol),
                Some(_) => None,
                None if wanted.hidden || hidden => None,
                None => Some(symbol),
            },
            // Without a version in the reference: the oldest (index 1 or 2) at once, any other only if it is the one.
            Wanted::Version(None) if own >= 3 => {
                if !hidden {
                    unversioned.count += 1;
                    unversioned.symbol.get_or_insert(symbol);
                }
                None
            }
            Wanted::Version(None) => Some(symbol),
        }
    }

    fn name_is(&self, symbol: &Symbol, name: &[u8]) -> bool {
        let at = symbol.name as usize;
        // The C library of the shipped file compares byte by byte.
        let is_same = |rest: &[u8]| rest.get(..name.len()).is_some_and(|own| memchr::arch::all::is_equal(own, name));
        self.strtab().get(at..).is_some_and(|rest| is_same(rest) && rest.get(name.len()) == Some(&0))
    }

    /// The names behind the indices of the version table (`l_versions` in glibc).
    pub fn version_names(&self) -> VersionNames {
        let mut names = VersionNames::default();
        let base = self.strtab().as_ptr() as usize;
        let mut put = |index: u16, version: &[u8], hidden: bool| {
            let index = usize::from(index);
            if names.at.len() <= index {
                names.at.resize(index + 1, None);
            }
            let start = (version.as_ptr() as usize).wrapping_sub(base);
            names.at[index] = Some(VersionName { start, len: version.len().min(MAX_STRING), hidden });
            names.any = true;
        };
        for need in self.version_needs() {
            put(need.index, need.version, need.hidden);
        }
        for definition in self.version_definitions() {
            if !definition.base {
                put(definition.index, definition.version, false);
            }
        }
        // A file that has only the base definition still has a version table (`ndx_high > 0`).
        names.any |= self.defines_versions();
        names
    }
}

#[derive(Default)]
struct Unversioned {
    count: u32,
    symbol: Option<Symbol>,
}

/// Version names by index, as places in the file's string table.
#[derive(Debug, Default, Clone)]
pub struct VersionNames {
    at: Vec<Option<VersionName>>,
    any: bool,
}

#[derive(Debug, Clone, Copy)]
struct VersionName {
    start: usize,
    len: usize,
    hidden: bool,
}

impl VersionNames {
    fn name<'e>(&self, elf: &'e Elf, index: u16) -> Option<&'e [u8]> {
        let v = (*self.at.get(usize::from(index))?)?;
        elf.strtab().get(v.start..v.start.checked_add(v.len)?)
    }

    /// The version that a symbol with the version-table entry `raw` asks for.
    pub fn wanted<'e>(&self, elf: &'e Elf, raw: Option<u16>) -> Option<WantedVersion<'e>> {
        let index = raw? & !VERSYM_HIDDEN;
        let hidden = (*self.at.get(usize::from(index))?)?.hidden;
        Some(WantedVersion { name: self.name(elf, index)?, hidden })
    }
}

/// A symbol name with the hash that `DT_GNU_HASH` uses.
#[derive(Debug, Clone, Copy)]
pub struct Name<'a> {
    /// Name without the terminating NUL.
    pub bytes: &'a [u8],
    gnu: u32,
}

impl<'a> Name<'a> {
    /// Hashes `bytes` (`_dl_new_hash` in glibc's `elf/dl-hash.h`).
    pub fn new(bytes: &'a [u8]) -> Self {
        let gnu = bytes.iter().fold(5381u32, |h, &b| h.wrapping_mul(33).wrapping_add(u32::from(b)));
        Self { bytes, gnu }
    }
}

/// An entry of the dynamic symbol table.
#[derive(Debug, Clone, Copy)]
pub struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    has_value: bool,
}

impl Symbol {
    /// `STB_WEAK`: may stay undefined.
    pub fn is_weak(&self) -> bool {
        self.info >> 4 == 2
    }

    /// `STB_LOCAL`: never looked up.
    pub fn is_local(&self) -> bool {
        self.info >> 4 == 0
    }

    /// `SHN_UNDEF`
    pub fn is_undefined(&self) -> bool {
        self.section == 0
    }

    /// Hidden or internal visibility (`dl_symbol_visibility_binds_local_p`).
    pub fn binds_locally(&self) -> bool {
        matches!(self.other & 3, 1 | 2)
    }

    /// `STB_GLOBAL`, `STB_WEAK` or `STB_GNU_UNIQUE`.
    fn is_global(&self) -> bool {
        matches!(self.info >> 4, 1 | 2 | 10)
    }

    /// What a lookup accepts as a definition: a value (or absolute, or thread-local), and data or code.
    fn is_definition(&self) -> bool {
        let kind = self.info & 0xf;
        let has_value = self.has_value || self.section == 0xfff1 || kind == 6;
        has_value && self.section != 0 && matches!(kind, 0 | 1 | 2 | 5 | 6 | 10)
    }
}

fn sysv_hash(name: &[u8]) -> u32 {
    name.iter().fold(0u32, |h, &b| {
        let h = (h << 4).wrapping_add(u32::from(b));
        let top = h & 0xf000_0000;
        (h ^ (top >> 24)) & !top
    })
}
