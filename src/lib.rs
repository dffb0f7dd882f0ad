//! mldoctor says whether a CUDA container image can run its workload.
//!
//! `observe → judge → report`: only observing touches the machine, judging is pure, reporting only reads.

pub mod facts;
pub mod image;
pub mod loader;
pub mod python;
