//! Programs and headers that run-time compilers need, looked up as Triton (`runtime/build.py`,
//! `backends/nvidia/driver.py`) and Inductor (`torch/_inductor/cpp_builder.py`) look them up.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Examination;
use crate::facts::{Absence, How, Step, StepOutcome, Weight};
use crate::image::elf::Machine;
use crate::python::Interpreter;

/// Looks for one of the tools that a feature names; an unknown name is nothing to look for.
pub fn find(examination: &Examination, python: &Interpreter, tool: &str) -> Option<Step> {
    let env = &examination.request.env;
    let one_of = |variable: &str, names: &[&str]| {
        let chosen = env.non_empty(variable).map(|v| v.to_string_lossy().into_owned());
        let names: Vec<String> = match &chosen {
            Some(command) => command.split_whitespace().next().map(str::to_owned).into_iter().collect(),
            None => names.iter().map(|n| (*n).to_owned()).collect(),
        };
        let hit = names.iter().find_map(|n| on_path(examination, n));
        (names.join(", "), hit)
    };
    let paths = |paths: Vec<PathBuf>, executable: bool| {
        let hit = paths
            .iter()
            .find(|p| examination.rootfs.stat(p).is_ok_and(|s| s.is_file() && (!executable || s.is_executable())))
            .cloned();
        (paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "), hit)
    };
    let multiarch = format!("{}-linux-gnu", Machine::host().name());
    let (what, (searched, hit), user_sees) = match tool {
        "c-compiler" => (
            "a C compiler",
            one_of("CC", &["gcc", "clang"]),
            "RuntimeError: Failed to find C compiler. Please specify via CC environment variable.".to_owned(),
        ),
        "c++-compiler" => (
            "a C++ compiler",
            one_of("CXX", &["g++", "clang++"]),
            "InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')"
                .to_owned(),
        ),
        "libc-headers" => (
            "the headers of libc",
            paths(
                vec![
                    PathBuf::from("/usr/include/stdlib.h"),
                    Path::new("/usr/include").join(&multiarch).join("stdlib.h"),
                ],
                false,
            ),
            "fatal error: stdlib.h: No such file or directory".to_owned(),
        ),
        "python-header" => (
            "Python.h",
            paths(vec![python.include_dir().join("Python.h")], false),
            "fatal error: Python.h: No such file or directory".to_owned(),
        ),
        "ldconfig" => {
            if env.non_empty("TRITON_LIBCUDA_PATH").is_some() {
                return None;
            }
            (
                "/sbin/ldconfig",
                paths(vec![PathBuf::from("/sbin/ldconfig")], true),
                "FileNotFoundError: [Errno 2] No such file or directory: '/sbin/ldconfig'".to_owned(),
            )
        }
        "ptxas" => {
            let candidates = match env.non_empty("TRITON_PTXAS_PATH") {
                Some(path) => vec![PathBuf::from(path)],
                None => {
                    let of = |entry: &PathBuf| entry.join("triton/backends/nvidia/bin/ptxas");
                    let here =
                        examination.sys_path.entries.iter().find(|e| examination.rootfs.is_dir(&e.join("triton")));
                    vec![of(here?)]
                }
            };
            ("ptxas", paths(candidates, true), "RuntimeError: Cannot find ptxas".to_owned())
        }
        _ => return None,
    };
    let outcome = match hit {
        Some(path) => StepOutcome::Ok(path.to_string_lossy().into_owned()),
        None => StepOutcome::NotFound(Absence {
            kind: tool.to_owned(),
            name: what.to_owned(),
            searched: vec![searched],
            notes: match env.non_empty("PATH") {
                Some(path) if tool.ends_with("-compiler") => {
                    vec![("PATH".to_owned(), path.to_string_lossy().into_owned())]
                }
                _ => Vec::new(),
            },
        }),
    };
    Some(Step {
        what: format!("find {what}"),
        how: How::File,
        file: what.to_owned(),
        because: Vec::new(),
        weight: Weight::Required,
        user_sees: matches!(outcome, StepOutcome::NotFound(_)).then_some(user_sees),
        outcome,
    })
}

/// `shutil.which`
pub fn on_path(examination: &Examination, name: &str) -> Option<PathBuf> {
    let usable = |p: &Path| examination.rootfs.stat(p).is_ok_and(|s| s.is_file() && s.is_executable());
    if name.contains('/') {
        let path = PathBuf::from(name);
        return usable(&path).then_some(path);
    }
    let path = examination.request.env.non_empty("PATH")?;
    path.as_bytes()
        .split(|&b| b == b':')
        .map(|dir| Path::new(std::ffi::OsStr::from_bytes(dir)).join(name))
        .find(|p| usable(p))
}
