//! The statements of a Python file that bear on its imports, and what blocks of them hold.

use std::sync::OnceLock;

use compact_str::CompactString;

use super::imports::Raised;

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
        branches: Vec<(CompactString, Vec<Statement>)>,
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
    Call(CompactString),
    /// A function that may import; it is not run by its definition.
    Function {
        /// Its name.
        name: CompactString,
        /// Its block.
        body: Body,
    },
    /// `NAME = …`, where the value may be known from the files and the platform; without a value where it is not, and was
    /// before.
    Constant(CompactString, CompactString),
    /// A name alone: `try: NAME` asks whether it is defined.
    Name(CompactString),
    /// `__getattr__, … = lazy_loader.attach("package", ["name", …])`: these names are modules of that package, imported when
    /// they are asked for.
    Lazy {
        /// The package.
        package: CompactString,
        /// The names.
        names: Vec<CompactString>,
    },
    /// A star import that is executed as a text.
    Copied(Import),
    /// A submodule of NumPy that `np.NAME` asks for, which NumPy 2 imports then (`__getattr__` in its `__init__.py`), with
    /// the line number.
    OfNumpy(&'static str, u32),
    /// The body of a class, whose names are its own.
    Class(Vec<Statement>),
    /// `raise`, or a call that raises: `sys.exit`.
    Raise(Thrown),
    /// `return`, inside of a function.
    Return,
}

/// The block of a function, which is scanned when the function is called: few ever are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    /// Where the first line behind its header starts.
    pub(super) at: usize,
    /// Columns before its header.
    pub(super) header: usize,
    statements: OnceLock<Vec<Statement>>,
}

impl Body {
    pub(super) fn at(at: usize, header: usize) -> Self {
        Self { at, header, statements: OnceLock::new() }
    }

    /// The statements, by what scans them if nobody has; none where it does not import after all.
    pub fn statements(&self, scan: impl FnOnce(&Self) -> Vec<Statement>) -> &[Statement] {
        self.statements.get_or_init(|| scan(self))
    }
}

impl From<Vec<Statement>> for Body {
    fn from(statements: Vec<Statement>) -> Self {
        Self { statements: statements.into(), ..Self::default() }
    }
}

/// What a `raise` raises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thrown {
    /// What the handler caught.
    Caught,
    /// An exception of Python's own.
    Known(Raised),
    /// One of somebody's own; in a handler of failed imports it is nearly always an `ImportError`.
    Unknown,
}

impl Thrown {
    /// By what follows `raise`, where `caught` is the name that the handler gives what it caught.
    pub(super) fn parse(text: &str, caught: Option<&str>) -> Self {
        let name = text.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.'))).next().unwrap_or_default();
        match name {
            "" => Self::Caught,
            "ImportError" => Self::Known(Raised::Import),
            "ModuleNotFoundError" => Self::Known(Raised::NotFound),
            "OSError" | "EnvironmentError" | "IOError" | "FileNotFoundError" | "PermissionError" => {
                Self::Known(Raised::Os)
            }
            "Exception" | "BaseException" | "SystemExit" | "NameError" => Self::Known(Raised::Other),
            name if caught == Some(name.trim_end_matches(".with_traceback")) => Self::Caught,
            name => listed(name).map_or(Self::Unknown, |bit| Self::Known(Raised::Listed(bit))),
        }
    }
}

/// One import statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Line number, from 1.
    pub line: u32,
    /// Number of leading dots.
    pub level: u32,
    /// The module; empty for `from . import x`.
    pub module: CompactString,
    /// `None` for `import a.b`; the names for `from a import b, c`; `*` for a star import.
    pub names: Option<Vec<CompactString>>,
    /// Those of `names` that are bound to another one (`as`), and that.
    pub aliases: Vec<(CompactString, CompactString)>,
}

impl Import {
    /// `import module`
    pub(super) fn of(line: u32, module: CompactString) -> Self {
        Self { line, level: 0, module, names: None, aliases: Vec::new() }
    }
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
    /// A bit for each of [`OTHERS`], and one for what else is named.
    pub others: u8,
}

