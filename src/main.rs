//! Entry point: parse, run, and turn what comes back into an exit code.

use std::process::ExitCode;

use clap::Parser;
use mldoctor::cli::Cli;
use mldoctor::exit::Exit;
use mldoctor::{commands, report};

fn main() -> ExitCode {
    match commands::run(Cli::parse()) {
        Ok(exit) => exit.into(),
        Err(error) => {
            report::error(&error);
            Exit::Undetermined.into()
        }
    }
}

/// That of musl takes a lock and often a system call for each piece of memory, which doubles the time of a check.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;
