//! The logical lines of Python source (CPython's `Parser/tokenizer.c`): strings, brackets, comments, joined lines,
//! indentation. Blocks that hold nothing of interest are passed over without reading them in full.

use std::ops::Range;

use memchr::memmem::Finder;
use wide::u8x16;

/// Depth of nested blocks followed; Python itself allows 100.
pub const MAX_DEPTH: usize = 200;

/// A logical line.
pub struct Line {
    /// Columns before it, tabs filled up to eight.
    pub indent: usize,
    /// Where it stands, without its comment.
    pub text: Range<usize>,
    /// First colon outside brackets and strings that ends a header, if any.
    pub colon: Option<usize>,
    /// Semicolons outside brackets and strings.
    pub semicolons: Vec<usize>,
}

/// Reads the logical lines of a file.
pub struct Lines<'s> {
    source: &'s [u8],
    /// Where it is.
    pub at: usize,
    triples: Triples,
}

// The first three are told apart by arithmetic: half of all others are brackets, and no processor foresees them.
const PLAIN: u8 = 0;
const OPEN: u8 = 1;
const CLOSE: u8 = 2;
const QUOTE: u8 = 3;
const HASH: u8 = 4;
const NEWLINE: u8 = 5;
const BACKSLASH: u8 = 6;
const COLON: u8 = 7;
const SEMICOLON: u8 = 8;

static CLASS: [u8; 256] = {
    let mut class = [PLAIN; 256];
    class[b'"' as usize] = QUOTE;
    class[b'\'' as usize] = QUOTE;
    class[b'#' as usize] = HASH;
    class[b'\n' as usize] = NEWLINE;
    class[b'(' as usize] = OPEN;
    class[b'[' as usize] = OPEN;
    class[b'{' as usize] = OPEN;
    class[b')' as usize] = CLOSE;
    class[b']' as usize] = CLOSE;
    class[b'}' as usize] = CLOSE;
    class[b'\\' as usize] = BACKSLASH;
    class[b':' as usize] = COLON;
    class[b';' as usize] = SEMICOLON;
    class
};

impl<'s> Lines<'s> {
    /// From the start of a line.
    pub fn new(source: &'s [u8], at: usize) -> Self {
        Self { source, at, triples: Triples::new() }
    }

    /// The next logical line, and goes behind it.
    pub fn next_line(&mut self) -> Option<Line> {
        let source = self.source;
        // Indentation; lines with nothing or only a comment have none.
        let mut indent = 0;
        loop {
            match source.get(self.at)? {
                b' ' => indent += 1,
                b'\t' => indent = (indent / 8 + 1) * 8,
                b'\x0c' => indent = 0,
                b'\r' => {}
                b'\n' => indent = 0,
                b'#' => {
                    self.at += memchr::memchr(b'\n', &source[self.at..])?;
                    continue;
                }
                b'\\' if source.get(self.at + 1) == Some(&b'\n') => self.at += 1,
                _ => break,
            }
            self.at += 1;
        }
        let start = self.at;
        let mut depth = 0i32;
        let mut colon = None;
        let mut semicolons = Vec::new();
        let mut end = source.len();
        let mut at = start;
        while at < source.len() {
            let mut class = PLAIN;
            for &b in &source[at..] {
                class = CLASS[usize::from(b)];
                if class > CLOSE {
                    break;
                }
                depth = (depth + i32::from(class & OPEN) - i32::from(class >> 1)).max(0);
                at += 1;
            }
            match class {
                QUOTE => at = self.skip_string(start, at),
                HASH => {
                    if depth == 0 {
                        end = at; // A comment ends the statement.
                    }
                    at = memchr::memchr(b'\n', &source[at..]).map_or(source.len(), |n| at + n);
                }
                NEWLINE => {
                    if depth == 0 {
                        end = end.min(at);
                        at += 1;
                        break;
                    }
                    at += 1;
                }
                BACKSLASH => {
                    let newline = match source.get(at + 1) {
                        Some(b'\n') => 1,
                        Some(b'\r') if source.get(at + 2) == Some(&b'\n') => 2,
                        _ => 0,
                    };
                    at += 1 + newline;
                }
                COLON => {
                    if depth == 0 && colon.is_none() && source.get(at + 1) != Some(&b'=') {
                        colon = Some(at);
                    }
                    at += 1;
                }
                SEMICOLON => {
                    if depth == 0 {
                        semicolons.push(at);
                    }
                    at += 1;
                }
                _ => break, // The end of the file.
            }
        }
        self.at = at;
        Some(Line { indent, text: start..end, colon, semicolons })
    }

