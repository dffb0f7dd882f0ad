//! Tasks of the project that cargo has no command for.

#![allow(clippy::print_stdout, reason = "a task of a developer answers on the terminal")]

mod bench;
mod dist;
mod docs;
mod manual;

use clap::Parser;

/// Tasks of the project.
#[derive(Parser)]
enum Task {
    /// Build what is shipped, and check it
    Dist,
    /// Write ARCHITECTURE.md
    Docs {
        /// Only tell whether it is as it should be
        #[arg(long)]
        check: bool,
    },
    /// Time a check beside what it stands for; only the ratios count
    Bench {
        /// Interpreter of a PyTorch; the one of the acceptance tests where none is named
        #[arg(long)]
        python: Option<std::path::PathBuf>,
        /// How often each command runs
        #[arg(long, default_value_t = 9)]
        rounds: usize,
    },
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Dist => dist::run(),
        Task::Docs { check } => docs::run(check),
        Task::Bench { python, rounds } => bench::run(python, rounds),
    }
}
