//! The Python modules of the workload: one process of the interpreter imports them all, and every framework among them
//! is tried part by part.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::features::Parts;
use super::live::{self, DriverPaths};
use super::{Examination, Tried, exec_step, import, loader_facts};
use crate::facts::{Absence, Distribution, How, Observed, Python, Step, StepOutcome, Subject, Weight};
use crate::frameworks;
use crate::loader::{Failure, LoadError, Loader, Process};
use crate::parallel;
use crate::python::distributions::{Installed, with_required};
use crate::python::{Finder, Interpreter};

/// Distributions that compile when they are first used, which is of interest to who uses them.
const COMPILING: &[&str] = &["deepspeed", "flashinfer-python"];

impl Examination {
    /// All modules are imported by one process, in the order given.
    /// A second thread reads ahead, and then does what else there is to do, `beside`.
    pub(super) fn modules(&self, modules: &[&str], tried: &mut Tried, beside: &(dyn Fn() + Sync)) {
        let python = match &self.python {
            Some(Ok(python)) => python,
            other => {
                let looked_at = match other {
                    Some(Err(none)) => none.tried.iter().map(|(p, why)| format!("{}: {why}", p.display())).collect(),
                    _ => Vec::new(),
                };
                for module in modules {
                    tried.subjects.push(self.no_interpreter(module, looked_at.clone()));
                }
                return;
            }
        };
        let loader = match self.loader(Some(&python.real)) {
            Ok(loader) => loader,
            Err((named, _)) => {
                let why = match named {
                    Some(path) => {
                        format!("{}: its dynamic loader {} is not there", python.real.display(), path.display())
                    }
                    None => format!("{}: no dynamic loader in the image", python.real.display()),
                };
                for module in modules {
                    tried.subjects.push(self.no_interpreter(module, vec![why.clone()]));
                }
                return;
            }
        };
        let finder = Finder::new(&self.rootfs, python, &self.sys_path);
        let stop = AtomicBool::new(false);
        let imports = || {
            self.imports(modules, python, &loader, &finder, tried);
            stop.store(true, Ordering::Relaxed);
        };
        let followed: Vec<&str> = modules.iter().copied().filter(|m| self.core(python, m).is_none()).collect();
        parallel::join(imports, || {
            finder.read_ahead(&followed, &stop);
            beside();
        });
        tried.loader = Some(loader_facts(&loader));
        // The process ends soon, and takes less time for it than giving back a hundred thousand pieces of memory does.
        std::mem::forget((finder, loader));
    }

    fn imports(&self, modules: &[&str], python: &Interpreter, loader: &Loader, finder: &Finder<'_>, tried: &mut Tried) {
        let (process, errors) = Process::start(loader, &python.executable);
        let Some(mut process) = process.filter(|_| !errors.iter().any(LoadError::is_fatal)) else {
            for module in modules {
                let mut subject = Subject::new(format!("import:{module}"));
                let failure = Failure { errors: errors.clone(), loaded: Vec::new() };
                subject.steps.push(exec_step(&python.executable, Err(failure)));
                tried.subjects.push(subject);
            }
            return;
        };
        // What would be loaded without LD_LIBRARY_PATH tells what it changes.
        let without = self.request.env.non_empty("LD_LIBRARY_PATH").filter(|_| !self.request.only_core).map(|_| {
            let mut env = self.request.env.clone();
            env.remove("LD_LIBRARY_PATH");
            loader.in_environment(env)
        });
        let mut bare = without.as_ref().and_then(|l| Process::start(l, &python.executable).0);
        for module in modules {
            let parts = Parts::of(self, python, finder, module);
            let mut run = import::Run::new(self, python, finder);
            let core = self.core(python, module).and_then(|(core, file)| run.load(module, core, &file, &mut process));
            let is_whole = core.is_none();
            let mut subject = core.unwrap_or_else(|| run.import(module, &mut process));
            if let Some(bare) = &mut bare {
                import::Run::new(self, python, finder).import(module, bare);
            }
            subject.mapped = self.mapped(&process, bare.as_ref(), 0);
            tried.plans.extend(live::plans(&process, 0, &subject.capability));
            let features = parts.map(|p| p.at_first_use(&subject, &process, bare.as_ref())).unwrap_or_default();
            if is_whole {
                let steps = features.iter().flat_map(|(feature, _)| &feature.steps);
                let opened: BTreeSet<&str> = steps.map(|s| s.file.as_str()).collect();
                let unreached = run.unreached(&subject, &process, |file| opened.contains(file));
                subject.steps.extend(unreached);
            }
            tried.subjects.push(subject);
            for (subject, plans) in features {
                tried.subjects.push(subject);
                tried.plans.extend(plans);
            }
        }
        tried.driver = Some(DriverPaths::in_process(&process));
        std::mem::forget((process, bare));
    }

