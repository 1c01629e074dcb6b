//! Room for what work allocates next. While the guard waits for the memory of what it has ended, other work
//! would take as much again. So tasks that hold much are not polled meanwhile, and threads that are in the
//! middle of one are held up before each large allocation.
//!
//! Ended work goes on: it has to get to where it ends. So does work that cannot be ended.

use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use crate::counter;

/// Work allocates less than this without being held up: bytes.
const LARGE: usize = 512 * 1024;

/// Time between two looks of a thread that is held up.
const LOOK: Duration = Duration::from_millis(1);

/// Looks after which it goes on in any case: a thread that rests here runs no other task, and memory is freed
/// by tasks.
const LOOKS_MAX: usize = 20;

static IS_SHORT: AtomicBool = AtomicBool::new(false);

/// Bytes of an account that holds much.
static MUCH: AtomicIsize = AtomicIsize::new(isize::MAX);

/// Tasks that are not polled.
static WAITING: Mutex<Vec<Waker>> = Mutex::new(vec![]);

fn waiting() -> MutexGuard<'static, Vec<Waker>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says that work which holds `much` bytes has to wait.
pub(crate) fn close(much: u64) {
    MUCH.store(isize::try_from(much).unwrap_or(isize::MAX), Ordering::Relaxed);
    IS_SHORT.store(true, Ordering::SeqCst);
}

/// Lets all work go on.
pub(crate) fn open() {
    if IS_SHORT.swap(false, Ordering::SeqCst) {
        let wakers = std::mem::take(&mut *waiting());
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Whether the work of an account has to wait.
fn is_closed_for(account: usize) -> bool {
    IS_SHORT.load(Ordering::Relaxed)
        && account > 0
        && !counter::passes(account)
        && counter::balance(account) >= MUCH.load(Ordering::Relaxed)
}

/// Whether a task that works for the account of this thread must not be polled now. It is woken later.
pub(crate) fn is_held_up(context: &Context<'_>) -> bool {
    if !is_closed_for(counter::current()) {
        return false;
    }
    let mut waiting = waiting();
    // Otherwise it may have opened meanwhile, and nobody would wake the task.
    let is_short = IS_SHORT.load(Ordering::SeqCst);
    if is_short {
        waiting.push(context.waker().clone());
    }
    is_short
}

/// Holds this thread up before it allocates bytes for an account.
#[expect(clippy::disallowed_methods, reason = "an allocation cannot wait in another way")]
pub(crate) fn wait_for(bytes: usize) {
    if bytes < LARGE || !IS_SHORT.load(Ordering::Relaxed) {
        return;
    }
    let account = counter::current();
    for _ in 0..LOOKS_MAX {
        if !is_closed_for(account) {
            return;
        }
        thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures::FutureExt;

    use super::*;
    use crate::account::Account;
    use crate::guard::Overrun;

    #[test]
    fn work_that_holds_much_waits_until_it_is_ended() {
        let ended = AtomicBool::new(false);
        let large = Account::open(move |_| !ended.swap(true, Ordering::Relaxed));
        let small = Account::open(|_| true);
        counter::adjust(counter_of(&large), 1_000);
        let waited = |account: &Account, bytes: usize| {
            let began = Instant::now();
            account.enter(|| wait_for(bytes));
            began.elapsed()
        };
        close(1_000);
        assert!(waited(&small, LARGE) < LOOK);
        assert!(waited(&large, LARGE - 1) < LOOK);
        assert!(waited(&large, LARGE) >= LOOK * LOOKS_MAX as u32);
        assert_eq!(large.scope(std::future::ready(1)).now_or_never(), None);
        assert_eq!(waiting().len(), 1);
        large.end(&Overrun { held: 1, used: 2, limit: 1 });
        // It cannot be ended twice.
        large.end(&Overrun { held: 1, used: 2, limit: 1 });
        assert!(waited(&large, LARGE) < LOOK);
        assert_eq!(large.scope(std::future::ready(1)).now_or_never(), Some(1));
        open();
        assert!(waiting().is_empty());
    }

    fn counter_of(account: &Account) -> usize {
        account.enter(counter::current)
    }
}
