//! Says what happens, line by line, so that the last line before a death names the call that led to it.

use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;

use mldoctor_probes::{CallError, Field, Line, RESULTS_FD};

/// The descriptor of the results.
pub struct Teller(File);

impl Teller {
    pub fn new() -> Self {
        // SAFETY: the supervisor opens this descriptor for the results; nothing else in this process owns it. If it is
        // not open, writing fails and the process ends.
        Self(unsafe { File::from_raw_fd(RESULTS_FD) })
    }

    /// Writes a line. Without a supervisor that reads it there is nothing left to do.
    pub fn tell(&mut self, line: &Line) {
        let text = serde_json::to_vec(line).map(|mut text| {
            text.push(b'\n');
            text
        });
        if !text.is_ok_and(|text| self.0.write_all(&text).is_ok()) {
            end();
        }
    }

    /// Makes a call that may kill the process.
    pub fn call<T>(&mut self, call: String, make: impl FnOnce() -> Result<T, CallError>) -> Result<T, CallError> {
        self.tell(&Line::Begin { call });
        let outcome = make();
        self.tell(&Line::End { error: outcome.as_ref().err().cloned() });
        outcome
    }

    /// A call whose answer is one field of many.
    pub fn field<T>(&mut self, call: String, make: impl FnOnce() -> Result<T, CallError>) -> Field<T> {
        match self.call(call, make) {
            Ok(value) => Field::Is(value),
            Err(error) => Field::Error(error),
        }
    }
}

/// Ends the process without the destructors of what was loaded: those of half-initialised libraries crash.
pub fn end() -> ! {
    // SAFETY: takes a plain value and does not return.
    unsafe { libc::_exit(0) }
}
