//! The database of rpm: which package brought which file.
//!
//! Two forms are read. SQLite, since RHEL 9 and Fedora 33 (<https://www.sqlite.org/fileformat2.html>): of the table
//! `Packages` the column `blob`. The hashed file of Berkeley DB, until RHEL 8 (`src/dbinc/db_page.h` there): every value.
//! Either way a package is a header of rpm (`lib/header.c`; the tags in `include/rpm/rpmtag.h`) without its magic.
//!
//! Nothing that such a file says is believed: every offset is looked up, and what is read altogether is bounded by the
//! file's size.

use std::borrow::Cow;

/// Where a database may be, below `/var/lib/rpm` or a directory that took its place, the newest form first.
pub const FILES: [&str; 3] = ["rpmdb.sqlite", "Packages", "Packages.db"];

const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const FILE_STATES: u32 = 1029;
const DIR_INDEXES: u32 = 1116;
const BASE_NAMES: u32 = 1117;
const DIR_NAMES: u32 = 1118;
/// `RPMFILE_STATE_NORMAL`: neither another package's by now, nor left out when the package was installed.
const NORMAL: u8 = 0;

/// An installed package.
#[derive(Debug, PartialEq, Eq)]
pub struct Installed {
    /// As `%{NAME}`.
    pub name: String,
    /// As `%{EVR}`: the epoch where there is one, version and release.
    pub version: String,
    /// Absolute paths of files, links and directories.
    pub files: Vec<Vec<u8>>,
}

/// The packages of a database; those before a damaged place, and why the others are not known.
pub fn read(data: &[u8]) -> (Vec<Installed>, Option<&'static str>) {
    let mut reader = Reader { data, left: data.len(), packages: Vec::new() };
    let read = if data.starts_with(b"SQLite format 3\0") {
        reader.sqlite()
    } else if le32(data, 12) == Some(HASH_MAGIC) {
        reader.berkeley()
    } else {
        return (Vec::new(), Some("of a form that is not read"));
    };
    (reader.packages, read.is_none().then_some("damaged"))
}

struct Reader<'d> {
    data: &'d [u8],
    /// Bytes that values may still have. No value is stored twice, so that all of them are shorter than the file.
    left: usize,
    packages: Vec<Installed>,
}

/// The kinds of pages of a SQLite table.
const INTERIOR: u8 = 5;
const LEAF: u8 = 13;
/// Bytes that a page has at least for itself.
const MIN_USABLE: usize = 480;

impl<'d> Reader<'d> {
    fn sqlite(&mut self) -> Option<()> {
        let size = match be16(self.data, 16)? {
            1 => 65536,
            size => size,
        };
        let usable = size.checked_sub(usize::from(*self.data.get(20)?)).filter(|usable| *usable >= MIN_USABLE)?;
        let pages = Pages { size, usable };
        let mut root = None;
        self.table(&pages, 1, &mut |_, row| {
            let columns = columns(row)?;
            // type, name, tbl_name, rootpage, sql
            if let [kind, name, _, page, ..] = columns.as_slice()
                && (*kind, *name) == (b"table", b"Packages")
            {
                root = Some(page.iter().fold(0, |n, b| n << 8 | usize::from(*b)));
            }
            Some(())
        })?;
        self.table(&pages, root?, &mut |packages, row| {
            packages.extend(header(columns(row)?.get(1)?));
            Some(())
        })
    }

    /// Visits the rows of a table.
    fn table(&mut self, pages: &Pages, root: usize, visit: &mut Visit<'_>) -> Option<()> {
        let mut open = vec![root];
        // A page of a table has one parent.
        let mut budget = self.data.len() / pages.size;
        while let Some(number) = open.pop() {
            budget = budget.checked_sub(1)?;
            let page = pages.get(self.data, number)?;
            let start = if number == 1 { 100 } else { 0 };
            let cells = be16(page, start + 3)?;
            match *page.get(start)? {
                INTERIOR => {
                    open.push(be32(page, start + 8)?);
                    for cell in (0..cells).rev() {
                        open.push(be32(page, be16(page, start + 12 + 2 * cell)?)?);
                    }
                }
                LEAF => {
                    for cell in 0..cells {
                        let row = self.row(pages, page, be16(page, start + 8 + 2 * cell)?)?;
                        visit(&mut self.packages, &row)?;
                    }
                }
                _ => return None,
            }
        }
        Some(())
    }

