//! The command line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::driver::{Gpu, Version};
use crate::facts::{Assumed, Scope};
use crate::finding::Severity;
use crate::image::Credentials;
use crate::loader::Environment;
use crate::observe::{Depth, Live, Request};
use crate::report::Colour;

/// Says whether this CUDA container image can run its workload, with the proof and the line that fixes it.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// What to do; `check` where nothing is named.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Arguments of `check`.
    #[command(flatten)]
    pub check: Check,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The full report: can the workload run, and if not, why (default)
    Check(Check),
    /// How every library of a target resolves, and why
    Libs(Libs),
    /// Which GPUs and drivers the compiled code of the workload runs on
    Matrix(Matrix),
    /// Write what was observed, to be judged elsewhere with check --facts
    Facts(Facts),
    /// What a finding id means, how it is known, what cures it
    Explain(Explain),
    /// All finding ids
    List(List),
    /// The child process that opens device nodes
    #[command(name = crate::probe::OPEN_DEVICES, hide = true)]
    OpenDevices {
        /// The nodes.
        paths: Vec<OsString>,
    },
}

/// What to examine.
#[derive(Debug, Clone, Args)]
pub struct Subject {
    /// Python modules (torch, python:vllm) or paths of executables and shared objects; found where none is named
    #[arg(value_name = "TARGET", env = "MLDOCTOR_WORKLOAD", value_delimiter = ' ')]
    pub targets: Vec<String>,
    /// Root directory of the image; implies --image
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Judge the image alone, as in docker build and CI: no driver is expected
    #[arg(long)]
    pub image: bool,
    /// The Python interpreter of the workload
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// A variable of the workload's environment; given once or more, nothing is inherited
    #[arg(long, value_name = "K=V")]
    pub env: Vec<OsString>,
    /// The user that the workload runs as, by number
    #[arg(long, value_name = "UID[:GID]", value_parser = parse_user)]
    pub user: Option<Credentials>,
    /// The program that loads libraries for real, instead of the one that is built in
    #[arg(long, value_name = "PATH", env = "MLDOCTOR_PROBES_PATH")]
    pub probes: Option<PathBuf>,
    /// Also create a context on every GPU and compute there: takes memory, and a GPU in exclusive mode altogether
    #[arg(long, conflicts_with_all = ["root", "image"])]
    pub deep: bool,
    /// How many GPUs the workload must see
    #[arg(long, value_name = "N", conflicts_with_all = ["root", "image"])]
    pub expect_gpus: Option<u32>,
    /// How much memory must be free on each GPU, such as 20GiB
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["root", "image"])]
    pub min_free_memory: Option<bytesize::ByteSize>,
    /// How long one child process may take, in seconds or with a unit, such as 500ms
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub deadline: Duration,
    /// Capabilities that the verdict depends on too, such as torch.compile
    #[arg(long, value_name = "CAP", value_delimiter = ',')]
    pub require: Vec<String>,
}

/// The node that the workload is to run on, where it is not this one.
#[derive(Debug, Clone, Args)]
pub struct Assume {
    /// Judge for this GPU: a product such as L4, sm_90 or 9.0; may be given several times, or with commas
    #[arg(long = "gpu", value_name = "NAME", env = "MLDOCTOR_ASSUME_GPU", value_delimiter = ',', value_parser = Gpu::parse)]
    pub gpus: Vec<Gpu>,
    /// Judge for this driver, such as 535.104.05
    #[arg(long, value_name = "VERSION", env = "MLDOCTOR_ASSUME_DRIVER")]
    pub driver: Option<Version>,
}

/// Arguments of `check`.
#[derive(Debug, Clone, Args)]
pub struct Check {
    /// What to examine.
    #[command(flatten)]
    pub subject: Subject,
    /// Where it is to run.
    #[command(flatten)]
    pub assume: Assume,
    /// Judge a file written by mldoctor facts instead of examining anything
    #[arg(long, value_name = "FILE", conflicts_with_all = ["root", "python", "env", "user", "image"])]
    pub facts: Option<PathBuf>,
    /// Report only these finding ids
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Leave these finding ids out of the report
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub skip: Vec<String>,
    /// Exit with 1 also if there is a finding of this severity, or worse
    #[arg(long, value_name = "SEVERITY")]
    pub fail_on: Option<FailOn>,
    /// Always exit with 0
    #[arg(long)]
    pub report_only: bool,
    /// Form of the report
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Where and how to print.
    #[command(flatten)]
    pub print: Print,
    /// Show what passed too, and all proof
    #[arg(short, long)]
    pub verbose: bool,
    /// Print nothing; the exit code is the answer
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// Arguments of `libs`.
#[derive(Debug, Clone, Args)]
pub struct Libs {
    /// What to examine.
    #[command(flatten)]
    pub subject: Subject,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Where and how to print.
    #[command(flatten)]
    pub print: Print,
}

/// Arguments of `matrix`.
#[derive(Debug, Clone, Args)]
pub struct Matrix {
    /// What to examine.
    #[command(flatten)]
    pub subject: Subject,
    /// Where it is to run; the current GPUs where none is named.
    #[command(flatten)]
    pub assume: Assume,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t)]
    pub format: MatrixFormat,
    /// Where and how to print.
    #[command(flatten)]
    pub print: Print,
}

