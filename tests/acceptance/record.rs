//! `mldoctor record` beside `strace` on a real PyTorch that loads its data in worker processes and compiles.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};

use super::Installation;
use super::support::{skip, strace};

/// Workers that are forked, workers that start anew, and an extension that is compiled and loaded.
const PROGRAM: &str = r##"
import os, subprocess, sys, tempfile
import torch
from torch.utils.data import DataLoader, Dataset

class Squares(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, n):
        import colorsys
        return torch.tensor(colorsys.rgb_to_hsv(n / 8, 0.5, 0.5))

def total(**how):
    return sum(float(batch.sum()) for batch in DataLoader(Squares(), batch_size=2, num_workers=2, **how))

if __name__ == "__main__":
    assert total() == total(multiprocessing_context="spawn", persistent_workers=True)
    with tempfile.TemporaryDirectory() as d:
        source, library = os.path.join(d, "op.cpp"), os.path.join(d, "op.so")
        open(source, "w").write("#include <vector>\nextern \"C\" int op() { return std::vector<int>(7).size(); }\n")
        subprocess.run(["c++", "-shared", "-fPIC", "-o", library, source], check=True)
        torch.ops.load_library(library)
    print("done")
"##;

/// Nothing that `strace` sees opened may be missed.
fn workers(at: &Installation) -> Result<(), Failed> {
    if Command::new("strace").arg("-V").output().is_err() || Command::new("c++").arg("--version").output().is_err() {
        skip("strace or c++ is not installed");
        return Ok(());
    }
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("program.py");
    std::fs::write(&script, PROGRAM).unwrap();
    let command = [at.python(), script].map(|path| path.to_str().unwrap().to_owned());
    let command = command.each_ref().map(String::as_str);
    let (code, log) = strace::trace(&dir.path().join("strace.log"), &command);
    assert_eq!(code, Some(0));
    let (code, profile) = strace::record(dir.path(), &command);
    assert_eq!(code, 0);
    assert_eq!(strace::missed(&log, &profile), Vec::<PathBuf>::new());
    for module in ["torch.utils.data._utils.worker", "colorsys"] {
        assert!(profile.modules.contains_key(module), "{module}");
    }
    assert!(profile.programs.keys().any(|p| p.ends_with("/cc1plus")), "{:?}", profile.programs.keys());
    println!("{} files, {} processes", profile.files.len(), profile.runs[0].processes);
    Ok(())
}

/// One for each installation.
pub fn trials(at: &Arc<Installation>) -> Vec<Trial> {
    let own = Arc::clone(at);
    vec![Trial::test(format!("torch {}: record, workers and a compiler", at.release), move || workers(&own))]
}