    /// The payload of a cell of a leaf page, which may go on in pages of its own.
    fn row(&mut self, pages: &Pages, page: &'d [u8], at: usize) -> Option<Cow<'d, [u8]>> {
        let mut cell = page.get(at..)?;
        let len = varint(&mut cell)?;
        varint(&mut cell)?;
        self.left = self.left.checked_sub(len)?;
        let (most, least) = (pages.usable - 35, (pages.usable - 12) * 32 / 255 - 23);
        if len <= most {
            return cell.get(..len).map(Cow::Borrowed);
        }
        let fit = least + (len - least) % (pages.usable - 4);
        let local = if fit <= most { fit } else { least };
        let mut row = cell.get(..local)?.to_vec();
        let mut next = be32(cell, local)?;
        while row.len() < len {
            let page = pages.get(self.data, next)?.get(..pages.usable)?;
            next = be32(page, 0)?;
            row.extend(&page[4..page.len().min(4 + len - row.len())]);
        }
        Some(Cow::Owned(row))
    }
}

/// Takes a row; `None` where it is damaged.
type Visit<'v> = dyn FnMut(&mut Vec<Installed>, &[u8]) -> Option<()> + 'v;

struct Pages {
    size: usize,
    /// What is not reserved of each.
    usable: usize,
}

impl Pages {
    /// The page of this number, from 1 on.
    fn get<'d>(&self, data: &'d [u8], number: usize) -> Option<&'d [u8]> {
        let start = number.checked_sub(1)?.checked_mul(self.size)?;
        data.get(start..start.checked_add(self.size)?)
    }
}

/// The columns of a record.
fn columns(row: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = row;
    let len = varint(&mut rest)?;
    let mut types = row.get(row.len() - rest.len()..len)?;
    let mut values = row.get(len..)?;
    let mut columns = Vec::new();
    while !types.is_empty() {
        let size = match varint(&mut types)? {
            0 | 8 | 9 => 0,
            size @ 1..=4 => size,
            5 => 6,
            6 | 7 => 8,
            text_or_blob => text_or_blob.checked_sub(12)? / 2,
        };
        let (value, after) = values.split_at_checked(size)?;
        columns.push(value);
        values = after;
    }
    Some(columns)
}

/// Of a hash database (`DB_HASHMAGIC`).
const HASH_MAGIC: usize = 0x0006_1561;
/// Bytes before the items of a page (`SIZEOF_PAGE`).
const PAGE_HEADER: usize = 26;
/// Pages with keys and values (`P_HASH_UNSORTED`, `P_HASH`), and those with long values (`P_OVERFLOW`).
const HASH_PAGES: [u8; 2] = [2, 13];
const OVERFLOW_PAGE: u8 = 7;
/// A value on the page (`H_KEYDATA`), and one on pages of its own (`H_OFFPAGE`).
const ON_PAGE: u8 = 1;
const OFF_PAGE: u8 = 3;

impl Reader<'_> {
    fn berkeley(&mut self) -> Option<()> {
        let size = le32(self.data, 20).filter(|size| *size > PAGE_HEADER)?;
        for page in self.data.chunks_exact(size).skip(1) {
            if !HASH_PAGES.contains(&page[25]) {
                continue;
            }
            let offset = |item: usize| le16(page, PAGE_HEADER + 2 * item);
            // Keys and values take turns.
            for item in (1..le16(page, 20)?).step_by(2) {
                // Items are put down from the page's end.
                let value = page.get(offset(item)?..offset(item - 1)?)?;
                let value = match *value.first()? {
                    ON_PAGE => Cow::Borrowed(&value[1..]),
                    OFF_PAGE => Cow::Owned(self.long_value(size, le32(value, 4)?, le32(value, 8)?)?),
                    _ => return None,
                };
                // Under the key 0 the last number that was given stands.
                if value.len() > 4 {
                    self.packages.extend(header(&value));
                }
            }
        }
        Some(())
    }

    fn long_value(&mut self, size: usize, mut number: usize, len: usize) -> Option<Vec<u8>> {
        self.left = self.left.checked_sub(len)?;
        let mut value = Vec::with_capacity(len);
        while value.len() < len {
            let start = number.checked_mul(size)?;
            let page = self.data.get(start..start.checked_add(size)?)?;
            let part = page.get(PAGE_HEADER..PAGE_HEADER + le16(page, 22)?)?;
            if page[25] != OVERFLOW_PAGE || part.is_empty() {
                return None;
            }
            value.extend(part);
            number = le32(page, 16)?;
        }
        (value.len() == len).then_some(value)
    }
}

