//! The command line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::driver::{Gpu, Version};
use crate::facts::{Assumed, Scope};
use crate::finding::Severity;
use crate::image::{Credentials, Rootfs};
use crate::loader::{Environment, isa_levels};
use crate::node::OtherProcess;
use crate::observe::{self, CodeDepth, Depth, Live, Request};
use crate::probe::Inside;
use crate::report::{Colour, ReportFormat, termination_log};
use crate::slim;

/// Says whether this CUDA container image can run its workload, with the proof and the line that fixes it.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Every option is also a key of /etc/mldoctor.toml, and MLDOCTOR_ with its name is a variable.")]
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
    /// One line and exit code 0 or 1, before a deadline: for HEALTHCHECK and exec probes
    Health(Health),
    /// Check, then become the workload: for ENTRYPOINT
    Exec(Exec),
    /// How every library of a target resolves, and why
    Libs(Libs),
    /// Which GPUs and drivers the compiled code of the workload runs on
    Matrix(Matrix),
    /// Where the gigabytes are, which can go, and what must not lie in an image
    Size(Size),
    /// Write what was observed, to be judged elsewhere with check --facts
    Facts(Facts),
    /// Run a command and write down every file, program, library and module that it uses
    Record(Record),
    /// Put down the part of an image that its workload needs
    Slim(Slim),
    /// What a finding id means, how it is known, what cures it
    Explain(Explain),
    /// All finding ids
    List(List),
    /// Put this program and its probe into a directory
    Install(Install),
    /// The child process that goes into another container
    #[command(name = crate::probe::ENTER, hide = true)]
    Enter {
        /// A process there.
        pid: u32,
        /// Whom to be.
        #[arg(value_parser = parse_user)]
        user: Credentials,
        /// Where to be.
        cwd: PathBuf,
        /// What to start.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// The child process that opens device nodes
    #[command(name = crate::probe::OPEN_DEVICES, hide = true)]
    OpenDevices {
        /// The nodes.
        paths: Vec<OsString>,
    },
}

impl Cli {
    /// What the command examines, if it examines anything.
    pub fn subject_mut(&mut self) -> Option<&mut Subject> {
        match &mut self.command {
            None => Some(&mut self.check.subject),
            Some(Command::Check(check)) => Some(&mut check.subject),
            Some(Command::Libs(libs)) => Some(&mut libs.subject),
            Some(Command::Facts(facts)) => Some(&mut facts.subject),
            Some(Command::Health(health)) => Some(&mut health.subject),
            Some(Command::Exec(exec)) => Some(&mut exec.subject),
            Some(Command::Slim(slim)) => Some(&mut slim.subject),
            Some(Command::Matrix(matrix)) => Some(&mut matrix.subject),
            Some(Command::Size(size)) => Some(&mut size.subject),
            Some(
                Command::Record(_)
                | Command::Explain(_)
                | Command::List(_)
                | Command::Install(_)
                | Command::Enter { .. }
                | Command::OpenDevices { .. },
            ) => None,
        }
    }
}

/// What to examine.
#[derive(Debug, Clone, Args)]
pub struct Subject {
    /// Python modules (torch, python:vllm) or paths of executables and shared objects; found where none is named
    #[arg(value_name = "TARGET", env = "MLDOCTOR_WORKLOAD", value_delimiter = ' ')]
    pub targets: Vec<String>,
    /// Settings, instead of /etc/mldoctor.toml
    #[arg(long, value_name = "FILE", env = "MLDOCTOR_CONFIG")]
    pub config: Option<PathBuf>,
    /// The image: its root directory, an archive (docker save, docker export) or an OCI layout; implies --image
    #[arg(long, value_name = "DIR|FILE")]
    pub root: Option<PathBuf>,
    /// Examine the container of this process: its image, environment and libraries
    #[arg(long, value_name = "PID", conflicts_with_all = ["root", "image"])]
    pub pid: Option<u32>,
    /// Judge the image alone, as in docker build and CI: no driver is expected
    #[arg(long)]
    pub image: bool,
    /// The Python interpreter of the workload
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// A variable of the workload's environment; given once or more, nothing is inherited but from an image's archive
    #[arg(long, value_name = "K=V")]
    pub env: Vec<OsString>,
    /// The user that the workload runs as, by name or number
    #[arg(long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Capabilities that the verdict depends on too, such as torch.compile
    #[arg(long, value_name = "CAP", value_delimiter = ',')]
    pub require: Vec<String>,
    /// The image, where its settings had to be read already.
    #[arg(skip)]
    pub opened: Option<Rootfs>,
}

