//! Tasks of the project that cargo has no command for.

mod dist;

use clap::Parser;

/// Tasks of the project.
#[derive(Parser)]
enum Task {
    /// Build what is shipped, and check it
    Dist,
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Dist => dist::run(),
    }
}
