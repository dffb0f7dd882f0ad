//! Loads the libraries named as arguments, one after the other, and does the job with the last one. Says what came of
//! each step.
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
    let mut arguments = std::env::args_os().skip(1);
    let job = arguments.next().and_then(|name| Job::from_name(name.to_str()?));
    let loads: Option<Vec<Load>> = arguments.map(|argument: OsString| Load::from_argument(&argument)).collect();
    let (Some(job), Some(loads)) = (job, loads) else { return ExitCode::from(2) };
    let mut teller = Teller::new();
    let mut last = None;
    for load in &loads {
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
        ask::ask(job, library, &mut teller);
    }
    teller.tell(&Line::Mapped { paths: dl::mapped() });
    teller::end()
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
