//! What the parts of PyTorch open at first use, taken away from a copy of the installation that is made of links. The
//! function that needs it is called for real, without a GPU, and must print what `user_sees` foretells.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::Installation;

/// Function that cuDNN's dispatcher finds in a part of it, and the part.
const CUDNN: &[(&str, &str)] = &[
    ("libcudnn_graph.so.9", "cudnnCreate"),
    ("libcudnn_ops.so.9", "cudnnCreateTensorDescriptor"),
    ("libcudnn_cnn.so.9", "cudnnCreateConvolutionDescriptor"),
    ("libcudnn_adv.so.9", "cudnnCreateRNNDescriptor"),
];

/// Calls a function of cuDNN; `cudnnCreate` says that there is no GPU.
const CALL_CUDNN: &str = "
import ctypes, sys, torch
handle = ctypes.c_void_p()
status = getattr(ctypes.CDLL('libcudnn.so.9'), sys.argv[1])(ctypes.byref(handle))
sys.exit(status not in (0, 1001))
";

/// Opens NVRTC as torch does, by at::DynamicLibrary(name, other_name, leak), and compiles a function of the builtins.
const COMPILE: &str = "
import ctypes, os, sys, torch
major = torch.version.cuda.split('.')[0].encode()
cpu = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), 'lib', 'libtorch_cpu.so'))
open_library = getattr(cpu, '_ZN2at14DynamicLibraryC1EPKcS2_b')
open_library.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_bool]
name = b'libnvrtc.so.' + major
open_library(ctypes.create_string_buffer(64), name, b'libnvrtc-0.so.' + major, True)
nvrtc = ctypes.CDLL(name.decode())
program, size = ctypes.c_void_p(), ctypes.c_size_t()
source = b'extern \"C\" __global__ void k(float *x) { x[0] = sinf(x[0]); }'
assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b'k.cu', 0, None, None) == 0
options = (ctypes.c_char_p * 1)(b'--gpu-architecture=compute_75')
status = nvrtc.nvrtcCompileProgram(program, 1, options)
nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
log = ctypes.create_string_buffer(size.value)
nvrtc.nvrtcGetProgramLog(program, log)
print(log.value.decode())
sys.exit(status)
";

/// A part that works as long as nothing is taken away.
struct Part {
    capability: &'static str,
    program: &'static str,
    argument: &'static str,
}

const JIT: Part = Part { capability: "torch.jit", program: COMPILE, argument: "" };

/// One trial for each library that is taken away, and for each part as it is installed.
pub fn trials(at: &Arc<Installation>) -> Vec<Trial> {
    let names = |stem: &str| -> Vec<String> {
        let names = at.libraries().into_iter().filter_map(|l| Some(l.file_name()?.to_str()?.to_owned()));
        names.filter(|name| name.starts_with(stem) && !name.contains(".alt.")).collect()
    };
    let mut cases: Vec<(Part, Option<String>)> = vec![(JIT, None)];
    for stem in ["libnvrtc.so.", "libnvrtc-builtins.so."] {
        cases.extend(names(stem).into_iter().map(|name| (JIT, Some(name))));
    }
    if !names("libcudnn.so.9").is_empty() {
        for &(name, argument) in CUDNN {
            let part = || Part { capability: "torch.conv", program: CALL_CUDNN, argument };
            cases.push((part(), Some(name.to_owned())));
        }
        cases
            .push((Part { capability: "torch.conv", program: CALL_CUDNN, argument: "cudnnCreateRNNDescriptor" }, None));
    }
    let trial = |(part, taken): (Part, Option<String>)| {
        let at = Arc::clone(at);
        let what = taken.as_ref().map_or("as installed".into(), |name| format!("without {name}"));
        let name = format!("torch {}: {} {} {what}", at.release, part.capability, part.argument);
        Trial::test(name, move || compare(&at, &part, taken.as_deref()))
    };
    cases.into_iter().map(trial).collect()
}

fn compare(at: &Installation, part: &Part, taken: Option<&str>) -> Result<(), Failed> {
    let copy = Copy::without(at, taken);
    let real = copy.run(part);
    let report = copy.check();
    let capability = report["capabilities"].as_array().unwrap().iter().find(|c| c["id"] == part.capability).unwrap();
    let works = real.status.success();
    let said = format!("{}{}", String::from_utf8_lossy(&real.stderr), String::from_utf8_lossy(&real.stdout));
    if works != (capability["status"] == "ok") {
        return Err(format!("it works: {works}; predicted: {capability}; it said:\n{said}").into());
    }
    if works {
        return Ok(());
    }
    let is_blocker = |f: &&Value| capability["blockers"].as_array().unwrap().contains(&f["id"]);
    let finding = report["findings"].as_array().unwrap().iter().find(is_blocker).unwrap();
    let sees = finding["user_sees"].as_str().unwrap_or_default();
    if sees.is_empty() || !said.contains(sees) {
        return Err(format!("predicted message {sees:?}, and it said:\n{said}").into());
    }
    Ok(())
}

/// A virtual environment whose directories are its own as far as libraries find each other by them.
struct Copy {
    dir: tempfile::TempDir,
}

impl Copy {
    fn without(at: &Installation, taken: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = dir.path().join(at.site_packages().strip_prefix(&at.dir).unwrap());
        fs::create_dir_all(&site).unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        symlink(fs::canonicalize(at.python()).unwrap(), dir.path().join("bin/python")).unwrap();
        fs::copy(at.dir.join("pyvenv.cfg"), dir.path().join("pyvenv.cfg")).unwrap();
        let is_own = |path: &Path| {
            let relative = path.strip_prefix(at.site_packages()).unwrap();
            relative.starts_with("nvidia") || relative == Path::new("torch") || relative == Path::new("torch/lib")
        };
        link(&at.site_packages(), &site, &is_own, taken.map(OsStr::new));
        Self { dir }
    }

    fn python(&self) -> PathBuf {
        self.dir.path().join("bin/python")
    }

    fn run(&self, part: &Part) -> Output {
        let mut command = Command::new(self.python());
        command.args(["-c", part.program, part.argument]);
        command.env_remove("LD_LIBRARY_PATH").env_remove("PYTHONPATH").output().unwrap()
    }

    fn check(&self) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mldoctor"));
        command.args(["check", "--image", "--format", "json", "--python"]).arg(self.python()).arg("torch");
        let output = command.env_remove("LD_LIBRARY_PATH").env_remove("PYTHONPATH").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Links to everything in `from` but what is called `taken`; directories that `is_own` says are made anew.
fn link(from: &Path, to: &Path, is_own: &dyn Fn(&Path) -> bool, taken: Option<&OsStr>) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if Some(name.as_os_str()) == taken {
            continue;
        }
        let (path, copy) = (entry.path(), to.join(&name));
        if path.is_dir() && is_own(&path) {
            fs::create_dir(&copy).unwrap();
            link(&path, &copy, is_own, taken);
        } else {
            symlink(&path, &copy).unwrap();
        }
    }
}
