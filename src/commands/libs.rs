//! `mldoctor libs`: the process of a target, library by library.

use crate::cli::{Format, Libs};
use crate::exit::Exit;
use crate::loader::LoadError;
use crate::observe::Examination;
use crate::report::{Output, libs as render};

/// Runs it.
pub fn run(arguments: Libs) -> anyhow::Result<Exit> {
    let mut examination = Examination::open(arguments.subject.request(None)?)?;
    let workload = examination.workload();
    anyhow::ensure!(!workload.is_empty(), "no target is named, and none was found");
    let out = Output::open(arguments.print.output.as_deref(), arguments.print.color);
    let mut told = String::new();
    let mut exit = Exit::Ready;
    for target in &workload {
        told += &examination.with_process(target, |process, errors| {
            if errors.iter().any(LoadError::is_fatal) {
                exit = Exit::NotReady;
            }
            match arguments.format {
                Format::Json => render::json(process, errors),
                Format::Text => Ok(render::tree(process, errors)),
            }
        })??;
    }
    out.write(&told)?;
    Ok(exit)
}
