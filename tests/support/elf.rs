//! ELF files of a few hundred bytes that the real loader accepts, made without a compiler.
//!
//! One segment holds everything. Symbols live in one hash bucket, references are bound by relocations to words of their
//! own, and an executable does nothing but exit.

/// A file to be made. Start from [`ElfFile::library`] or [`ElfFile::executable`].
#[derive(Debug, Clone, Default)]
pub struct ElfFile {
    pub interpreter: Option<String>,
    pub soname: Option<String>,
    pub needed: Vec<String>,
    pub auxiliary: Vec<String>,
    pub filter: Vec<String>,
    pub rpath: Option<String>,
    pub runpath: Option<String>,
    pub flags_1: u64,
    pub symbolic: bool,
    pub defines: Vec<Definition>,
    pub refers: Vec<Reference>,
    /// Versions wanted without a symbol: file, version, weak.
    pub wants: Vec<(String, String, bool)>,
    pub hash: Hash,
    /// Levels of x86-64 that it needs.
    pub isa: u32,
}

/// Which hash tables the file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hash {
    #[default]
    Gnu,
    Sysv,
    Both,
}

/// A defined symbol.
#[derive(Debug, Clone, Default)]
pub struct Definition {
    pub name: String,
    pub version: Option<String>,
    /// Only for references that name the version.
    pub hidden: bool,
}

/// An undefined symbol.
#[derive(Debug, Clone, Default)]
pub struct Reference {
    pub name: String,
    /// File and version.
    pub version: Option<(String, String)>,
    pub weak: bool,
    /// Called through the procedure linkage table, so bound lazily unless told otherwise.
    pub function: bool,
    /// No relocation uses it.
    pub unused: bool,
}

const PHDRS: usize = 6;
const LOAD_ALIGN: u64 = 0x1000;

impl ElfFile {
    /// A shared object.
    pub fn library(soname: &str) -> Self {
        Self { soname: Some(soname.into()), ..Self::default() }
    }

    /// A position-independent executable that exits.
    pub fn executable(interpreter: &str) -> Self {
        Self { interpreter: Some(interpreter.into()), ..Self::default() }
    }

    pub fn needs(mut self, name: &str) -> Self {
        self.needed.push(name.into());
        self
    }

    pub fn defines(mut self, name: &str) -> Self {
        self.defines.push(Definition { name: name.into(), ..Definition::default() });
        self
    }

    pub fn defines_version(mut self, name: &str, version: &str) -> Self {
        self.defines.push(Definition { name: name.into(), version: Some(version.into()), hidden: false });
        self
    }

    pub fn refers(mut self, name: &str) -> Self {
        self.refers.push(Reference { name: name.into(), ..Reference::default() });
        self
    }

    pub fn refers_version(mut self, name: &str, file: &str, version: &str) -> Self {
        let version = Some((file.into(), version.into()));
        self.refers.push(Reference { name: name.into(), version, ..Reference::default() });
        self
    }

