//! What an image carries: every file with its bytes and its owner, and what had to be read to know whether one is needed.
//!
//! The facts of one `mldoctor size`; they stay in memory, as a hundred thousand paths are not something to hand on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::image::{Layers, Tree};

/// What a file is, by its name and place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `libx.so.1`, extension modules.
    SharedObject,
    /// Executable, in a directory of programs.
    Program,
    /// `libx.a`
    StaticLibrary,
    /// C, C++ and CUDA headers below a directory `include`.
    Header,
    /// `.py`, `.pyi`
    PythonSource,
    /// `.pyc`
    Bytecode,
    /// In a test suite of Python or of a Python package.
    Test,
    /// Manual pages, READMEs and the like in their usual directories; licences are data.
    Documentation,
    /// Everything else.
    Data,
}

impl Kind {
    /// As the report calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SharedObject => "shared objects",
            Self::Program => "programs",
            Self::StaticLibrary => "static libraries",
            Self::Header => "headers",
            Self::PythonSource => "Python source",
            Self::Bytecode => "Python bytecode",
            Self::Test => "tests",
            Self::Documentation => "documentation",
            Self::Data => "data",
        }
    }
}

/// What installed a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manager {
    /// Debian, Ubuntu.
    Dpkg,
    /// Alpine.
    Apk,
    /// RHEL, Fedora, SUSE.
    Rpm,
    /// conda, mamba.
    Conda,
    /// pip, uv and everything else that writes RECORD.
    Python,
}

impl Manager {
    /// As the report calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dpkg => "dpkg",
            Self::Apk => "apk",
            Self::Rpm => "rpm",
            Self::Conda => "conda",
            Self::Python => "python",
        }
    }
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// What installed it.
    pub manager: Manager,
    /// Its name.
    pub name: String,
    /// Its version; empty where only the list of its files is there.
    pub version: String,
}

/// Something that looks like a credential; what it is stays in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// The file, or `ENV`.
    pub place: String,
    /// Line in the file, from 1; the name of the variable.
    pub at: String,
    /// What kind of credential.
    pub what: &'static str,
}

/// What the Python files outside of test suites say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Directory of tests → the file that names it.
    pub tests: BTreeMap<usize, usize>,
    /// Files other than PyTorch's and Triton's own that compile something, and with what.
    pub compiling: Vec<(usize, &'static str)>,
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Size {
    /// All names.
    pub tree: Tree,
    /// What each file is, in the order of the tree.
    pub kinds: Vec<Kind>,
    /// Installed packages.
    pub packages: Vec<Package>,
    /// Which of them a file is of, in the order of the tree.
    pub owners: Vec<Option<usize>>,
    /// Why the packages of the distribution are not told apart, where they are not.
    pub unread_packages: Option<String>,
    /// Directories that hold a test suite.
    pub tests: Vec<usize>,
    /// What Python files say.
    pub sources: Sources,
    /// Bytes of debug sections in a file.
    pub debug: Vec<(usize, u64)>,
    /// Files with the same content, two or more.
    pub copies: Vec<Vec<usize>>,
    /// NVIDIA's libraries outside of Python packages.
    pub system_cuda: Vec<usize>,
    /// Which of their names, without `.so`, a file holds that no examined process has mapped.
    pub named_by: Vec<(String, usize)>,
    /// Where links lead, as written; read only where there is a cache that they may lead into.
    pub targets: Vec<(usize, PathBuf)>,
    /// What looks like a credential.
    pub secrets: Vec<Secret>,
    /// The user that the workload runs as, where that is known.
    pub uid: Option<u32>,
    /// Release of CUDA outside of Python packages, such as `12.4`.
    pub cuda: Option<String>,
    /// Whether this is one of NVIDIA's framework images.
    pub ngc: bool,
    /// What the layers of the image hide, where it is in an archive.
    pub layers: Option<Layers>,
    /// Whether the image has a `HEALTHCHECK`, where that is known.
    pub has_healthcheck: Option<bool>,
}
