//! `mldoctor size`: walk, judge, report.

use crate::checks::size::judge;
use crate::cli::{Size, TableFormat};
use crate::exit::Exit;
use crate::observe::size::observe;
use crate::report::{Output, size as render};

/// Runs it.
pub fn run(arguments: Size) -> anyhow::Result<Exit> {
    // Only files are looked at, in a running container too.
    let mut request = arguments.subject.request(None)?;
    request.assumed.gpus = arguments.gpus.gpus;
    let (facts, size) = observe(request)?;
    let report = judge(&facts, &size);
    let out = Output::open(arguments.print.output.as_deref(), arguments.print.color);
    let whole = render::Whole { facts: &facts, size: &size, report: &report, top: arguments.top };
    let text = match arguments.format {
        TableFormat::Text => whole.text(out.width, arguments.verbose),
        TableFormat::Markdown => whole.markdown(),
        TableFormat::Json => whole.json()?,
    };
    out.write(&text)?;
    let level = arguments.fail_on.map(Into::into);
    let exit = if !size.tree.unread.is_empty() {
        Exit::Undetermined
    } else if level.is_some_and(|level| report.items.iter().any(|i| i.finding.severity <= level)) {
        Exit::NotReady
    } else {
        Exit::Ready
    };
    // The process ends, and takes less time for it than giving back every name does.
    std::mem::forget((facts, size, report));
    Ok(exit)
}
