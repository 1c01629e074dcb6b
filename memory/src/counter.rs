//! The counters. They are touched by each allocation: no locks, no allocation, and a write to shared memory
//! only once in [`PENDING_BYTES_MAX`].

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

/// Accounts that may be open. Further ones share number zero.
pub(crate) const ACCOUNTS_MAX: usize = 16_384;

/// Bytes that a thread counts by itself before it adds them to the shared counters.
const PENDING_BYTES_MAX: usize = 64 * 1024;

static ALLOCATED: AtomicIsize = AtomicIsize::new(0);

/// By the number of an account. Number zero is for work of nobody.
static ACCOUNTS: [AtomicIsize; ACCOUNTS_MAX] = [const { AtomicIsize::new(0) }; ACCOUNTS_MAX];

/// Whether the work of an account has been ended.
static ENDED: [AtomicBool; ACCOUNTS_MAX] = [const { AtomicBool::new(false) }; ACCOUNTS_MAX];

/// Whether it goes on while memory is short.
static PASSES: [AtomicBool; ACCOUNTS_MAX] = [const { AtomicBool::new(false) }; ACCOUNTS_MAX];

thread_local! {
    static PENDING: Cell<isize> = const { Cell::new(0) };
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Bytes that the process has allocated and not freed. Memory-mapped files are not among them, nor what the
/// allocator keeps for itself.
pub fn allocated_bytes() -> u64 {
    ALLOCATED.load(Ordering::Relaxed).try_into().unwrap_or(0)
}

/// Counts bytes that this thread allocates or, if negative, frees.
pub(crate) fn count(bytes: isize) {
    let pending = PENDING.get().wrapping_add(bytes);
    if pending.unsigned_abs() < PENDING_BYTES_MAX {
        PENDING.set(pending);
    } else {
        PENDING.set(0);
        add(CURRENT.get(), pending);
    }
}

/// Lets this thread work for another account, and returns the one so far.
pub(crate) fn switch(account: usize) -> usize {
    let before = CURRENT.replace(account);
    if before != account {
        add(before, PENDING.replace(0));
    }
    before
}

/// The account that this thread works for.
pub(crate) fn current() -> usize {
    CURRENT.get()
}

/// Bytes of an account. Negative if it freed more than it had allocated.
pub(crate) fn balance(account: usize) -> isize {
    ACCOUNTS[account].load(Ordering::Relaxed)
}

/// Changes the bytes of an account, not those of the process.
pub(crate) fn adjust(account: usize, bytes: isize) {
    ACCOUNTS[account].fetch_add(bytes, Ordering::Relaxed);
}

/// Begins an account anew.
pub(crate) fn reset(account: usize) {
    ACCOUNTS[account].store(0, Ordering::Relaxed);
    ENDED[account].store(false, Ordering::Relaxed);
    PASSES[account].store(false, Ordering::Relaxed);
}

/// Lets the work of an account go on while memory is short.
pub(crate) fn let_pass(account: usize) {
    PASSES[account].store(true, Ordering::SeqCst);
}

/// Whether the work of an account goes on while memory is short.
pub(crate) fn passes(account: usize) -> bool {
    PASSES[account].load(Ordering::Relaxed)
}

/// Notes that the work of an account has been ended.
pub(crate) fn note_end(account: usize) {
    ENDED[account].store(true, Ordering::SeqCst);
}

/// Whether the work of an account has been ended. Never that of nobody.
pub(crate) fn has_ended(account: usize) -> bool {
    account > 0 && ENDED[account].load(Ordering::Relaxed)
}

fn add(account: usize, bytes: isize) {
    ALLOCATED.fetch_add(bytes, Ordering::Relaxed);
    ACCOUNTS[account].fetch_add(bytes, Ordering::Relaxed);
}
