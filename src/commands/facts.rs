//! `mldoctor facts`: observe and stop.

use crate::cli::Facts;
use crate::exit::Exit;
use crate::observe::{Depth, Examination, Request};
use crate::report::Output;
use crate::structured;

/// Runs it.
pub fn run(arguments: Facts) -> anyhow::Result<Exit> {
    let request = Request { assumed: arguments.assume.into(), depth: Depth::Everything, ..arguments.subject.request() };
    let facts = Examination::open(request)?.observe();
    let text = structured::to_json(&facts)?;
    Output::open(arguments.print.output.as_deref(), arguments.print.color)?.write(&text)?;
    Ok(Exit::Ready)
}
