//! `mldoctor explain ID`.

use crate::checks::pages;
use crate::cli::Explain;
use crate::exit::Exit;
use crate::report::{Output, pages as render};

/// Runs it.
pub fn run(arguments: Explain) -> anyhow::Result<Exit> {
    let Some(page) = pages::find(&arguments.id) else {
        anyhow::bail!("no finding id {:?}; mldoctor list shows them", arguments.id);
    };
    Output::open(arguments.print.output.as_deref(), arguments.print.color).write(&render::explain(page))?;
    Ok(Exit::Ready)
}
