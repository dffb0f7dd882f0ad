//! `mldoctor health`: one line before a deadline, for whoever asks every few seconds.
//!
//! The first time everything is examined as `check` does, without the CUDA libraries' own calls. What files decide is
//! then remembered, and only what changes while a container runs is asked again: device nodes and NVML. Nothing that
//! comes and goes with load (memory in use, temperature, clocks) makes it unhealthy.

use std::time::{Instant, SystemTime};

use crate::cli::Health;
use crate::exit::Exit;
use crate::facts::Facts;
use crate::finding::{Report, Status, Verdict};
use crate::judge::judge;
use crate::memory::{Key, Memory};
use crate::observe::{Examination, Known};
use crate::probe::Outcome;
use crate::report::{Output, health as render};
use crate::{deadline, report};

/// Runs it.
pub fn run(arguments: Health) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let late = render::late(arguments.deadline);
    let watch = deadline::watch(start + arguments.deadline, move || {
        report::last_word(&late);
        Exit::NotReady.code()
    });
    let tolerate_slow_driver = arguments.tolerate_slow_driver;
    let request = arguments.request(start)?;
    let key = Key::of(&request);
    let examination = Examination::open(request)?;
    let facts = match Memory::recall(key, &examination.rootfs) {
        Some(known) => examination.observe_again(&known),
        None => examine(examination, key),
    };
    let mut report = judge(&facts);
    if tolerate_slow_driver {
        tolerate(&facts, &mut report);
    }
    watch.end();
    let exit = match report.verdict {
        Verdict::Ready | Verdict::Degraded => Exit::Ready,
        // Docker keeps exit code 2 for itself.
        Verdict::NotReady | Verdict::Undetermined => Exit::NotReady,
    };
    Output::open(None, report::Colour::Never).write(&render::render(&facts, &report, start.elapsed()))?;
    Ok(exit)
}

/// Looks at everything, and remembers what is in order.
fn examine(examination: Examination, key: Key) -> Facts {
    let now = SystemTime::now();
    let rootfs = examination.rootfs.clone();
    let facts = examination.observe();
    let report = judge(&facts);
    if matches!(report.verdict, Verdict::Ready | Verdict::Degraded)
        && let Some(memory) = Memory::new(key, known(&facts, &report), &rootfs, now)
    {
        memory.keep(key);
    }
    facts
}

fn known(facts: &Facts, report: &Report) -> Known {
    let works = report.capabilities.iter().filter(|c| c.status == Status::Ok && c.id != "gpu");
    let driver = facts.driver.as_ref();
    let nvml_works = driver.is_some_and(|driver| {
        driver.system().is_some() && driver.nvml.seen().is_some_and(|run| run.unfinished().is_none())
    });
    Known {
        workload: facts.target.workload.clone(),
        capabilities: works.map(|c| c.id.clone()).collect(),
        loader: facts.image.loader.clone(),
        libcuda: driver.and_then(|driver| driver.libcuda.clone()),
        libnvml: driver.and_then(|driver| driver.libnvml.clone()),
        nvml_works,
    }
}

/// A driver that is only slow may be so for a reason that passes: another process initialises many GPUs.
fn tolerate(facts: &Facts, report: &mut Report) {
    let Some(gpu) = report.capabilities.iter_mut().find(|c| c.id == "gpu") else { return };
    let runs = facts.driver.iter().flat_map(|driver| [driver.cuda.seen(), driver.nvml.seen()]).flatten();
    let is_slow = runs.flat_map(|run| &run.calls).any(|call| matches!(call.outcome, Outcome::TimedOut(_)));
    if is_slow && gpu.status == Status::Broken && gpu.blockers.iter().all(|id| id == "gpu-hang") {
        gpu.status = Status::Ok;
        report.verdict = crate::judge::verdict(&report.capabilities, &report.findings);
    }
}
