//! What the Python sources of an installation mention: other packages, test packages, names of libraries.
//!
//! Following imports tells what one import does; what may go must not even be mentioned by anything that stays. So this
//! reads every source as text, functions that may never run included, and errs on the side of finding too much.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use memchr::memmem::Finder;

use crate::image::Rootfs;
use crate::parallel;

/// Largest source that is read, in bytes.
const MAX_SOURCE: u64 = 16 * 1024 * 1024;

/// What one source mentions.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mentions {
    /// Components of the dotted names in its import statements.
    pub imported: BTreeSet<String>,
    /// Of the words that were asked for, those that it contains.
    pub words: BTreeSet<String>,
}

/// Reads `sources`; looks for each of `words` and gathers imports of the components `imports`.
pub fn read(rootfs: &Rootfs, sources: &[PathBuf], words: &[String], imports: &BTreeSet<String>) -> Vec<Mentions> {
    let finders: Vec<(String, Finder<'static>)> =
        words.iter().map(|w| (w.clone(), Finder::new(w.as_bytes()).into_owned())).collect();
    parallel::map(sources, |path: &PathBuf| one(rootfs, path, &finders, imports))
}

fn one(rootfs: &Rootfs, path: &Path, words: &[(String, Finder<'static>)], imports: &BTreeSet<String>) -> Mentions {
    let mut found = Mentions::default();
    let Ok(text) = rootfs.read(path, MAX_SOURCE) else {
        // What cannot be read may mention everything.
        found.imported.clone_from(imports);
        found.words = words.iter().map(|(w, _)| w.clone()).collect();
        return found;
    };
    for (word, finder) in words {
        if finder.find(&text).is_some() {
            found.words.insert(word.clone());
        }
    }
    let import = Finder::new(b"import");
    let mut is_open = false;
    for line in text.split(|&b| b == b'\n') {
        // `import`, `from … import`, `import_module("…")`, `__import__`, also behind `try:`, and names in parentheses.
        if !is_open && import.find(line).is_none() {
            continue;
        }
        is_open = (is_open || line.contains(&b'(')) && !line.contains(&b')');
        for name in line.split(|b| !(b.is_ascii_alphanumeric() || *b == b'_')) {
            if let Ok(name) = str::from_utf8(name)
                && imports.contains(name)
            {
                found.imported.insert(name.to_owned());
            }
        }
    }
    found
}
