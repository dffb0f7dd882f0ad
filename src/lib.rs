//! mldoctor says whether a CUDA container image can run its workload.
//!
//! `observe → judge → report`: only observing touches the machine, judging is pure, reporting only reads.

pub mod allocator;
pub mod checks;
pub mod cli;
pub mod commands;
pub mod config;
mod deadline;
pub mod driver;
mod embedded;
pub mod exit;
pub mod facts;
pub mod finding;
pub mod frameworks;
pub mod image;
pub mod judge;
pub mod loader;
pub mod matrix;
mod memory;
pub mod node;
pub mod observe;
mod parallel;
pub mod probe;
pub mod python;
pub mod record;
pub mod report;
pub mod slim;
pub mod structured;
mod suggestion;
