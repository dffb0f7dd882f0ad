//! What the real loader says of a file with `ldd -r`, and what the model says, in one form.

use std::collections::{BTreeMap, BTreeSet};

use mldoctor::loader::{LoadError, Process, Via};

/// What either side says of a program.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Name asked for → path, or nothing if it was not found.
    pub libraries: BTreeMap<String, Option<String>>,
    /// Undefined symbols with the object that refers to them, without versions.
    pub undefined: BTreeSet<(String, String)>,
    /// Versions that are not defined: file, version, file that wants it.
    pub versions: BTreeSet<(String, String, String)>,
    /// The message that ends it.
    pub fatal: Option<String>,
}

impl Answer {
    /// Variables that make the loader trace instead of starting: what `ldd -r` sets.
    pub const TRACE: [(&str, &str); 3] = [("LD_TRACE_LOADED_OBJECTS", "1"), ("LD_WARN", "yes"), ("LD_BIND_NOW", "yes")];

    /// Reads what the loader printed.
    pub fn told(text: &str) -> Self {
        let mut answer = Self::default();
        for line in text.lines() {
            if let Some((_, message)) = line.split_once("error while loading shared libraries: ") {
                answer.fatal = Some(message.to_owned());
            } else if let Some(rest) = line.strip_prefix("undefined symbol: ") {
                let (symbol, object) = rest.split_once('\t').unwrap();
                let symbol = symbol.split(", version").next().unwrap().to_owned();
                let object = object.trim().trim_start_matches('(').trim_end_matches(')').to_owned();
                answer.undefined.insert((object, symbol));
            } else if let Some((before, after)) = line.split_once(": version `") {
                let (version, by) = after.split_once("' not found (required by ").unwrap();
                let from = before.rsplit(": ").next().unwrap().to_owned();
                answer.versions.insert((from, version.to_owned(), by.trim_end_matches(')').to_owned()));
            } else if let Some((name, path)) = line.trim().split_once(" => ") {
                let path = path.split(" (0x").next().unwrap().to_owned();
                answer.libraries.insert(name.to_owned(), (path != "not found").then_some(path));
            } else if let Some((name, _)) = line.trim().split_once(" (0x")
                && !name.contains('/')
                && !name.contains("vdso")
            {
                answer.libraries.insert(name.to_owned(), Some(name.to_owned()));
            }
        }
        answer.without_loader()
    }

    /// What the model found out.
    pub fn modelled(process: Option<&Process<'_>>, errors: &[LoadError]) -> Self {
        let mut answer = Self::default();
        for error in errors {
            match error {
                LoadError::Missing { name, .. } => {
                    answer.libraries.insert(name.clone(), None);
                }
                LoadError::Undefined { object, symbol, .. } => {
                    answer.undefined.insert((object.clone(), symbol.clone()));
                }
                LoadError::Version { object, version, from, .. } => {
                    answer.versions.insert((from.clone(), version.clone(), object.clone()));
                }
                LoadError::Rejected { .. } => answer.fatal = answer.fatal.or(Some(error.message())),
            }
        }
        for (_, object) in process.into_iter().flat_map(Process::objects) {
            let name = object.first_name().to_string_lossy();
            // ldd does not say how the loader itself was found, and of a path it tells no name.
            if !matches!(object.via, Via::Interpreter | Via::Program) && !name.contains('/') {
                answer.libraries.insert(name.into_owned(), Some(object.display()));
            }
        }
        answer.without_loader()
    }

    /// The loader names itself by the path in `PT_INTERP`.
    fn without_loader(mut self) -> Self {
        self.libraries.retain(|name, _| !name.contains("ld-linux") && !name.contains("linux-vdso"));
        self
    }
}
