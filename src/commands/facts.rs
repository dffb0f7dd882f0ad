//! `mldoctor facts`: observe and stop.

use crate::cli::Facts;
use crate::exit::Exit;
use crate::observe::Examination;
use crate::report::Output;
use crate::structured;

/// Runs it.
pub fn run(arguments: Facts) -> anyhow::Result<Exit> {
    let facts = Examination::open(arguments.subject.request(Some(arguments.trial))?)?.observe();
    let text = structured::to_json(&facts)?;
    Output::open(arguments.print.output.as_deref(), arguments.print.color).write(&text)?;
    Ok(Exit::Ready)
}
