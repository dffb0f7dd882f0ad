//! What the probe and its supervisor say to each other: JSON, one value per line, on a descriptor of its own.
//!
//! The supervisor treats every line as hostile: a library that was loaded shares the address space that writes them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

/// Descriptor that the results are written to.
pub const RESULTS_FD: i32 = 3;

/// Mode of one `dlopen`, beside `RTLD_NOW`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `RTLD_LOCAL`: as extension modules are loaded, and `ctypes.CDLL` by default.
    Local,
    /// `RTLD_GLOBAL`: as torch loads what it preloads.
    Global,
}

/// One library to be loaded; an argument of the probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Its mode.
    pub mode: Mode,
    /// Name or path, as given to `dlopen`.
    pub file: OsString,
}

impl Load {
    /// `global:FILE` or `local:FILE`; the name may be any bytes.
    #[must_use]
    pub fn to_argument(&self) -> OsString {
        let mut argument = OsString::from(match self.mode {
            Mode::Local => "local:",
            Mode::Global => "global:",
        });
        argument.push(&self.file);
        argument
    }

    /// The opposite; `None` if it is no such thing.
    #[must_use]
    pub fn from_argument(argument: &OsString) -> Option<Self> {
        let bytes = argument.as_bytes();
        let (mode, file) = if let Some(file) = bytes.strip_prefix(b"local:") {
            (Mode::Local, file)
        } else {
            (Mode::Global, bytes.strip_prefix(b"global:")?)
        };
        Some(Self { mode, file: std::ffi::OsStr::from_bytes(file).to_owned() })
    }
}

/// One line from the probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// A dangerous call begins; if no end follows, the process died of it or hangs in it.
    Begin {
        /// Position in the list of libraries.
        index: usize,
    },
    /// The library is loaded; the path that was mapped.
    Loaded {
        /// Position in the list of libraries.
        index: usize,
        /// `l_name` of its link map.
        path: String,
    },
    /// `dlerror`, in the words of the C library.
    Failed {
        /// Position in the list of libraries.
        index: usize,
        /// The message.
        message: String,
    },
}
