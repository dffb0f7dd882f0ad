//! mldoctor says whether a CUDA container image can run its workload.
//!
//! `observe → judge → report`: only observing touches the machine, judging is pure, reporting only reads.

pub mod allocator;
pub mod checks;
pub mod cli;
pub mod commands;
pub mod config;
mod deadline;
mod embedded;
pub mod exit;
pub mod facts;
pub mod finding;
pub mod frameworks;
pub mod judge;
pub mod matrix;
mod memory;
pub mod node;
pub mod observe;
pub mod probe;
pub mod record;
pub mod report;
pub mod slim;
mod suggestion;

use mldoctor_model::parallel;
pub use mldoctor_model::{driver, image, loader, python, structured};
