//! Counts what a thread allocates, while it asks for that.
//!
//! A program makes [`CountingAllocator`] its global allocator; from then on [`count`] says when to
//! look, and [`counted`] what was seen. Threads do not see each other's.
#![allow(unsafe_code)] // An allocator is an unsafe trait; this one only passes on to the system's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with a look at each request.
#[derive(Debug)]
pub struct CountingAllocator;

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Allocations, and those that were made larger or smaller.
    pub allocations: u64,
    /// Their bytes; of one that was made larger or smaller those it has then.
    pub bytes: u64,
}

thread_local! {
    // Neither has a destructor, so both may be read at any time in a thread's life.
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static COUNTED: Cell<Counted> = const { Cell::new(Counted { allocations: 0, bytes: 0 }) };
}

/// From here on this thread's allocations count, or do not.
pub fn count(on: bool) {
    COUNTING.set(on);
}

/// What this thread allocated while it counted.
pub fn counted() -> Counted {
    COUNTED.get()
}

fn look(bytes: usize) {
    if COUNTING.get() {
        let seen = COUNTED.get();
        COUNTED.set(Counted {
            allocations: seen.allocations + 1,
            bytes: seen.bytes + bytes as u64,
        });
    }
}

// SAFETY: every request goes to the system's allocator as it came, and its answer back; looking at it
// neither allocates nor panics.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        look(layout.size());
        // SAFETY: the caller keeps to what the trait asks of it.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        look(layout.size());
        // SAFETY: the caller keeps to what the trait asks of it.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        look(bytes);
        // SAFETY: the caller keeps to what the trait asks of it; `at` came from the same allocator.
        unsafe { System.realloc(at, layout, bytes) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to what the trait asks of it; `at` came from the same allocator.
        unsafe { System.dealloc(at, layout) }
    }
}
