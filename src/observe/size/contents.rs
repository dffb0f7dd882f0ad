//! What has to be read of files themselves: sections that only debuggers use, equal files, names of CUDA libraries.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use object::LittleEndian;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, SectionHeader};
use rustc_hash::FxHashMap;

use super::in_python_packages;
use crate::facts::size::{Kind, Size};
use crate::image::archive::KEPT;
use crate::image::{EntryKind, FileId, Rootfs};
use crate::parallel;

/// Smallest file that is compared with others: below, a second copy costs less than the line that removes it.
const MIN_COPY: u64 = 64 * 1024;
/// Smallest ELF file whose sections are looked at.
const MIN_ELF: u64 = 64 * 1024;
/// Bytes compared at the end before whole files are.
const END: usize = 4096;

/// Bytes of the sections `.debug_*` of each ELF file that has some.
pub fn debug_sections(rootfs: &Rootfs, size: &Size) -> Vec<(usize, u64)> {
    let elf: Vec<usize> = binaries(size).filter(|at| size.tree.files[*at].entry.size >= MIN_ELF).collect();
    let read = parallel::map(&elf, |at| {
        let (map, _) = rootfs.map(&size.tree.path(*at)).ok()?;
        Some((*at, debug_bytes(&map)?)).filter(|(_, bytes)| *bytes > 0)
    });
    read.into_iter().flatten().collect()
}

/// Shared objects and programs that are files, each once.
fn binaries(size: &Size) -> impl Iterator<Item = usize> {
    (0..size.tree.files.len()).filter(|at| {
        let file = &size.tree.files[*at];
        matches!(size.kinds[*at], Kind::SharedObject | Kind::Program)
            && file.entry.kind == EntryKind::File
            && file.counted
    })
}

fn debug_bytes(data: &[u8]) -> Option<u64> {
    let header = FileHeader64::<LittleEndian>::parse(data).ok()?;
    let sections = header.sections(LittleEndian, data).ok()?;
    let debug = sections.iter().filter(|s| {
        !s.sh_flags(LittleEndian).contains(object::elf::SHF_ALLOC)
            && sections.section_name(LittleEndian, s).is_ok_and(|n| n.starts_with(b".debug_"))
    });
    // A section cannot have more bytes than its file.
    Some(debug.map(|s| s.sh_size(LittleEndian)).fold(0, u64::saturating_add).min(data.len() as u64))
}

/// Groups of files with one content. Compared byte by byte: a hash would have to read as much.
pub fn copies(rootfs: &Rootfs, size: &Size) -> Vec<Vec<usize>> {
    let mut by_size: FxHashMap<u64, Vec<usize>> = FxHashMap::default();
    let mut seen: BTreeSet<FileId> = BTreeSet::new();
    // Of what is larger, an archive may have kept only the beginning.
    let most = if rootfs.layers().is_some() { KEPT } else { u64::MAX };
    for (at, file) in size.tree.files.iter().enumerate() {
        let entry = &file.entry;
        if entry.kind == EntryKind::File && (MIN_COPY..=most).contains(&entry.size) && entry.allocated > 0 {
            if entry.links > 1 && !seen.insert(entry.id) {
                continue;
            }
            by_size.entry(entry.size).or_default().push(at);
        }
    }
    let mut alike: Vec<Vec<usize>> = by_size.into_values().filter(|files| files.len() > 1).collect();
    alike.sort();
    let groups = parallel::map(&alike, |files| same_content(rootfs, size, files));
    groups.into_iter().flatten().collect()
}

fn same_content(rootfs: &Rootfs, size: &Size, files: &[usize]) -> Vec<Vec<usize>> {
    let mut groups: Vec<(crate::image::Mapping, Vec<usize>)> = Vec::new();
    for at in files {
        let Ok((map, _)) = rootfs.map(&size.tree.path(*at)) else { continue };
        match groups.iter_mut().find(|(other, _)| is_same(other, &map)) {
            Some((_, group)) => group.push(*at),
            None => groups.push((map, vec![*at])),
        }
    }
    groups.into_iter().map(|(_, group)| group).filter(|group| group.len() > 1).collect()
}

