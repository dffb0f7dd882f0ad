//! `mldoctor record -- CMD`: run a command and write what it used.

use anyhow::Context;

use crate::cli::Record;
use crate::exit::Exit;
use crate::record::profile::Profile;
use crate::record::record;
use crate::record::trace::Refused;
use crate::report;
use crate::structured;

/// Runs it.
pub fn run(arguments: Record) -> anyhow::Result<Exit> {
    // A profile that cannot be written is known before the command has run for hours.
    let output = std::path::absolute(&arguments.output)?;
    let mut profile = match arguments.merge && output.exists() {
        true => Profile::read(&output)?,
        false => Profile::default(),
    };
    let partial = output.with_extension("partial");
    let mut file = std::fs::File::create(&partial).with_context(|| format!("cannot write {}", partial.display()))?;
    let (new, exit) = match record(&arguments.command) {
        Ok(recorded) => recorded,
        Err(error) => {
            let _ = std::fs::remove_file(&partial);
            let Refused::Start(_, why) = &error else { return Err(error.into()) };
            let exit = Exit::not_started(why);
            report::error(&error.into());
            return Ok(exit);
        }
    };
    profile.schema.clone_from(&new.schema);
    profile.merge(new);
    std::io::Write::write_all(&mut file, structured::to_json(&profile)?.as_bytes())?;
    std::fs::rename(&partial, &output).with_context(|| format!("cannot write {}", output.display()))?;
    Ok(Exit::Of(exit))
}
