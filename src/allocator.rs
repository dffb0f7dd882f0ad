//! The allocator of the static file: dlmalloc, and before it the small pieces of each thread, those that it has freed and
//! those that it cuts off a larger one.
//!
//! That of musl takes a lock and often a system call for each piece, which doubles the time of a check. dlmalloc takes
//! the lock, and two threads that read Python source wait for each other: a fifth of the time.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr::null_mut;

use dlmalloc::GlobalDlmalloc;

/// See above. Small pieces never go back to dlmalloc; those that a thread leaves behind when it ends are not used again.
pub struct Allocator;

/// Pieces are kept by size, in steps of this many bytes.
const STEP: usize = 32;

/// Sizes that are kept: up to 512 bytes.
const SIZES: usize = 16;

/// Alignment of all of them, in bytes.
const ALIGNMENT: usize = 16;

/// What dlmalloc is asked for when there is none, in bytes: some hundred pieces.
const CHUNK: usize = 32 * 1024;

thread_local! {
    /// Where the chunk of the thread goes on, and how many bytes of it are left.
    static REST: Cell<(*mut u8, usize)> = const { Cell::new((null_mut(), 0)) };
    /// The piece of each size that was freed last; it holds the address of the one before.
    static FREE: [Cell<*mut u8>; SIZES] = const { [const { Cell::new(null_mut()) }; SIZES] };
}

/// Which of the kept sizes serves `layout`.
fn size_class(layout: Layout) -> Option<usize> {
    let class = layout.size().wrapping_sub(1) / STEP;
    (class < SIZES && layout.align() <= ALIGNMENT).then_some(class)
}

/// A piece that nobody had; null where there is no memory.
fn cut(class: usize) -> *mut u8 {
    let size = (class + 1) * STEP;
    REST.with(|rest| {
        let (mut at, mut left) = rest.get();
        if left < size {
            // SAFETY: the alignment is a power of two, and the size far from the end of the address space.
            at = unsafe { GlobalDlmalloc.alloc(Layout::from_size_align_unchecked(CHUNK, ALIGNMENT)) };
            if at.is_null() {
                return at;
            }
            left = CHUNK;
        }
        // SAFETY: the chunk is no shorter.
        rest.set((unsafe { at.add(size) }, left - size));
        at
    })
}

// SAFETY: a piece is either with its user or in one list of one thread, and all pieces of one class have the same size,
// which holds an address. They lie in chunks apart from one another, at multiples of the alignment, and chunks stay. A
// layout is the caller's to get right.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = size_class(layout) else { return unsafe { GlobalDlmalloc.alloc(layout) } };
        FREE.with(|free| {
            let piece = free[class].get();
            if piece.is_null() {
                return cut(class);
            }
            free[class].set(unsafe { piece.cast::<*mut u8>().read() });
            piece
        })
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        let Some(class) = size_class(layout) else { return unsafe { GlobalDlmalloc.dealloc(piece, layout) } };
        FREE.with(|free| {
            unsafe { piece.cast::<*mut u8>().write(free[class].get()) };
            free[class].set(piece);
        });
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (size_class(layout), size_class(wanted)) {
            (None, None) => unsafe { GlobalDlmalloc.realloc(piece, layout, size) },
            (Some(has), Some(wants)) if has == wants => piece,
            _ => unsafe {
                let new = self.alloc(wanted);
                if !new.is_null() {
                    new.copy_from_nonoverlapping(piece, layout.size().min(size));
                    self.dealloc(piece, layout);
                }
                new
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Pieces of all sizes, filled, resized, looked at again, and freed by another thread than the one that asked.
    #[test]
    fn pieces_are_apart_and_keep_what_they_hold() {
        let sizes = [1, 8, 31, 32, 33, 64, 500, 512, 513, 4096, 300_000];
        let fill = |piece: *mut u8, size: usize, with: u8| {
            for at in [0, size / 2, size - 1] {
                unsafe { piece.add(at).write(with) };
            }
        };
        let holds = |piece: *mut u8, size: usize, what: u8| {
            [0, size / 2, size - 1].iter().all(|at| unsafe { piece.add(*at).read() } == what)
        };
        let ask = |round: u8| {
            let mut pieces = Vec::new();
            for (number, size) in (0..).zip(sizes.iter().cycle().take(110)) {
                let align = [1, 8, 16, 64][usize::from(number % 4)];
                let layout = Layout::from_size_align(*size, align).unwrap();
                let piece = unsafe { Allocator.alloc(layout) };
                assert!(!piece.is_null() && (piece as usize).is_multiple_of(align));
                fill(piece, *size, number ^ round);
                pieces.push((piece as usize, layout, number ^ round));
            }
            pieces
        };
        let give_back = |pieces: Vec<(usize, Layout, u8)>| {
            for (number, (piece, layout, what)) in pieces.into_iter().enumerate() {
                let piece = piece as *mut u8;
                assert!(holds(piece, layout.size(), what));
                let size = sizes[number * 7 % sizes.len()];
                let moved = unsafe { Allocator.realloc(piece, layout, size) };
                assert_eq!(unsafe { moved.read() }, what);
                unsafe { Allocator.dealloc(moved, Layout::from_size_align(size, layout.align()).unwrap()) };
            }
        };
        for round in 0..20 {
            give_back(thread::scope(|scope| scope.spawn(|| ask(round)).join()).unwrap());
            let own = ask(round);
            thread::scope(|scope| scope.spawn(|| give_back(own)).join()).unwrap();
        }
    }
}
