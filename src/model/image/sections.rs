//! Section headers of an ELF file, for what only sections tell. The loader knows nothing of them, and they may be stripped
//! or lie: nothing about loading is decided by them.
//!
//! Files are read here and there rather than mapped: a few bytes of a library of gigabytes cost a system call, which is
//! a third of a page fault.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Mapping, Opened, Stat};

/// Sections of one file; shared objects have some thirty.
const MAX_SECTIONS: u64 = 4096;
/// Bytes of names that are read.
const MAX_NAMES: u64 = 64 * 1024;

/// A file that is read in pieces. It may be any file at all.
pub struct Pieces<'f> {
    source: Source<'f>,
    /// Where it begins in the file that holds it.
    start: u64,
    /// Size in bytes.
    size: u64,
    /// What was read last, and where it stands.
    window: [u8; WINDOW],
    at: u64,
    filled: usize,
}

/// Bytes read at a time: a region of a fat binary and its first entry.
const WINDOW: usize = 80;

enum Source<'f> {
    File(OwnedFd),
    Within(BorrowedFd<'f>),
    Mapped(Mapping),
    Bytes(&'f [u8]),
}

impl From<(Opened, Stat)> for Pieces<'_> {
    fn from((file, stat): (Opened, Stat)) -> Self {
        let source = match file {
            Opened::File(file) => Source::File(file),
            Opened::Mapped(mapping) => Source::Mapped(mapping),
        };
        Self::new(source, stat.size)
    }
}

impl<'f> From<&'f [u8]> for Pieces<'f> {
    fn from(bytes: &'f [u8]) -> Self {
        Self::new(Source::Bytes(bytes), bytes.len() as u64)
    }
}

impl<'f> Pieces<'f> {
    fn new(source: Source<'f>, size: u64) -> Self {
        Self { source, start: 0, size, window: [0; WINDOW], at: 0, filled: 0 }
    }

    /// A part of it, as a file of its own.
    pub fn within(&self, part: Part) -> Pieces<'_> {
        let source = match &self.source {
            Source::File(file) => Source::Within(file.as_fd()),
            Source::Within(file) => Source::Within(*file),
            Source::Mapped(mapping) => Source::Bytes(mapping),
            Source::Bytes(bytes) => Source::Bytes(bytes),
        };
        let size = part.size.min(self.size.saturating_sub(part.at));
        Pieces { start: self.start.saturating_add(part.at), ..Pieces::new(source, size) }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes from `at` on, as many as there are of those wanted.
    fn fill(&self, at: u64, into: &mut [u8]) -> usize {
        let wanted = self.size.saturating_sub(at).min(into.len() as u64) as usize;
        let (into, at) = (&mut into[..wanted], self.start.saturating_add(at));
        let copy = |bytes: &[u8], into: &mut [u8]| {
            let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or(&[]);
            let count = rest.len().min(into.len());
            into[..count].copy_from_slice(&rest[..count]);
            count
        };
        let file = match &self.source {
            Source::Bytes(bytes) => return copy(bytes, into),
            Source::Mapped(mapping) => return copy(mapping, into),
            Source::File(file) => file.as_fd(),
            Source::Within(file) => *file,
        };
        let mut filled = 0;
        while filled < into.len() {
            match rustix::io::pread(file, &mut into[filled..], at.saturating_add(filled as u64)) {
                Ok(0) | Err(_) => break,
                Ok(count) => filled += count,
            }
        }
        filled
    }

    /// A few bytes from `at` on; nothing if the file ends before.
    pub fn bytes<const N: usize>(&mut self, at: u64) -> Option<[u8; N]> {
        let inside = at.checked_sub(self.at).filter(|offset| offset.saturating_add(N as u64) <= self.filled as u64);
        let offset = match inside {
            Some(offset) => offset as usize,
            None => {
                let mut window = [0; WINDOW];
                self.filled = self.fill(at, &mut window);
                (self.window, self.at) = (window, at);
                0
            }
        };
        self.window[..self.filled].get(offset..)?.first_chunk().copied()
    }

