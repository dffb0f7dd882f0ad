//! Which imports a Python source file executes when it is itself imported, and what happens if one fails.
//!
//! `import torch` runs some 1,200 files of 17 MB. A full parser needs 140 ms for them, more than the whole verdict may
//! take, and only import statements, the `try`, `if` and `with` blocks around them and the functions that hold them
//! matter here. So this reads logical lines (CPython's `Parser/tokenizer.c`: strings, brackets, comments, joined
//! lines, indentation) and keeps the tree of just those statements. A test compares it with CPython's own `ast` over
//! a whole installation.

use std::ops::Range;

/// A statement that bears on imports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// `import a.b` or `from ..a import b, c`.
    Import(Import),
    /// `try`
    Try {
        /// The guarded block.
        body: Vec<Statement>,
        /// `except` clauses in order.
        handlers: Vec<Handler>,
        /// `else`
        otherwise: Vec<Statement>,
        /// `finally`
        finally: Vec<Statement>,
    },
    /// `if`, `elif`, `else`
    If {
        /// Conditions as written, with their blocks.
        branches: Vec<(String, Vec<Statement>)>,
        /// `else`
        otherwise: Option<Vec<Statement>>,
    },
    /// `with contextlib.suppress(…)`
    Suppress {
        /// What it swallows.
        catches: Catches,
        /// The block.
        body: Vec<Statement>,
    },
    /// A call of a function of this file, by name.
    Call(String),
    /// A function that is not run by its definition.
    Function {
        /// Its name.
        name: String,
        /// Its block.
        body: Vec<Statement>,
    },
    /// `NAME = …`, where the value may be known from the files and the platform.
    Constant(String, String),
    /// A name alone: `try: NAME` asks whether it is defined.
    Name(String),
    /// `raise`
    Raise,
}

/// One import statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Line number, from 1.
    pub line: u32,
    /// Number of leading dots.
    pub level: u32,
    /// The module; empty for `from . import x`.
    pub module: String,
    /// `None` for `import a.b`; the names for `from a import b, c`; `*` for a star import.
    pub names: Option<Vec<String>>,
}

/// An `except` clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// What it catches.
    pub catches: Catches,
    /// Its block.
    pub body: Vec<Statement>,
}

/// Which failures of an import are caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Catches {
    /// `ModuleNotFoundError`, or anything above it.
    pub not_found: bool,
    /// `ImportError`, or anything above it.
    pub import: bool,
    /// `OSError`, or anything above it.
    pub os: bool,
    /// `NameError`, or anything above it.
    pub name: bool,
}

impl Catches {
    const ALL: Catches = Catches { not_found: true, import: true, os: true, name: true };

    /// From the expression after `except` or inside `suppress(…)`.
    fn parse(text: &str) -> Self {
        let text = text.split(" as ").next().unwrap_or(text);
        if text.trim().is_empty() {
            return Self::ALL;
        }
        let mut catches = Self::default();
        for name in text.split(|c: char| !(c.is_alphanumeric() || c == '_')) {
            match name {
                "Exception" | "BaseException" => return Self::ALL,
                "ImportError" => (catches.not_found, catches.import) = (true, true),
                "ModuleNotFoundError" => catches.not_found = true,
                "NameError" => catches.name = true,
                "OSError" | "EnvironmentError" | "IOError" => catches.os = true,
                _ => {}
            }
        }
        catches
    }
}

/// Depth of nested blocks followed; Python itself allows 100.
const MAX_DEPTH: usize = 200;

/// Longest value of a constant that is kept, in bytes.
const MAX_CONDITION: usize = 100;
/// How values start that the files and the platform may decide.
const KNOWABLE: &[&[u8]] =
    &[b"True", b"False", b"not ", b"sys.platform", b"sys.version_info", b"os.name", b"platform.system"];

