//! Conditions that the files, the platform, the release of Python and the environment decide: whether an `if` is entered,
//! and whether a name is defined. All others are unknown, and only what all branches have in common counts then.

use compact_str::CompactString;

use rustc_hash::FxHashMap;

use super::Interpreter;
use crate::loader::Environment;

/// Names that Python defines without an import (`dir(builtins)`), in every release that is examined.
const NAMES: &str = "ArithmeticError AssertionError AttributeError BaseException BlockingIOError BrokenPipeError \
    BufferError BytesWarning ChildProcessError ConnectionAbortedError ConnectionError \
    ConnectionRefusedError ConnectionResetError DeprecationWarning EOFError Ellipsis EnvironmentError \
    Exception False FileExistsError FileNotFoundError FloatingPointError FutureWarning GeneratorExit \
    IOError ImportError ImportWarning IndentationError IndexError InterruptedError IsADirectoryError \
    KeyError KeyboardInterrupt LookupError MemoryError ModuleNotFoundError NameError None \
    NotADirectoryError NotImplemented NotImplementedError OSError OverflowError \
    PendingDeprecationWarning PermissionError ProcessLookupError RecursionError ReferenceError \
    ResourceWarning RuntimeError RuntimeWarning StopAsyncIteration StopIteration SyntaxError \
    SyntaxWarning SystemError SystemExit TabError TimeoutError True TypeError UnboundLocalError \
    UnicodeDecodeError UnicodeEncodeError UnicodeError UnicodeTranslateError UnicodeWarning UserWarning \
    ValueError Warning ZeroDivisionError abs all any ascii bin bool breakpoint bytearray bytes callable \
    chr classmethod compile complex delattr dict dir divmod enumerate eval exec filter float format \
    frozenset getattr globals hasattr hash hex id input int isinstance issubclass iter len list locals \
    map max memoryview min next object oct open ord pow print property range repr reversed round set \
    setattr slice sorted staticmethod str sum super tuple type vars zip";
/// Those that are newer, with the minor release of Python 3.
const NEWER_NAMES: [(&str, u32); 6] = [
    ("aiter", 10),
    ("anext", 10),
    ("EncodingWarning", 10),
    ("BaseExceptionGroup", 11),
    ("ExceptionGroup", 11),
    ("PythonFinalizationError", 13),
];

/// What is known where a condition stands.
pub struct Known<'k> {
    /// The interpreter.
    pub python: &'k Interpreter,
    /// `__package__`
    pub package: &'k str,
    /// The environment; what a program sets itself is not seen.
    pub env: &'k Environment,
    /// Names whose value is known.
    pub constants: &'k Constants,
}

/// Names whose value is known.
pub type Constants = FxHashMap<CompactString, Value>;

/// What an expression gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// Something that is no text, and whether it counts as true.
    Truth(bool),
    /// Nobody knows.
    Unknown,
}

impl Value {
    fn truth(&self) -> Option<bool> {
        match self {
            Self::Text(text) => Some(!text.is_empty()),
            Self::Truth(truth) => Some(*truth),
            Self::Unknown => None,
        }
    }
}

/// What is the same for every Python on this processor's Linux; nothing is examined for another.
fn platform(expression: &str) -> Option<&'static str> {
    Some(match expression {
        "sys.platform" => "linux",
        "os.name" => "posix",
        "platform.system()" => "Linux",
        "platform.machine()" => std::env::consts::ARCH,
        "sys.byteorder" => "little",
        "sys.implementation.name" => "cpython",
        "platform.python_implementation()" => "CPython",
        _ => return None,
    })
}

