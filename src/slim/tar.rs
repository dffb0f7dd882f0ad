//! What stays as a tar stream, in the POSIX pax format: it carries long names, sizes beyond 8 GiB and extended attributes,
//! and container tools read it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

use super::Plan;
use super::copy::attributes;
use super::tree::Node;
use crate::image::{EntryKind, FileId, Rootfs};

const BLOCK: usize = 512;
/// Largest value of the size field: 11 octal digits.
const MAX_SIZE: u64 = 0o777_7777_7777;
/// Largest user or group: 7 octal digits.
const MAX_ID: u32 = 0o777_7777;

/// Writes all that stays.
///
/// # Errors
/// A file cannot be read or has changed its size meanwhile, or the stream cannot be written.
pub fn write(plan: &Plan, rootfs: &Rootfs, out: &mut impl Write) -> io::Result<()> {
    let mut names: FxHashMap<FileId, PathBuf> = FxHashMap::default();
    for node in plan.kept().filter(|n| n.path != Path::new("/")) {
        let from = rootfs.outside().join(node.path.strip_prefix("/").unwrap_or(&node.path));
        let generated = plan.generated.get(&node.path);
        let first = names.get(&node.stat.id).filter(|_| node.kind == EntryKind::File && generated.is_none());
        let (kind, link, size) = match node.kind {
            EntryKind::Dir => (b'5', Vec::new(), 0),
            EntryKind::Link => (b'2', std::fs::read_link(&from)?.as_os_str().as_bytes().to_vec(), 0),
            EntryKind::File => match (first, generated) {
                (Some(first), _) => (b'1', name(first, false), 0),
                (None, Some(bytes)) => (b'0', Vec::new(), bytes.len() as u64),
                (None, None) => (b'0', Vec::new(), node.stat.size),
            },
            EntryKind::Special => continue,
        };
        header(out, node, kind, &link, size, &attributes(&from))?;
        if kind != b'0' {
            continue;
        }
        names.insert(node.stat.id, node.path.clone());
        let written = match generated {
            Some(bytes) => io::copy(&mut bytes.as_slice(), out)?,
            None => io::copy(&mut File::open(&from)?.take(size), out)?,
        };
        if written != size {
            return Err(io::Error::other(format!("{} has changed its size", node.path.display())));
        }
        pad(out, size)?;
    }
    out.write_all(&[0; 2 * BLOCK])?;
    out.flush()
}

/// Without the slash in front; a directory has one at the end.
fn name(path: &Path, is_dir: bool) -> Vec<u8> {
    let mut name = path.strip_prefix("/").unwrap_or(path).as_os_str().as_bytes().to_vec();
    if is_dir {
        name.push(b'/');
    }
    name
}

fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let rest = size as usize % BLOCK;
    if rest > 0 { out.write_all(&[0; BLOCK][rest..]) } else { Ok(()) }
}

/// The records that the old header has no room for, then the header.
fn header(
    out: &mut impl Write,
    node: &Node,
    kind: u8,
    link: &[u8],
    size: u64,
    attributes: &[(Vec<u8>, Vec<u8>)],
) -> io::Result<()> {
    let name = name(&node.path, kind == b'5');
    let mut records = Vec::new();
    if name.len() > 100 {
        record(&mut records, b"path", &name);
    }
    if link.len() > 100 {
        record(&mut records, b"linkpath", link);
    }
    if size > MAX_SIZE {
        record(&mut records, b"size", size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], node.stat.uid), (b"gid", node.stat.gid)] {
        if id > MAX_ID {
            record(&mut records, key, id.to_string().as_bytes());
        }
    }
    for (key, value) in attributes {
        record(&mut records, &[b"SCHILY.xattr.", key.as_slice()].concat(), value);
    }
    if !records.is_empty() {
        old_header(out, node, b'x', b"././@PaxHeader", b"", records.len() as u64)?;
        out.write_all(&records)?;
        pad(out, records.len() as u64)?;
    }
    old_header(out, node, kind, &name, link, size.min(MAX_SIZE))
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend(format!("{length} ").bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn old_header(out: &mut impl Write, node: &Node, kind: u8, name: &[u8], link: &[u8], size: u64) -> io::Result<()> {
    let mut block = [0u8; BLOCK];
    let mut put = |at: usize, text: &[u8], most: usize| {
        let text = &text[..text.len().min(most)];
        block[at..at + text.len()].copy_from_slice(text);
    };
    put(0, name, 100);
    put(100, format!("{:07o}", node.stat.mode & 0o7777).as_bytes(), 7);
    put(108, format!("{:07o}", node.stat.uid.min(0o777_7777)).as_bytes(), 7);
    put(116, format!("{:07o}", node.stat.gid.min(0o777_7777)).as_bytes(), 7);
    put(124, format!("{size:011o}").as_bytes(), 11);
    put(136, format!("{:011o}", node.stat.mtime.max(0)).as_bytes(), 11);
    put(148, b"        ", 8);
    put(156, &[kind], 1);
    put(157, link, 100);
    put(257, b"ustar\x0000", 8);
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        let mut records = Vec::new();
        record(&mut records, b"path", b"abc");
        assert_eq!(records, b"12 path=abc\n");
        for length in [80, 87, 88, 89, 90, 985, 990, 995] {
            let mut records = Vec::new();
            record(&mut records, b"k", &vec![b'v'; length]);
            let told: usize = std::str::from_utf8(&records).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(told, records.len());
        }
    }
}
