//! `mldoctor slim`: decide, put down, and check what was put down.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cli::{Format, Slim};
use crate::exit::Exit;
use crate::facts::{Facts, Scope};
use crate::finding::Verdict;
use crate::image::Rootfs;
use crate::judge::judge;
use crate::observe::{Examination, Request};
use crate::record::profile::Profile;
use crate::report::{Output, Progress, slim as render, tell, text};
use crate::slim::{Mode, Plan, Wanted, copy, plan, tar};

/// Runs it.
pub fn run(arguments: Slim) -> anyhow::Result<Exit> {
    anyhow::ensure!(
        arguments.mode == Mode::Safe || !arguments.profile.is_empty(),
        "--mode recorded needs a --profile: mldoctor record -o FILE -- CMD writes one"
    );
    let profile = Profile::read_all(&arguments.profile)?;
    let mut request = arguments.subject.clone().request(None)?;
    // The files are judged, not this container.
    request.scope = Scope::Image;
    let facts = Examination::open(request.clone())?.observe();
    let before = judge(&facts);
    if matches!(before.verdict, Verdict::NotReady | Verdict::Undetermined) {
        tell(&(text::verdict_line(&facts, &before) + "\n"));
        anyhow::bail!("the image itself does not have what is required; mldoctor check says why");
    }
    let rootfs = Rootfs::open_root(&request.root).context("cannot open the root of the image")?;
    let to = arguments.copy_to.as_deref().map(std::path::absolute).transpose()?;
    let without = without(&request.root, to.as_deref());
    let wanted = Wanted { mode: arguments.mode, facts: &facts, profile: &profile, without: &without };
    let plan = plan(&rootfs, &wanted);
    let mut exit = Exit::Ready;
    if let Some(to) = &to {
        put_down(&plan, &rootfs, to)?;
        exit = check(request.clone(), &arguments, &profile, to)?;
    }
    if let Some(file) = &arguments.tar {
        archive(&plan, &rootfs, file)?;
        if file == Path::new("-") {
            return Ok(exit);
        }
        if to.is_none() {
            exit = check(request, &arguments, &profile, file)?;
        }
    }
    let rendered = match (to.filter(|_| arguments.dockerfile), arguments.format) {
        (Some(to), _) => render::dockerfile(&facts, &to),
        (None, Format::Text) => render::text(&plan),
        (None, Format::Json) => render::json(&plan, arguments.mode)?,
    };
    Output::open(arguments.print.output.as_deref(), arguments.print.color).write(&rendered)?;
    Ok(exit)
}

/// The result is no part of the image, even where it lies in it.
fn without(root: &Path, to: Option<&Path>) -> Vec<PathBuf> {
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let inside = |path: PathBuf| path.strip_prefix(&root).ok().map(|rest| Path::new("/").join(rest));
    let resolved = to.map(|to| match (to.parent().and_then(|p| p.canonicalize().ok()), to.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => to.to_owned(),
    });
    resolved.iter().flat_map(|to| [to.clone(), copy::partial(to)]).filter_map(inside).collect()
}

fn put_down(plan: &Plan, rootfs: &Rootfs, to: &Path) -> anyhow::Result<()> {
    let mut progress = Progress::new("copying", plan.kept_bytes());
    copy::copy(plan, rootfs, to, |done| progress.at(done)).with_context(|| format!("cannot make {}", to.display()))?;
    Ok(())
}

fn archive(plan: &Plan, rootfs: &Rootfs, file: &Path) -> anyhow::Result<()> {
    let context = || format!("cannot write {}", file.display());
    if file == Path::new("-") {
        return match tar::write(plan, rootfs, &mut Output::stream()) {
            // A reader that has gone away has seen what it wanted.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        };
    }
    // The name is that of a whole archive, or of none.
    let partial = copy::partial(file);
    let write = || {
        let mut out = BufWriter::new(std::fs::File::create(&partial)?);
        tar::write(plan, rootfs, &mut out)?;
        out.flush()?;
        std::fs::rename(&partial, file)
    };
    write()
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&partial);
        })
        .with_context(context)
}

/// The same workload, judged in what was put down.
fn check(image: Request, arguments: &Slim, profile: &Profile, to: &Path) -> anyhow::Result<Exit> {
    let against = (!arguments.profile.is_empty()).then(|| profile.clone());
    let request = Request { root: to.to_owned(), opened: None, against, ..image };
    let facts: Facts = Examination::open(request)?.observe();
    let report = judge(&facts);
    let exit = Exit::from(report.verdict);
    if exit != Exit::Ready {
        tell(&text::render(&facts, &report, 80, false));
    }
    Ok(exit)
}
