//! What is asked of a source file only when an import comes to it: what its `__all__` names, and whether a function always
//! raises. All that an import asks of every file is in `source.rs`.

use compact_str::CompactString;
use rustc_hash::{FxHashMap, FxHashSet};

use super::lines::{Lines, first_word, is_name};
use super::source::identifier;

/// Whether a call of the function `name` of this file ends in an exception whatever happens in it.
pub fn always_raises(source: &[u8], name: &str) -> bool {
    let mut lines = Lines::new(source, 0);
    let (mut header, mut block) = (None, None);
    while let Some(line) = lines.next_line() {
        let (word, rest) = first_word(&source[line.text.clone()]);
        match header {
            None if word == b"def" && identifier(rest) == name => header = Some(line.indent),
            None => {}
            Some(header) if line.indent <= header => return false,
            Some(_) if line.indent == *block.get_or_insert(line.indent) => match word {
                b"raise" => return true,
                b"return" => return false,
                _ => {}
            },
            Some(_) => {}
        }
    }
    false
}

/// What `from package import *` asks the package for, as its `__init__.py` says it: the literals of `__all__` and of the
/// collections that it is put together from, without what the file itself defines.
pub fn exported(source: &[u8]) -> Vec<CompactString> {
    let mut exported = Vec::new();
    if memchr::memmem::find(source, b"__all__").is_none() {
        return exported;
    }
    let (mut collections, mut defined) = (FxHashMap::default(), FxHashSet::default());
    let mut lines = Lines::new(source, 0);
    while let Some(line) = lines.next_line() {
        let text = &source[line.text];
        let (word, rest) = first_word(text);
        match word {
            b"__all__" => {
                exported.extend(literals(text));
                let parts = rest.split(|c| !is_name(*c)).filter_map(|name| collections.get(name));
                exported.extend(parts.copied().flat_map(literals));
            }
            b"def" | b"class" => _ = defined.insert(identifier(rest)),
            b"from" => {
                let names = memchr::memmem::find(rest, b" import").map_or(&[][..], |at| &rest[at + 7..]);
                let names = names.split(|c| !is_name(*c)).filter(|name| !name.is_empty());
                defined.extend(names.map(CompactString::from_utf8_lossy));
            }
            _ => {
                let Some(value) = rest.trim_ascii_start().strip_prefix(b"=") else { continue };
                defined.insert(CompactString::from_utf8_lossy(word));
                if matches!(value.trim_ascii_start().first(), Some(b'[' | b'(' | b'{')) {
                    collections.insert(word, value);
                }
            }
        }
    }
    exported.retain(|name| !defined.contains(name));
    exported
}

/// Names in quotes.
pub(super) fn literals(text: &[u8]) -> impl Iterator<Item = CompactString> {
    let quoted = text.split(|c| matches!(c, b'"' | b'\'')).skip(1).step_by(2);
    quoted.filter(|name| !name.is_empty() && name.iter().all(|c| is_name(*c))).map(CompactString::from_utf8_lossy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_that_raise() {
        let source = b"def f(e):\n    if e:\n        return\n    for x in y: pass\n    raise ImportError(x)\ndef g():\n    if a:\n        raise B\ndef h():\n    return\n    raise B\n";
        assert!(always_raises(source, "f"));
        assert!(!["g", "h", "i"].iter().any(|name| always_raises(source, name)));
    }

    #[test]
    fn what_a_star_import_asks_for() {
        let source = b"from .x import c as d\nparts = {'a', \"b\"}\ndef e(): pass\n__all__ = list(\n  parts | set(x.__all__))\n__all__ += ['d', 'e', 'f', 'g.h']\n__all__.extend([\"i\"])\n";
        assert_eq!(exported(source), ["a", "b", "f", "i"].map(CompactString::from));
        assert!(exported(b"a = ['b']\n").is_empty());
    }
}
