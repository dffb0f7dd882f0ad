//! `mldoctor explain ID`.

use crate::checks::pages;
use crate::cli::Explain;
use crate::exit::Exit;
use crate::report::{Output, pages as render};

/// Runs it.
pub fn run(arguments: Explain) -> anyhow::Result<Exit> {
    let page = pages::get(&arguments.id).map_err(anyhow::Error::msg)?;
    let out = Output::open(arguments.print.output.as_deref(), arguments.print.color);
    let text = render::explain(page, out.width);
    out.write(&text)?;
    Ok(Exit::Ready)
}
