//! `mldoctor list`.

use crate::checks::pages;
use crate::cli::{Format, List};
use crate::exit::Exit;
use crate::report::{Output, pages as render};

/// Runs it.
pub fn run(arguments: List) -> anyhow::Result<Exit> {
    let text = match arguments.format {
        Format::Text => render::list_text(pages::all()),
        Format::Json => render::list_json(pages::all())?,
    };
    Output::open(arguments.print.output.as_deref(), arguments.print.color).write(&text)?;
    Ok(Exit::Ready)
}
