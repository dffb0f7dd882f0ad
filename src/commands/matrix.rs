//! `mldoctor matrix`: which GPUs and drivers the compiled code of a workload runs on.

use crate::cli::{Matrix, TableFormat};
use crate::exit::Exit;
use crate::facts::Subject;
use crate::observe::{CodeDepth, Error, Examination};
use crate::report::{Output, matrix as render};

/// Runs it.
pub fn run(arguments: Matrix) -> anyhow::Result<Exit> {
    let mut request = arguments.subject.request(None)?;
    (request.assumed, request.code) = (arguments.assume.into(), CodeDepth::Libraries);
    request.only_core = true;
    let facts = Examination::open(request)?.observe();
    if let Some(module) = facts.subjects.iter().find_map(Subject::lost_module) {
        return Err(Error::NoModule(module.to_owned()).into());
    }
    anyhow::ensure!(!facts.kernels.is_empty(), "no target is named, and none was found");
    let out = Output::open(arguments.print.output.as_deref(), arguments.print.color);
    let text = match arguments.format {
        TableFormat::Text => render::text(&facts, out.width),
        TableFormat::Json => render::json(&facts)?,
        TableFormat::Markdown => render::markdown(&facts),
    };
    out.write(&text)?;
    Ok(Exit::Ready)
}
