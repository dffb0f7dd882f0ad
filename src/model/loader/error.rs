//! Why something does not load: facts, with the words that glibc uses for them.

use serde::{Deserialize, Serialize};

/// One place where a library was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Searched {
    /// The path that was tried; a directory that does not exist is named with a trailing slash.
    pub path: String,
    /// Which rule led there: `rpath`, `ld_library_path`, `runpath`, `cache`, `default`.
    pub via: String,
    /// The object whose tag decided, for `rpath` and `runpath`.
    pub by: Option<String>,
    /// What was found there instead.
    pub why: SearchedWhy,
}

/// Why a place did not give the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SearchedWhy {
    /// The directory does not exist.
    NoDirectory,
    /// The directory holds no such file.
    NotThere,
    /// A symbolic link that leads nowhere.
    DanglingLink,
    /// Another class or processor; the loader goes on.
    OtherMachine,
    /// It may not be read by the user.
    Denied,
    /// Some other error of `open`.
    Unusable,
    /// The cache has no entry for the name.
    NotInCache,
}

/// Why a file is refused that needs more of an x86 processor than there is.
pub const ISA_TOO_LOW: &str = "CPU ISA level is lower than required";

/// A reason why a library or program does not load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadError {
    /// No search gave the file.
    Missing {
        /// The name asked for.
        name: String,
        /// The object that asked, or the program that called `dlopen`.
        requested_by: String,
        /// Every place that was searched, in order.
        searched: Vec<Searched>,
        /// Text of the error number.
        reason: String,
        /// Only files of another class were found.
        other_class: bool,
    },
    /// A file was found and refused.
    Rejected {
        /// Path of the file.
        path: String,
        /// Name that glibc puts before its message: the path or the name asked for.
        subject: String,
        /// The object that asked.
        requested_by: String,
        /// glibc's text.
        reason: String,
        /// The loader dies instead of reporting: the file ends before its segments do.
        truncated: bool,
    },
    /// A library lacks a version that an object wants.
    Version {
        /// The object that wants it.
        object: String,
        /// File name in its Verneed record.
        requires: String,
        /// The version.
        version: String,
        /// Path of the library that lacks it.
        from: String,
    },
    /// No loaded object defines a symbol.
    Undefined {
        /// The object that refers to it.
        object: String,
        /// The symbol.
        symbol: String,
        /// The version asked for.
        version: Option<String>,
        /// The file that should define that version.
        file: Option<String>,
        /// Only called when first used: `RTLD_LAZY` does not notice.
        lazy: bool,
    },
}

/// A library in a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Its SONAME, or file name where it has none.
    pub soname: String,
    /// The path under which it was found.
    pub path: String,
    /// The rule that found it.
    pub via: String,
}

/// Everything that is wrong with one start or `dlopen`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In the order in which the loader meets it; never empty.
    pub errors: Vec<LoadError>,
    /// What was mapped for it, in vain.
    pub loaded: Vec<Loaded>,
}

impl Failure {
    /// The message that `dlerror` gives.
    pub fn message(&self) -> String {
        self.errors.first().map(LoadError::message).unwrap_or_default()
    }
}

impl LoadError {
    /// The message of glibc's `dlerror`, which Python puts behind `ImportError: ` or `OSError: `.
    pub fn message(&self) -> String {
        match self {
            Self::Missing { name, other_class: true, .. } => format!("{name}: wrong ELF class: ELFCLASS32"),
            Self::Missing { name, reason, .. } => format!("{name}: cannot open shared object file: {reason}"),
            Self::Rejected { subject, reason, .. } => format!("{subject}: {reason}"),
            Self::Version { object, version, from, .. } => {
                format!("{from}: version `{version}' not found (required by {object})")
            }
            Self::Undefined { object, symbol, version, .. } => match version {
                Some(version) => format!("{object}: undefined symbol: {symbol}, version {version}"),
                None => format!("{object}: undefined symbol: {symbol}"),
            },
        }
    }

    /// The message of musl's `dlerror` (`load_deps` and `do_relocs` in `ldso/dynlink.c`).
    pub fn musl_message(&self) -> String {
        match self {
            Self::Missing { name, reason, requested_by, .. } => {
                format!("Error loading shared library {name}: {reason} (needed by {requested_by})")
            }
            Self::Rejected { subject, requested_by, .. } => {
                format!("Error loading shared library {subject}: Exec format error (needed by {requested_by})")
            }
            Self::Undefined { object, symbol, .. } => format!("Error relocating {object}: {symbol}: symbol not found"),
            Self::Version { .. } => self.message(),
        }
    }

    /// Whether it keeps the object from loading. A function that is only looked up when it is called does not.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Undefined { lazy: true, .. })
    }

    /// The object in which the problem shows: who asked for what is missing, or refers to it.
    pub fn object(&self) -> &str {
        match self {
            Self::Missing { requested_by, .. } | Self::Rejected { requested_by, .. } => requested_by,
            Self::Version { object, .. } | Self::Undefined { object, .. } => object,
        }
    }
}
