//! PyTorch's import: what `torch/__init__.py` loads before `torch._C`, replayed per release.
//!
//! The rules are data (`torch.toml`); this is the sequence that all releases share: `_load_global_deps` opens
//! `libtorch_global_deps.so` with `RTLD_GLOBAL`; if that fails because of a CUDA library, the libraries of the wheels
//! are opened by path and it is tried again; from 2.6 on some are opened also if it succeeds. Preloads count because a
//! library that is loaded already wins over every search that follows.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Framework, glob, quoted, release};
use crate::facts::{How, Step, StepOutcome, Weight};
use crate::image::Rootfs;
use crate::loader::{Failure, Mode, ObjectId, Process};

/// Preload rules from one release on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preload {
    /// First release.
    pub since: String,
    /// Directories below an entry of `sys.path`, in the order tried.
    pub directories: Vec<String>,
    /// Skip entries of `sys.path` that have no directory `nvidia`.
    #[serde(default)]
    pub only_with_nvidia_directory: bool,
    /// Folder, file pattern, and perhaps a condition.
    pub libraries: Vec<Vec<String>>,
    /// What is opened although all is well.
    pub on_success: Option<OnSuccess>,
}

/// Preloads after `libtorch_global_deps.so` was opened.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnSuccess {
    /// Only if a mapped path contains this.
    pub gate: String,
    /// `stop` at the first that is missing or does not load, or `skip` it.
    pub missing: String,
    /// As above; the whole list where it is not given.
    pub libraries: Option<Vec<Vec<String>>>,
}

/// An installed torch.
pub struct Torch<'t> {
    /// The image.
    pub rootfs: &'t Rootfs,
    /// `sys.path`, without the empty first entry.
    pub sys_path: &'t [PathBuf],
    /// Directory of the package.
    pub package: PathBuf,
    /// Release, such as `2.6.0`.
    pub version: String,
    /// `torch.version.cuda`.
    pub cuda: Option<String>,
}

impl<'t> Torch<'t> {
    /// Reads `torch/version.py` beside the extension module `torch/_C….so`.
    pub fn installed(rootfs: &'t Rootfs, sys_path: &'t [PathBuf], extension: &Path) -> Option<Self> {
        let package = extension.parent()?.to_owned();
        let text = rootfs.read_text(&package.join("version.py"), 64 * 1024).ok()?;
        let version = quoted(&text, "\n__version__")?;
        let cuda = quoted(&text, "\ncuda");
        Some(Self { rootfs, sys_path, package, version, cuda })
    }

