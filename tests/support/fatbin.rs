//! Fat binaries made without a compiler: headers as `nvcc` writes them, with nothing of use behind.

/// A region with one entry for each of such as `sm_80`, `sm_120f compressed` and `ptx 8.4 compute_90a`; `?` alone stands
/// for what is no region.
pub fn region(entries: &[&str]) -> Vec<u8> {
    if entries == ["?"] {
        return b"something else than code".to_vec();
    }
    let body: Vec<u8> = entries.iter().flat_map(|e| entry(e)).collect();
    let mut region = vec![0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0];
    region.extend((body.len() as u64).to_le_bytes());
    region.extend(body);
    region
}

/// Header of 64 bytes and some content. The fields are told in `src/model/image/fatbin.rs`.
fn entry(text: &str) -> Vec<u8> {
    const CONTENT: usize = 40;
    let (text, compressed) = match text.strip_suffix(" compressed") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (kind, isa, target) = match text.strip_prefix("ptx ").and_then(|t| t.split_once(" compute_")) {
        Some((isa, target)) => (1u16, isa, target),
        None => (2, "1.7", text.strip_prefix("sm_").expect("an entry is sm_… or ptx … compute_…")),
    };
    let (major, minor) = isa.split_once('.').expect("a version has two numbers");
    let letter = target.trim_start_matches(|c: char| c.is_ascii_digit());
    let sm: u32 = target.trim_end_matches(['a', 'f']).parse().expect("a target is a number");
    let mut flags: u64 = 0x11 | if compressed { 0x8000 } else { 0 };
    flags |= match letter {
        "a" => 1 << 20,
        "f" => 1 << 21,
        _ => 0,
    };
    let mut header = vec![0u8; 64];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &kind.to_le_bytes());
    put(2, &0x0101u16.to_le_bytes());
    put(4, &64u32.to_le_bytes());
    put(8, &(CONTENT as u64).to_le_bytes());
    put(0x18, &minor.parse::<u16>().unwrap().to_le_bytes());
    put(0x1a, &major.parse::<u16>().unwrap().to_le_bytes());
    put(0x1c, &sm.to_le_bytes());
    put(0x28, &flags.to_le_bytes());
    if compressed {
        put(0x10, &(CONTENT as u32).to_le_bytes());
        put(0x38, &1_000u64.to_le_bytes());
    }
    [header, vec![0xcc; CONTENT]].concat()
}

/// An ELF file with sections behind everything else, of which no segment knows.
pub fn with_sections(mut elf: Vec<u8>, sections: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut names = vec![0u8];
    let mut headers = vec![0u8; 64];
    let mut add = |elf: &mut Vec<u8>, name: usize, content: &[u8]| {
        elf.resize(elf.len().next_multiple_of(8), 0);
        let mut header = [0u8; 64];
        header[0..4].copy_from_slice(&(name as u32).to_le_bytes());
        header[4..8].copy_from_slice(&1u32.to_le_bytes());
        header[24..32].copy_from_slice(&(elf.len() as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
        headers.extend(header);
        elf.extend(content);
    };
    for (name, content) in sections {
        add(&mut elf, names.len(), content);
        names.extend(name.bytes().chain([0]));
    }
    let own_name = names.len();
    names.extend(b".shstrtab\0");
    add(&mut elf, own_name, &names);
    elf.resize(elf.len().next_multiple_of(8), 0);
    let table = elf.len() as u64;
    let count = (headers.len() / 64) as u16;
    elf.extend(headers);
    elf[0x28..0x30].copy_from_slice(&table.to_le_bytes());
    for (at, value) in [(0x3a, 64), (0x3c, count), (0x3e, count - 1)] {
        elf[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    elf
}
