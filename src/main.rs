//! Entry point: parse, run, and turn what comes back into an exit code.

use std::process::ExitCode;

use mldoctor::exit::Exit;
use mldoctor::{commands, config, report};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let usage = || Exit::of_usage(arguments.get(1).map(|word| word.as_os_str())).into();
    match config::parse(&arguments, &|name| std::env::var_os(name)).and_then(commands::run) {
        Ok(exit) => exit.into(),
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(told) => {
                // Help and version are no error; what cannot be printed need not be.
                let _ = told.print();
                if told.use_stderr() { usage() } else { ExitCode::SUCCESS }
            }
            Err(error) => {
                report::error(&error);
                usage()
            }
        },
    }
}

/// That of musl takes a lock and often a system call for each piece of memory, which doubles the time of a check.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;