    /// Goes to the first statement that is indented no deeper than `header`.
    ///
    /// Lines that are indented deeper need not be read. One that is not may still be part of a string or of something
    /// in brackets: strings are followed, and for brackets the statements before the line are read, from the last
    /// line on that starts as only a statement can.
    pub fn skip_block(&mut self, header: usize) {
        let (source, start) = (self.source, self.at);
        let (mut statement, mut looked, mut at) = (start, start, start);
        while at < source.len() {
            let strings = self.triples.next(source, at);
            at = pass_deeper(source, at, header, strings);
            if is_deeper(source, at, header) {
                if let Some(next) = self.after_strings(at) {
                    statement = last_statement(source, looked..at).unwrap_or(statement);
                    (looked, at) = (next, next);
                    continue;
                }
            } else {
                let end = line_end(source, at);
                let text = source[at..end].trim_ascii_start();
                if strings >= end && matches!(text.first(), None | Some(b'#')) {
                    at = end + 1;
                    continue;
                }
                if starts_statement(text) && !follows_joined(source, at) && !source[at..end].contains(&b'\t') {
                    break;
                }
            }
            self.at = last_statement(source, looked..at).unwrap_or(statement);
            match self.read_beyond(at, header) {
                Some(next) => (statement, looked, at) = (next, next, next),
                None => {
                    at = self.at;
                    break;
                }
            }
        }
        self.at = at.min(source.len());
    }

    /// Reads statements up to one that ends behind `at`, and tells where; or goes to the start of one that is indented
    /// no deeper than `header`, or to the end of the file.
    fn read_beyond(&mut self, at: usize, header: usize) -> Option<usize> {
        loop {
            let Some(line) = self.next_line() else {
                self.at = self.source.len();
                return None;
            };
            if line.indent <= header {
                self.at = memchr::memrchr(b'\n', &self.source[..line.text.start]).map_or(0, |n| n + 1);
                return None;
            }
            if self.at > at {
                return Some(self.at);
            }
        }
    }

    /// The line behind the strings with triple quotes that begin in the line at `at`, which is not inside of one
    /// itself. `None` where it takes more to tell what is a string and what is not.
    fn after_strings(&mut self, at: usize) -> Option<usize> {
        let source = self.source;
        let mut from = at;
        loop {
            let end = line_end(source, from);
            let open = self.triples.next(source, from);
            if open >= end {
                return Some(end + 1);
            }
            let before = &source[from..open];
            let is_formatted = before.last().is_some_and(|c| matches!(c, b'f' | b'F' | b't' | b'T'));
            if is_formatted || before.iter().any(|c| matches!(c, b'"' | b'\'' | b'#' | b'\\')) {
                return None;
            }
            let close = open + 3 + self.triples.finder(source[open]).find(&source[open + 3..])?;
            if source[close - 1] == b'\\' {
                return None;
            }
            from = close + 3;
        }
    }

    /// What is marked outside of strings and comments, of marks that ascend in the part of a line from `start` on.
    pub fn in_code<M: Copy>(&mut self, start: usize, marks: &[(usize, M)]) -> Vec<M> {
        let (mut at, mut found) = (start, Vec::new());
        for &(position, mark) in marks {
            while at < position {
                match self.source[at] {
                    b'"' | b'\'' => at = self.skip_string(start, at),
                    b'#' => at = line_end(self.source, at),
                    _ => at += 1,
                }
            }
            if at == position {
                found.push(mark);
            }
        }
        found
    }

    /// Position behind the string literal whose opening quote is at `at`.
    fn skip_string(&mut self, line_start: usize, at: usize) -> usize {
        let source = self.source;
        let quote = source[at];
        let triple = source[at..].starts_with(&[quote; 3]);
        let mut prefix = at;
        while prefix > line_start && source[prefix - 1].is_ascii_alphabetic() && at - prefix < 2 {
            prefix -= 1;
        }
        let formatted = source[prefix..at].iter().any(|c| matches!(c, b'f' | b'F' | b't' | b'T'));
        let body = at + if triple { 3 } else { 1 };
        if formatted { self.skip_formatted(body, quote, triple, 0) } else { self.skip_plain(body, quote, triple) }
    }

    fn skip_plain(&mut self, body: usize, quote: u8, triple: bool) -> usize {
        let source = self.source;
        let mut at = body;
        if triple {
            loop {
                let Some(n) = self.triples.finder(quote).find(&source[at.min(source.len())..]) else {
                    return source.len();
                };
                at += n;
                let backslashes = source[body..at].iter().rev().take_while(|c| **c == b'\\').count();
                if backslashes % 2 == 0 {
                    return at + 3;
                }
                at += 1;
            }
        }
        loop {
            let Some(n) = memchr::memchr3(quote, b'\\', b'\n', &source[at.min(source.len())..]) else {
                return source.len();
            };
            at += n;
            match source[at] {
                b'\\' => at += 2,
                // Unterminated: not Python, but the rest may be.
                b'\n' => return at,
                _ => return at + 1,
            }
        }
    }

