//! `mldoctor list`.

use crate::checks::pages;
use crate::cli::{Format, List};
use crate::exit::Exit;
use crate::report::{Output, pages as render};

/// Runs it.
pub fn run(arguments: List) -> anyhow::Result<Exit> {
    let out = Output::open(arguments.print.output.as_deref(), arguments.print.color);
    let text = match arguments.format {
        // Who reads it from a pipe wants a line for each.
        Format::Text => render::list_text(pages::all(), if out.is_terminal { out.width } else { usize::MAX }),
        Format::Json => render::list_json(pages::all())?,
    };
    out.write(&text)?;
    Ok(Exit::Ready)
}
