//! The memory that operators share.

use std::fmt;

use datafusion::common::Result;
use datafusion::execution::memory_pool::{
    GreedyMemoryPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use plexus_memory::Account;
use plexus_model::Error;

use crate::context::external;

/// A pool that gives nothing more to the operators of a query that was ended for the memory it holds. One
/// that goes through many batches in a row would otherwise not see that it has ended.
#[derive(Debug)]
pub(crate) struct QueryPool(GreedyMemoryPool);

impl QueryPool {
    /// A pool of so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(GreedyMemoryPool::new(bytes))
    }
}

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Fails when the statement that this thread works for was ended for its memory, or holds much of it while it
/// is short. What computes for long without a pause looks here, since a task ends only where it waits.
///
/// # Errors
/// `ResourceExhausted`.
pub(crate) fn check_growth() -> Result<()> {
    check_not_ended()?;
    match Account::current_must_not_grow() {
        true => Err(external(Error::exhausted(
            "memory is short, and the statement would take more for one batch: ask for less at once, run it \
             while less else runs, or give the node more memory",
        ))),
        false => Ok(()),
    }
}

/// Fails when the statement that this thread works for was ended for its memory.
///
/// # Errors
/// `ResourceExhausted`. For the engine's error of a lack of memory, operators would spill instead.
fn check_not_ended() -> Result<()> {
    match Account::current_has_ended() {
        true => Err(external(Error::exhausted("the statement was ended, because it held too much memory"))),
        false => Ok(()),
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.0.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.0.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.0.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.0.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        check_not_ended()?;
        self.0.try_grow(reservation, additional)
    }

    fn reserved(&self) -> usize {
        self.0.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.0.memory_limit()
    }
}
