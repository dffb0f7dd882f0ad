//! Loads the libraries named as arguments, one after the other, and does the job that stands before them with the last
//! one; then the next job. Says what came of each step.
//!
//! Everything dangerous happens here and nowhere else. The environment is the one under diagnosis and is left as it is.

mod ask;
mod dl;
mod teller;

use std::ffi::OsString;
use std::process::ExitCode;

use mldoctor_probes::{Job, Line, Load};
use teller::Teller;

fn main() -> ExitCode {
    harmless_death();
    let Some(jobs) = jobs(std::env::args_os().skip(1)) else { return ExitCode::from(2) };
    let mut teller = Teller::new();
    for (job, loads) in &jobs {
        perform(*job, loads, &mut teller);
    }
    teller::end()
}

/// Each job, and the libraries behind it.
fn jobs(arguments: impl Iterator<Item = OsString>) -> Option<Vec<(Job, Vec<Load>)>> {
    let mut jobs: Vec<(Job, Vec<Load>)> = Vec::new();
    for argument in arguments {
        match Load::from_argument(&argument) {
            Some(load) => jobs.last_mut()?.1.push(load),
            None => jobs.push((Job::from_name(argument.to_str()?)?, Vec::new())),
        }
    }
    (!jobs.is_empty()).then_some(jobs)
}

fn perform(job: Job, loads: &[Load], teller: &mut Teller) {
    let mut last = None;
    for load in loads {
        let call = format!("dlopen {}", load.file.to_string_lossy());
        last = match teller.call(call, || dl::open(load)) {
            Ok(loaded) => {
                teller.tell(&Line::Loaded { path: loaded.path.clone() });
                Some(loaded)
            }
            Err(_) => None,
        };
    }
    if let Some(library) = &last {
        ask::ask(job, library, teller);
    }
    teller.tell(&Line::Mapped { paths: dl::mapped() });
}

/// No core file, and no life after the supervisor's.
fn harmless_death() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take plain values and only change this process.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
}
