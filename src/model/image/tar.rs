//! The tar format, as far as layers of images use it: POSIX ustar with pax records, and GNU's long names.
//!
//! Read here and not with the tar crate, because an archive is not to be trusted: that crate reads a long name or a pax
//! record of any length into memory.

use std::io::{self, Read};

/// Size of a header, and what contents are padded to.
const BLOCK: usize = 512;
/// Longest long name or pax record that is read, in bytes.
const MAX_META: u64 = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    /// Another name of the file `link`.
    HardLink,
    Symlink,
    Dir,
    /// A device or FIFO.
    Special,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: i64,
}

/// The bytes of a tar archive: as they lie in memory, or as they come out of a decoder.
pub enum Stream<'a> {
    /// All of it, and the place in it.
    Mapped(&'a [u8], usize),
    /// A decoder, and how much may still come out of it.
    Decoded(Box<dyn Read + 'a>, u64),
}

impl Stream<'_> {
    /// Fills the buffer as far as there is something to fill it with.
    pub fn read(&mut self, mut buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Mapped(bytes, at) => {
                let count = bytes.get(*at..).unwrap_or_default().read(buffer)?;
                *at += count;
                Ok(count)
            }
            Self::Decoded(reader, left) => {
                let all = buffer.len();
                *left = left.checked_sub(all as u64).ok_or_else(|| invalid("it unpacks to more than is reasonable"))?;
                while !buffer.is_empty() {
                    match reader.read(buffer) {
                        Ok(0) => break,
                        Ok(count) => buffer = &mut buffer[count..],
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(e),
                    }
                }
                Ok(all - buffer.len())
            }
        }
    }

    /// Leaves bytes out.
    pub fn skip(&mut self, mut count: u64) -> io::Result<()> {
        if let Self::Mapped(bytes, at) = self {
            let end = usize::try_from(count).ok().and_then(|count| at.checked_add(count));
            *at = end.filter(|end| *end <= bytes.len()).ok_or_else(cut_short)?;
            return Ok(());
        }
        let mut buffer = [0; 16 * 1024];
        while count > 0 {
            let part = count.min(buffer.len() as u64);
            self.read_exact(&mut buffer[..part as usize])?;
            count -= part;
        }
        Ok(())
    }

    /// Fills the buffer.
    pub fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        if self.read(buffer)? == buffer.len() { Ok(()) } else { Err(cut_short()) }
    }

    /// The next entry; its contents come next, and [`padding`] after them.
    ///
    /// # Errors
    /// As `read(2)`, and `InvalidData` for what is no tar archive.
    pub fn entry(&mut self) -> io::Result<Option<Entry>> {
        let mut pax = Pax::default();
        loop {
            let mut block = [0; BLOCK];
            match self.read(&mut block)? {
                0 => return Ok(None),
                BLOCK if block == [0; BLOCK] => return Ok(None),
                BLOCK => {}
                _ => return Err(cut_short()),
            }
            let mut entry = header(&block)?;
            match block[156] {
                b'L' => pax.path = Some(cut_at_nul(&self.meta(entry.size)?).to_owned()),
                b'K' => pax.link = Some(cut_at_nul(&self.meta(entry.size)?).to_owned()),
                b'x' => pax.read(&self.meta(entry.size)?)?,
                b'g' => drop(self.meta(entry.size)?),
                b'S' => return Err(invalid("sparse files in archives are not read")),
                _ => {
                    entry.path = pax.path.unwrap_or(entry.path);
                    entry.link = pax.link.unwrap_or(entry.link);
                    if entry.kind == Kind::File {
                        entry.size = pax.size.unwrap_or(entry.size);
                    }
                    entry.uid = pax.uid.unwrap_or(entry.uid);
                    entry.gid = pax.gid.unwrap_or(entry.gid);
                    entry.mtime = pax.mtime.unwrap_or(entry.mtime);
                    return Ok(Some(entry));
                }
            }
        }
    }

    fn meta(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_META {
            return Err(invalid("a name or record of more than a mebibyte"));
        }
        let mut data = vec![0; size as usize];
        self.read_exact(&mut data)?;
        self.skip(padding(size))?;
        Ok(data)
    }
}

