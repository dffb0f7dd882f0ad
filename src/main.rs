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