    fn rules(&self, framework: &'static Framework) -> Option<&'static Preload> {
        let own = release(&self.version);
        framework.preload.iter().rev().find(|p| release(&p.since) <= own)
    }

    /// Replays `_load_global_deps` in `process`. Each step tells what happened; the last one failed if the import
    /// stops here.
    ///
    /// # Errors
    /// The steps, the last of which is the one that ends the import.
    pub fn preload(
        &self,
        framework: &'static Framework,
        process: &mut Process<'_>,
        caller: ObjectId,
    ) -> Result<Vec<Step>, Vec<Step>> {
        let Some(rules) = self.rules(framework) else { return Ok(Vec::new()) };
        let global = self.package.join("lib/libtorch_global_deps.so");
        let mut steps = Vec::new();
        match process.dlopen(global.as_os_str(), caller, Mode::NOW_GLOBAL) {
            Ok(_) => {
                steps.push(step(&global, StepOutcome::Ok(display(&global)), Weight::Required));
                self.on_success(rules, process, caller, &mut steps);
                Ok(steps)
            }
            Err(first) => {
                let message = first.message();
                let names_one = rules
                    .libraries
                    .iter()
                    .filter_map(|l| l.get(1))
                    .any(|pattern| message.contains(pattern.split('.').next().unwrap_or(pattern)));
                if !names_one {
                    steps.push(step(&global, StepOutcome::Failed(first), Weight::Required));
                    return Err(steps);
                }
                for library in &rules.libraries {
                    match self.open_listed(rules, library, process, caller) {
                        Listed::Opened(path) => {
                            steps.push(step(&path, StepOutcome::Ok(display(&path)), Weight::Required));
                        }
                        Listed::Skipped => {}
                        Listed::Absent(pattern) => {
                            // What the loader said is the cause; what torch says of it is the message.
                            let mut failed = step(&global, StepOutcome::Failed(first), Weight::Required);
                            failed.user_sees = Some(format!(
                                "ValueError: {pattern} not found in the system path {}",
                                python_list(self.sys_path)
                            ));
                            steps.push(failed);
                            return Err(steps);
                        }
                        Listed::Failed(path, failure) => {
                            steps.push(step(&path, StepOutcome::Failed(failure), Weight::Required));
                            return Err(steps);
                        }
                    }
                }
                match process.dlopen(global.as_os_str(), caller, Mode::NOW_GLOBAL) {
                    Ok(_) => {
                        steps.push(step(&global, StepOutcome::Ok(display(&global)), Weight::Required));
                        Ok(steps)
                    }
                    Err(second) => {
                        steps.push(step(&global, StepOutcome::Failed(second), Weight::Required));
                        Err(steps)
                    }
                }
            }
        }
    }

    fn on_success(&self, rules: &Preload, process: &mut Process<'_>, caller: ObjectId, steps: &mut Vec<Step>) {
        let Some(success) = &rules.on_success else { return };
        // `/proc/self/maps` shows paths with links resolved.
        let gate = |path: &Path| {
            let real = self.rootfs.canonicalize(path).unwrap_or_else(|_| path.to_owned());
            real.to_string_lossy().contains(&success.gate)
        };
        if !process.objects().any(|(_, o)| gate(&o.path)) {
            return;
        }
        for library in success.libraries.as_ref().unwrap_or(&rules.libraries) {
            match self.open_listed(rules, library, process, caller) {
                Listed::Opened(path) => steps.push(step(&path, StepOutcome::Ok(display(&path)), Weight::Optional)),
                Listed::Skipped => {}
                Listed::Absent(_) if success.missing == "skip" => {}
                // An exception other than a missing file ends the loop in every release, and is swallowed.
                Listed::Absent(_) | Listed::Failed(..) => return,
            }
        }
    }

    /// `_preload_cuda_lib`
    fn open_listed(&self, rules: &Preload, library: &[String], process: &mut Process<'_>, caller: ObjectId) -> Listed {
        let [folder, pattern, condition @ ..] = library else { return Listed::Skipped };
        let condition = condition.first().map(String::as_str);
        let cuda_major: u32 =
            self.cuda.as_deref().and_then(|c| c.split('.').next()).and_then(|m| m.parse().ok()).unwrap_or(0);
        if condition == Some("cuda>=12") && cuda_major < 12 {
            return Listed::Skipped;
        }
        // The empty first entry of sys.path is the working directory, where no image keeps its libraries.
        for entry in self.sys_path {
            if rules.only_with_nvidia_directory && !self.rootfs.exists(&entry.join("nvidia")) {
                continue;
            }
            for directory in &rules.directories {
                if directory.contains("{cuda}") && cuda_major == 0 {
                    continue;
                }
                let directory = directory.replace("{folder}", folder).replace("{cuda}", &cuda_major.to_string());
                let Some(path) = glob(self.rootfs, &entry.join(directory), pattern).into_iter().next() else {
                    continue;
                };
                return match process.dlopen(path.as_os_str(), caller, Mode::NOW) {
                    Ok(_) => Listed::Opened(path),
                    Err(failure) => Listed::Failed(path, failure),
                };
            }
        }
        if condition == Some("optional") { Listed::Skipped } else { Listed::Absent(pattern.clone()) }
    }
}

enum Listed {
    Opened(PathBuf),
    Skipped,
    Absent(String),
    Failed(PathBuf, Failure),
}

fn display(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn step(path: &Path, outcome: StepOutcome, weight: Weight) -> Step {
    let name = path.file_name().unwrap_or(OsStr::new("")).to_string_lossy();
    Step {
        what: format!("torch opens {name}"),
        how: How::Ctypes,
        file: display(path),
        because: vec!["torch/__init__.py, _load_global_deps".to_owned()],
        weight,
        outcome,
        user_sees: None,
    }
}

/// `repr` of `sys.path` under `python -c`.
fn python_list(path: &[PathBuf]) -> String {
    let quoted: Vec<String> =
        std::iter::once(String::new()).chain(path.iter().map(|p| display(p))).map(|p| format!("'{p}'")).collect();
    format!("[{}]", quoted.join(", "))
}