/// The statements of a file that bear on imports, in order.
pub fn scan(source: &[u8]) -> Vec<Statement> {
    let source = source.strip_prefix(b"\xef\xbb\xbf").unwrap_or(source);
    let imports: Vec<usize> = memchr::memmem::find_iter(source, b"import").collect();
    if imports.is_empty() {
        return Vec::new();
    }
    let mut builder = Builder { frames: vec![Frame::new(Kind::Module, None)] };
    let mut lines = Lines { source, at: 0, line: 1 };
    let mut next = lines.next_line();
    while let Some(line) = next.take() {
        let before = builder.frames.len();
        builder.line(source, &line);
        let is_function = builder.frames.len() == before + 1 && builder.in_function();
        let body = (lines.at, lines.line);
        next = lines.next_line();
        if !is_function {
            continue;
        }
        // Most functions hold no import: go to their end, and come back for the few that do.
        let start = line.text.start;
        while next.as_ref().is_some_and(|l| l.indent > line.indent) {
            next = lines.next_line();
        }
        let end = next.as_ref().map_or(source.len(), |l| l.text.start);
        let first = imports.partition_point(|&at| at < start);
        if imports.get(first).is_some_and(|&at| at < end) {
            (lines.at, lines.line) = body;
            next = lines.next_line();
        }
    }
    builder.finish()
}

/// A logical line.
struct Line {
    indent: usize,
    text: Range<usize>,
    number: u32,
    /// First colon outside brackets and strings that ends a header, if any.
    colon: Option<usize>,
    /// Semicolons outside brackets and strings.
    semicolons: Vec<usize>,
}

struct Lines<'s> {
    source: &'s [u8],
    at: usize,
    line: u32,
}

const PLAIN: u8 = 0;
const QUOTE: u8 = 1;
const HASH: u8 = 2;
const NEWLINE: u8 = 3;
const OPEN: u8 = 4;
const CLOSE: u8 = 5;
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