impl Known<'_> {
    /// Whether Python itself defines a name, or the file as something that is known.
    pub fn is_defined(&self, name: &str) -> bool {
        let (_, minor) = self.python.version;
        self.constants.contains_key(name)
            || NAMES.split(' ').any(|n| n == name)
            || NEWER_NAMES.iter().any(|(n, since)| *n == name && minor >= *since)
    }

    /// What an expression gives whose value a name is to have.
    pub fn value(&self, expression: &str) -> Value {
        let expression = expression.trim();
        self.text(expression).unwrap_or_else(|| self.evaluate(expression).map_or(Value::Unknown, Value::Truth))
    }

    /// Conditions that the files, the platform and the environment decide; `None` for all others.
    pub fn evaluate(&self, condition: &str) -> Option<bool> {
        let condition = strip_parentheses(condition.trim());
        if let Some((a, b)) = split_operator(condition, " or ") {
            return match (self.evaluate(a), self.evaluate(b)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            };
        }
        if let Some((a, b)) = split_operator(condition, " and ") {
            return match (self.evaluate(a), self.evaluate(b)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            };
        }
        if let Some(rest) = condition.strip_prefix("not ") {
            return self.evaluate(rest).map(|v| !v);
        }
        match condition {
            "TYPE_CHECKING" | "typing.TYPE_CHECKING" | "t.TYPE_CHECKING" | "False" | "0" | "MYPY" => {
                return Some(false);
            }
            "True" | "1" | "__debug__" => return Some(true),
            // What SWIG writes into each of its modules asks for it.
            "__package__" => return Some(!self.package.is_empty()),
            _ => {}
        }
        if let Some(inner) = condition.strip_prefix("bool(").and_then(|rest| rest.strip_suffix(')')) {
            return self.evaluate(inner);
        }
        if let Some(value) = self.text(condition) {
            return value.truth();
        }
        if let Some(rest) = condition.strip_prefix("sys.platform.startswith(") {
            let literal = rest.strip_suffix(')').and_then(literal)?;
            return Some("linux".starts_with(literal));
        }
        for (operator, is_in) in [(" not in ", false), (" in ", true)] {
            let Some((left, right)) = condition.split_once(operator) else { continue };
            if is_environment(right) {
                return Some(self.env.get(literal(left)?).is_some() == is_in);
            }
            if let Some(own) = platform(left) {
                let names: Option<Vec<&str>> = right
                    .trim_matches(|c| "()[]{} ".contains(c))
                    .split(',')
                    .filter(|n| !n.trim().is_empty())
                    .map(literal)
                    .collect();
                return Some(names?.contains(&own) == is_in);
            }
        }
        for operator in ["==", "!=", ">=", "<=", ">", "<"] {
            let Some((left, right)) = condition.split_once(operator) else { continue };
            return self.compare(left.trim(), operator, right.trim());
        }
        None
    }

    /// What a name that is known, or a variable of the environment gives, if it is one of them.
    fn text(&self, expression: &str) -> Option<Value> {
        type Method = fn(&str) -> String;
        let methods: [(&str, Method); 3] =
            [(".strip()", |t| t.trim().to_owned()), (".lower()", str::to_lowercase), (".upper()", str::to_uppercase)];
        for (name, apply) in methods {
            if let Some(of) = expression.strip_suffix(name) {
                return match self.text(of)? {
                    Value::Text(text) => Some(Value::Text(apply(&text))),
                    _ => Some(Value::Unknown),
                };
            }
        }
        self.constants.get(expression).cloned().or_else(|| self.variable(expression))
    }

    /// What `os.environ.get(NAME, DEFAULT)` or `os.getenv(…)` gives, if it is one.
    fn variable(&self, expression: &str) -> Option<Value> {
        let (function, rest) = expression.split_once('(')?;
        let asks = matches!(function, "os.getenv" | "_os.getenv" | "getenv")
            || function.strip_suffix(".get").is_some_and(is_environment);
        let arguments = rest.strip_suffix(')').filter(|a| asks && !a.contains(['(', ')']))?;
        let (name, default) = arguments.split_once(',').unwrap_or((arguments, "None"));
        Some(match (self.env.get(literal(name)?), literal(default)) {
            (Some(value), _) => Value::Text(value.to_string_lossy().into_owned()),
            (None, Some(text)) => Value::Text(text.to_owned()),
            (None, None) => match default.trim() {
                "None" | "False" | "0" => Value::Truth(false),
                "True" | "1" => Value::Truth(true),
                _ => Value::Unknown,
            },
        })
    }

    fn compare(&self, left: &str, operator: &str, right: &str) -> Option<bool> {
        let equal = |value: &str| match operator {
            "==" => literal(right).map(|l| l == value),
            "!=" => literal(right).map(|l| l != value),
            _ => None,
        };
        match self.text(left) {
            Some(Value::Text(value)) => return equal(&value),
            Some(Value::Truth(_) | Value::Unknown) => return None,
            None => {}
        }
        if let Some(own) = platform(left) {
            return equal(own);
        }
        match left {
            "__name__" if literal(right) == Some("__main__") => Some(operator == "!="),
            "sys.version_info" | "sys.version_info[:2]" | "sys.version_info[0]" | "sys.version_info.major" => {
                let parts: Option<Vec<u32>> = right
                    .trim_matches(|c| "()[]".contains(c))
                    .split(',')
                    .map(str::trim)
                    .filter(|p| !p.is_empty())
                    .map(|p| p.parse().ok())
                    .collect();
                let parts = parts?;
                let (major, minor) = self.python.version;
                // `sys.version_info` is longer than the tuple, so it is greater where the common part is equal.
                let own: Vec<u32> = if left.ends_with("[0]") || left.ends_with("major") {
                    vec![major]
                } else if left.ends_with("[:2]") {
                    vec![major, minor]
                } else {
                    vec![major, minor, 0, 1]
                };
                if parts.len() > 2 {
                    return None; // The micro version is not known.
                }
                Some(match operator {
                    ">=" => own >= parts,
                    ">" => own > parts,
                    "<=" => own <= parts,
                    "<" => own < parts,
                    "==" => own == parts,
                    _ => own != parts,
                })
            }
            _ => None,
        }
    }
}

/// `os.environ`, under whatever name the module is imported.
fn is_environment(text: &str) -> bool {
    matches!(text.trim(), "os.environ" | "_os.environ" | "environ")
}

fn literal(text: &str) -> Option<&str> {
    let text = text.trim();
    ['"', '\''].into_iter().find_map(|q| text.strip_prefix(q)?.strip_suffix(q)).filter(|t| !t.contains(['"', '\'']))
}

/// Removes parentheses that enclose the whole expression.
fn strip_parentheses(mut text: &str) -> &str {
    while let Some(inner) = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')) {
        let mut depth = 0i32;
        for c in inner.chars() {
            depth += match c {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            if depth < 0 {
                return text;
            }
        }
        text = inner.trim();
    }
    text
}

/// Splits at the first `operator` outside brackets.
fn split_operator<'t>(text: &'t str, operator: &str) -> Option<(&'t str, &'t str)> {
    let mut depth = 0i32;
    for (i, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ' ' if depth == 0 && text[i..].starts_with(operator) => {
                return Some((&text[..i], &text[i + operator.len()..]));
            }
            _ => {}
        }
    }
    None
}
