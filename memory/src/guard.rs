//! Ends the work that holds the most memory when the process has too much.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::account::Account;
use crate::allocator::{give_back, give_back_at_once};
use crate::counter::allocated_bytes;
use crate::room;

/// Time between two looks while there is plenty, and while there is not. At a gigabyte per second, some
/// megabytes are taken between two of the latter.
const RELAXED: Duration = Duration::from_millis(50);
const ALERT: Duration = Duration::from_millis(5);

/// Of the limit: from here on the guard looks often.
const ALERT_SHARE: f64 = 0.6;

/// Time between two requests to the allocator to give back what it holds.
const COLLECT_INTERVAL: Duration = Duration::from_millis(50);

/// What the allocator holds beyond what is allocated, as a part of the limit, from which on it is asked.
const IDLE_PART: u64 = 16;

/// Of the limit: by so much may what is allocated exceed what is resident, and count.
const RESERVED_PART: u64 = 4;

/// How long ended work may take to free its memory before the next one ends.
const PATIENCE: Duration = Duration::from_millis(150);

/// An account with less than this part of the limit is not what is too much.
const SMALL_PART: u64 = 32;

/// Time between two warnings that nothing can be ended.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Why work ends: the process has more memory than it may, and this work holds the most. All in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overrun {
    /// What the work holds.
    pub held: u64,
    /// What the process has.
    pub used: u64,
    /// What it may have.
    pub limit: u64,
}

impl fmt::Display for Overrun {
    /// Continues a sentence whose subject is the work.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1024 * 1024;
        let Self { held, used, limit } = self;
        write!(
            f,
            "held {} MiB when the node had {} MiB, more than its limit of {} MiB: ask for less at \
             once, run it while less else runs, or give the node more memory",
            held / MIB,
            used / MIB,
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
    /// Keeps what the process has below `limit` bytes.
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
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn watch(limit: u64, stop: &AtomicBool) {
    let alert = (limit as f64 * ALERT_SHARE) as u64;
    let (mut patient_until, mut warned, mut collected): (Option<Instant>, Option<Instant>, Option<Instant>) =
        (None, None, None);
    while !stop.load(Ordering::Relaxed) {
        let (allocated, resident) = (allocated_bytes(), resident_bytes());
        // What is allocated is touched soon, but for buffers that peers have only announced.
        let used = allocated.min(resident + limit / RESERVED_PART).max(resident);
        give_back_at_once(used >= alert);
        if used <= limit {
            room::open();
        }
        if used < alert {
            patient_until = None;
            thread::park_timeout(RELAXED);
            continue;
        }
        let is_idle = resident.saturating_sub(allocated) > limit / IDLE_PART;
        if is_idle && collected.is_none_or(|at| at.elapsed() >= COLLECT_INTERVAL) {
            give_back();
            collected = Some(Instant::now());
        }
        if used > limit && patient_until.is_none_or(|until| Instant::now() >= until) {
            let ended = end_largest(used, limit);
            if ended > 0 {
                ENDED.fetch_add(ended, Ordering::Relaxed);
                tracing::warn!(
                    ended,
                    allocated,
                    resident,
                    limit,
                    "memory is short: ended what held the most"
                );
                patient_until = Some(Instant::now() + PATIENCE);
                room::close(limit / SMALL_PART);
            } else {
                room::open();
                if warned.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL) {
                    tracing::warn!(
                        allocated,
                        resident,
                        limit,
                        "memory is short, and no statement holds much of it"
                    );
                    warned = Some(Instant::now());
                }
            }
        }
        thread::park_timeout(ALERT);
    }
    room::open();
}

/// Ends the work that holds the most and can be ended, and more until what they hold is what is too much.
/// Returns how many were ended.
fn end_largest(used: u64, limit: u64) -> u64 {
    let mut accounts: Vec<(u64, Account)> =
        Account::all().into_iter().map(|account| (account.bytes(), account)).collect();
    accounts.retain(|(held, _)| *held >= limit / SMALL_PART);
    accounts.sort_by_key(|(held, _)| std::cmp::Reverse(*held));
    let (mut freed, mut ended) = (0, 0);
    for (held, account) in accounts {
        if used.saturating_sub(freed) <= limit {
            break;
        }
        if account.end(&Overrun { held, used, limit }) {
            freed += held;
            ended += 1;
        }
    }
    ended
}

/// Memory of this process that no file backs, as the system counts it: what is allocated, and what the
/// allocator holds beside that. Zero where the system does not say.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = statm.split(' ').skip(1).map(|pages| pages.parse::<u64>().unwrap_or(0));
    let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(shared) * PAGE_BYTES
}

/// Bytes of a page; a larger one only makes the guard see less.
const PAGE_BYTES: u64 = 4096;
