//! The open transactions of a node: a registry by id, leases for idle ones, and exclusive use by one
//! statement at a time.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use datafusion::sql::sqlparser::ast;
use plexus_model::{Error, Result, Token};

use crate::exec::transaction::{Isolation, Transaction};
use crate::limits::TRANSACTIONS_MAX;

/// Identifies an open transaction to clients.
pub type TransactionId = Token;

/// The open transactions of this node.
#[derive(Default)]
pub(crate) struct Transactions(Mutex<HashMap<TransactionId, Slot>>);

/// The entry of one open transaction.
struct Slot {
    /// `None` while a statement of the transaction runs.
    transaction: Option<Transaction>,
    /// End of the last statement; the lease counts from here.
    used: Instant,
    /// How long the transaction may be idle once it has changed rows.
    lease: Duration,
}

/// How long a transaction that has changed rows may be idle before it is rolled back, by default.
pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// Longest time for which a transaction that has changed rows may be idle. Its segments are garbage to other
/// nodes until it commits: see [`crate::limits::WRITE_TIME_MAX`].
pub(crate) const IDLE_TIMEOUT_MAX: Duration = Duration::from_secs(60 * 60);

/// The lease of a transaction that has changed nothing. Clients without autocommit have one open all the
/// time, and nothing is lost when it goes on with a newer version.
const UNCHANGED_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

impl Transactions {
    /// Opens a transaction. Once it has changed rows, it may be idle for `lease`.
    ///
    /// # Errors
    /// `ResourceExhausted` when too many transactions are open.
    pub(crate) fn begin(&self, isolation: Isolation, lease: Duration) -> Result<TransactionId> {
        let mut slots = self.lock();
        expire(&mut slots);
        if slots.len() >= TRANSACTIONS_MAX && !end_abandoned(&mut slots) {
            return Err(Error::exhausted(format!("{} transactions are open on this node", slots.len())));
        }
        let id = TransactionId::generate();
        let transaction = Some(Transaction::new(isolation));
        slots.insert(id, Slot { transaction, used: Instant::now(), lease });
        Ok(id)
    }

    /// Takes a transaction for the duration of one statement.
    ///
    /// # Errors
    /// `NotFound` when the transaction is not open on this node, or was idle past its lease;
    /// `InvalidArgument` when another of its statements is running.
    pub(crate) fn take(self: &Arc<Self>, id: TransactionId) -> Result<TransactionGuard> {
        let mut slots = self.lock();
        expire(&mut slots);
        let slot = slots.get_mut(&id).ok_or_else(|| not_open(id))?;
        slot.used = Instant::now();
        let transaction = slot.transaction.take().ok_or_else(|| {
            Error::invalid(format!(
                "another statement of transaction {id} is running: send one after the other"
            ))
        })?;
        Ok(TransactionGuard { transactions: self.clone(), id, transaction })
    }

