//! One file per subcommand.

mod check;
mod exec;
mod explain;
mod facts;
mod health;
mod install;
mod libs;
mod list;
mod matrix;
mod record;
mod size;
mod slim;

use crate::cli::{Cli, Command};
use crate::exit::Exit;
use crate::probe::{self, open_devices_here};

/// Runs what the command line asks for.
///
/// # Errors
/// What keeps the command from answering at all; it is told, and the exit code is that of `undetermined`.
pub fn run(cli: Cli) -> anyhow::Result<Exit> {
    match cli.command.unwrap_or(Command::Check(cli.check)) {
        Command::Check(arguments) => check::run(arguments),
        Command::Health(arguments) => health::run(arguments),
        Command::Exec(arguments) => exec::run(arguments),
        Command::Install(arguments) => install::run(arguments),
        Command::Libs(arguments) => libs::run(arguments),
        Command::Matrix(arguments) => matrix::run(arguments),
        Command::Size(arguments) => size::run(arguments),
        Command::Facts(arguments) => facts::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Record(arguments) => record::run(arguments),
        Command::Slim(arguments) => slim::run(arguments),
        Command::List(arguments) => list::run(arguments),
        Command::Enter { pid, user, cwd, command } => probe::enter(&probe::Inside { pid, user }, &cwd, &command),
        Command::OpenDevices { paths } => {
            open_devices_here(&paths);
            Ok(Exit::Ready)
        }
    }
}
