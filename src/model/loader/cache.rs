//! `/etc/ld.so.cache`: which file the loader takes for a name that no search path gave it.
//!
//! Formats and selection after glibc's `elf/dl-cache.c` (`_dl_load_cache_lookup`, `search_cache`) and
//! `sysdeps/generic/dl-cache.h`: the new format alone (default since 2.32), or embedded behind the old one. A lookup
//! gives at most one file; if that cannot be opened, no second entry is tried. The loader bisects, so in a cache that
//! is not sorted it may miss an entry that is there; the same bisection is done here.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::image::Rootfs;
use crate::image::elf::Machine;

/// Largest cache read, in bytes; real ones have tens of kilobytes.
const MAX_SIZE: u64 = 64 * 1024 * 1024;

const MAGIC_OLD: &[u8] = b"ld.so-1.7.0";
const MAGIC_NEW: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER_OLD: usize = 16;
const ENTRY_OLD: usize = 12;
const HEADER_NEW: usize = 48;
const ENTRY_NEW: usize = 24;
/// `DL_CACHE_HWCAP_EXTENSION`: the low half of the field is an index into the glibc-hwcaps names.
const HWCAP_EXTENSION: u64 = 1 << 62;
/// `DL_CACHE_HWCAP_ISA_LEVEL_MASK` above the extension bits.
const HWCAP_ISA_MASK: u64 = 0x3ff << 32;
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;

/// A parsed cache.
#[derive(Debug, Clone)]
pub struct Cache {
    data: Vec<u8>,
    entries: usize,
    count: usize,
    entry_size: usize,
    /// Start of the table that `key` and `value` count from.
    strings: usize,
    /// Names of glibc-hwcaps subdirectories by index.
    hwcaps: Vec<Vec<u8>>,
    /// Entry flags that mark a library for this machine.
    flags: i32,
}

impl Cache {
    /// The cache of an image; none where there is no such file, or another.
    pub fn read(rootfs: &Rootfs, path: &Path, machine: Machine) -> Option<Self> {
        Self::parse(rootfs.read(path, MAX_SIZE).ok()?, machine)
    }

    /// Reads a cache as the loader for `machine` would; `None` if it would ignore the file.
    pub fn parse(data: Vec<u8>, machine: Machine) -> Option<Self> {
        let flags = match machine {
            Machine::AARCH64 => 0x0a03,
            _ => 0x0303,
        };
        if data.starts_with(MAGIC_NEW) {
            return Self::parse_new(data, 0, flags);
        }
        if !data.starts_with(MAGIC_OLD) {
            return None;
        }
        let count = u32_at(&data, 12)? as usize;
        if data.len().checked_sub(HEADER_OLD)? / ENTRY_OLD < count {
            return None;
        }
        let end = HEADER_OLD + count * ENTRY_OLD;
        // `ALIGN_CACHE`: the new header is aligned to 8 bytes.
        let new = end.next_multiple_of(8);
        if data.get(new..).is_some_and(|d| d.starts_with(MAGIC_NEW)) {
            return Self::parse_new(data, new, flags);
        }
        let cache =
            Self { entries: HEADER_OLD, count, entry_size: ENTRY_OLD, strings: end, hwcaps: Vec::new(), flags, data };
        Some(cache)
    }

    fn parse_new(data: Vec<u8>, base: usize, flags: i32) -> Option<Self> {
        let count = u32_at(&data, base + 20)? as usize;
        if data.len().checked_sub(base + HEADER_NEW)? / ENTRY_NEW < count {
            return None;
        }
        // Endianness: unset by old ldconfig, or little.
        if !matches!(data.get(base + 28)? & 3, 0 | 2) {
            return None;
        }
        let extension = u32_at(&data, base + 32)? as usize;
        let hwcaps = if extension == 0 { None } else { read_hwcaps(&data, base, extension) };
        Some(Self {
            entries: base + HEADER_NEW,
            count,
            entry_size: ENTRY_NEW,
            strings: base,
            hwcaps: hwcaps.unwrap_or_default(),
            flags,
            data,
        })
    }

