//! One file for each API that is asked.

mod compute;
mod cuda;
mod library;
mod nvml;
mod nvrtc;

use mldoctor_probes::Job;
use mldoctor_probes::library::Family;

use crate::dl::Loaded;
use crate::teller::Teller;

/// Does the job with the library that it is about.
pub fn ask(job: Job, library: &Loaded, teller: &mut Teller) {
    match job {
        Job::Load => {}
        Job::Nvml => nvml::ask(library, teller),
        Job::Cuda => {
            cuda::ask(library, teller);
        }
        Job::Compute => compute::ask(library, teller),
        Job::Library(family) => library::ask(family, library, teller, false),
        Job::CompileAll => library::ask(Family::Nvrtc, library, teller, true),
    }
}