/// Bytes between the end of contents of `size` bytes and the next header.
pub fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn header(block: &[u8; BLOCK]) -> io::Result<Entry> {
    let sum = |byte: fn(u8) -> i64| -> i64 {
        block.iter().enumerate().map(|(at, b)| if (148..156).contains(&at) { 32 } else { byte(*b) }).sum()
    };
    let told = number(&block[148..156]);
    // Some old programs added bytes up with their sign.
    if told != Some(sum(i64::from)) && told != Some(sum(|b| i64::from(b as i8))) {
        return Err(invalid("no tar header where one must be"));
    }
    let kind = match block[156] {
        0 | b'0' | b'7' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' | b'4' | b'6' => Kind::Special,
        b'5' => Kind::Dir,
        _ => Kind::File,
    };
    let mut path = cut_at_nul(&block[..100]).to_owned();
    if &block[257..263] == b"ustar\0" && block[345] != 0 {
        path = [cut_at_nul(&block[345..500]), b"/", &path].concat();
    }
    // Names that end in a slash were directories before there was a type for them.
    let kind = if kind == Kind::File && path.ends_with(b"/") { Kind::Dir } else { kind };
    let field = |from: usize, to: usize| number(&block[from..to]).unwrap_or(0);
    let size = u64::try_from(field(124, 136)).map_err(|_| invalid("a negative size"))?;
    let has_contents = kind == Kind::File || !matches!(block[156], 0 | b'0'..=b'7');
    Ok(Entry {
        path,
        link: cut_at_nul(&block[157..257]).to_owned(),
        kind,
        mode: field(100, 108) as u32 & 0o7777,
        uid: field(108, 116) as u32,
        gid: field(116, 124) as u32,
        // Go's archive/tar, which reads and writes the layers, takes other entries to have none, whatever they say.
        size: if has_contents { size } else { 0 },
        mtime: field(136, 148),
    })
}

/// Octal digits, or GNU's big-endian binary form where the first bit is set.
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let first = if field[0] & 0x40 != 0 { i64::from(field[0] as i8) } else { i64::from(field[0] & 0x7f) };
        return field[1..].iter().try_fold(first, |n, b| n.checked_mul(256)?.checked_add(i64::from(*b)));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if text.is_empty() { Some(0) } else { i64::from_str_radix(text, 8).ok() }
}

/// What pax records say of the entry that follows (POSIX `pax`, "pax Extended Header").
#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<i64>,
}

impl Pax {
    /// Records of the form `length key=value\n`, where the length is that of the record.
    fn read(&mut self, mut data: &[u8]) -> io::Result<()> {
        let bad = || invalid("a pax record that is none");
        while !data.is_empty() {
            let blank = data.iter().position(|b| *b == b' ').ok_or_else(bad)?;
            let length: usize =
                std::str::from_utf8(&data[..blank]).ok().and_then(|t| t.parse().ok()).ok_or_else(bad)?;
            let record = data.get(blank + 1..length).and_then(|r| r.strip_suffix(b"\n")).ok_or_else(bad)?;
            data = &data[length..];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let text = std::str::from_utf8(value).ok();
            match key {
                b"path" => self.path = Some(value.to_owned()),
                b"linkpath" => self.link = Some(value.to_owned()),
                b"size" => self.size = Some(text.and_then(|t| t.parse().ok()).ok_or_else(bad)?),
                b"uid" => self.uid = text.and_then(|t| t.parse().ok()),
                b"gid" => self.gid = text.and_then(|t| t.parse().ok()),
                b"mtime" => self.mtime = text.and_then(|t| t.split('.').next()?.parse().ok()),
                _ if key.starts_with(b"GNU.sparse.") => return Err(invalid("sparse files in archives are not read")),
                _ => {}
            }
        }
        Ok(())
    }
}

fn cut_at_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut short")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(bytes: &[u8]) -> io::Result<Vec<Entry>> {
        let mut stream = Stream::Mapped(bytes, 0);
        let mut all = Vec::new();
        while let Some(entry) = stream.entry()? {
            stream.skip(entry.size)?;
            stream.skip(padding(entry.size))?;
            all.push(entry);
        }
        Ok(all)
    }

    fn file(builder: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(7);
        header.set_cksum();
        builder.append_data(&mut header, path, data).unwrap();
    }

    #[test]
    fn long_names_and_pax_records_are_read() {
        let long = format!("d/{}", "n".repeat(300));
        let mut builder = tar::Builder::new(Vec::new());
        file(&mut builder, "a", b"12345");
        file(&mut builder, &long, b"");
        builder.append_pax_extensions([("path", &b"of pax"[..]), ("uid", b"3000000"), ("mtime", b"9.5")]).unwrap();
        file(&mut builder, "b", &[1; 513]);
        let all = entries(&builder.into_inner().unwrap()).unwrap();
        let told: Vec<_> = all.iter().map(|e| (String::from_utf8_lossy(&e.path), e.size, e.mtime)).collect();
        assert_eq!(told, [("a".into(), 5, 7), (long.into(), 0, 7), ("of pax".into(), 513, 9)]);
        assert_eq!((all[2].uid, all[0].mode), (3_000_000, 0o644));
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let mut builder = tar::Builder::new(Vec::new());
        file(&mut builder, "a", &[1; 2000]);
        let whole = builder.into_inner().unwrap();
        for end in [100, 512, 600, 2000] {
            assert_eq!(entries(&whole[..end]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{end}");
        }
        let mut other = whole.clone();
        other[3] ^= 1;
        assert_eq!(entries(&other).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        assert!(entries(header.as_bytes()).unwrap_err().to_string().contains("mebibyte"));
    }

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   17 \0\0"), Some(0o17));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(b"9\0"), None);
    }
}
