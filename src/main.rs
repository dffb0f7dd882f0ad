//! Entry point: parse, run, and turn what comes back into an exit code.

use std::process::ExitCode;

use clap::Parser;
use mldoctor::cli::Cli;
use mldoctor::exit::Exit;
use mldoctor::{commands, report};

fn main() -> ExitCode {
    let first = std::env::args_os().nth(1);
    let done = match Cli::try_parse() {
        Ok(cli) => commands::run(cli),
        Err(usage) => {
            // Help and version are no error; what cannot be printed need not be.
            let _ = usage.print();
            return if usage.use_stderr() { Exit::of_usage(first.as_deref()).into() } else { ExitCode::SUCCESS };
        }
    };
    match done {
        Ok(exit) => exit.into(),
        Err(error) => {
            report::error(&error);
            Exit::of_usage(first.as_deref()).into()
        }
    }
}

/// That of musl takes a lock and often a system call for each piece of memory, which doubles the time of a check.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;