impl Lines<'_> {
    fn next_line(&mut self) -> Option<Line> {
        let source = self.source;
        // Indentation; lines with nothing or only a comment have none.
        let mut indent = 0;
        loop {
            match source.get(self.at)? {
                b' ' => indent += 1,
                b'\t' => indent = (indent / 8 + 1) * 8,
                b'\x0c' => indent = 0,
                b'\r' => {}
                b'\n' => {
                    self.line += 1;
                    indent = 0;
                }
                b'#' => {
                    self.at += memchr::memchr(b'\n', &source[self.at..])?;
                    continue;
                }
                b'\\' if source.get(self.at + 1) == Some(&b'\n') => {
                    self.line += 1;
                    self.at += 1;
                }
                _ => break,
            }
            self.at += 1;
        }
        let (start, number) = (self.at, self.line);
        let mut depth = 0usize;
        let mut colon = None;
        let mut semicolons = Vec::new();
        let mut end = source.len();
        let mut at = start;
        while let Some(&b) = source.get(at) {
            match CLASS[usize::from(b)] {
                PLAIN => at += 1,
                QUOTE => at = self.skip_string(start, at),
                HASH => {
                    if depth == 0 {
                        end = at; // A comment ends the statement.
                    }
                    at = memchr::memchr(b'\n', &source[at..]).map_or(source.len(), |n| at + n);
                }
                NEWLINE => {
                    self.line += 1;
                    if depth == 0 {
                        end = end.min(at);
                        at += 1;
                        break;
                    }
                    at += 1;
                }
                OPEN => {
                    depth += 1;
                    at += 1;
                }
                CLOSE => {
                    depth = depth.saturating_sub(1);
                    at += 1;
                }
                BACKSLASH => {
                    let newline = match source.get(at + 1) {
                        Some(b'\n') => 1,
                        Some(b'\r') if source.get(at + 2) == Some(&b'\n') => 2,
                        _ => 0,
                    };
                    self.line += u32::from(newline > 0);
                    at += 1 + newline;
                }
                COLON => {
                    if depth == 0 && colon.is_none() && source.get(at + 1) != Some(&b'=') {
                        colon = Some(at);
                    }
                    at += 1;
                }
                _ => {
                    if depth == 0 {
                        semicolons.push(at);
                    }
                    at += 1;
                }
            }
        }
        self.at = at;
        Some(Line { indent, text: start..end, number, colon, semicolons })
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

    fn skip_plain(&mut self, mut at: usize, quote: u8, triple: bool) -> usize {
        let source = self.source;
        loop {
            let Some(n) = memchr::memchr3(quote, b'\\', b'\n', &source[at.min(source.len())..]) else {
                return source.len();
            };
            at += n;
            match source[at] {
                b'\\' => {
                    self.line += u32::from(source.get(at + 1) == Some(&b'\n'));
                    at += 2;
                }
                b'\n' => {
                    if !triple {
                        return at; // Unterminated: not Python, but the rest may be.
                    }
                    self.line += 1;
                    at += 1;
                }
                _ if !triple => return at + 1,
                _ if source[at..].starts_with(&[quote; 3]) => return at + 3,
                _ => at += 1,
            }
        }
    }

    /// A formatted string literal: expressions in braces may hold strings with the same quotes (since 3.12).
    fn skip_formatted(&mut self, mut at: usize, quote: u8, triple: bool, depth: usize) -> usize {
        let source = self.source;
        while let Some(&b) = source.get(at) {
            match b {
                b'\\' => {
                    self.line += u32::from(source.get(at + 1) == Some(&b'\n'));
                    at += 2;
                }
                b'\n' => {
                    if !triple {
                        return at;
                    }
                    self.line += 1;
                    at += 1;
                }
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
                b'\n' => self.line += 1,
                // A format specification: literal text with fields of its own.
                b':' if brackets == 0 && source.get(at + 1) != Some(&b'=') => {
                    at += 1;
                    while let Some(&c) = source.get(at) {
                        match c {
                            b'}' => return at + 1,
                            b'{' if depth < MAX_DEPTH => at = self.skip_field(at + 1, quote, triple, depth + 1),
                            b'\n' if !triple => return at,
                            _ if c == quote && !triple => return at,
                            _ => {
                                self.line += u32::from(c == b'\n');
                                at += 1;
                            }
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

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Module,
    /// Runs with its surroundings: class bodies, loops, `with`.
    Inline,
    Function(String),
    Try,
    Except(Catches),
    Else,
    Finally,
    If(String),
    Elif(String),
    Suppress(Catches),
}

struct Frame {
    kind: Kind,
    indent: Option<usize>,
    body: Vec<Statement>,
}

impl Frame {
    fn new(kind: Kind, indent: Option<usize>) -> Self {
        Self { kind, indent, body: Vec::new() }
    }
}

struct Builder {
    frames: Vec<Frame>,
}

impl Builder {
    fn line(&mut self, source: &[u8], line: &Line) {
        while self.frames.len() > 1
            && self.frames.last().is_some_and(|f| f.indent.is_some_and(|header| line.indent <= header))
        {
            self.close();
        }
        let text = &source[line.text.clone()];
        let (word, rest) = first_word(text);
        let header = line.colon.map(|c| &source[line.text.start + (text.len() - rest.len())..c]);
        let kind = match word {
            b"def" => header.map(|h| Kind::Function(identifier(h))),
            b"async" => header.and_then(|h| {
                let (second, rest) = first_word(h);
                match second {
                    b"def" => Some(Kind::Function(identifier(rest))),
                    b"with" | b"for" => Some(Kind::Inline),
                    _ => None,
                }
            }),
            b"class" | b"for" | b"while" => header.map(|_| Kind::Inline),
            b"with" => header.map(|h| {
                let text = String::from_utf8_lossy(h);
                match text.split_once("suppress(") {
                    Some((_, inner)) => Kind::Suppress(Catches::parse(inner.split(')').next().unwrap_or(inner))),
                    None => Kind::Inline,
                }
            }),
            b"try" => header.filter(|h| h.trim_ascii().is_empty()).map(|_| Kind::Try),
            b"except" => header.map(|h| Kind::Except(Catches::parse(&String::from_utf8_lossy(h)))),
            b"else" => header.filter(|h| h.trim_ascii().is_empty()).map(|_| Kind::Else),
            b"finally" => header.filter(|h| h.trim_ascii().is_empty()).map(|_| Kind::Finally),
            b"if" => header.map(|h| Kind::If(condition(h))),
            b"elif" => header.map(|h| Kind::Elif(condition(h))),
            // What a `match` selects is not known; its cases are unknown conditions.
            b"match" => header.filter(|_| ends_header(source, line)).map(|_| Kind::Inline),
            b"case" => header.filter(|_| ends_header(source, line)).map(|_| Kind::If("case".into())),
            _ => None,
        };
        match kind {
            Some(kind) if self.frames.len() < MAX_DEPTH => {
                self.frames.push(Frame::new(kind, Some(line.indent)));
                // A block on the header's own line: `if x: import y`.
                let start = line.colon.map_or(line.text.end, |c| c + 1);
                if !source[start..line.text.end].trim_ascii().is_empty() {
                    self.simple(source, start..line.text.end, line);
                }
            }
            _ => self.simple(source, line.text.clone(), line),
        }
    }

    /// Simple statements, separated by semicolons.
    fn simple(&mut self, source: &[u8], text: Range<usize>, line: &Line) {
        let mut start = text.start;
        let ends = line.semicolons.iter().copied().filter(|s| text.contains(s)).chain([text.end]);
        for end in ends {
            if start <= end {
                self.statement(source[start..end].trim_ascii(), line.number);
            }
            start = end + 1;
        }
    }

    fn statement(&mut self, text: &[u8], number: u32) {
        let (word, rest) = first_word(text);
        match word {
            b"import" => {
                for module in clean(rest).split(',') {
                    let module = module.split(" as ").next().unwrap_or(module).trim().to_owned();
                    if !module.is_empty() {
                        self.push(Statement::Import(Import { line: number, level: 0, module, names: None }));
                    }
                }
            }
            b"from" => {
                if let Some(import) = parse_from(rest, number) {
                    self.push(Statement::Import(import));
                }
            }
            b"raise" => self.push(Statement::Raise),
            _ => self.expression(text, number),
        }
    }

    /// `name(…)`, `x = name(…)`, `NAME = True`, and `import_module("literal")`.
    fn expression(&mut self, text: &[u8], number: u32) {
        let name_len = text.iter().take_while(|c| is_name(**c)).count();
        if name_len == 0 {
            return;
        }
        let after = text[name_len..].trim_ascii_start();
        if after.first() == Some(&b'(') {
            let name = String::from_utf8_lossy(&text[..name_len]).into_owned();
            if name == "__import__" {
                self.dynamic(after, number);
            } else {
                self.push(Statement::Call(name));
            }
            return;
        }
        if let Some(value) = after.strip_prefix(b"=").filter(|v| v.first() != Some(&b'=')) {
            let value = value.trim_ascii();
            let call = value.iter().take_while(|c| is_name(**c)).count();
            if call > 0 && value.get(call) == Some(&b'(') {
                self.push(Statement::Call(String::from_utf8_lossy(&value[..call]).into_owned()));
            } else if value.len() <= MAX_CONDITION && KNOWABLE.iter().any(|k| value.starts_with(k)) {
                let name = String::from_utf8_lossy(&text[..name_len]).into_owned();
                self.push(Statement::Constant(name, condition(value)));
            }
        } else if after.is_empty() {
            self.push(Statement::Name(String::from_utf8_lossy(&text[..name_len]).into_owned()));
        }
        if let Some(at) = memchr::memmem::find(text, b"import_module(") {
            self.dynamic(&text[at + b"import_module".len()..], number);
        }
    }

    /// `("literal")` as the argument of a function that imports.
    fn dynamic(&mut self, call: &[u8], number: u32) {
        let Some(argument) = call.strip_prefix(b"(").map(<[u8]>::trim_ascii_start) else { return };
        let Some(&quote) = argument.first().filter(|q| matches!(q, b'"' | b'\'')) else { return };
        let Some(end) = memchr::memchr(quote, &argument[1..]) else { return };
        let rest = argument[end + 2..].trim_ascii_start();
        let module = &argument[1..=end];
        if !module.is_empty() && module.iter().all(|c| is_name(*c) || *c == b'.') && module[0] != b'.' && rest == b")" {
            let module = String::from_utf8_lossy(module).into_owned();
            self.push(Statement::Import(Import { line: number, level: 0, module, names: None }));
        }
    }

    fn push(&mut self, statement: Statement) {
        if let Some(frame) = self.frames.last_mut() {
            frame.body.push(statement);
        }
    }

    fn close(&mut self) {
        let Some(frame) = self.frames.pop() else { return };
        let Some(parent) = self.frames.last_mut() else { return };
        let body = frame.body;
        match frame.kind {
            Kind::Module => {}
            Kind::Inline => parent.body.extend(body),
            Kind::Function(name) => {
                if body.iter().any(holds_import) {
                    parent.body.push(Statement::Function { name, body });
                }
            }
            Kind::Try => {
                parent.body.push(Statement::Try {
                    body,
                    handlers: Vec::new(),
                    otherwise: Vec::new(),
                    finally: Vec::new(),
                });
            }
            Kind::Except(catches) => {
                if let Some(Statement::Try { handlers, .. }) = parent.body.last_mut() {
                    handlers.push(Handler { catches, body });
                }
            }
            Kind::Else => match parent.body.last_mut() {
                Some(Statement::Try { otherwise, .. }) => *otherwise = body,
                Some(Statement::If { otherwise, .. }) => *otherwise = Some(body),
                // `for … else`, `while … else`
                _ => parent.body.extend(body),
            },
            Kind::Finally => {
                if let Some(Statement::Try { finally, .. }) = parent.body.last_mut() {
                    *finally = body;
                }
            }
            Kind::If(condition) => {
                parent.body.push(Statement::If { branches: vec![(condition, body)], otherwise: None });
            }
            Kind::Elif(condition) => {
                if let Some(Statement::If { branches, .. }) = parent.body.last_mut() {
                    branches.push((condition, body));
                }
            }
            Kind::Suppress(catches) => parent.body.push(Statement::Suppress { catches, body }),
        }
    }

    fn in_function(&self) -> bool {
        self.frames.last().is_some_and(|f| matches!(f.kind, Kind::Function(_)))
    }

    fn finish(mut self) -> Vec<Statement> {
        while self.frames.len() > 1 {
            self.close();
        }
        self.frames.pop().map(|f| f.body).unwrap_or_default()
    }
}

fn holds_import(statement: &Statement) -> bool {
    match statement {
        Statement::Import(_) => true,
        Statement::Try { body, handlers, otherwise, finally } => {
            let blocks = [body, otherwise, finally];
            blocks.into_iter().chain(handlers.iter().map(|h| &h.body)).flatten().any(holds_import)
        }
        Statement::If { branches, otherwise } => {
            branches.iter().map(|(_, b)| b).chain(otherwise).flatten().any(holds_import)
        }
        Statement::Suppress { body, .. } => body.iter().any(holds_import),
        Statement::Function { .. }
        | Statement::Call(_)
        | Statement::Constant(..)
        | Statement::Name(_)
        | Statement::Raise => false,
    }
}

/// Whether the header's colon ends the line: `match` and `case` are names elsewhere.
fn ends_header(source: &[u8], line: &Line) -> bool {
    line.colon.is_some_and(|c| {
        let rest = source[c + 1..line.text.end].trim_ascii();
        rest.is_empty() || rest.starts_with(b"#")
    })
}

fn is_name(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_' || c >= 0x80
}

/// The leading identifier, and what follows it.
fn first_word(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().take_while(|c| is_name(**c)).count())
}

fn identifier(text: &[u8]) -> String {
    let text = text.trim_ascii_start();
    String::from_utf8_lossy(first_word(text).0).into_owned()
}

fn condition(text: &[u8]) -> String {
    clean(text).trim().to_owned()
}

/// Text of a statement on one line: comments and joins removed, white space folded, parentheses kept.
fn clean(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for line in String::from_utf8_lossy(text).split('\n') {
        let line = line.split(" #").next().unwrap_or(line);
        let line = if line.trim_start().starts_with('#') { "" } else { line };
        for word in line.trim_end().trim_end_matches('\\').split_whitespace() {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(word);
        }
    }
    out
}

/// What follows `from`.
fn parse_from(rest: &[u8], line: u32) -> Option<Import> {
    let text = clean(rest);
    let text = text.trim_start();
    let level = text.chars().take_while(|c| *c == '.' || *c == ' ').filter(|c| *c == '.').count();
    let text = text.trim_start_matches(['.', ' ']);
    let (module, names) = match text.strip_prefix("import") {
        Some(names) if names.starts_with([' ', '(', '*']) => ("", names),
        _ => {
            let at = text.find(" import")?;
            (text[..at].trim(), &text[at + " import".len()..])
        }
    };
    let names = names.trim().trim_start_matches('(').trim_end_matches(')');
    let names: Vec<String> = names
        .split(',')
        .map(|n| n.trim().split(" as ").next().unwrap_or_default().trim().to_owned())
        .filter(|n| !n.is_empty())
        .collect();
    if module.contains(|c: char| c.is_whitespace()) || names.is_empty() {
        return None;
    }
    Some(Import { line, level: u32::try_from(level).ok()?, module: module.to_owned(), names: Some(names) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(statements: &[Statement]) -> Vec<String> {
        statements
            .iter()
            .filter_map(|s| match s {
                Statement::Import(i) => Some(format!("{}:{}{}", i.line, ".".repeat(i.level as usize), i.module)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn strings_and_brackets_hide_imports() {
        let source =
            b"'''\nimport no\n'''\nx = (\nimport_,\n)\nimport yes # import no\nf(f\"{a['b']}\")\nimport last\n";
        assert_eq!(imports(&scan(source)), ["7:yes", "9:last"]);
    }

    #[test]
    fn guards_are_told_apart() {
        let source = b"try:\n    import a\nexcept ModuleNotFoundError:\n    a = None\nexcept (ImportError, OSError) as e:\n    raise X from e\n";
        let [Statement::Try { handlers, .. }] = &scan(source)[..] else { panic!("one try") };
        assert_eq!(handlers[0].catches, Catches { not_found: true, ..Catches::default() });
        assert!(!handlers[0].body.contains(&Statement::Raise));
        assert_eq!(handlers[1].catches, Catches { not_found: true, import: true, os: true, name: false });
        assert!(handlers[1].body.contains(&Statement::Raise));
    }

    #[test]
    fn one_line_blocks_and_joined_lines() {
        let source = b"if TYPE_CHECKING: import a; import b\nfrom x import (  # why\n  y as z,\n  w,\n)\nfrom .. import \\\n  q\n";
        let statements = scan(source);
        let Statement::If { branches, .. } = &statements[0] else { panic!("an if") };
        assert_eq!(branches[0].0, "TYPE_CHECKING");
        assert_eq!(imports(&branches[0].1), ["1:a", "1:b"]);
        let Statement::Import(from) = &statements[1] else { panic!("an import") };
        assert_eq!(from.names, Some(vec!["y".into(), "w".into()]));
        assert_eq!(imports(&statements[2..]), ["6:.."]);
    }

    #[test]
    fn functions_do_not_run() {
        let source = b"def f():\n    import a\nclass C:\n    import b\n    def g(self):\n        import c\nf()\n";
        let statements = scan(source);
        assert_eq!(imports(&statements), ["4:b"]);
        assert!(statements.contains(&Statement::Call("f".into())));
    }
}