    /// The file that the loader takes for `name`. `active` lists the usable glibc-hwcaps subdirectories, best first.
    pub fn lookup(&self, name: &OsStr, active: &[String]) -> Option<PathBuf> {
        let name = name.as_bytes();
        let (mut left, mut right) = (0, self.count);
        // [left, right): keys are sorted in descending order.
        let hit = loop {
            if left >= right {
                return None;
            }
            let middle = usize::midpoint(left, right - 1);
            match compare(name, self.key(middle)?) {
                Ordering::Equal => break middle,
                Ordering::Less => left = middle + 1,
                Ordering::Greater => right = middle,
            }
        };
        let mut first = hit;
        while first > 0 && self.key(first - 1).is_some_and(|k| compare(name, k) == Ordering::Equal) {
            first -= 1;
        }
        let mut best: Option<(usize, &[u8])> = None;
        for i in first..self.count {
            if i > hit && self.key(i).is_none_or(|k| compare(name, k) != Ordering::Equal) {
                break;
            }
            let at = self.entries + i * self.entry_size;
            let flags = u32_at(&self.data, at)? as i32;
            let Some(value) = self.string(u32_at(&self.data, at + 8)?) else { continue };
            if flags != 1 && flags != self.flags {
                continue;
            }
            let hwcap = if self.entry_size == ENTRY_NEW { u64_at(&self.data, at + 16)? } else { 0 };
            if hwcap & HWCAP_EXTENSION != 0 && hwcap & !(HWCAP_EXTENSION | HWCAP_ISA_MASK | 0xffff_ffff) == 0 {
                let name = self.hwcaps.get((hwcap & 0xffff_ffff) as usize);
                let priority = name.and_then(|n| active.iter().position(|a| a.as_bytes() == n.as_slice()));
                if let Some(priority) = priority
                    && best.is_none_or(|(so_far, _)| priority < so_far)
                {
                    best = Some((priority, value));
                }
                continue;
            }
            if best.is_some() {
                break;
            }
            if hwcap != 0 {
                continue; // Legacy hwcaps bits: no current processor name matches them.
            }
            // An entry with flags of its own kind ends the search; `FLAG_ELF` (1) may still be improved upon.
            if flags == self.flags {
                return Some(path(value));
            }
            best = Some((usize::MAX, value));
        }
        best.map(|(_, value)| path(value))
    }

    /// The same cache in the new format, with the entries whose file is to stay, in the same order: what `ldconfig` would
    /// write if the other files had never been there.
    pub fn rewritten(&self, stays: impl Fn(&Path) -> bool) -> Vec<u8> {
        let entry = |i: usize| {
            let at = self.entries + i * self.entry_size;
            let flags = u32_at(&self.data, at)?;
            let hwcap = if self.entry_size == ENTRY_NEW { u64_at(&self.data, at + 16)? } else { 0 };
            let (key, value) = (self.key(i)?, self.string(u32_at(&self.data, at + 8)?)?);
            stays(&path(value)).then_some((flags, hwcap, key, value))
        };
        let kept: Vec<_> = (0..self.count).filter_map(entry).collect();
        let start = HEADER_NEW + kept.len() * ENTRY_NEW;
        let (mut table, mut strings) = (Vec::new(), Vec::new());
        let mut place = |text: &[u8]| {
            let at = (start + strings.len()) as u32;
            strings.extend_from_slice(text);
            strings.push(0);
            at.to_le_bytes()
        };
        for (flags, hwcap, key, value) in &kept {
            table.extend(flags.to_le_bytes());
            table.extend(place(key));
            table.extend(place(value));
            table.extend(0u32.to_le_bytes());
            table.extend(hwcap.to_le_bytes());
        }
        let names: Vec<[u8; 4]> = self.hwcaps.iter().map(|name| place(name)).collect();
        let length = strings.len() as u32;
        let extension = (start + strings.len()).next_multiple_of(4);
        let mut out = MAGIC_NEW.to_vec();
        // 2: little-endian.
        for field in [kept.len() as u32, length, 2, if names.is_empty() { 0 } else { extension as u32 }, 0, 0, 0] {
            out.extend(field.to_le_bytes());
        }
        out.extend(table);
        out.extend(strings);
        if !names.is_empty() {
            out.resize(extension, 0);
            let size = 4 * names.len() as u32;
            // One section, of the tag for glibc-hwcaps, directly behind its description.
            for field in [EXTENSION_MAGIC, 1, 1, 0, extension as u32 + 24, size] {
                out.extend(field.to_le_bytes());
            }
            out.extend(names.concat());
        }
        out
    }

