//! Loads the libraries named as arguments, one after the other, and says what came of each.
//!
//! Everything dangerous happens here and nowhere else. The environment is the one under diagnosis and is left as it
//! is. Nothing is unloaded: the process ends soon, and destructors of half-initialised libraries crash.

use std::ffi::{CStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;
use std::process::ExitCode;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};
use mldoctor_probes::{Line, Load, Mode, RESULTS_FD};

fn main() -> ExitCode {
    harmless_death();
    // SAFETY: the supervisor opens this descriptor for the results; nothing else in this process owns it. If it is
    // not open, writing fails and the process ends.
    let mut results = unsafe { File::from_raw_fd(RESULTS_FD) };
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    for (index, argument) in arguments.iter().enumerate() {
        let Some(load) = Load::from_argument(argument) else { return ExitCode::from(2) };
        if tell(&mut results, &Line::Begin { index }).is_err() {
            return ExitCode::FAILURE;
        }
        let line = match open(&load) {
            Ok(path) => Line::Loaded { index, path },
            Err(message) => Line::Failed { index, message },
        };
        if tell(&mut results, &line).is_err() {
            return ExitCode::FAILURE;
        }
    }
    // SAFETY: ends the process without the destructors of what was loaded.
    unsafe { libc::_exit(0) }
}

/// No core file, and no life after the supervisor's.
fn harmless_death() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take plain values and only change this process.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
}

fn open(load: &Load) -> Result<String, String> {
    let mode = match load.mode {
        Mode::Local => RTLD_LOCAL,
        Mode::Global => RTLD_GLOBAL,
    };
    // SAFETY: initialisers run; that they may do anything is why this is a process of its own.
    let library = unsafe { Library::open(Some(&load.file), RTLD_NOW | mode) }.map_err(|e| message(&e))?;
    Ok(mapped_path(library.into_raw()).unwrap_or_else(|| load.file.to_string_lossy().into_owned()))
}

/// The text of `dlerror` without what the crate puts around it.
fn message(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The head of glibc's `struct link_map` (`<link.h>`).
#[repr(C)]
struct LinkMap {
    l_addr: usize,
    l_name: *const libc::c_char,
}

fn mapped_path(handle: *mut libc::c_void) -> Option<String> {
    let mut map: *const LinkMap = std::ptr::null();
    // SAFETY: the handle is open, and with RTLD_DI_LINKMAP dlinfo stores a pointer to its link map, which lives as
    // long as the library is loaded; its name is a C string.
    unsafe {
        if libc::dlinfo(handle, libc::RTLD_DI_LINKMAP, (&raw mut map).cast()) != 0 || map.is_null() {
            return None;
        }
        let name = (*map).l_name;
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

fn tell(results: &mut File, line: &Line) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    results.write_all(&text)
}
