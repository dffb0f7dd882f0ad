//! Where a workload writes and builds: its user, its home, the folders of the programs that it uses, and compilers.

use serde::{Deserialize, Serialize};

use super::Observed;

/// What the programs of a workload find around them when they are to write or to compile something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Surroundings {
    /// The user; none where it is not known who the workload runs as.
    pub account: Option<Account>,
    /// The folders that its programs write to.
    pub folders: Vec<Folder>,
    /// Directories of mapped libraries from which nothing may be executed.
    pub noexec: Vec<String>,
    /// How Inductor asks for the name of the user, where it is installed.
    pub inductor: Option<Inductor>,
    /// What builds CUDA code.
    pub toolkit: Toolkit,
    /// Processor of the image's programs, where it is another than that of this machine.
    pub other_machine: Option<Program>,
    /// First line of `/etc/nv_tegra_release`, in an image for Jetson.
    pub tegra: Option<String>,
}

/// The user of the workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Its name in `/etc/passwd`; absent without a row, and failed where other sources than that file are asked.
    pub name: Observed<String>,
    /// The variable that `getpass.getuser` takes the name from instead.
    pub named_by: Option<String>,
    /// The home directory: `HOME`, else that of `/etc/passwd`, else `/`, which is what container runtimes set.
    pub home: String,
    /// Where that is from.
    pub home_by: String,
}

/// A folder that a program writes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    /// The program, by its name in `src/observe/folders.rs`.
    pub program: String,
    /// The folder, by the program's own rule.
    pub path: String,
    /// What decided: a variable, or the default as the program has it.
    pub by: String,
    /// The variable that names another.
    pub variable: String,
    /// The path or its nearest parent that exists; what is missing would be made there.
    pub at: String,
    /// Whether it can be written to.
    pub access: Access,
    /// Whether it is on a file system that executes nothing.
    pub noexec: bool,
    /// Room there, in a running container.
    pub space: Option<Space>,
}

/// Whether something can be made in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// It can.
    Writable,
    /// `EROFS`
    ReadOnly,
    /// `EACCES`
    Denied,
    /// `ENOTDIR`
    NoDirectory,
}

/// Size of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What a user other than root can still write.
    pub free: u64,
}

/// What the sources of Inductor say of the user's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inductor {
    /// It needs one where `TORCHINDUCTOR_CACHE_DIR` is not set.
    pub needs_name: bool,
    /// It needs one whatever is set.
    pub needs_name_always: bool,
}

/// What builds CUDA code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Toolkit {
    /// `CUDA_HOME`, else `CUDA_PATH`, else where nvcc is on `PATH`, else `/usr/local/cuda` (`torch.utils.cpp_extension`).
    pub home: Option<String>,
    /// What decided.
    pub home_by: String,
    /// Whether that directory is there.
    pub exists: bool,
    /// The compiler, in that directory or on `PATH`.
    pub nvcc: Option<String>,
    /// The build tool.
    pub ninja: Option<String>,
    /// Whether DeepSpeed was installed with operators that are built already.
    pub deepspeed_prebuilt: bool,
}

/// A program of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its path.
    pub path: String,
    /// The processor that it is for, as `uname -m` prints it.
    pub arch: String,
}