    /// Bytes from `at` on, at most `limit`; fewer where the file ends.
    pub fn piece(&self, at: u64, size: u64, limit: u64) -> Vec<u8> {
        let size = size.min(limit).min(self.size.saturating_sub(at));
        let mut piece = vec![0; size as usize];
        let filled = self.fill(at, &mut piece);
        piece.truncate(filled);
        piece
    }
}

/// A part of a file.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Where it begins.
    pub at: u64,
    /// Size in bytes.
    pub size: u64,
}

/// The sections of a file.
pub enum Sections {
    /// Name and content of each that has content in the file.
    Read(Vec<(Vec<u8>, Part)>),
    /// There are none.
    None,
    /// There is a table, and it lies outside of the file or makes no sense.
    Unreadable,
}

/// The sections of a 64-bit little-endian ELF file.
pub fn sections(file: &mut Pieces<'_>) -> Sections {
    const SHT_NULL: u32 = 0;
    const SHT_NOBITS: u32 = 8;
    const SIZE: u64 = 64;
    let Some(header) = file.bytes::<64>(0) else { return Sections::Unreadable };
    let table = u64_of(&header, 0x28);
    if table == 0 {
        return Sections::None;
    }
    let mut read = || {
        let first = file.bytes::<64>(table)?;
        let (count, names) = (u16_of(&header, 0x3c), u16_of(&header, 0x3e));
        // What does not fit into the file's header is in that of the first section.
        let count = if count == 0 { u64_of(&first, 32) } else { count.into() };
        let names = if names == u16::MAX { u32_of(&first, 40) } else { names.into() };
        if u64::from(u16_of(&header, 0x3a)) != SIZE || count > MAX_SECTIONS || u64::from(names) >= count {
            return None;
        }
        let headers = file.piece(table, count * SIZE, MAX_SECTIONS * SIZE);
        let part = |header: &[u8]| {
            let part = Part { at: u64_of(header, 24), size: u64_of(header, 32) };
            part.at.checked_add(part.size).filter(|end| *end <= file.size()).map(|_| part)
        };
        let names = part(headers.get(names as usize * SIZE as usize..)?.first_chunk::<64>()?)?;
        let names = file.piece(names.at, names.size, MAX_NAMES);
        let mut found = Vec::new();
        for header in headers.chunks_exact(SIZE as usize) {
            if !matches!(u32_of(header, 4), SHT_NULL | SHT_NOBITS) {
                let name = names.get(u32_of(header, 0) as usize..)?;
                let end = memchr::memchr(0, &name[..name.len().min(64)]).unwrap_or(0);
                found.push((name[..end].to_vec(), part(header)?));
            }
        }
        (headers.len() as u64 == count * SIZE).then_some(found)
    };
    read().map_or(Sections::Unreadable, Sections::Read)
}

/// The branches of the host's driver that a `libcuda.so` of `cuda-compat` names as those that it works with: the note
/// `.note.cuda.fwd_compatibility`, whose content is JSON.
pub fn compatible_branches(file: &mut Pieces<'_>) -> Option<Vec<u32>> {
    const MAX_NOTE: u64 = 64 * 1024;
    let Sections::Read(sections) = sections(file) else { return None };
    let (_, note) = sections.iter().find(|(name, _)| name == b".note.cuda.fwd_compatibility")?;
    let note = file.piece(note.at, note.size, MAX_NOTE);
    // The list is all that is wanted of the JSON, and numbers are all that is in it.
    let text = String::from_utf8_lossy(note.get(12..)?);
    let (_, list) = text.split_once("\"Driver\"")?;
    let list = list.trim_start_matches([':', ' ']).strip_prefix('[')?.split(']').next()?;
    list.split(',').map(|n| n.trim_matches([' ', '"']).parse().ok()).collect()
}

/// Numbers in a header; zero where it is too short, which callers rule out.
pub(super) fn u16_of(data: &[u8], at: usize) -> u16 {
    data.get(at..).and_then(|d| d.first_chunk()).map_or(0, |b| u16::from_le_bytes(*b))
}

pub(super) fn u32_of(data: &[u8], at: usize) -> u32 {
    data.get(at..).and_then(|d| d.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

pub(super) fn u64_of(data: &[u8], at: usize) -> u64 {
    data.get(at..).and_then(|d| d.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}