fn is_same(one: &[u8], other: &[u8]) -> bool {
    let end = one.len().saturating_sub(END);
    if one.len() != other.len() || one[end..] != other[end..] {
        return false;
    }
    // Words, as `memcmp` of musl goes byte by byte.
    let ((words, rest), (other_words, other_rest)) = (one.as_chunks::<8>(), other.as_chunks::<8>());
    let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
    words.iter().zip(other_words).all(|(a, b)| word(a) == word(b)) && rest == other_rest
}

/// Files that hold the name of one of the system's CUDA libraries, and that no examined process has mapped. Not asked:
/// NVIDIA's own wheels, whose libraries find each other beside themselves (`$ORIGIN`), and the toolkit itself.
pub fn naming(rootfs: &Rootfs, size: &Size, mapped: &BTreeSet<&str>) -> Vec<(String, usize)> {
    let stem = |at: &usize| {
        let name = size.tree.files[*at].entry.name.to_string_lossy();
        name.split(".so").next().unwrap_or(&name).to_owned()
    };
    let stems: BTreeSet<String> = size.system_cuda.iter().map(stem).collect();
    if stems.is_empty() {
        return Vec::new();
    }
    let libraries: BTreeSet<usize> = size.system_cuda.iter().copied().collect();
    let is_toolkit = |dir: &Path| {
        let text = dir.to_string_lossy();
        ["/usr/local/cuda", "/opt/nvidia/"].iter().any(|d| text.starts_with(d)) || text.contains("-packages/nvidia/")
    };
    let asked: Vec<usize> = binaries(size)
        .chain(own_sources(size))
        .filter(|at| !libraries.contains(at) && !is_toolkit(&size.tree.dirs[size.tree.files[*at].dir].path))
        .filter(|at| size.tree.path(*at).to_str().is_some_and(|path| !mapped.contains(path)))
        .collect();
    let read = parallel::map(&asked, |at| {
        let Ok((map, _)) = rootfs.map(&size.tree.path(*at)) else { return BTreeSet::new() };
        names_in(&map).filter(|n| stems.contains(*n)).map(str::to_owned).collect::<BTreeSet<_>>()
    });
    asked.iter().zip(read).flat_map(|(at, names)| names.into_iter().map(|n| (n, *at))).collect()
}

/// Python files but for those of PyTorch and Triton, whose ways to CUDA are known.
fn own_sources(size: &Size) -> impl Iterator<Item = usize> {
    (0..size.tree.files.len()).filter(|at| {
        size.kinds[*at] == Kind::PythonSource && !is_framework(&size.tree.dirs[size.tree.files[*at].dir].path)
    })
}

/// Whether a directory is of PyTorch or Triton.
pub fn is_framework(dir: &Path) -> bool {
    let mut parts = dir.components().map(|c| c.as_os_str().as_bytes());
    in_python_packages(dir)
        && parts.any(|p| p.ends_with(b"-packages"))
        && parts.next().is_some_and(|p| matches!(p, b"torch" | b"triton"))
}

/// What stands before each `.so` of a file.
fn names_in(data: &[u8]) -> impl Iterator<Item = &str> {
    memchr::memmem::find_iter(data, b".so").filter_map(|at| {
        let is_part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+');
        let length = data[..at].iter().rev().take(64).take_while(|b| is_part(b)).count();
        std::str::from_utf8(&data[at - length..at]).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_libraries() {
        let found: Vec<_> = names_in(b"\0libcublas.so.12\0CDLL('libnvrtc.so')\0.so").collect();
        assert_eq!(found, ["libcublas", "libnvrtc", ""]);
    }

    #[test]
    fn what_is_no_elf_has_no_debug_sections() {
        assert_eq!(debug_bytes(b"#!/bin/sh"), None);
        assert_eq!(debug_bytes(b""), None);
    }
}