    /// The bytes of the file.
    pub fn build(&self) -> Vec<u8> {
        let mut strings = Strings::default();
        let mut needs: Vec<(String, Vec<(String, bool)>)> = Vec::new();
        let mut want = |file: &str, version: &str, weak: bool| {
            if !needs.iter().any(|(f, _)| f == file) {
                needs.push((file.into(), Vec::new()));
            }
            let entry = needs.iter_mut().find(|(f, _)| f == file).unwrap();
            if !entry.1.iter().any(|(v, _)| v == version) {
                entry.1.push((version.into(), weak));
            }
        };
        for r in &self.refers {
            if let Some((file, version)) = &r.version {
                want(file, version, false);
            }
        }
        for (file, version, weak) in &self.wants {
            want(file, version, *weak);
        }
        let mut versions: Vec<String> = Vec::new();
        for d in &self.defines {
            if let Some(v) = &d.version
                && !versions.contains(v)
            {
                versions.push(v.clone());
            }
        }
        let definition_index = |v: &str| versions.iter().position(|x| x == v).unwrap() as u16 + 2;
        let first_need = versions.len() as u16 + 2;
        let need_index = |file: &str, version: &str| {
            let flat = needs.iter().flat_map(|(f, vs)| vs.iter().map(move |(v, _)| (f.as_str(), v.as_str())));
            first_need + flat.clone().position(|n| n == (file, version)).unwrap() as u16
        };

        // Symbols: the empty one, references, definitions.
        let mut symbols = vec![0u8; 24];
        let mut versym: Vec<u16> = vec![0];
        for r in &self.refers {
            let binding = if r.weak { 2 } else { 1 };
            let kind = if r.function { 2 } else { 1 };
            symbol(&mut symbols, strings.add(&r.name), binding << 4 | kind, 0, 0);
            versym.push(r.version.as_ref().map_or(1, |(f, v)| need_index(f, v)));
        }
        let value_at = symbols.len();
        for d in &self.defines {
            symbol(&mut symbols, strings.add(&d.name), 1 << 4 | 2, 1, 0);
            let index = d.version.as_deref().map_or(1, definition_index);
            versym.push(index | if d.hidden { 0x8000 } else { 0 });
        }
        let has_versions = !versions.is_empty() || !needs.is_empty();

        let mut verneed = Vec::new();
        let mut index = first_need;
        for (i, (file, wanted)) in needs.iter().enumerate() {
            half(&mut verneed, 1);
            half(&mut verneed, wanted.len() as u16);
            word(&mut verneed, strings.add(file));
            word(&mut verneed, 16);
            word(&mut verneed, if i + 1 == needs.len() { 0 } else { 16 + 16 * wanted.len() as u32 });
            for (j, (version, weak)) in wanted.iter().enumerate() {
                word(&mut verneed, sysv_hash(version));
                half(&mut verneed, if *weak { 2 } else { 0 });
                half(&mut verneed, index);
                word(&mut verneed, strings.add(version));
                word(&mut verneed, if j + 1 == wanted.len() { 0 } else { 16 });
                index += 1;
            }
        }
        let mut verdef = Vec::new();
        if !versions.is_empty() {
            let own = self.soname.clone().unwrap_or_else(|| "main".into());
            for (i, version) in std::iter::once(&own).chain(&versions).enumerate() {
                half(&mut verdef, 1);
                half(&mut verdef, u16::from(i == 0));
                half(&mut verdef, i as u16 + 1);
                half(&mut verdef, 1);
                word(&mut verdef, sysv_hash(version));
                word(&mut verdef, 20);
                word(&mut verdef, if i == versions.len() { 0 } else { 28 });
                word(&mut verdef, strings.add(version));
                word(&mut verdef, 0);
            }
        }

        let undefined = self.refers.len() as u32 + 1;
        let total = undefined + self.defines.len() as u32;
        let mut gnu = Vec::new();
        word(&mut gnu, 1);
        word(&mut gnu, undefined);
        word(&mut gnu, 1);
        word(&mut gnu, 6);
        gnu.extend([0xff; 8]);
        word(&mut gnu, if self.defines.is_empty() { 0 } else { undefined });
        for (i, d) in self.defines.iter().enumerate() {
            let last = i + 1 == self.defines.len();
            word(&mut gnu, gnu_hash(&d.name) & !1 | u32::from(last));
        }
        let mut sysv = Vec::new();
        word(&mut sysv, 1);
        word(&mut sysv, total);
        word(&mut sysv, if self.defines.is_empty() { 0 } else { undefined });
        for i in 0..total {
            word(&mut sysv, if i >= undefined && i + 1 < total { i + 1 } else { 0 });
        }

        // Dynamic entries that name strings, so that the table is complete before it is placed.
        let mut dynamic: Vec<(u64, u64)> = Vec::new();
        let lists = [(1, &self.needed), (0x7fff_fffd, &self.auxiliary), (0x7fff_ffff, &self.filter)];
        for (tag, names) in lists {
            dynamic.extend(names.iter().map(|n| (tag, u64::from(strings.add(n)))));
        }
        for (tag, text) in [(14, &self.soname), (15, &self.rpath), (29, &self.runpath)] {
            dynamic.extend(text.iter().map(|t| (tag, u64::from(strings.add(t)))));
        }
        if self.flags_1 != 0 {
            dynamic.push((0x6fff_fffb, self.flags_1));
        }
        if self.symbolic {
            dynamic.push((30, 2));
        }

        let mut out = vec![0u8; 64 + PHDRS * 56];
        let place = |out: &mut Vec<u8>, bytes: &[u8]| {
            out.resize(out.len().next_multiple_of(8), 0);
            let at = out.len() as u64;
            out.extend_from_slice(bytes);
            at
        };
        let interp = self.interpreter.as_ref().map(|i| {
            let text = [i.as_bytes(), b"\0"].concat();
            (place(&mut out, &text), text.len() as u64)
        });
        let note = (self.isa != 0).then(|| {
            let header = [4, 16, 5].map(u32::to_le_bytes).concat();
            let property = [0xc000_8002, 4, self.isa, 0].map(u32::to_le_bytes).concat();
            place(&mut out, &[header, b"GNU\0".to_vec(), property].concat())
        });
        let code: &[u8] = if cfg!(target_arch = "aarch64") {
            &[0x00, 0x00, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4]
        } else {
            &[0x31, 0xff, 0xb8, 0x3c, 0, 0, 0, 0x0f, 0x05]
        };
        let entry = place(&mut out, code);
        // Every definition lies at the code.
        for i in 0..self.defines.len() {
            let at = value_at + i * 24 + 8;
            symbols[at..at + 8].copy_from_slice(&entry.to_le_bytes());
        }
        let symtab = place(&mut out, &symbols);
        let strtab = place(&mut out, &strings.bytes);
        if self.hash != Hash::Sysv {
            dynamic.push((0x6fff_fef5, place(&mut out, &gnu)));
        }
        if self.hash != Hash::Gnu {
            dynamic.push((4, place(&mut out, &sysv)));
        }
        if has_versions {
            let bytes: Vec<u8> = versym.iter().flat_map(|v| v.to_le_bytes()).collect();
            dynamic.push((0x6fff_fff0, place(&mut out, &bytes)));
        }
        if !needs.is_empty() {
            dynamic.extend([(0x6fff_fffe, place(&mut out, &verneed)), (0x6fff_ffff, needs.len() as u64)]);
        }
        if !versions.is_empty() {
            dynamic.extend([(0x6fff_fffc, place(&mut out, &verdef)), (0x6fff_fffd, versions.len() as u64 + 1)]);
        }
        // The first three words belong to the loader.
        let slots = place(&mut out, &vec![0u8; 8 * (3 + self.refers.len())]);
        let (data_type, jump_type) = if cfg!(target_arch = "aarch64") { (1025, 1026) } else { (6, 7) };
        let (mut data, mut jump) = (Vec::new(), Vec::new());
        for (i, r) in self.refers.iter().enumerate().filter(|(_, r)| !r.unused) {
            let (table, kind) = if r.function { (&mut jump, jump_type) } else { (&mut data, data_type) };
            table.extend_from_slice(&(slots + 8 * (3 + i as u64)).to_le_bytes());
            table.extend_from_slice(&((i as u64 + 1) << 32 | kind).to_le_bytes());
            table.extend_from_slice(&0u64.to_le_bytes());
        }
        if !data.is_empty() {
            dynamic.extend([(7, place(&mut out, &data)), (8, data.len() as u64), (9, 24)]);
        }
        if !jump.is_empty() {
            dynamic.extend([(23, place(&mut out, &jump)), (2, jump.len() as u64), (20, 7), (3, slots)]);
        }
        dynamic.extend([(5, strtab), (10, strings.bytes.len() as u64), (6, symtab), (11, 24), (0, 0)]);
        let bytes: Vec<u8> = dynamic.iter().flat_map(|(t, v)| [t.to_le_bytes(), v.to_le_bytes()].concat()).collect();
        let dynamic_at = place(&mut out, &bytes);

        let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
        let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        half(&mut header, 3);
        half(&mut header, machine);
        word(&mut header, 1);
        for value in [if self.interpreter.is_some() { entry } else { 0 }, 64, 0] {
            header.extend_from_slice(&value.to_le_bytes());
        }
        word(&mut header, 0);
        let segments = 3 + 2 * usize::from(interp.is_some()) + usize::from(note.is_some());
        for value in [64, 56, segments as u16, 64, 0, 0] {
            half(&mut header, value);
        }
        let size = out.len() as u64;
        let mut phdrs = Vec::new();
        if let Some((at, len)) = interp {
            segment(&mut phdrs, 6, 4, 64, segments as u64 * 56, 8);
            segment(&mut phdrs, 3, 4, at, len, 1);
        }
        segment(&mut phdrs, 1, 7, 0, size, LOAD_ALIGN);
        segment(&mut phdrs, 2, 6, dynamic_at, bytes.len() as u64, 8);
        if let Some(at) = note {
            segment(&mut phdrs, 4, 4, at, 32, 8);
        }
        // A stack that is not executable.
        segment(&mut phdrs, 0x6474_e551, 6, 0, 0, 16);
        out[..64].copy_from_slice(&header);
        out[64..64 + phdrs.len()].copy_from_slice(&phdrs);
        out
    }
}

