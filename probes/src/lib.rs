//! What the probe and its supervisor say to each other: JSON, one value per line, on a descriptor of its own.
//!
//! The supervisor treats every line as hostile: a library that was loaded shares the address space that writes them.

pub mod cuda;
pub mod library;
pub mod nvml;

use std::ffi::{OsStr, OsString};
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
    /// A library that is loaded as Python loads one.
    #[must_use]
    pub fn local(file: impl Into<OsString>) -> Self {
        Self { mode: Mode::Local, file: file.into() }
    }

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
    pub fn from_argument(argument: &OsStr) -> Option<Self> {
        let bytes = argument.as_bytes();
        let (mode, file) = if let Some(file) = bytes.strip_prefix(b"local:") {
            (Mode::Local, file)
        } else {
            (Mode::Global, bytes.strip_prefix(b"global:")?)
        };
        Some(Self { mode, file: OsStr::from_bytes(file).to_owned() })
    }
}

/// What a child is to do, after it has loaded what it is given: an argument of the probe, before the libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Nothing but load.
    Load,
    /// Ask NVML about the GPUs; the last library is NVML.
    Nvml,
    /// Initialise CUDA, without a context; the last library is the driver's.
    Cuda,
    /// Compute on every GPU; the last library is the driver's.
    Compute,
    /// Ask the last library what it is, and try what it does without a GPU.
    Library(library::Family),
    /// Let the last library, which is NVRTC, compile for every architecture that it knows.
    CompileAll,
}

impl Job {
    /// As an argument.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Nvml => "nvml",
            Self::Cuda => "cuda",
            Self::Compute => "compute",
            Self::Library(family) => family.name(),
            Self::CompileAll => "compile-all",
        }
    }

    /// The opposite.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "load" => Some(Self::Load),
            "nvml" => Some(Self::Nvml),
            "cuda" => Some(Self::Cuda),
            "compute" => Some(Self::Compute),
            "compile-all" => Some(Self::CompileAll),
            _ => library::Family::from_name(name).map(Self::Library),
        }
    }
}

/// One line from the probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// A dangerous call begins; if no end follows, the process died of it or hangs in it.
    Begin {
        /// The function, and what it is called for.
        call: String,
    },
    /// It came back.
    End {
        /// What it answered, where that was not success.
        error: Option<CallError>,
    },
    /// The library that was just loaded: `l_name` of its link map.
    Loaded {
        /// Path that was mapped.
        path: String,
    },
    /// What NVML says of the system.
    System(nvml::System),
    /// What NVML says of one GPU; a later line for the same index says more.
    Gpu(Box<nvml::Gpu>),
    /// What CUDA says of the system.
    Cuda(cuda::Cuda),
    /// What CUDA says of one device.
    Device(cuda::Device),
    /// What a library says of itself.
    Library(library::Said),
    /// A job is done: every object in the process.
    Mapped {
        /// Their paths, in the order of the link map.
        paths: Vec<String>,
    },
}

/// An answer that is not success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallError {
    /// The code, where the function gives one.
    pub code: Option<i64>,
    /// Its name, such as `CUDA_ERROR_NO_DEVICE`, or the message of `dlerror`.
    pub name: String,
}

/// A value that may not be there for a reason of its own, such as a function that an old driver lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Field<T> {
    /// It was not asked for.
    #[default]
    NotAsked,
    /// The answer.
    Is(T),
    /// Why there is none.
    Error(CallError),
}

impl<T> Field<T> {
    /// The value, if there is one.
    pub fn get(&self) -> Option<&T> {
        match self {
            Self::Is(value) => Some(value),
            Self::NotAsked | Self::Error(_) => None,
        }
    }

    /// Code of the answer that is not a value.
    pub fn code(&self) -> Option<i64> {
        match self {
            Self::Error(error) => error.code,
            Self::NotAsked | Self::Is(_) => None,
        }
    }
}
