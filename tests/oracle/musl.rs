//! Random graphs under musl's loader: it searches in another order, binds everything at once, and goes on after an error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mldoctor::image::elf::Machine;
use mldoctor::loader::{LoadError, Process, Via};

use crate::graphs::{build_for, for_each_seed};
use crate::support::skip;
use crate::world::{World, may_chroot};

/// Graphs per run.
const GRAPHS: u64 = 1_000;

/// What either side says of a program.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    libraries: BTreeMap<String, String>,
    /// Name, and who needs it.
    missing: BTreeSet<(String, String)>,
    /// Object and symbol.
    undefined: BTreeSet<(String, String)>,
}

fn real(world: &World) -> Answer {
    let output = world.run_loader(&["--list", "/bin/main"], &[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // A directory written with a slash at its end gets another one.
    let text = text.replace("//", "/");
    let mut answer = Answer::default();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("Error loading shared library ") {
            let (name, rest) = rest.split_once(": ").unwrap();
            let by = rest.split_once("(needed by ").map_or("", |(_, by)| by.trim_end_matches(')'));
            answer.missing.insert((name.to_owned(), by.to_owned()));
        } else if let Some(rest) = line.strip_prefix("Error relocating ") {
            let (object, symbol) = rest.split_once(": ").unwrap();
            answer.undefined.insert((object.to_owned(), symbol.trim_end_matches(": symbol not found").to_owned()));
        } else if let Some((name, path)) = line.trim().split_once(" => ") {
            answer.libraries.insert(name.to_owned(), path.split(" (0x").next().unwrap().to_owned());
        }
    }
    answer
}

fn model(world: &World) -> Answer {
    let loader = world.loader_with(&[]);
    let (process, errors) = Process::start(&loader, Path::new("/bin/main"));
    let process = process.unwrap();
    let mut answer = Answer::default();
    for error in errors {
        match error {
            LoadError::Missing { name, requested_by, .. } => {
                answer.missing.insert((name, requested_by));
            }
            LoadError::Undefined { object, symbol, .. } => {
                answer.undefined.insert((object, symbol));
            }
            other => panic!("{other:?}"),
        }
    }
    for (_, object) in process.objects() {
        let name = object.first_name().to_string_lossy();
        if !matches!(object.via, Via::Interpreter | Via::Program) {
            answer.libraries.insert(name.into_owned(), object.display());
        }
    }
    answer
}

fn agree(world: &World) -> Result<(), String> {
    let (real, model) = (real(world), model(world));
    if real == model { Ok(()) } else { Err(format!("\n  real:  {real:?}\n  model: {model:?}")) }
}

#[test]
fn a_thousand_random_graphs_under_musl() {
    let loader = format!("/lib/ld-musl-{}.so.1", Machine::host().name());
    if !may_chroot() || !Path::new(&loader).exists() {
        return skip("musl needs root, to change the root directory, and its loader (Debian: musl)");
    }
    for_each_seed(GRAPHS, |seed| {
        let mut world = build_for(&loader, seed);
        if seed % 4 == 0 {
            world.write(&format!("/etc/ld-musl-{}.path", Machine::host().name()), b"/b:/nowhere\n/opt/x/lib");
        }
        world.env.retain(|(name, _)| name != "LD_PRELOAD");
        agree(&world)
    });
}
