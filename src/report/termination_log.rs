//! The reason in `kubectl describe pod`: the file that the kubelet reads when a container ends (`terminationMessagePath`).
//!
//! It takes 4,096 bytes of it, and shares 12 KiB among the containers of a pod, so the most important comes first.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::{plain, text};
use crate::facts::Facts;
use crate::finding::{Report, Severity};

/// Where the kubelet has it unless the manifest says otherwise.
pub const DEFAULT_PATH: &str = "/dev/termination-log";
/// What the kubelet reads of it (`MaxContainerTerminationMessageLength` in its `pkg/kubelet/container/runtime.go`).
const MAX_BYTES: usize = 4096;
/// Room for the number of findings that were left out.
const MORE_BYTES: usize = 64;

/// The verdict and what led to it, in at most 4,096 bytes.
pub fn render(facts: &Facts, report: &Report) -> String {
    let told = report.findings.iter().filter(|f| f.severity != Severity::Note);
    let parts: Vec<String> = told.map(|f| format!("\n{}: {}\n", f.id, plain(f))).collect();
    fit(text::verdict_line(facts, report) + "\n", &parts)
}

/// As many parts as there is room for, the last of them as far as it goes, and how many are left.
fn fit(mut out: String, parts: &[String]) -> String {
    for (at, part) in parts.iter().enumerate() {
        let room = MAX_BYTES - MORE_BYTES - out.len();
        if part.len() > room {
            let mut end = room;
            while !part.is_char_boundary(end) {
                end -= 1;
            }
            out += &part[..end];
            out += "…\n";
            let left = parts.len() - at - 1;
            if left > 0 {
                let _ = writeln!(out, "and {}", text::plural(left, "more finding"));
            }
            break;
        }
        out += part;
    }
    out
}

/// Writes it, if the file is there and may be written: outside Kubernetes there is none, and nothing is missing then.
///
/// # Errors
/// As `write(2)`.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(mut file) = OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open(path) else {
        return Ok(());
    };
    if !file.metadata()?.is_file() {
        return Ok(());
    }
    file.set_len(0)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_and_counted() {
        let parts = |n: usize| vec!["é".repeat(500) + "\n"; n];
        for (n, end) in [(6, "é…\nand 1 more finding\n"), (7, "é…\nand 2 more findings\n")] {
            let text = fit("NOT READY\n".into(), &parts(n));
            assert!(text.ends_with(end) && text.len() <= MAX_BYTES, "{text}");
        }
        let text = fit(String::new(), &[parts(1), vec!["long ".repeat(1000)]].concat());
        assert!(text.ends_with("long…\n") || text.ends_with("…\n") && !text.contains("more"), "{text}");
        let text = fit("NOT READY\n".into(), &parts(3));
        assert!(!text.contains('…') && text.ends_with("é\n"), "{text}");
    }

    #[test]
    fn it_is_written_only_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("termination-log");
        write(&path, "new").unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "an old message").unwrap();
        write(&path, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    }
}
