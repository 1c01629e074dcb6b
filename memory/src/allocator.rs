//! The allocator of a process, which counts what it hands out.

use std::alloc::{GlobalAlloc, Layout};

use mimalloc::MiMalloc;

use crate::counter::count;

/// `mimalloc`, with counters: [`allocated_bytes`](crate::allocated_bytes) and
/// [`Account::bytes`](crate::Account::bytes). Without it as the global allocator, both stay at zero.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountingAllocator;

// SAFETY: each call is passed to `mimalloc` as it came, with the same contract. Counting neither allocates
// nor panics.
#[expect(unsafe_code, reason = "a global allocator cannot be written without")]
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        counted(unsafe { MiMalloc.alloc(layout) }, layout.size() as isize)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        counted(unsafe { MiMalloc.alloc_zeroed(layout) }, layout.size() as isize)
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        counted(unsafe { MiMalloc.realloc(pointer, layout, size) }, size as isize - layout.size() as isize)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { MiMalloc.dealloc(pointer, layout) };
        count(-(layout.size() as isize));
    }
}

/// Counts bytes if they were allocated.
fn counted(pointer: *mut u8, bytes: isize) -> *mut u8 {
    if !pointer.is_null() {
        count(bytes);
    }
    pointer
}
