//! Ends the work that holds the most memory when the process has too much.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::account::Account;
use crate::counter::allocated_bytes;

/// Time between two looks while there is plenty, and while there is not. At a gigabyte per second, some
/// megabytes are taken between two of the latter.
const RELAXED: Duration = Duration::from_millis(50);
const ALERT: Duration = Duration::from_millis(3);

/// Of the limit: from here on the guard looks often.
const ALERT_SHARE: f64 = 0.5;

/// How long ended work may take to free its memory before the next one ends.
const PATIENCE: Duration = Duration::from_millis(300);

/// An account with less than this part of the limit is not what is too much.
const SMALL_PART: u64 = 32;

/// Time between two warnings that nothing can be ended.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Why work ends: the process has allocated more than it may, and this work holds the most. All in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overrun {
    /// What the work holds.
    pub held: u64,
    /// What the process has allocated.
    pub allocated: u64,
    /// What it may allocate.
    pub limit: u64,
}

impl fmt::Display for Overrun {
    /// Continues a sentence whose subject is the work.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1024 * 1024;
        let Self { held, allocated, limit } = self;
        write!(
            f,
            "held {} MiB when the node had allocated {} MiB, more than its limit of {} MiB: ask for less at \
             once, run it while less else runs, or give the node more memory",
            held / MIB,
            allocated / MIB,
            limit / MIB
        )
    }
}

/// Watches the memory of the process on a thread of its own until it is dropped.
#[derive(Debug)]
pub struct MemoryGuard {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

static ENDED: AtomicU64 = AtomicU64::new(0);

impl MemoryGuard {
    /// Keeps what the process allocates below `limit` bytes.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(limit: u64) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread =
            thread::Builder::new().name("memory".to_owned()).spawn(move || watch(limit, &stopped))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// How often work was ended, by any guard of this process.
    pub fn ended() -> u64 {
        ENDED.load(Ordering::Relaxed)
    }
}

impl Drop for MemoryGuard {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(limit: u64, stop: &AtomicBool) {
    let alert = (limit as f64 * ALERT_SHARE) as u64;
    let (mut patient_until, mut warned): (Option<Instant>, Option<Instant>) = (None, None);
    while !stop.load(Ordering::Relaxed) {
        let allocated = allocated_bytes();
        if allocated <= limit {
            patient_until = None;
            thread::sleep(if allocated < alert { RELAXED } else { ALERT });
            continue;
        }
        if patient_until.is_none_or(|until| Instant::now() >= until) {
            match end_largest(allocated, limit) {
                Some(held) => {
                    ENDED.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(held, allocated, limit, "memory is short: ended what held the most");
                    patient_until = Some(Instant::now() + PATIENCE);
                }
                None if warned.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL) => {
                    tracing::warn!(allocated, limit, "memory is short, and no statement holds much of it");
                    warned = Some(Instant::now());
                }
                None => {}
            }
        }
        thread::sleep(ALERT);
    }
}

/// Ends the work that holds the most and can be ended. Returns how much that is.
fn end_largest(allocated: u64, limit: u64) -> Option<u64> {
    let mut accounts: Vec<(u64, Account)> =
        Account::all().into_iter().map(|account| (account.bytes(), account)).collect();
    accounts.retain(|(held, _)| *held >= limit / SMALL_PART);
    accounts.sort_by_key(|(held, _)| std::cmp::Reverse(*held));
    accounts
        .into_iter()
        .find(|(held, account)| account.end(&Overrun { held: *held, allocated, limit }))
        .map(|(held, _)| held)
}
