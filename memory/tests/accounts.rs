//! Accounts with the allocator in place, and the guard that ends the largest. One test, because the counters
//! are those of the process.

#![allow(clippy::disallowed_methods, reason = "there are no async threads here")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::{FutureExt, StreamExt, future, stream};
use plexus_memory::{Account, CountingAllocator, MemoryGuard, allocated_bytes, inherit, inherit_in};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const MIB: usize = 1024 * 1024;

/// An account whose end is counted.
fn account(ends: &Arc<AtomicU64>, can_end: bool) -> Account {
    let ends = ends.clone();
    Account::open(move |overrun| {
        assert!(overrun.used > overrun.limit && overrun.held > 0);
        ends.fetch_add(u64::from(can_end), Ordering::Relaxed);
        can_end
    })
}

/// Whether an account holds so many MiB, give or take what threads have not counted yet.
fn holds(account: &Account, mib: u64) -> bool {
    account.bytes().abs_diff(mib * MIB as u64) < MIB as u64 / 4
}

#[test]
fn work_is_counted_for_its_account_and_the_largest_ends() {
    let ends = Arc::new(AtomicU64::new(0));
    let (a, b) = (account(&ends, true), account(&ends, true));

    // Nested scopes, also left by a panic.
    let before = allocated_bytes();
    let (held_a, held_b) = a.enter(|| (vec![1u8; 8 * MIB], b.enter(|| vec![1u8; 4 * MIB])));
    assert!(holds(&a, 8) && holds(&b, 4), "{a:?} {b:?}");
    assert!(allocated_bytes() - before >= 12 * MIB as u64);
    let panicked = catch_unwind(AssertUnwindSafe(|| a.enter(|| resume_unwind(Box::new("on purpose")))));
    assert!(panicked.is_err() && Account::current().is_none());
    b.release(4 * MIB);
    assert!(holds(&b, 0), "{b:?}");
    drop(held_b);

    // Tasks and threads that an account starts work for it, and give back what they held when they are
    // dropped.
    let (mut task, work) = a.enter(|| {
        let held = vec![1u8; 2 * MIB];
        let rows = stream::once(future::ready(held)).chain(stream::pending()).boxed();
        (inherit(rows), inherit_in(|| vec![1u8; 3 * MIB]))
    });
    let row = block_on(task.next());
    let made = std::thread::spawn(work).join().unwrap();
    assert!(holds(&a, 13), "{a:?}");
    a.enter(|| drop((row, made)));
    assert!(holds(&a, 8), "{a:?}");
    let later = a.scope(async { vec![1u8; MIB] }.boxed());
    assert!(holds(&a, 8), "nothing is counted before it runs: {a:?}");
    let made = block_on(later);
    assert!(holds(&a, 9), "{a:?}");
    drop(made);

    // A closed account leaves its number to the next, which begins at zero.
    drop((a, task));
    let c = account(&ends, true);
    assert!(holds(&c, 0), "{c:?}");
    drop(held_a);

    // The guard: the largest that can be ended, once.
    let (large, stubborn, small) = (account(&ends, true), account(&Arc::default(), false), c);
    let in_use = allocated_bytes();
    let guard = MemoryGuard::start(in_use + 60 * MIB as u64).unwrap();
    let held = (large.enter(|| vec![1u8; 30 * MIB]), small.enter(|| vec![1u8; 10 * MIB]));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!((ends.load(Ordering::Relaxed), MemoryGuard::ended()), (0, 0));
    let over = stubborn.enter(|| vec![1u8; 40 * MIB]);
    let began = Instant::now();
    while MemoryGuard::ended() == 0 && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(held);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((ends.load(Ordering::Relaxed), MemoryGuard::ended()), (1, 1));
    drop((over, guard));
}
