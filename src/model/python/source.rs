//! Which imports a Python source file executes when it is itself imported, and what happens if one fails.
//!
//! `import torch` runs some 1,200 files of 17 MB. A full parser needs 140 ms for them, more than the whole verdict may
//! take, and only import statements, the `try`, `if` and `with` blocks around them and the functions that hold them
//! matter here. So this reads logical lines (`lines.rs`) and keeps the tree of just those statements. A test compares it
//! with CPython's own `ast` over a whole installation.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use compact_str::CompactString;

use super::imports::Raised;
use super::lines::{Line, Lines, MAX_DEPTH, first_word, is_name};
use super::on_demand::literals;
use super::statements::{Body, Catches, Handler, Import, Statement, Thrown, assigned, holds_import};

/// Longest value of a constant that is kept, in bytes.
const MAX_CONDITION: usize = 100;
/// How values start that the files and the platform may decide.
const KNOWABLE: &[&[u8]] = &[
    b"True",
    b"False",
    b"not ",
    b"bool(",
    b"sys.platform",
    b"sys.version_info",
    b"os.name",
    b"os.environ",
    b"os.getenv",
    b"platform.system",
    b"platform.machine",
    b"platform.python_implementation",
    b"sys.implementation.name",
    b"sys.byteorder",
];

/// What a file has to say for `np` to be NumPy.
const NUMPY: &[u8] = b"import numpy as np";
/// What NumPy imports when it is asked for.
const OF_NUMPY: &[&str] = &["random", "linalg", "fft", "ma", "polynomial", "testing", "ctypeslib"];

/// The statements of a file that bear on imports, in order.
pub fn scan(source: &[u8]) -> Vec<Statement> {
    let source = without_mark(source);
    let imports = imports(source);
    if imports.is_empty() {
        return Vec::new();
    }
    Builder::new(source, &imports, Kind::Module).walk(Lines::new(source, 0), None)
}

/// The statements of a function of the file; none where it does not import after all.
pub fn scan_function(source: &[u8], body: &Body) -> Vec<Statement> {
    let source = without_mark(source);
    let imports = imports(source);
    let lines = Lines::new(source, body.at);
    let mut statements =
        Builder::new(source, &imports, Kind::Function(CompactString::default())).walk(lines, Some(body.header));
    if !statements.iter().any(holds_import) {
        statements.clear();
    }
    statements
}

fn without_mark(source: &[u8]) -> &[u8] {
    source.strip_prefix(b"\xef\xbb\xbf").unwrap_or(source)
}

/// Where the word `import` stands.
fn imports(source: &[u8]) -> Vec<usize> {
    memchr::memmem::find_iter(source, b"import").filter(|at| may_be_import(source, *at)).collect()
}

/// Where `np.NAME` stands with the name of such a submodule.
fn of_numpy(source: &[u8], imports: &[usize]) -> Vec<(usize, &'static str)> {
    if !imports.iter().any(|at| source[*at..].starts_with(NUMPY)) {
        return Vec::new();
    }
    let named = |at: usize| {
        let (name, _) = first_word(&source[at + b"np.".len()..]);
        let is_whole = at.checked_sub(1).is_none_or(|before| !is_name(source[before]) && source[before] != b'.');
        OF_NUMPY.iter().find(|n| is_whole && n.as_bytes() == name).map(|name| (at, *name))
    };
    memchr::memmem::find_iter(source, b"np.").filter_map(named).collect()
}

/// Names that functions give other values when they are called (`global`).
fn globals(source: &[u8]) -> HashSet<CompactString> {
    let rest = |at: usize| &source[at + b"global ".len()..];
    let line = |at: usize| rest(at).split(|c| matches!(c, b'\n' | b'#' | b';')).next().unwrap_or_default();
    let names = memchr::memmem::find_iter(source, b"global ").flat_map(|at| line(at).split(|c| *c == b','));
    names.map(identifier).filter(|name| !name.is_empty()).collect()
}

