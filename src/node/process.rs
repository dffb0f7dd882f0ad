//! This process, and the first one of the container.

use std::collections::BTreeSet;

use super::Processes;
use crate::facts::Observed;
use crate::facts::node::{Pid1, ProcessFacts};

/// `/proc/PID/status` (proc_pid_status(5)).
pub fn own(processes: &Processes<'_>) -> ProcessFacts {
    let status = processes.read(&processes.own, "status").seen().cloned().unwrap_or_default();
    let line = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).unwrap_or("").trim();
    // The second number is the effective one.
    let effective = |key: &str| line(key).split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut gids: Vec<u32> = vec![effective("Gid")];
    gids.extend(line("Groups").split_whitespace().filter_map(|g| g.parse::<u32>().ok()));
    gids.dedup();
    ProcessFacts {
        uid: effective("Uid"),
        gids,
        capabilities: u64::from_str_radix(line("CapEff"), 16).unwrap_or(0),
        seccomp: line("Seccomp").parse().unwrap_or(0),
        cpus: count(line("Cpus_allowed_list")),
    }
}

/// How many numbers are in a list such as `0-3,8`.
fn count(list: &str) -> u32 {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)?.saturating_add(1))
    };
    list.split(',').filter_map(range).fold(0, u32::saturating_add)
}

/// The first process, unless it is this program. Its maps and environment are readable for the same user only.
pub fn first(processes: &Processes<'_>) -> Observed<Pid1> {
    let read = |name| processes.read(&processes.first, name);
    let command = read("cmdline").and_then(|text| {
        let words: Vec<String> = text.split('\0').filter(|w| !w.is_empty()).map(str::to_owned).collect();
        let is_own = words.first().is_some_and(|w| w.ends_with("mldoctor"));
        (!words.is_empty() && !is_own).then_some(words)
    });
    let maps = read("maps");
    let environ = read("environ");
    command.and_then(|command| {
        let paths = maps.seen().map_or("", String::as_str).lines().filter_map(|l| l.find('/').map(|at| &l[at..]));
        let libraries: BTreeSet<&str> = paths.filter(|p| p.contains(".so")).collect();
        let ld_library_path = environ.clone().and_then(|text| {
            let value = text.split('\0').find_map(|line| line.strip_prefix("LD_LIBRARY_PATH="));
            Some(value.unwrap_or_default().to_owned())
        });
        Some(Pid1 { command, ld_library_path, mapped: libraries.into_iter().map(str::to_owned).collect() })
    })
}