/// Arguments of `facts`.
#[derive(Debug, Clone, Args)]
pub struct Facts {
    /// What to examine.
    #[command(flatten)]
    pub subject: Subject,
    /// Where it is to run.
    #[command(flatten)]
    pub assume: Assume,
    /// Where and how to print.
    #[command(flatten)]
    pub print: Print,
}

/// Arguments of `explain`.
#[derive(Debug, Clone, Args)]
pub struct Explain {
    /// A finding id, such as lib-cupti
    pub id: String,
    /// Where and how to print.
    #[command(flatten)]
    pub print: Print,
}

/// Arguments of `list`.
#[derive(Debug, Clone, Args)]
pub struct List {
    /// Form of the list
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Where and how to print.
    #[command(flatten)]
    pub print: Print,
}

/// Where and how to print.
#[derive(Debug, Clone, Args)]
pub struct Print {
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Use colour
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Colour,
}

/// Form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// Form of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum MatrixFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
    /// For a README
    Markdown,
}

/// Severity from which on findings fail the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Errors
    Error,
    /// Errors and warnings
    Warning,
}

impl From<FailOn> for Severity {
    fn from(value: FailOn) -> Self {
        match value {
            FailOn::Error => Self::Error,
            FailOn::Warning => Self::Warning,
        }
    }
}

/// `PATH` of a container whose image sets none (the OCI runtimes' default).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Subject {
    /// What is to be examined, with the environment that the workload would have.
    pub fn request(self) -> Request {
        let scope = if self.image || self.root.is_some() { Scope::Image } else { Scope::Container };
        let root = self.root.unwrap_or_else(|| PathBuf::from("/"));
        let is_host = root == Path::new("/");
        let mut env: Environment = if !self.env.is_empty() {
            self.env
                .iter()
                .map(|pair| {
                    let bytes = pair.as_bytes();
                    let at = bytes.iter().position(|b| *b == b'=').unwrap_or(bytes.len());
                    let value = bytes.get(at + 1..).unwrap_or_default();
                    (
                        std::ffi::OsStr::from_bytes(&bytes[..at]).to_owned(),
                        std::ffi::OsStr::from_bytes(value).to_owned(),
                    )
                })
                .collect()
        } else if is_host {
            std::env::vars_os().collect()
        } else {
            // The environment of whoever examines an image has nothing to do with it.
            Environment::default()
        };
        if env.get("PATH").is_none() {
            env.set("PATH", DEFAULT_PATH);
        }
        let here = std::env::current_dir().ok().filter(|_| is_host);
        let cwd = here.unwrap_or_else(|| PathBuf::from("/"));
        let python = self.python.map(|p| cwd.join(p));
        let live = (scope == Scope::Container).then(|| Live {
            probe: self.probes,
            deadline: self.deadline,
            deep: self.deep,
            node: PathBuf::from("/"),
        });
        Request {
            root,
            scope,
            targets: self.targets,
            python,
            env,
            cwd,
            user: self.user,
            require: self.require,
            expect_gpus: self.expect_gpus,
            min_free_memory: self.min_free_memory.map(|size| size.as_u64()),
            live,
            assumed: Assumed::default(),
            depth: Depth::Nothing,
        }
    }
}

impl From<Assume> for Assumed {
    fn from(Assume { gpus, driver }: Assume) -> Self {
        Self { gpus, driver }
    }
}

fn parse_user(text: &str) -> Result<Credentials, String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    let number = |t: &str| t.parse::<u32>().map_err(|_| format!("{t:?} is not a number; names are not looked up"));
    Ok(Credentials { uid: number(uid)?, gids: vec![number(gid)?] })
}

/// `30`, `30s`, `500ms`, `2m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no duration, such as 10s or 500ms"))?;
    match unit {
        "" | "s" => Ok(Duration::from_secs(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(format!("{unit:?} is no unit of time; ms, s and m are")),
    }
}