/// What is tried for real, where more than the image is judged.
#[derive(Debug, Clone, Args)]
pub struct Trial {
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
}

/// GPUs that are named.
#[derive(Debug, Clone, Args)]
pub struct Gpus {
    /// Judge for this GPU: a product such as L4, sm_90 or 9.0; may be given several times, or with commas
    #[arg(long = "gpu", value_name = "NAME", env = "MLDOCTOR_ASSUME_GPU", value_delimiter = ',', value_parser = Gpu::parse)]
    pub gpus: Vec<Gpu>,
}

/// The node that the workload is to run on, where it is not this one.
#[derive(Debug, Clone, Args)]
pub struct Assume {
    /// GPUs.
    #[command(flatten)]
    pub gpus: Gpus,
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
    /// What is tried.
    #[command(flatten)]
    pub trial: Trial,
    /// Where it is to run.
    #[command(flatten)]
    pub assume: Assume,
    /// Judge a file written by mldoctor facts instead of examining anything
    #[arg(long, value_name = "FILE", conflicts_with_all = ["root", "python", "env", "user", "image"])]
    pub facts: Option<PathBuf>,
    /// A profile written by mldoctor record in another image: all that it names must be here, too
    #[arg(long, value_name = "PROFILE", conflicts_with = "facts")]
    pub against: Vec<PathBuf>,
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
    pub format: ReportFormat,
    /// Also write the reason for the kubelet, at most 4,096 bytes, if the file is there
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true, default_missing_value = termination_log::DEFAULT_PATH)]
    pub termination_log: Option<PathBuf>,
    /// Where and how to print.
    #[command(flatten)]
    pub print: Print,
    /// Show what passed too, and all proof
    #[arg(short, long)]
    pub verbose: bool,
    /// Print nothing; the exit code is the answer
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// The command that the first target may have been meant for, where no command is named.
    #[arg(skip)]
    pub slip: Option<String>,
}

/// Arguments of `health`.
#[derive(Debug, Clone, Args)]
pub struct Health {
    /// What to examine.
    #[command(flatten)]
    pub subject: Subject,
    /// The program that asks the driver, instead of the one that is built in
    #[arg(long, value_name = "PATH", env = "MLDOCTOR_PROBES_PATH")]
    pub probes: Option<PathBuf>,
    /// How many GPUs the workload must see
    #[arg(long, value_name = "N", conflicts_with_all = ["root", "image"])]
    pub expect_gpus: Option<u32>,
    /// How long all of it may take
    #[arg(long, value_name = "DURATION", default_value = "900ms", value_parser = parse_duration, env = "MLDOCTOR_HEALTH_DEADLINE")]
    pub deadline: Duration,
    /// A driver that does not answer before the deadline is no reason to be unhealthy
    #[arg(long)]
    pub tolerate_slow_driver: bool,
}