    /// A formatted string literal: expressions in braces may hold strings with the same quotes (since 3.12).
    fn skip_formatted(&mut self, mut at: usize, quote: u8, triple: bool, depth: usize) -> usize {
        let source = self.source;
        while let Some(&b) = source.get(at) {
            match b {
                b'\\' => at += 2,
                b'\n' if !triple => return at,
                b'{' if source.get(at + 1) == Some(&b'{') => at += 2,
                b'{' if depth < MAX_DEPTH => at = self.skip_field(at + 1, quote, triple, depth + 1),
                _ if b == quote && !triple => return at + 1,
                _ if b == quote && source[at..].starts_with(&[quote; 3]) => return at + 3,
                _ => at += 1,
            }
        }
        source.len()
    }

    /// The expression of a replacement field, up to and with its closing brace.
    fn skip_field(&mut self, mut at: usize, quote: u8, triple: bool, depth: usize) -> usize {
        let source = self.source;
        let mut brackets = 0usize;
        while let Some(&b) = source.get(at) {
            match b {
                b'}' if brackets == 0 => return at + 1,
                b'(' | b'[' | b'{' => brackets += 1,
                b')' | b']' | b'}' => brackets = brackets.saturating_sub(1),
                // Before 3.12 the literal's own quote ends it here.
                b'\'' | b'"' if b == quote && !triple && !self.closes_on_this_line(at + 1, quote) => return at,
                b'\'' | b'"' => {
                    at = self.skip_string(at.saturating_sub(2), at);
                    continue;
                }
                // A format specification: literal text with fields of its own.
                b':' if brackets == 0 && source.get(at + 1) != Some(&b'=') => {
                    at += 1;
                    while let Some(&c) = source.get(at) {
                        match c {
                            b'}' => return at + 1,
                            b'{' if depth < MAX_DEPTH => at = self.skip_field(at + 1, quote, triple, depth + 1),
                            b'\n' if !triple => return at,
                            _ if c == quote && !triple => return at,
                            _ => at += 1,
                        }
                    }
                    return source.len();
                }
                _ => {}
            }
            at += 1;
        }
        source.len()
    }

    fn closes_on_this_line(&self, at: usize, quote: u8) -> bool {
        let rest = &self.source[at.min(self.source.len())..];
        memchr::memchr2(quote, b'\n', rest).is_some_and(|n| rest[n] == quote)
    }
}