    /// Every name with its file, as `ldconfig -p` lists them, also those for other machines.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        (0..self.count).filter_map(|i| {
            let value = u32_at(&self.data, self.entries + i * self.entry_size + 8)?;
            Some((self.key(i)?, self.string(value)?))
        })
    }

    fn key(&self, index: usize) -> Option<&[u8]> {
        self.string(u32_at(&self.data, self.entries + index * self.entry_size + 4)?)
    }

    fn string(&self, at: u32) -> Option<&[u8]> {
        let rest = self.data.get(self.strings.checked_add(at as usize)?..)?;
        Some(&rest[..memchr::memchr(0, rest)?])
    }
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn read_hwcaps(data: &[u8], base: usize, extension: usize) -> Option<Vec<Vec<u8>>> {
    let at = base.checked_add(extension)?;
    if u32_at(data, at)? != EXTENSION_MAGIC {
        return None;
    }
    let sections = u32_at(data, at + 4)?.min(64) as usize;
    for i in 0..sections {
        let section = at + 8 + i * 16;
        if u32_at(data, section)? != 1 {
            continue; // Tag 1: `cache_extension_tag_glibc_hwcaps`.
        }
        let (offset, size) = (u32_at(data, section + 8)? as usize, u32_at(data, section + 12)? as usize);
        let table = data.get(base.checked_add(offset)?..)?.get(..size)?;
        return table
            .chunks_exact(4)
            .map(|o| {
                let rest = data.get(base.checked_add(u32_at(o, 0)? as usize)?..)?;
                Some(rest[..memchr::memchr(0, rest)?].to_vec())
            })
            .collect();
    }
    None
}

/// `_dl_cache_libcmp`: runs of digits compare as numbers.
fn compare(mut a: &[u8], mut b: &[u8]) -> Ordering {
    loop {
        match (a.first(), b.first()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (na, nb) = (number(&mut a), number(&mut b));
                if na != nb {
                    return na.cmp(&nb);
                }
            }
            (Some(x), _) if x.is_ascii_digit() => return Ordering::Greater,
            (_, Some(y)) if y.is_ascii_digit() => return Ordering::Less,
            (Some(x), Some(y)) if x == y => (a, b) = (&a[1..], &b[1..]),
            (Some(x), Some(y)) => return (*x as i8).cmp(&(*y as i8)),
            (Some(_), None) => return Ordering::Greater,
        }
    }
}

/// Value of the leading digits, wrapping as glibc's `int` does.
fn number(text: &mut &[u8]) -> i32 {
    let mut value = 0i32;
    while let Some(d) = text.first().filter(|d| d.is_ascii_digit()) {
        value = value.wrapping_mul(10).wrapping_add(i32::from(d - b'0'));
        *text = &text[1..];
    }
    value
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(data.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_as_ldconfig_sorts() {
        assert_eq!(compare(b"libfoo.so.10", b"libfoo.so.9"), Ordering::Greater);
        assert_eq!(compare(b"libfoo.so.1", b"libfoo.so.1.2"), Ordering::Less);
        assert_eq!(compare(b"liba.so", b"libb.so"), Ordering::Less);
        assert_eq!(compare(b"lib1", b"liba"), Ordering::Greater);
    }

    #[test]
    fn a_rewritten_cache_answers_as_before_for_what_stays() {
        let Ok(data) = std::fs::read("/etc/ld.so.cache") else { return };
        let Some(cache) = Cache::parse(data, Machine::host()) else { return };
        let active: Vec<String> = ["x86-64-v4", "x86-64-v3", "x86-64-v2"].map(String::from).to_vec();
        let is_kept = |path: &Path| !path.to_string_lossy().contains("libz.");
        let again = Cache::parse(cache.rewritten(is_kept), Machine::host()).unwrap();
        assert_eq!(again.hwcaps, cache.hwcaps);
        assert!(again.count <= cache.count && again.count + 4 >= cache.count);
        for i in 0..cache.count {
            let name = OsStr::from_bytes(cache.key(i).unwrap());
            let found = cache.lookup(name, &active).filter(|path| is_kept(path));
            assert_eq!(again.lookup(name, &active), found, "{name:?}");
        }
    }
}