/// Arguments of `exec`.
#[derive(Debug, Clone, Args)]
pub struct Exec {
    /// What to examine.
    #[command(flatten)]
    pub subject: Subject,
    /// What is tried.
    #[command(flatten)]
    pub trial: Trial,
    /// Start the workload whatever was found
    #[arg(long)]
    pub report_only: bool,
    /// Write this file before the workload starts, and remove it if it does not
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Give the workload MLDOCTOR_VERDICT and MLDOCTOR_FINDINGS
    #[arg(long)]
    pub export: bool,
    /// Where the kubelet wants the reason if the workload is not started, at most 4,096 bytes, if the file is there
    #[arg(long, value_name = "PATH", default_value = termination_log::DEFAULT_PATH)]
    pub termination_log: PathBuf,
    /// Print nothing where the workload is ready
    #[arg(short, long)]
    pub quiet: bool,
    /// The workload
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Arguments of `install`.
#[derive(Debug, Clone, Args)]
pub struct Install {
    /// Where to, such as /usr/local/bin
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
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
    pub format: TableFormat,
    /// Where and how to print.
    #[command(flatten)]
    pub print: Print,
}

/// Arguments of `size`.
#[derive(Debug, Clone, Args)]
pub struct Size {
    /// What to examine.
    #[command(flatten)]
    pub subject: Subject,
    /// For which the device code is needed.
    #[command(flatten)]
    pub gpus: Gpus,
    /// Length of each list
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,
    /// Exit with 1 if there is a finding of this severity, or worse
    #[arg(long, value_name = "SEVERITY")]
    pub fail_on: Option<FailOn>,
    /// Form of the report
    #[arg(long, value_enum, default_value_t)]
    pub format: TableFormat,
    /// Where and how to print.
    #[command(flatten)]
    pub print: Print,
    /// Show all places, and notes
    #[arg(short, long)]
    pub verbose: bool,
}

/// Arguments of `facts`.
#[derive(Debug, Clone, Args)]
pub struct Facts {
    /// What to examine.
    #[command(flatten)]
    pub subject: Subject,
    /// What is tried.
    #[command(flatten)]
    pub trial: Trial,
    /// Where it is to run.
    #[command(flatten)]
    pub assume: Assume,
    /// Where and how to print.
    #[command(flatten)]
    pub print: Print,
}

/// Arguments of `record`.
#[derive(Debug, Clone, Args)]
pub struct Record {
    /// The profile to write
    #[arg(short, long, value_name = "FILE", default_value = "mldoctor-profile.json")]
    pub output: PathBuf,
    /// Add to the profile that is there already
    #[arg(long)]
    pub merge: bool,
    /// The command; its exit code becomes that of mldoctor. Processes that it leaves behind are waited for
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// Arguments of `slim`.
#[derive(Debug, Clone, Args)]
pub struct Slim {
    /// What must still work.
    #[command(flatten)]
    pub subject: Subject,
    /// How much goes
    #[arg(long, value_enum, default_value_t)]
    pub mode: slim::Mode,
    /// A profile written by mldoctor record; given more than once, what any of them used stays
    #[arg(long, value_name = "FILE")]
    pub profile: Vec<PathBuf>,
    /// Put what stays into this new directory, and check that
    #[arg(long, value_name = "DIR")]
    pub copy_to: Option<PathBuf>,
    /// Write what stays as a tar archive, - for standard output
    #[arg(long, value_name = "FILE", conflicts_with = "copy_to")]
    pub tar: Option<PathBuf>,
    /// Print the lines of a Dockerfile that make an image of the directory of --copy-to
    #[arg(long, requires = "copy_to")]
    pub dockerfile: bool,
    /// Form of the answer; JSON lists every file that stays
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
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

/// Form of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum TableFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
    /// For a README, or a comment on a change
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
    /// What is to be examined, with the environment that the workload would have; nothing but the image without a
    /// `trial`.
    ///
    /// # Errors
    /// There is no image, it does not know the user, or another process cannot be examined.
    pub fn request(mut self, trial: Option<Trial>) -> anyhow::Result<Request> {
        let scope = if self.image || self.root.is_some() { Scope::Image } else { Scope::Container };
        let other = self.pid.map(OtherProcess::new);
        let root = other.as_ref().map(OtherProcess::root).or(self.root).unwrap_or_else(|| PathBuf::from("/"));
        let rootfs = match self.opened.take() {
            Some(rootfs) => rootfs,
            None => Rootfs::open_image(&root).map_err(|e| observe::Error::Root(root.clone(), e))?,
        };
        let config = rootfs.config().cloned().unwrap_or_default();
        let user = self.user.or(config.user).map(|user| Credentials::find(&rootfs, &user));
        let mut user = user.transpose().map_err(anyhow::Error::msg)?;
        let is_host = root == Path::new("/");
        let mut env = if !self.env.is_empty() {
            Environment::default()
        } else if let Some(other) = &other {
            other.environment()?
        } else if is_host {
            std::env::vars_os().collect()
        } else {
            // The environment of whoever examines an image has nothing to do with it.
            Environment::default()
        };
        for pair in config.env.iter().map(OsString::from).chain(self.env) {
            let bytes = pair.as_bytes();
            let at = bytes.iter().position(|b| *b == b'=').unwrap_or(bytes.len());
            let (name, value) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
            env.set(OsStr::from_bytes(name), OsStr::from_bytes(value));
        }
        if env.get("PATH").is_none() {
            env.set("PATH", DEFAULT_PATH);
        }
        let here = match &other {
            Some(other) => Some(other.cwd()?),
            None => std::env::current_dir().ok().filter(|_| is_host),
        };
        let cwd = here.or(config.directory).unwrap_or_else(|| PathBuf::from("/"));
        let python = self.python.map(|p| cwd.join(p));
        let trial = trial.filter(|_| scope == Scope::Container);
        let mut command = config.command.into_iter().map(OsString::from).collect();
        let mut inside = None;
        if let Some(other) = &other {
            command = other.command()?;
            let theirs = user.get_or_insert(other.credentials()?).clone();
            inside = Some(Inside { pid: other.pid(), user: theirs });
        }
        let node = root.clone();
        Ok(Request {
            root,
            scope,
            targets: self.targets,
            command,
            python,
            env,
            cwd,
            opened: Some(rootfs),
            user,
            isa: isa_levels().filter(|_| scope == Scope::Container),
            require: self.require,
            expect_gpus: trial.as_ref().and_then(|t| t.expect_gpus),
            min_free_memory: trial.as_ref().and_then(|t| t.min_free_memory).map(|size| size.as_u64()),
            against: None,
            assumed: Assumed::default(),
            code: CodeDepth::Nothing,
            only_core: false,
            live: trial.map(|trial| Live { node, inside, ..Live::from(trial) }),
        })
    }
}

impl Health {
    /// What is to be examined, and when it is to be done.
    ///
    /// # Errors
    /// As [`Subject::request`].
    pub fn request(self, start: Instant) -> anyhow::Result<Request> {
        let trial = Trial {
            probes: self.probes,
            deep: false,
            expect_gpus: self.expect_gpus,
            min_free_memory: None,
            deadline: self.deadline,
        };
        let mut request = self.subject.request(Some(trial))?;
        request.code = CodeDepth::Workload;
        if let Some(live) = &mut request.live {
            live.depth = Depth::Driver;
            // The rest is for judging and telling.
            live.until = Some(start + self.deadline * 9 / 10);
        }
        Ok(request)
    }
}

impl From<Trial> for Live {
    fn from(trial: Trial) -> Self {
        let depth = if trial.deep { Depth::Deep } else { Depth::Check };
        Self {
            probe: trial.probes,
            deadline: trial.deadline,
            until: None,
            depth,
            node: PathBuf::from("/"),
            inside: None,
        }
    }
}

impl From<Assume> for Assumed {
    fn from(Assume { gpus, driver }: Assume) -> Self {
        Self { gpus: gpus.gpus, driver }
    }
}

/// `UID`, or `UID:GID`, or more groups.
fn parse_user(text: &str) -> Result<Credentials, String> {
    let number = |t: &str| t.parse::<u32>().map_err(|_| format!("{t:?} is not a number; names are not looked up"));
    let mut ids: Vec<u32> = text.split(':').map(number).collect::<Result<_, _>>()?;
    let uid = ids.remove(0);
    if ids.is_empty() {
        ids.push(uid);
    }
    Ok(Credentials { uid, gids: ids })
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