/// A package by its header: the number of entries and of bytes of data, the entries (tag, type, offset, count), the data.
fn header(header: &[u8]) -> Option<Installed> {
    let entries = header.get(8..)?;
    let (entries, data) = entries.split_at_checked(be32(header, 0)?.checked_mul(16)?)?;
    let find = |tag: u32| {
        let entry = entries.chunks_exact(16).find(|e| e[..4] == tag.to_be_bytes())?;
        Some((data.get(be32(entry, 8)?..)?, be32(entry, 12)?))
    };
    let text = |tag| find(tag).and_then(|(data, _)| data.split(|b| *b == 0).next());
    let texts = |tag| find(tag).map(|(data, count)| data.split(|b| *b == 0).take(count));
    let readable = |tag| text(tag).map(String::from_utf8_lossy);
    let name = readable(NAME)?.into_owned();
    let epoch = find(EPOCH).and_then(|(data, _)| be32(data, 0)).map(|e| format!("{e}:")).unwrap_or_default();
    let version = format!("{epoch}{}-{}", readable(VERSION)?, readable(RELEASE)?);
    let dirs: Vec<&[u8]> = texts(DIR_NAMES).into_iter().flatten().collect();
    let (indexes, states) = (find(DIR_INDEXES), find(FILE_STATES));
    let dir = |file: usize| dirs.get(be32(indexes?.0, 4 * file)?).copied();
    let is_normal = |file: usize| states.is_none_or(|(data, _)| data.get(file) == Some(&NORMAL));
    let files = texts(BASE_NAMES).into_iter().flatten().enumerate();
    let files = files.filter(|(at, _)| is_normal(*at)).filter_map(|(at, name)| Some([dir(at)?, name].concat()));
    Some(Installed { name, version, files: files.collect() })
}

fn array<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk().copied()
}

fn be16(data: &[u8], at: usize) -> Option<usize> {
    array(data, at).map(|b| usize::from(u16::from_be_bytes(b)))
}

fn be32(data: &[u8], at: usize) -> Option<usize> {
    array(data, at).map(|b| u32::from_be_bytes(b) as usize)
}

fn le16(data: &[u8], at: usize) -> Option<usize> {
    array(data, at).map(|b| usize::from(u16::from_le_bytes(b)))
}

fn le32(data: &[u8], at: usize) -> Option<usize> {
    array(data, at).map(|b| u32::from_le_bytes(b) as usize)
}

/// Takes a number of one to nine bytes, the highest bits first.
fn varint(data: &mut &[u8]) -> Option<usize> {
    let mut number = 0u64;
    for at in 0..9 {
        let byte = *data.first()?;
        *data = &data[1..];
        if at == 8 {
            number = number << 8 | u64::from(byte);
        } else {
            number = number << 7 | u64::from(byte & 0x7f);
            if byte < 0x80 {
                break;
            }
        }
    }
    usize::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Databases as rpm 4.16 leaves them after packages were installed and one was removed and installed again.
    const DATABASES: [&[u8]; 2] = [
        include_bytes!("../../../tests/data/rpm/rpmdb.sqlite.gz"),
        include_bytes!("../../../tests/data/rpm/Packages.gz"),
    ];

    fn unpacked(gz: &[u8]) -> Vec<u8> {
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(gz), &mut data).unwrap();
        data
    }

    #[test]
    fn says_what_rpm_says() {
        for database in DATABASES {
            let (mut packages, why) = read(&unpacked(database));
            assert_eq!(why, None);
            packages.sort_by(|a, b| a.name.cmp(&b.name));
            // rpm -qa --qf '%{NAME} %{EVR}'
            let names: Vec<_> = packages.iter().map(|p| format!("{} {}", p.name, p.version)).collect();
            assert_eq!(names, ["epoch 2:3.0-4.el9", "large 0:12.4.127-4.el9", "meta 1-1", "small 1.2-4.el9"]);
            // rpm -ql
            let files = |at: usize| -> Vec<&str> {
                packages[at].files.iter().map(|f| std::str::from_utf8(f).unwrap()).collect()
            };
            let small = ["/etc/small.conf", "/usr/lib64/small", "/usr/lib64/small/1.h", "/usr/lib64/small/link"];
            assert_eq!(files(3), small);
            assert_eq!(files(2), [""; 0]);
            assert_eq!((files(1).len(), files(1)[20]), (63, "/usr/lib64/large/26.h"));
        }
    }

    #[test]
    fn a_damaged_database_ends_early() {
        for database in DATABASES {
            let whole = unpacked(database);
            for len in (0..whole.len()).step_by(509) {
                let (packages, _) = read(&whole[..len]);
                assert!(packages.len() <= 4);
            }
            // Every byte where a page begins, and some of each.
            let some = (0..whole.len()).filter(|at| at % 4096 < 128 || at % 89 == 0);
            let mut damaged = whole.clone();
            for at in some {
                for byte in [0xff, whole[at].wrapping_add(1)] {
                    damaged[at] = byte;
                    let (packages, _) = read(&damaged);
                    assert!(packages.iter().map(|p| p.files.len()).sum::<usize>() < whole.len());
                }
                damaged[at] = whole[at];
            }
        }
    }

    #[test]
    fn other_files_are_told() {
        assert_eq!(read(b""), (Vec::new(), Some("of a form that is not read")));
        assert_eq!(read(b"RpmP\0\0\0\0"), (Vec::new(), Some("of a form that is not read")));
    }
}
