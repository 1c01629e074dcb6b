//! The allocator of a process, which counts what it hands out.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_long;

use mimalloc::MiMalloc;

use crate::counter::count;
use crate::room;

/// `mimalloc`, with counters: [`allocated_bytes`](crate::allocated_bytes) and
/// [`Account::bytes`](crate::Account::bytes). Without it as the global allocator, both stay at zero.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountingAllocator;

// SAFETY: each call is passed to `mimalloc` as it came, with the same contract. Counting and waiting neither
// allocate nor panic.
#[expect(unsafe_code, reason = "a global allocator cannot be written without")]
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        room::wait_for(layout.size());
        // SAFETY: the caller keeps the contract.
        counted(unsafe { MiMalloc.alloc(layout) }, layout.size() as isize)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        room::wait_for(layout.size());
        // SAFETY: the caller keeps the contract.
        counted(unsafe { MiMalloc.alloc_zeroed(layout) }, layout.size() as isize)
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        room::wait_for(size.saturating_sub(layout.size()));
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

/// `mi_option_purge_delay`, which the bindings leave out.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Milliseconds after which memory that is freed goes back to the system: the default of the allocator.
const PURGE_DELAY_MS: c_long = 1_000;

/// Whether memory that is freed goes back to the system at once, or a moment later, which costs less.
pub(crate) fn give_back_at_once(at_once: bool) {
    let delay = if at_once { 0 } else { PURGE_DELAY_MS };
    // SAFETY: the option is a number, which each thread reads when it frees memory.
    #[expect(unsafe_code, reason = "options of the allocator have no safe interface")]
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, delay);
    }
}

/// Gives memory that is free back to the system.
pub(crate) fn give_back() {
    // SAFETY: there are no conditions.
    #[expect(unsafe_code, reason = "the allocator has no safe interface for it")]
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_delay() {
        // SAFETY: there are no conditions.
        #[expect(unsafe_code, reason = "options of the allocator have no safe interface")]
        let before = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(before, PURGE_DELAY_MS, "the options have other numbers, or the delay is another one");
    }
}