/// Whether the word `import` at `at` can be one that imports, and not one in a text.
fn may_be_import(source: &[u8], at: usize) -> bool {
    let (before, after) = source.split_at(at);
    let after = &after[b"import".len()..];
    if after.first().is_some_and(|c| is_name(*c)) {
        return after.starts_with(b"_module") || after.starts_with(b"__");
    }
    let line = &before[memchr::memrchr(b'\n', before).map_or(0, |n| n + 1)..];
    let line = line.trim_ascii_start();
    line.is_empty() || line.starts_with(b"from") || line.iter().any(|c| matches!(c, b':' | b';'))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Module,
    /// Runs with its surroundings.
    Class,
    /// Runs with its surroundings: `with`.
    Inline,
    /// Runs with its surroundings, as often as it likes.
    Loop,
    Function(CompactString),
    Try,
    /// With the name that it gives what it caught.
    Except(Catches, Option<CompactString>),
    Else,
    Finally,
    If(CompactString),
    Elif(CompactString),
    Suppress(Catches),
}

struct Frame {
    kind: Kind,
    indent: Option<usize>,
    body: Vec<Statement>,
    /// Whether the block that ended last was that of a loop, so that an `else` is the loop's.
    after_loop: bool,
    /// The block of a function that was passed over.
    later: Option<Body>,
}

impl Frame {
    fn new(kind: Kind, indent: Option<usize>) -> Self {
        Self { kind, indent, body: Vec::new(), after_loop: false, later: None }
    }
}

struct Builder<'s> {
    source: &'s [u8],
    /// Where the word `import` stands.
    imports: &'s [usize],
    /// Where a submodule of NumPy is asked for.
    of_numpy: Vec<(usize, &'static str)>,
    frames: Vec<Frame>,
    /// Functions that hold imports.
    callable: HashSet<CompactString>,
    /// Names that had a value which may be known; in a function, which does not know its file's, any name may be one.
    constants: HashSet<CompactString>,
    /// Names whose value is never known.
    globals: OnceCell<HashSet<CompactString>>,
    /// A place, and the number of the line that it is in.
    counted: (usize, u32),
}

impl<'s> Builder<'s> {
    fn new(source: &'s [u8], imports: &'s [usize], kind: Kind) -> Self {
        Self {
            source,
            imports,
            of_numpy: of_numpy(source, imports),
            frames: vec![Frame::new(kind, None)],
            callable: HashSet::new(),
            constants: HashSet::new(),
            globals: OnceCell::new(),
            counted: (0, 1),
        }
    }

    /// The statements of the lines up to one that is indented no deeper than `header`.
    fn walk(mut self, mut lines: Lines<'_>, header: Option<usize>) -> Vec<Statement> {
        let is_function = self.is_function();
        while let Some(line) = lines.next_line()
            && header.is_none_or(|header| line.indent > header)
        {
            if self.line(&line) && self.can_be_skipped() {
                // Most functions and classes hold no import: go to their end, and come back for the few that do.
                let body = Body::at(lines.at, line.indent);
                lines.skip_block(line.indent);
                if !self.may_matter(line.text.start..lines.at) {
                    continue;
                }
                match self.frames.last_mut() {
                    Some(frame @ Frame { kind: Kind::Function(_), .. }) if !is_function && frame.body.is_empty() => {
                        frame.later = Some(body);
                    }
                    _ => lines.at = body.at,
                }
            }
        }
        while self.frames.len() > 1 {
            self.close();
        }
        self.frames.pop().map(|f| f.body).unwrap_or_default()
    }

    /// Whether the block that began has something to say: that of a class runs, that of a function may be called.
    fn may_matter(&self, range: Range<usize>) -> bool {
        let is_class = self.frames.last().is_some_and(|f| f.kind == Kind::Class);
        is_class && !self.asks_numpy(range.clone()).is_empty() || self.mentions_import(range)
    }

    fn mentions_import(&self, range: Range<usize>) -> bool {
        let first = self.imports.partition_point(|&at| at < range.start);
        self.imports.get(first).is_some_and(|&at| at < range.end)
    }

