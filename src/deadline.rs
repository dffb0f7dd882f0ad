//! An answer in time, whatever happens: who asks every few seconds has a deadline, and kills what misses it without
//! reading why.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// Ends the process at a deadline, unless it is ended before.
pub struct Watch {
    is_over: Arc<AtomicBool>,
}

impl Watch {
    /// The work was done in time. Once that is said, nothing is said about lateness.
    pub fn end(self) {
        if self.is_over.swap(true, Ordering::AcqRel) {
            // The other thread was first, and has the last word.
            std::thread::sleep(Duration::MAX);
        }
    }
}

/// At the time `at`, `last_word` is told and the process ends with the exit code that it gives. Children die with it.
///
/// Where no thread can be started, there is no deadline but that of each child.
pub fn watch(at: Instant, last_word: impl FnOnce() -> u8 + Send + 'static) -> Watch {
    let is_over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_over);
    let _ = Builder::new().spawn(move || {
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        if !seen.swap(true, Ordering::AcqRel) {
            let code = last_word();
            #[expect(clippy::exit, reason = "the threads that are late cannot be asked to return")]
            std::process::exit(code.into());
        }
    });
    Watch { is_over }
}
