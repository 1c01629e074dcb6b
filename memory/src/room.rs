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

/// Whether the work of the account of this thread holds so much that, while memory is short, it should fail
/// rather than take more: work that is in the middle of one task cannot be ended from outside.
pub(crate) fn must_not_grow() -> bool {
    let account = counter::current();
    is_closed_for(account) && counter::balance(account) / 2 >= MUCH.load(Ordering::Relaxed)
}

/// Whether a task that works for the account of this thread must not be polled now. It is woken later.
pub(crate) fn is_held_up(context: &Context<'_>) -> bool {
    if !is_closed_for(counter::current()) {
        return false;
    }
    let mut waiting = waiting();
    // Otherwise it may have opened meanwhile, and nobody would wake the task.
    let is_short = IS_SHORT.load(Ordering::SeqCst);
    // Whatever else wakes a task that waits polls it again.
    if is_short && !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
        waiting.push(context.waker().clone());
    }
    is_short
}

/// Whether an allocation of bytes by this thread has to wait.
fn has_to_wait(bytes: usize) -> bool {
    bytes >= LARGE && is_closed_for(counter::current())
}

/// Holds this thread up before it allocates bytes for an account.
#[expect(clippy::disallowed_methods, reason = "an allocation cannot wait in another way")]
pub(crate) fn wait_for(bytes: usize) {
    for _ in 0..LOOKS_MAX {
        if !has_to_wait(bytes) {
            return;
        }
        thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;
    use std::time::Instant;

    use super::*;
    use crate::account::Account;
    use crate::guard::Overrun;

    #[test]
    fn work_that_holds_much_waits_until_it_is_ended() {
        let ended = AtomicBool::new(false);
        let large = Account::open(move |_| !ended.swap(true, Ordering::Relaxed));
        let small = Account::open(|_| true);
        counter::adjust(large.enter(counter::current), 1_000);
        close(1_000);
        assert!(!small.enter(|| has_to_wait(LARGE)));
        assert!(!large.enter(|| has_to_wait(LARGE - 1)));
        let began = Instant::now();
        large.enter(|| wait_for(LARGE));
        assert!(!large.enter(must_not_grow));
        counter::adjust(large.enter(counter::current), 1_000);
        assert!(large.enter(must_not_grow) && !small.enter(must_not_grow));
        assert!(began.elapsed() >= LOOK * LOOKS_MAX as u32);
        let mut task = Box::pin(large.scope(std::future::ready(1)));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            assert_eq!(task.as_mut().poll(&mut context), Poll::Pending);
            assert_eq!(waiting().len(), 1);
        }
        large.end(&Overrun { held: 1, used: 2, limit: 1 });
        // It cannot be ended twice.
        large.end(&Overrun { held: 1, used: 2, limit: 1 });
        assert!(!large.enter(|| has_to_wait(LARGE)));
        assert_eq!(task.as_mut().poll(&mut context), Poll::Ready(1));
        open();
        assert!(waiting().is_empty());
    }
}
