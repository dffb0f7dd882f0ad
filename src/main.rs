//! Entry point: parse, run, and turn what comes back into an exit code.

use std::process::ExitCode;

use mldoctor::cli::{Cli, Command};
use mldoctor::exit::Exit;
use mldoctor::{commands, config, report};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let usage = || Exit::of_usage(arguments.get(1).map(|word| word.as_os_str())).into();
    match config::parse(&arguments, &|name| std::env::var_os(name)).and_then(run) {
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

fn run(cli: Cli) -> anyhow::Result<Exit> {
    // What `health` prints is one line, wherever it is shown.
    if !matches!(cli.command, Some(Command::Health(_))) {
        let names = std::env::vars_os().map(|(name, _)| name);
        config::misspelt_variables(names).iter().for_each(|told| report::error(&anyhow::anyhow!("{told}")));
    }
    commands::run(cli)
}

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mldoctor::allocator::Allocator = mldoctor::allocator::Allocator;
