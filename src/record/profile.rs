//! `mldoctor.profile/1`: what a command used of the image. Profiles can be merged, for one run seldom does everything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::structured;

/// Schema of a profile.
pub const SCHEMA: &str = "mldoctor.profile/1";

/// What one or more runs used. Paths are as the program named them, made absolute; links are not resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// [`SCHEMA`]
    pub schema: String,
    /// The runs that are in it.
    pub runs: Vec<Run>,
    /// Files and directories that were used and are there.
    pub files: BTreeMap<String, Use>,
    /// Paths that were asked for and were not there, or were refused.
    pub missing: BTreeSet<String>,
    /// Files that the command made itself.
    pub written: BTreeSet<String>,
    /// Programs that were executed.
    pub programs: BTreeMap<String, Program>,
    /// Shared objects that were opened.
    pub libraries: BTreeMap<String, Library>,
    /// Python modules whose file was opened, with that file.
    pub modules: BTreeMap<String, String>,
    /// What may have been used and was not seen.
    pub not_observed: BTreeSet<String>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The command line.
    pub command: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// Exit code; 128 and the number of the signal that killed it.
    pub exit: u8,
    /// Processes and threads that were followed.
    pub processes: u64,
}

/// How a file was used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// Opened, executed or listed; otherwise it was only looked at.
    pub opened: bool,
    /// Programs that did.
    pub by: BTreeSet<String>,
}

/// A program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// What starts it: `PT_INTERP` of an executable, the interpreter of a script, and that one's `PT_INTERP`.
    pub interpreters: Vec<String>,
}

/// A shared object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Library {
    /// `DT_SONAME`
    pub soname: Option<String>,
    /// The linker's build id, in hexadecimal.
    pub build_id: Option<String>,
    /// Programs that opened it.
    pub by: BTreeSet<String>,
    /// Recorded files that name it as `DT_NEEDED`. Empty: a program or library opened it by name.
    pub needed_by: BTreeSet<String>,
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// The file cannot be read or is no profile.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let profile: Self =
            structured::from_json(&text).with_context(|| format!("{} is not a profile", path.display()))?;
        anyhow::ensure!(profile.schema == SCHEMA, "{} has the schema {}, not {SCHEMA}", path.display(), profile.schema);
        Ok(profile)
    }

    /// Reads several profiles as one.
    ///
    /// # Errors
    /// As [`Profile::read`].
    pub fn read_all<P: AsRef<Path>>(paths: &[P]) -> anyhow::Result<Self> {
        let mut all = Self { schema: SCHEMA.to_owned(), ..Self::default() };
        for path in paths {
            all.merge(Self::read(path.as_ref())?);
        }
        Ok(all)
    }

    /// Adds what other runs used.
    pub fn merge(&mut self, other: Self) {
        self.runs.extend(other.runs);
        for (path, used) in other.files {
            let entry = self.files.entry(path).or_default();
            entry.opened |= used.opened;
            entry.by.extend(used.by);
        }
        self.missing.extend(other.missing);
        self.written.extend(other.written);
        self.programs.extend(other.programs);
        for (path, library) in other.libraries {
            let entry = self.libraries.entry(path).or_default();
            entry.soname = library.soname;
            entry.build_id = library.build_id;
            entry.by.extend(library.by);
            entry.needed_by.extend(library.needed_by);
        }
        self.modules.extend(other.modules);
        self.not_observed.extend(other.not_observed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_keeps_what_either_run_used() {
        let with = |path: &str, opened: bool, by: &str| {
            let mut profile = Profile { schema: SCHEMA.to_owned(), ..Profile::default() };
            profile.files.insert(path.into(), Use { opened, by: BTreeSet::from([by.to_owned()]) });
            profile
        };
        let mut all = with("/a", false, "/bin/x");
        all.merge(with("/a", true, "/bin/y"));
        all.merge(with("/b", false, "/bin/y"));
        assert_eq!(all.files.len(), 2);
        assert!(all.files["/a"].opened && !all.files["/b"].opened);
        assert_eq!(all.files["/a"].by, BTreeSet::from(["/bin/x".to_owned(), "/bin/y".to_owned()]));
        let text = structured::to_json(&all).unwrap();
        assert_eq!(structured::from_json::<Profile>(text.as_bytes()).unwrap(), all);
    }
}