/// Exceptions that are raised in the place of a failed import.
const OTHERS: [&str; 7] =
    ["RuntimeError", "NotImplementedError", "ValueError", "TypeError", "AttributeError", "KeyError", "AssertionError"];
/// The bit of [`Catches::others`] for all that is not in the list.
const NOT_LISTED: u8 = 1 << OTHERS.len();

/// The bit of an exception of the list.
fn listed(name: &str) -> Option<u8> {
    OTHERS.iter().position(|other| *other == name).map(|at| 1 << at)
}

impl Catches {
    pub(super) const ALL: Catches = Catches { not_found: true, import: true, os: true, name: true, others: u8::MAX };

    /// What either of the two catches.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            not_found: self.not_found || other.not_found,
            import: self.import || other.import,
            os: self.os || other.os,
            name: self.name || other.name,
            others: self.others | other.others,
        }
    }

    /// From the expression after `except` or inside `suppress(…)`.
    pub(super) fn parse(text: &str) -> Self {
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
                "" => {}
                // `NotImplementedError` is one.
                "RuntimeError" => catches.others |= 0b11,
                name => catches.others |= listed(name).unwrap_or(NOT_LISTED),
            }
        }
        catches
    }
}

impl Statement {
    /// Whether it holds such a block, whichever way it goes; that of a function is none.
    fn any_block(&self, is_such: &mut impl FnMut(&[Statement]) -> bool) -> bool {
        match self {
            Self::Try { body, handlers, otherwise, finally } => {
                is_such(body)
                    || handlers.iter().any(|handler| is_such(&handler.body))
                    || is_such(otherwise)
                    || is_such(finally)
            }
            Self::If { branches, otherwise } => {
                branches.iter().map(|(_, block)| block).chain(otherwise).any(|block| is_such(block))
            }
            Self::Suppress { body, .. } | Self::Class(body) => is_such(body),
            Self::Import(_)
            | Self::Copied(_)
            | Self::Lazy { .. }
            | Self::Function { .. }
            | Self::Call(_)
            | Self::Constant(..)
            | Self::Name(_)
            | Self::OfNumpy(..)
            | Self::Raise(_)
            | Self::Return => false,
        }
    }
}

/// The names that the statements of a block give values, whichever way it goes.
pub(super) fn assigned(block: &[Statement], found: &mut impl FnMut(&CompactString)) {
    for statement in block {
        match statement {
            Statement::Constant(name, _) => found(name),
            Statement::Import(Import { names: Some(names), aliases, .. }) => {
                names.iter().chain(aliases.iter().map(|(_, alias)| alias)).for_each(&mut *found);
            }
            // Its names are its own.
            Statement::Class(_) => {}
            other => {
                other.any_block(&mut |block| {
                    assigned(block, found);
                    false
                });
            }
        }
    }
}

/// Whether a statement imports, or something in its blocks, or a function that may be called.
pub(super) fn holds_import(statement: &Statement) -> bool {
    matches!(statement, Statement::Import(_) | Statement::Copied(_) | Statement::Function { .. })
        || statement.any_block(&mut |block| block.iter().any(holds_import))
}

/// Whether the function that a statement stands in may end with it.
pub(super) fn may_return(statement: &Statement) -> bool {
    match statement {
        Statement::Return => true,
        Statement::Class(_) => false,
        other => other.any_block(&mut |block| block.iter().any(may_return)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_raised_and_who_catches_it() {
        let thrown = |text| Thrown::parse(text, Some("e"));
        assert_eq!((thrown(""), thrown("e from None")), (Thrown::Caught, Thrown::Caught));
        assert_eq!(thrown("ImportError(f'{e}')"), Thrown::Known(Raised::Import));
        assert_eq!(thrown("mod.Error"), Thrown::Unknown);
        let Thrown::Known(raised @ Raised::Listed(_)) = thrown("NotImplementedError") else {
            panic!("one of the list")
        };
        let caught = |handler| raised.is_caught_by(Catches::parse(handler));
        assert!(caught("Exception as e") && caught("(ImportError, RuntimeError)") && caught(""));
        assert!(!caught("(ImportError, OSError, ValueError, mod.Error)"));
    }
}