/// For each kind of triple quote, what finds it, and the range up to the next one that was looked for, which is its end.
struct Triples([(Finder<'static>, Range<usize>); 2]);

impl Triples {
    fn new() -> Self {
        Self(["\"\"\"", "'''"].map(|quotes| (Finder::new(quotes), 0..0)))
    }

    /// The first at or behind `from`; the end of the file where there is none.
    fn next(&mut self, source: &[u8], from: usize) -> usize {
        for (finder, known) in &mut self.0 {
            if from < known.start || from > known.end || known.end == 0 {
                *known = from..finder.find(&source[from..]).map_or(source.len(), |n| from + n);
            }
        }
        self.0[0].1.end.min(self.0[1].1.end)
    }

    /// What finds three of these quotes.
    fn finder(&self, quote: u8) -> &Finder<'static> {
        &self.0[usize::from(quote == b'\'')].0
    }
}

/// Whether the line at `at` is indented deeper than `header`, with spaces.
fn is_deeper(source: &[u8], at: usize, header: usize) -> bool {
    source.get(at..=at + header).is_some_and(|start| start.iter().all(|c| *c == b' '))
}

/// Goes from the line at `at` over lines that are indented deeper than `header`, and empty ones, to the first other line,
/// or the one that `limit` is in.
fn pass_deeper(source: &[u8], at: usize, header: usize, limit: usize) -> usize {
    if !is_deeper(source, at, header) {
        return at;
    }
    let mut from = match header {
        0 => pass_blocks::<1>(source, at, limit),
        4 => pass_blocks::<5>(source, at, limit),
        8 => pass_blocks::<9>(source, at, limit),
        _ => at,
    };
    while let Some(newline) = memchr::memchr(b'\n', &source[from..limit]) {
        from += newline + 1;
        if !is_deeper(source, from, header) && source.get(from) != Some(&b'\n') {
            return from;
        }
    }
    memchr::memrchr(b'\n', &source[at..limit]).map_or(at, |n| at + n + 1)
}

/// Goes as far as every line that begins is empty or indented with `COLUMNS` spaces, in steps of a vector.
fn pass_blocks<const COLUMNS: usize>(source: &[u8], mut at: usize, limit: usize) -> usize {
    let (newlines, spaces) = (u8x16::splat(b'\n'), u8x16::splat(b' '));
    let vector = |at: usize| Some(u8x16::new(*source.get(at..)?.first_chunk()?));
    while at < limit
        && let Some(bytes) = vector(at)
        && let Some(next) = vector(at + 1)
        && let Some(last) = vector(at + COLUMNS)
    {
        let between = (1..COLUMNS).filter_map(|column| vector(at + column));
        let other = between.fold(last ^ spaces, |other, bytes| other | (bytes ^ spaces));
        let begins_line = bytes.cmp_eq(newlines) & !next.cmp_eq(newlines);
        if (begins_line & !other.cmp_eq(u8x16::ZERO)).any() {
            break;
        }
        at += 16;
    }
    at.min(limit)
}

fn line_end(source: &[u8], at: usize) -> usize {
    memchr::memchr(b'\n', &source[at..]).map_or(source.len(), |n| at + n)
}

/// Whether the line at `at` is joined to the one before.
fn follows_joined(source: &[u8], at: usize) -> bool {
    let before = &source[..at];
    before.ends_with(b"\\\n") || before.ends_with(b"\\\r\n")
}

/// The last line that starts as only a statement can, of lines without strings that go on in the next.
fn last_statement(source: &[u8], lines: Range<usize>) -> Option<usize> {
    let mut end = lines.end;
    while end > lines.start {
        let at = memchr::memrchr(b'\n', &source[lines.start..end - 1]).map_or(lines.start, |n| lines.start + n + 1);
        if starts_statement(source[at..end].trim_ascii_start()) && !follows_joined(source, at) {
            return Some(at);
        }
        end = at;
    }
    None
}

/// Whether it starts with a keyword that no line inside of brackets starts with.
fn starts_statement(text: &[u8]) -> bool {
    if !text.first().is_some_and(|c| b"rdcaiwtefpgnb".contains(c)) {
        return false;
    }
    matches!(
        first_word(text).0,
        b"return"
            | b"def"
            | b"raise"
            | b"class"
            | b"assert"
            | b"import"
            | b"with"
            | b"while"
            | b"try"
            | b"except"
            | b"finally"
            | b"elif"
            | b"del"
            | b"pass"
            | b"global"
            | b"nonlocal"
            | b"break"
            | b"continue"
    )
}

/// Bytes that names consist of.
static NAME: [bool; 256] = {
    let mut name = [false; 256];
    let mut c = 0;
    while c < 256 {
        name[c] = (c as u8).is_ascii_alphanumeric() || c == b'_' as usize || c >= 0x80;
        c += 1;
    }
    name
};

/// Whether names may hold this byte.
pub fn is_name(c: u8) -> bool {
    NAME[usize::from(c)]
}

/// The leading identifier, and what follows it.
pub fn first_word(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().take_while(|c| is_name(**c)).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of the characters that matter, passed over from every line on and up to every place.
    #[test]
    fn many_lines_at_once_are_passed_over_as_one_by_one() {
        let naive = |source: &[u8], mut at: usize, header: usize, limit: usize| {
            while is_deeper(source, at, header) || at > 0 && source.get(at) == Some(&b'\n') {
                match memchr::memchr(b'\n', &source[at..limit]) {
                    Some(newline) => at += newline + 1,
                    None => break,
                }
            }
            at
        };
        let mut seed = 1u32;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % below
        };
        let mut passed = 0;
        for header in [0, 2, 4, 8].into_iter().cycle().take(400) {
            let mut source = Vec::new();
            for _ in 0..random(24) {
                let deep = random(8) > 0;
                let columns = if deep { header + 1 + random(4) } else { random(header + 1) };
                source.extend(std::iter::repeat_n(b' ', if random(6) == 0 { 0 } else { columns }));
                source.extend((0..random(40)).map(|_| b"x # "[random(4)]));
                source.extend(&b"\n\n\n"[random(3)..]);
            }
            let starts = memchr::memchr_iter(b'\n', &source).map(|n| n + 1);
            for at in [0].into_iter().chain(starts).filter(|at| is_deeper(&source, *at, header)) {
                for limit in at..=source.len() {
                    let next = pass_deeper(&source, at, header, limit);
                    assert_eq!(next, naive(&source, at, header, limit), "{at} {limit}: {}", source.escape_ascii());
                    passed += usize::from(next > at + 64);
                }
            }
        }
        assert!(passed > 10_000);
    }
}