    /// Whether a transaction has ended, or was never open on this node.
    pub(crate) fn is_gone(&self, id: TransactionId) -> bool {
        !self.lock().contains_key(&id)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TransactionId, Slot>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// Exclusive access to a transaction for one statement. Dropping the guard returns the transaction to the
/// registry, also when the statement failed or was cancelled; changes that the statement had not staged are
/// lost.
pub(crate) struct TransactionGuard {
    transactions: Arc<Transactions>,
    id: TransactionId,
    transaction: Transaction,
}

impl TransactionGuard {
    /// Removes the transaction from the registry and returns it, to be committed or dropped.
    pub(crate) fn end(mut self) -> Transaction {
        self.transactions.lock().remove(&self.id);
        std::mem::replace(&mut self.transaction, Transaction::new(Isolation::default()))
    }
}

impl Deref for TransactionGuard {
    type Target = Transaction;

    fn deref(&self) -> &Transaction {
        &self.transaction
    }
}

impl DerefMut for TransactionGuard {
    fn deref_mut(&mut self) -> &mut Transaction {
        &mut self.transaction
    }
}

impl Drop for TransactionGuard {
    fn drop(&mut self) {
        if let Some(slot) = self.transactions.lock().get_mut(&self.id) {
            let transaction = Transaction::new(Isolation::default());
            slot.transaction = Some(std::mem::replace(&mut self.transaction, transaction));
            slot.used = Instant::now();
        }
    }
}

/// Rolls back transactions that were idle past their lease. One with a running statement never expires. One
/// that has changed nothing for as long reads a newer version from then on.
fn expire(slots: &mut HashMap<TransactionId, Slot>) {
    slots.retain(|_, slot| {
        let idle = slot.used.elapsed();
        match &mut slot.transaction {
            None => true,
            Some(transaction) if transaction.has_changes() => idle < slot.lease,
            Some(transaction) => {
                if idle >= slot.lease {
                    // Fails for changed ones only.
                    let _ = transaction.restart();
                }
                idle < UNCHANGED_LEASE
            }
        }
    });
}

/// Ends the transaction that is idle for longest among those that have changed nothing and were idle for a
/// minute. Returns whether there was one. Otherwise a client that opens many and never ends them would keep
/// all others out for a day.
fn end_abandoned(slots: &mut HashMap<TransactionId, Slot>) -> bool {
    let is_abandoned = |slot: &Slot| {
        // Whatever lease its client wants.
        slot.used.elapsed() >= slot.lease.min(IDLE_TIMEOUT_DEFAULT)
            && slot.transaction.as_ref().is_some_and(|t| !t.has_changes())
    };
    let abandoned = slots.iter().filter(|(_, slot)| is_abandoned(slot));
    let oldest = abandoned.min_by_key(|(_, slot)| slot.used).map(|(id, _)| *id);
    oldest.is_some_and(|id| slots.remove(&id).is_some())
}

/// The error for a transaction that is not open on this node.
fn not_open(id: TransactionId) -> Error {
    Error::not_found(format!(
        "transaction {id} is not open on this node: it has ended, or was rolled back after a time without a \
         statement (idle_in_transaction_timeout) or by a restart of the node, or was begun on another node"
    ))
}

/// The isolation level that the modes of `BEGIN` request.
pub(crate) fn isolation(modes: &[ast::TransactionMode]) -> Result<Isolation> {
    let mut isolation_level = Isolation::default();
    for mode in modes {
        match mode {
            ast::TransactionMode::IsolationLevel(ast::TransactionIsolationLevel::Serializable) => {
                isolation_level = Isolation::Serializable;
            }
            // Snapshot isolation is at least as strong as the weaker standard levels.
            ast::TransactionMode::IsolationLevel(_) => isolation_level = Isolation::Snapshot,
            ast::TransactionMode::AccessMode(_) => {}
        }
    }
    Ok(isolation_level)
}

#[cfg(test)]
mod tests {
    use plexus_model::ErrorKind;

    use super::*;

    #[test]
    fn idle_transactions_expire_once_they_have_changed_rows() {
        let transactions = Arc::new(Transactions::default());
        const LEASE: Duration = Duration::from_secs(60);
        let [idle, changed, busy] = [(); 3].map(|()| transactions.begin(Isolation::Snapshot, LEASE).unwrap());
        let mut guard = transactions.take(changed).unwrap();
        guard.pin(Arc::default());
        guard.mark_changed();
        drop(guard);
        let guard = transactions.take(busy).unwrap();
        let long_ago = Instant::now().checked_sub(LEASE).expect("the machine runs for longer than a lease");
        transactions.lock().values_mut().for_each(|slot| slot.used = long_ago);
        let error = transactions.take(changed).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message().contains("rolled back after"), "{error}");
        assert!(transactions.take(idle).is_ok());
        assert!(!transactions.is_gone(busy));
        drop(guard);
        assert!(transactions.take(busy).is_ok());
    }

    #[test]
    fn abandoned_transactions_make_room_for_others() {
        let transactions = Arc::new(Transactions::default());
        const LEASE: Duration = Duration::from_secs(60);
        let begin = || transactions.begin(Isolation::Snapshot, LEASE);
        let all: Vec<_> = (0..TRANSACTIONS_MAX).map(|_| begin().unwrap()).collect();
        assert_eq!(begin().unwrap_err().kind(), ErrorKind::ResourceExhausted);
        let long_ago = Instant::now().checked_sub(LEASE).expect("the machine runs for longer than a lease");
        transactions.lock().get_mut(&all[7]).unwrap().used = long_ago;
        begin().unwrap();
        assert!(transactions.is_gone(all[7]) && !transactions.is_gone(all[8]));
        assert_eq!(begin().unwrap_err().kind(), ErrorKind::ResourceExhausted);
    }
}