#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
}

impl Strings {
    fn add(&mut self, text: &str) -> u32 {
        if self.bytes.is_empty() {
            self.bytes.push(0);
        }
        let at = self.bytes.len() as u32;
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        at
    }
}

fn symbol(out: &mut Vec<u8>, name: u32, info: u8, section: u16, value: u64) {
    word(out, name);
    out.extend([info, 0]);
    half(out, section);
    out.extend_from_slice(&value.to_le_bytes());
    out.extend_from_slice(&8u64.to_le_bytes());
}

fn segment(out: &mut Vec<u8>, kind: u32, flags: u32, offset: u64, size: u64, align: u64) {
    word(out, kind);
    word(out, flags);
    for value in [offset, offset, offset, size, size, align] {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn half(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn word(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn sysv_hash(name: &str) -> u32 {
    name.bytes().fold(0u32, |h, b| {
        let h = (h << 4).wrapping_add(u32::from(b));
        let top = h & 0xf000_0000;
        (h ^ (top >> 24)) & !top
    })
}

fn gnu_hash(name: &str) -> u32 {
    name.bytes().fold(5381u32, |h, b| h.wrapping_mul(33).wrapping_add(u32::from(b)))
}

/// A file with a section `.debug_info` of so many bytes.
pub fn with_debug_section(bytes: usize) -> Vec<u8> {
    use object::write::Object;
    use object::{Architecture, BinaryFormat, Endianness, SectionKind};
    let mut file = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let section = file.add_section(Vec::new(), b".debug_info".to_vec(), SectionKind::Debug);
    file.append_section_data(section, &vec![1; bytes], 1);
    file.write().unwrap()
}