    /// The number of the line at `at`, from 1.
    fn number(&mut self, at: usize) -> u32 {
        if at < self.counted.0 {
            self.counted = (0, 1);
        }
        let newlines = memchr::memchr_iter(b'\n', &self.source[self.counted.0..at]).count();
        self.counted = (at, self.counted.1 + newlines as u32);
        self.counted.1
    }

    /// Whether a block begins.
    fn line(&mut self, line: &Line) -> bool {
        let source = self.source;
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
                let (second, rest) = first_word(h.trim_ascii_start());
                match second {
                    b"def" => Some(Kind::Function(identifier(rest))),
                    b"with" => Some(Kind::Inline),
                    b"for" => Some(Kind::Loop),
                    _ => None,
                }
            }),
            b"class" => header.map(|_| Kind::Class),
            // Cython's: what it compiles to C, and what it decides while it compiles.
            b"cdef" | b"cpdef" | b"ctypedef" => header.map(|h| match first_word(h.trim_ascii_start()).0 {
                b"class" => Kind::Class,
                _ => Kind::Function(declared(h)),
            }),
            b"IF" | b"ELIF" | b"ELSE" => header.map(|_| Kind::If("IF".into())),
            b"for" | b"while" => header.map(|_| Kind::Loop),
            b"with" => header.map(|h| {
                let text = String::from_utf8_lossy(h);
                match text.split_once("suppress(") {
                    Some((before, inner)) if !before.ends_with(|c: char| c.is_alphanumeric() || c == '_') => {
                        let what = inner.split(')').next().unwrap_or(inner).trim();
                        Kind::Suppress(if what.is_empty() { Catches::default() } else { Catches::parse(what) })
                    }
                    _ => Kind::Inline,
                }
            }),
            b"try" => header.filter(|h| h.trim_ascii().is_empty()).map(|_| Kind::Try),
            b"except" => header.map(|h| {
                let text = String::from_utf8_lossy(h);
                let caught = text.split_once(" as ").map(|(_, name)| name.trim().into());
                Kind::Except(Catches::parse(&text), caught)
            }),
            b"else" => header.filter(|h| h.trim_ascii().is_empty()).map(|_| Kind::Else),
            b"finally" => header.filter(|h| h.trim_ascii().is_empty()).map(|_| Kind::Finally),
            b"if" => header.map(|h| Kind::If(condition(h))),
            b"elif" => header.map(|h| Kind::Elif(condition(h))),
            // What a `match` selects is not known; its cases are unknown conditions.
            b"match" => header.filter(|_| ends_header(source, line)).map(|_| Kind::Inline),
            b"case" => header.filter(|_| ends_header(source, line)).map(|_| Kind::If("case".into())),
            _ => None,
        };
        let end = line.colon.unwrap_or(line.text.end);
        match kind {
            Some(Kind::Class | Kind::If(_)) => self.ask_numpy(line.text.start..end, line.text.start),
            Some(Kind::Function(_)) => self.ask_numpy_of_defaults(line.text.start..end),
            _ => {}
        }
        let begins = kind.is_some() && self.frames.len() < MAX_DEPTH;
        match kind {
            Some(kind) if begins => {
                self.frames.push(Frame::new(kind, Some(line.indent)));
                // A block on the header's own line: `if x: import y`.
                let start = line.colon.map_or(line.text.end, |c| c + 1);
                if !source[start..line.text.end].trim_ascii().is_empty() {
                    self.simple(start..line.text.end, line);
                }
            }
            _ => self.simple(line.text.clone(), line),
        }
        begins
    }

    /// Simple statements, separated by semicolons.
    fn simple(&mut self, text: Range<usize>, line: &Line) {
        let mut start = text.start;
        let ends = line.semicolons.iter().copied().filter(|s| text.contains(s)).chain([text.end]);
        for end in ends {
            if start <= end {
                self.statement(start..end);
            }
            start = end + 1;
        }
    }

    fn statement(&mut self, range: Range<usize>) {
        self.ask_numpy(range.clone(), range.start);
        let text = self.source[range.clone()].trim_ascii();
        let (word, rest) = first_word(text);
        match word {
            b"import" => {
                let number = self.number(range.start);
                for module in clean(rest).split(',') {
                    let bound = module.as_bytes();
                    let (module, _) = alias(module.trim());
                    if !module.is_empty() {
                        self.push(Statement::Import(Import::of(number, module.into())));
                        self.rebind(bound);
                    }
                }
            }
            b"from" => {
                if let Some(import) = parse_from(rest, self.number(range.start)) {
                    self.push(Statement::Import(import));
                }
            }
            b"raise" => {
                let caught = self.frames.iter().rev().find_map(|f| match &f.kind {
                    Kind::Except(_, name) => Some(name.as_deref()),
                    _ => None,
                });
                let thrown = Thrown::parse(String::from_utf8_lossy(rest).trim(), caught.flatten());
                self.push(Statement::Raise(thrown));
            }
            b"sys" if rest.starts_with(b".exit(") => self.push(Statement::Raise(Thrown::Known(Raised::Other))),
            b"return" if self.is_in_function() => {
                if rest.contains(&b'(') {
                    self.expression(range, rest.trim_ascii());
                }
                self.push(Statement::Return);
            }
            _ => self.expression(range, text),
        }
    }

    /// Names among `targets` have other values from here on.
    fn rebind(&mut self, targets: &[u8]) {
        if !self.has_constants() {
            return;
        }
        for name in targets.split(|c| !is_name(*c)).filter(|name| !name.is_empty()) {
            let name = CompactString::from_utf8_lossy(name);
            if self.is_function() || self.constants.contains(&name) {
                self.push(Statement::Constant(name, "".into()));
            }
        }
    }

    fn has_constants(&self) -> bool {
        self.is_function() || !self.constants.is_empty()
    }

    /// Whether it is a function that is scanned, with those inside of it.
    fn is_function(&self) -> bool {
        self.frames.first().is_some_and(|f| matches!(f.kind, Kind::Function(_)))
    }

    /// `NAME = value`, where the value may be known; `A = B = value` gives it to each.
    fn constant<'t>(&mut self, name: &[u8], value: &'t [u8]) -> Option<&'t [u8]> {
        if value.len() > MAX_CONDITION {
            return None;
        }
        let (next, rest) = first_word(value);
        let rest = rest.trim_ascii_start().strip_prefix(b"=").filter(|v| !next.is_empty() && v.first() != Some(&b'='));
        let value = match rest {
            Some(rest) => self.constant(next, rest.trim_ascii())?,
            None if KNOWABLE.iter().any(|k| value.starts_with(k)) => value,
            None => return None,
        };
        let name = CompactString::from_utf8_lossy(name);
        if !self.globals.get_or_init(|| globals(self.source)).contains(&name) {
            self.constants.insert(name.clone());
            self.push(Statement::Constant(name, condition(value)));
        }
        Some(value)
    }

    /// What an assignment does to names with a value that was known.
    fn assignment(&mut self, text: &[u8]) {
        let mut rest = text;
        while let Some(at) = memchr::memchr(b'=', rest).filter(|_| self.has_constants()) {
            let target = &rest[..at];
            let compares = rest.get(at + 1) == Some(&b'=') || matches!(target.last(), Some(b'!' | b'<' | b'>'));
            if compares || target.iter().any(|c| matches!(c, b'(' | b'"' | b'\'' | b'#')) {
                break;
            }
            self.rebind(target);
            rest = &rest[at + 1..];
        }
    }

    /// What a statement asks of NumPy, but for annotations: they may never be evaluated.
    fn ask_numpy(&mut self, range: Range<usize>, statement: usize) {
        if self.asks_numpy(range.clone()).is_empty() {
            return;
        }
        let text = &self.source[range.clone()];
        let (_, rest) = first_word(text.trim_ascii_start());
        let is_annotated = rest.trim_ascii_start().starts_with(b":");
        let value = if is_annotated { memchr::memchr(b'=', text).unwrap_or(text.len()) } else { 0 };
        let marks = self.asks_numpy(range.start + value..range.end);
        // Most stand in the examples of a text.
        for name in Lines::new(self.source, 0).in_code(range.start, marks) {
            let number = self.number(statement);
            self.push(Statement::OfNumpy(name, number));
        }
    }

    /// What the defaults of a function's arguments ask of NumPy; annotations may never be evaluated.
    fn ask_numpy_of_defaults(&mut self, header: Range<usize>) {
        let (mut depth, mut default) = (0usize, None);
        if self.asks_numpy(header.clone()).is_empty() {
            return;
        }
        for at in header.clone() {
            match self.source[at] {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                b'=' if depth == 1 => _ = default.get_or_insert(at),
                _ => {}
            }
            let ends = depth == 0 || depth == 1 && self.source[at] == b',';
            if let Some(start) = default.filter(|_| ends) {
                self.ask_numpy(start..at, header.start);
                default = None;
            }
        }
    }

    fn asks_numpy(&self, range: Range<usize>) -> &[(usize, &'static str)] {
        let before = |limit: usize| self.of_numpy.partition_point(|(at, _)| *at < limit);
        &self.of_numpy[before(range.start)..before(range.end)]
    }

    /// `name(…)`, `x = name(…)`, `NAME = True`, and `import_module("literal")`.
    fn expression(&mut self, range: Range<usize>, text: &[u8]) {
        let name_len = text.iter().take_while(|c| is_name(**c)).count();
        if name_len == 0 {
            self.assignment(text);
            return;
        }
        let after = text[name_len..].trim_ascii_start();
        if after.first() == Some(&b'(') {
            if &text[..name_len] == b"__import__" {
                self.dynamic(after, range.start);
            } else {
                self.call(&text[..name_len]);
            }
            return;
        }
        let annotated = after.strip_prefix(b":").and_then(|rest| Some(&rest[memchr::memchr(b'=', rest)?..]));
        if let Some(value) = annotated.unwrap_or(after).strip_prefix(b"=").filter(|v| v.first() != Some(&b'=')) {
            let value = value.trim_ascii();
            let call = value.iter().take_while(|c| is_name(**c)).count();
            if self.constant(&text[..name_len], value).is_some() {
                return;
            }
            self.assignment(text);
            if let Some(arguments) = value.strip_prefix(b"clone_module")
                && let Some((module, [b',', ..])) = literal_argument(arguments)
            {
                // array_api_compat, which others carry along.
                let number = self.number(range.start);
                self.push(Statement::Copied(Import { names: Some(vec!["*".into()]), ..Import::of(number, module) }));
            } else if call > 0 && value.get(call) == Some(&b'(') {
                self.call(&value[..call]);
            }
        } else if let Some(lazy) = lazily(text) {
            self.push(lazy);
        } else if !after.is_empty() {
            self.assignment(text);
        } else if !matches!(text, b"pass" | b"break" | b"continue") {
            self.push(Statement::Name(CompactString::from_utf8_lossy(text)));
        }
        let start = range.start;
        if self.mentions_import(range)
            && let Some(at) = memchr::memmem::find(text, b"import_module(")
        {
            self.dynamic(&text[at + b"import_module".len()..], start);
        }
    }

    /// A call counts if it may be of a function that holds imports, or of one that raises what a handler is there for.
    fn call(&mut self, name: &[u8]) {
        let may_raise = self.frames.iter().any(|f| matches!(f.kind, Kind::Except(..)));
        if let Ok(name) = std::str::from_utf8(name)
            && (may_raise || self.is_in_function() || self.callable.contains(name))
        {
            self.push(Statement::Call(name.into()));
        }
    }

    fn is_in_function(&self) -> bool {
        self.frames.iter().any(|f| matches!(f.kind, Kind::Function(_)))
    }

    /// `("literal")` as the argument of a function that imports.
    fn dynamic(&mut self, call: &[u8], statement: usize) {
        if let Some((module, b")")) = literal_argument(call) {
            let number = self.number(statement);
            self.push(Statement::Import(Import::of(number, module)));
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
        let after_loop = std::mem::replace(&mut parent.after_loop, frame.kind == Kind::Loop);
        match frame.kind {
            Kind::Module => {}
            Kind::Class if body.is_empty() => {}
            Kind::Class => parent.body.push(Statement::Class(body)),
            Kind::Inline => parent.body.extend(body),
            // Before it was run, and after it was run once, twice or never.
            Kind::Loop => {
                let mut names = BTreeSet::new();
                assigned(&body, &mut |name| _ = names.insert(name.clone()));
                let unknown = || names.iter().map(|name| Statement::Constant(name.clone(), "".into()));
                parent.body.extend(unknown().chain(body));
                parent.body.extend(unknown());
            }
            Kind::Function(name) => {
                if let Some(body) = frame.later.or_else(|| body.iter().any(holds_import).then(|| body.into())) {
                    self.callable.insert(name.clone());
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
            Kind::Except(catches, _) => {
                if let Some(Statement::Try { handlers, .. }) = parent.body.last_mut() {
                    handlers.push(Handler { catches, body });
                }
            }
            // `for … else`, `while … else`
            Kind::Else if after_loop => parent.body.extend(body),
            Kind::Else => match parent.body.last_mut() {
                Some(Statement::Try { otherwise, .. }) => *otherwise = body,
                Some(Statement::If { otherwise, .. }) => *otherwise = Some(body),
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

    /// Whether the block that begins matters only if it holds an import: that of a function does not run, and that of a
    /// class calls nothing that would import.
    fn can_be_skipped(&self) -> bool {
        self.frames.last().is_some_and(|f| match f.kind {
            Kind::Function(_) => true,
            Kind::Class => self.callable.is_empty(),
            _ => false,
        })
    }
}

/// `__getattr__, __dir__, __all__ = lazy_loader.attach("package", ["name", …])`
fn lazily(text: &[u8]) -> Option<Statement> {
    let is_such = text.starts_with(b"__getattr__");
    let at = memchr::memmem::find(text, b".attach(").filter(|_| is_such)? + b".attach".len();
    let (package, rest) = literal_argument(&text[at..])?;
    let list = rest.strip_prefix(b",")?.trim_ascii_start().strip_prefix(b"[")?;
    let names = literals(clean(&list[..memchr::memchr(b']', list)?]).as_bytes()).collect();
    Some(Statement::Lazy { package, names })
}

/// The absolute name of a module that stands as the first argument of a call, and what follows it.
fn literal_argument(call: &[u8]) -> Option<(CompactString, &[u8])> {
    let argument = call.strip_prefix(b"(")?.trim_ascii_start();
    let quote = *argument.first().filter(|q| matches!(q, b'"' | b'\''))?;
    let end = memchr::memchr(quote, &argument[1..])?;
    let (module, rest) = (&argument[1..=end], argument[end + 2..].trim_ascii_start());
    let is_name = !module.is_empty() && module.iter().all(|c| is_name(*c) || *c == b'.') && module[0] != b'.';
    is_name.then(|| (CompactString::from_utf8_lossy(module), rest))
}

/// Whether the header's colon ends the line: `match` and `case` are names elsewhere.
fn ends_header(source: &[u8], line: &Line) -> bool {
    line.colon.is_some_and(|c| {
        let rest = source[c + 1..line.text.end].trim_ascii();
        rest.is_empty() || rest.starts_with(b"#")
    })
}

pub(super) fn identifier(text: &[u8]) -> CompactString {
    let text = text.trim_ascii_start();
    CompactString::from_utf8_lossy(first_word(text).0)
}

/// The name of a function of Cython, which stands behind its type.
fn declared(header: &[u8]) -> CompactString {
    let before = header.split(|c| *c == b'(').next().unwrap_or(header).trim_ascii_end();
    let start = before.iter().rposition(|c| !is_name(*c)).map_or(0, |at| at + 1);
    identifier(&before[start..])
}

fn condition(text: &[u8]) -> CompactString {
    clean(text).trim().into()
}

/// Text of a statement on one line: comments and joins removed, white space folded, parentheses kept.
fn clean(text: &[u8]) -> Cow<'_, str> {
    let text = text.trim_ascii();
    let is_clean = |pair: &[u8]| !matches!(pair[1], b'#' | b'\\' | b'\n' | b'\t' | b'\r') && pair != b"  ";
    // Nearly all are; what checks text and repairs it takes four times as long as what only checks.
    let text = std::str::from_utf8(text).map_or_else(|_| String::from_utf8_lossy(text), Cow::Borrowed);
    if text.as_bytes().windows(2).all(is_clean) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    for line in text.split('\n') {
        let line = line.split(" #").next().unwrap_or(line);
        let line = if line.trim_start().starts_with('#') { "" } else { line };
        for word in line.trim_end().trim_end_matches('\\').split_whitespace() {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(word);
        }
    }
    Cow::Owned(out)
}

/// `name as alias`, where words are parted by one space.
fn alias(bound: &str) -> (&str, Option<&str>) {
    match bound.split_once(' ') {
        Some((name, rest)) => (name, rest.strip_prefix("as ")),
        None => (bound, None),
    }
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
            let (module, rest) = text.split_once(' ')?;
            (module, rest.strip_prefix("import")?)
        }
    };
    let bound = names.trim().trim_start_matches('(').trim_end_matches(')').split(',').map(str::trim);
    let (mut names, mut aliases) = (Vec::new(), Vec::new());
    for bound in bound.filter(|bound| !bound.is_empty()) {
        let (name, alias) = alias(bound);
        names.push(name.into());
        aliases.extend(alias.map(|alias| (name.into(), alias.into())));
    }
    if names.is_empty() {
        return None;
    }
    Some(Import { level: u32::try_from(level).ok()?, names: Some(names), aliases, ..Import::of(line, module.into()) })
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
        assert!(!handlers[0].body.iter().any(|s| matches!(s, Statement::Raise(_))));
        assert_eq!(handlers[1].catches, Catches { not_found: true, import: true, os: true, name: false, others: 0 });
        assert!(handlers[1].body.contains(&Statement::Raise(Thrown::Unknown)));
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
    fn what_numpy_is_asked_for() {
        let source = b"import numpy as np\nX: np.ma = (\n  int | np.random.Generator)\ndef f(a: np.fft): return np.testing\ny: np.fft\nclass C(np.ma.A):\n  def g(self, a=np.fft): pass\n  z = np.linalg.norm, a.np.fft, np.fftw, 'np.fft'\n\"\"\"\n>>> np.fft(1)\n\"\"\"\nf(r'np.fft', x=1) # np.fft\nif 'a' + np.testing:\n  pass\n";
        let statements = scan(source);
        let of_class = Statement::Class([("fft", 7), ("linalg", 8)].map(|(n, l)| Statement::OfNumpy(n, l)).to_vec());
        let asked = [("random", 2), ("ma", 6), ("testing", 13)].map(|(name, line)| Statement::OfNumpy(name, line));
        assert_eq!((&statements[1..3], &statements[3], &statements[4]), (&asked[..2], &of_class, &asked[2]));
        assert_eq!(scan(b"import x\ny = np.random\n").len(), 1);
    }

    #[test]
    fn what_defaults_ask_of_numpy() {
        let source = b"import numpy as np\ndef f(a: np.ma = 1, *, b=np.zeros(np.random.rand(2), x=np.fft), c: np.testing=',', d=g('np.ma', 2)) -> np.linalg: return np.linalg\ndef g(a, b=np.ma): pass\n";
        let asked = [("random", 2), ("fft", 2), ("ma", 3)].map(|(name, line)| Statement::OfNumpy(name, line));
        assert_eq!(scan(source)[1..], asked);
    }

    #[test]
    fn names_that_are_imported_when_they_are_asked_for() {
        let statements =
            scan(b"import a\n__getattr__, __dir__, __all__ = _lazy.attach(\"b.c\", [\n  'd',  # 'x'\n  'e',\n])\n");
        let names = ["d", "e"].map(CompactString::from).to_vec();
        assert_eq!(statements[1..], [Statement::Lazy { package: "b.c".into(), names }]);
        assert_eq!(scan(b"import a\n__getattr__, _, _ = lazy.attach(__name__, x)\n").len(), 1);
    }

    #[test]
    fn calls_in_handlers() {
        let source = b"try:\n    import a\nexcept ImportError as e:\n    f(e)\n";
        let [Statement::Try { handlers, .. }] = &scan(source)[..] else { panic!("one try") };
        assert_eq!(handlers[0].body, [Statement::Call("f".into())]);
    }

    #[test]
    fn star_imports_as_texts() {
        let statements = scan(b"import a\n__all__ = clone_module('numpy', globals())\n");
        let Some(Statement::Copied(import)) = statements.last() else { panic!("a star import") };
        assert_eq!((import.module.as_str(), import.names.clone()), ("numpy", Some(vec!["*".into()])));
    }

    #[test]
    fn names_that_lose_their_value() {
        let source = b"import a\nX = Y = True\nX, z = z, X\nfor q in r:\n    Y = False\nclass C:\n    import b\n    X = True\ndef f():\n    global W\nW = True\n";
        let constant = |name: &str, value: &str| Statement::Constant(name.into(), value.into());
        let all = [("Y", "True"), ("X", "True"), ("X", ""), ("Y", ""), ("Y", "False"), ("Y", "")];
        let statements = scan(source);
        assert_eq!(statements[1..7], all.map(|(name, value)| constant(name, value)));
        let import = Statement::Import(Import::of(7, "b".into()));
        assert_eq!(statements[7..], [Statement::Class(vec![import, constant("X", "True")])]);
    }

    #[test]
    fn what_cython_compiles() {
        let source = b"from .a cimport b\ncimport c\nfrom .d import e\ncdef extern from \"f.h\":\n    int g\n\ncdef class H:\n    cdef int i\n    import j\n\n    cpdef int k(self, l=[1]) except? -1:\n        import m\n\ncdef inline object n(o):\n    import p\n\nIF UNAME_SYSNAME == \"Windows\":\n    import q\nn(1)\n";
        let statements = scan(source);
        assert_eq!(imports(&statements), ["3:.d"]);
        let [_, Statement::Class(body), function, Statement::If { branches, .. }, call] = &statements[..] else {
            panic!("a class, a function, a condition and a call: {statements:?}")
        };
        assert_eq!((imports(body), imports(&branches[0].1)), (vec!["9:j".to_owned()], vec!["18:q".to_owned()]));
        assert!(matches!(function, Statement::Function { name, .. } if name == "n"));
        assert_eq!(*call, Statement::Call("n".into()));
    }

    #[test]
    fn hostile_sources() {
        let chain = format!("import a\nA = {}True\n", "A = ".repeat(200_000));
        assert_eq!(scan(chain.as_bytes()).len(), 1);
        let loops: String = (0..90).map(|depth| format!("{}for x in y:\n", " ".repeat(depth))).collect();
        let nested = format!("import a\nA = True\n{loops}{}A = False\n", " ".repeat(90));
        assert!(scan(nested.as_bytes()).len() < 1_000);
    }

    #[test]
    fn functions_do_not_run() {
        let source = b"def f():\n    import a\nclass C:\n    import b\n    def g(self):\n        import c\nf()\n";
        let statements = scan(source);
        let [Statement::Class(body)] = &statements[1..2] else { panic!("a class") };
        assert_eq!((imports(&statements).len(), imports(body)), (0, vec!["4:b".to_owned()]));
        assert!(statements.contains(&Statement::Call("f".into())));
    }
}
