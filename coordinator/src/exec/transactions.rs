//! Transactions: changes over one version, which their own statements see, committed at once.
//!
//! The changes are applied to a copy of the manifest that the transaction started from, so that reading them
//! is reading that manifest. What is proposed in the end is the difference. The log refuses it when somebody
//! else changed the same rows, or wrote the same keys, since: the first committer wins.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use datafusion::common::TableReference;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast;
use plexus_model::{Error, Result, TableName, Token};
use plexus_query::search::searched_table;

use crate::errors::from_datafusion;
use crate::exec::context::StatementContext;
use crate::exec::transaction::{Isolation, Transaction};
use crate::limits::TRANSACTIONS_MAX;

/// Names a transaction to clients.
pub type TransactionId = Token;

/// The transactions of this node.
#[derive(Default)]
pub struct Transactions(Mutex<HashMap<TransactionId, Slot>>);

pub struct Slot {
    /// `None` while one of its statements runs.
    transaction: Option<Transaction>,
    used: Instant,
}

/// How long a transaction may be idle.
pub const LEASE: Duration = Duration::from_secs(60);

impl Transactions {
    /// # Errors
    /// `ResourceExhausted` when there are too many.
    pub fn begin(&self, isolation: Isolation) -> Result<TransactionId> {
        let mut slots = self.lock();
        expire(&mut slots);
        if slots.len() >= TRANSACTIONS_MAX {
            return Err(Error::exhausted(format!("{} transactions are open on this node", slots.len())));
        }
        let id = TransactionId::generate();
        slots.insert(id, Slot { transaction: Some(Transaction::new(isolation)), used: Instant::now() });
        Ok(id)
    }

    /// Takes a transaction for one of its statements.
    ///
    /// # Errors
    /// `NotFound` when it is not here, or was idle past its lease; `InvalidArgument` when another of its
    /// statements is running.
    pub fn take(self: &Arc<Self>, id: TransactionId) -> Result<TransactionGuard> {
        let mut slots = self.lock();
        expire(&mut slots);
        let slot = slots.get_mut(&id).ok_or_else(|| unknown(id))?;
        slot.used = Instant::now();
        let transaction = slot.transaction.take().ok_or_else(|| {
            Error::invalid(format!(
                "another statement of transaction {id} is running: send one after the other"
            ))
        })?;
        Ok(TransactionGuard { transactions: self.clone(), id, transaction })
    }

    /// Whether a transaction has ended, or was never here.
    pub fn is_gone(&self, id: TransactionId) -> bool {
        !self.lock().contains_key(&id)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TransactionId, Slot>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// A transaction in the hands of one of its statements. It goes back when this is dropped, also when the
/// statement was given up: what it had not staged is not in it.
pub struct TransactionGuard {
    transactions: Arc<Transactions>,
    id: TransactionId,
    transaction: Transaction,
}

impl TransactionGuard {
    /// The transaction for good: nobody else finds it again.
    pub fn end(mut self) -> Transaction {
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

pub fn expire(slots: &mut HashMap<TransactionId, Slot>) {
    slots.retain(|_, slot| slot.transaction.is_none() || slot.used.elapsed() < LEASE);
}

pub fn unknown(id: TransactionId) -> Error {
    Error::not_found(format!(
        "transaction {id} is not open on this node: it has ended, or was rolled back after {LEASE:?} without a \
         statement, or was begun on another node"
    ))
}

#[cfg(test)]
mod tests {
    use plexus_model::ErrorKind;

    use super::*;

    #[test]
    fn a_transaction_that_is_idle_past_its_lease_is_gone_and_one_in_use_is_not() {
        let transactions = Arc::new(Transactions::default());
        let (idle, busy) = (
            transactions.begin(Isolation::Snapshot).unwrap(),
            transactions.begin(Isolation::Snapshot).unwrap(),
        );
        let taken = transactions.take(busy).unwrap();
        let Some(long_ago) = Instant::now().checked_sub(LEASE) else {
            return;
        };
        transactions.lock().values_mut().for_each(|slot| slot.used = long_ago);
        let error = transactions.take(idle).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message().contains("rolled back after"), "{error}");
        assert!(!transactions.is_gone(busy));
        drop(taken);
        assert!(transactions.take(busy).is_ok());
    }
}

/// Notes the tables that a plan reads.
pub fn note_reads(
    taken: &mut TransactionGuard,
    scope: &StatementContext<'_>,
    plan: &LogicalPlan,
) -> Result<()> {
    let mut names: Vec<TableReference> = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            names.push(scan.table_name.clone());
        }
        if let Some(table) = searched_table(node) {
            taken.note_read(table);
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(from_datafusion)?;
    let schema = scope.session.schema();
    for name in names {
        let name = TableName::new(name.schema().unwrap_or(&schema), name.table());
        if let Some(id) = scope.manifest.names.get(&name) {
            taken.note_read(*id);
        }
    }
    Ok(())
}

pub fn isolation(modes: &[ast::TransactionMode]) -> Result<Isolation> {
    let mut wanted = Isolation::default();
    for mode in modes {
        match mode {
            ast::TransactionMode::IsolationLevel(ast::TransactionIsolationLevel::Serializable) => {
                wanted = Isolation::Serializable;
            }
            // Snapshots are at least as strong as the others.
            ast::TransactionMode::IsolationLevel(_) => wanted = Isolation::Snapshot,
            ast::TransactionMode::AccessMode(_) => {}
        }
    }
    Ok(wanted)
}