    /// The extension module that is loaded in place of the import of a framework, where that is wanted, and its file.
    fn core(&self, python: &Interpreter, module: &str) -> Option<(&'static str, PathBuf)> {
        let core = frameworks::of_module(module).filter(|_| self.request.only_core)?.core.as_deref()?;
        Some((core, import::module_file(self, python, core)?))
    }

    fn no_interpreter(&self, module: &str, tried: Vec<String>) -> Subject {
        let mut subject = Subject::new(format!("import:{module}"));
        let name = self.request.python.as_ref().map_or("python3".into(), |p| p.to_string_lossy().into_owned());
        subject.steps.push(Step {
            what: "start the Python interpreter".into(),
            how: How::File,
            file: name.clone(),
            because: Vec::new(),
            weight: Weight::Required,
            outcome: StepOutcome::NotFound(Absence {
                kind: "interpreter".into(),
                name,
                searched: tried,
                notes: Vec::new(),
            }),
            user_sees: None,
        });
        subject
    }

    /// The interpreter, and what is installed for it.
    pub(super) fn python_facts(
        &self,
        python: &Result<Interpreter, crate::python::NoInterpreter>,
        modules: &[&str],
        own: Option<Vec<&Installed>>,
    ) -> Observed<Python> {
        let python = match python {
            Ok(python) => python,
            Err(none) => {
                let tried: Vec<String> = none.tried.iter().map(|(p, why)| format!("{}: {why}", p.display())).collect();
                return Observed::Absent(tried.join("; "));
            }
        };
        let mut named: Vec<&str> = modules.to_vec();
        for module in modules {
            if let Some(framework) = frameworks::of_module(module) {
                named.extend(framework.distributions.iter().map(String::as_str));
                named.extend(["triton"]);
            }
        }
        let matters = |name: &str| name.starts_with("nvidia-") || named.contains(&name);
        Observed::Seen(Python {
            executable: python.executable.to_string_lossy().into_owned(),
            real: python.real.to_string_lossy().into_owned(),
            version: format!("{}.{}", python.version.0, python.version.1),
            sys_path: self.sys_path.entries.iter().map(|p| p.to_string_lossy().into_owned()).collect(),
            suffixes: python.suffixes.clone(),
            distributions: self
                .installed
                .iter()
                .map(|d| Distribution {
                    name: d.name.clone(),
                    version: d.version.clone(),
                    location: d.location.to_string_lossy().into_owned(),
                    problems: if matters(&d.name) { d.problems(&self.rootfs) } else { Vec::new() },
                })
                .collect(),
            required: own.and_then(|own| self.required_by(&own)),
        })
    }

    /// What the distributions of the modules require.
    fn required_by(&self, own: &[&Installed]) -> Option<Vec<String>> {
        let is_asked = |d: &Installed| COMPILING.contains(&d.name.as_str());
        if self.request.targets.is_empty() || !self.installed.iter().any(is_asked) {
            return None;
        }
        let own = own.iter().map(|distribution| distribution.name.clone()).collect();
        Some(with_required(&self.rootfs, &self.installed, own))
    }
}
