//! The same work for many things, on the processors that there are.
//!
//! A container may be allowed few processes, or none more: a thread that cannot be started is done without.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{Builder, available_parallelism, scope};

/// Threads beyond which a verdict in milliseconds gains nothing.
const MAX_THREADS: usize = 4;

/// Number of threads worth using. Asked once: the answer is read from the cgroup file system.
pub fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS))
}

/// The results of `work` for each of `items`, in their order.
pub fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::with_capacity(items.len()));
    let run = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return };
            let result = work(item);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
        }
    };
    on_threads(items.len(), &run);
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Does the same on as many threads as there are things to do. Not generic, so that the program has it once.
fn on_threads(things: usize, run: &(dyn Fn() + Sync)) {
    scope(|scope| {
        for _ in 1..threads().min(things) {
            let _ = Builder::new().spawn_scoped(scope, run);
        }
        run();
    });
}

/// The results of two pieces of work; the second is done by whichever thread comes to it first.
pub fn join<A, B: Send + Sync>(one: impl FnOnce() -> A, other: impl Fn() -> B + Sync) -> (A, B) {
    let slot = OnceLock::new();
    let first = scope(|scope| {
        if threads() > 1 {
            let _ = Builder::new().spawn_scoped(scope, || _ = slot.get_or_init(&other));
        }
        let first = one();
        slot.get_or_init(&other);
        first
    });
    (first, slot.into_inner().unwrap_or_else(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order() {
        let items: Vec<usize> = (0..1_000).collect();
        assert_eq!(map(&items, |n| n * 2), items.iter().map(|n| n * 2).collect::<Vec<_>>());
        assert!(map(&[], |n: &usize| *n).is_empty());
        assert_eq!(join(|| 1, || "two"), (1, "two"));
    }
}
