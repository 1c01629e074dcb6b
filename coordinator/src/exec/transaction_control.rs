//! `BEGIN`, `COMMIT` and `ROLLBACK`, as statements and as requests of clients that keep the transaction id.

use std::sync::Arc;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use plexus_model::{Error, Result};

use crate::errors::unsupported;
use crate::exec::context::Executed;
use crate::exec::session::Session;
use crate::exec::transaction::Isolation;
use crate::exec::transactions::{TransactionId, Transactions, isolation};
use crate::limits::READ_INDEX_TIMEOUT;
use crate::write::writer::Writer;

/// Begins and ends the transactions of this node.
pub(crate) struct TransactionControl {
    transactions: Arc<Transactions>,
    writer: Writer,
}

impl TransactionControl {
    pub(crate) fn new(transactions: Arc<Transactions>, writer: Writer) -> Self {
        Self { transactions, writer }
    }

    /// Begins a transaction and returns its id.
    ///
    /// # Errors
    /// `ResourceExhausted` when too many transactions are open on this node.
    pub(crate) fn begin(&self, session: &Session, isolation: Isolation) -> Result<TransactionId> {
        self.transactions.begin(isolation, session.idle_in_transaction_timeout())
    }

    /// Commits a transaction, or rolls it back.
    ///
    /// # Errors
    /// `NotFound` when the transaction to commit is not open on this node; `Conflict` when a concurrent
    /// commit changed the same rows or keys.
    pub(crate) async fn end(&self, id: TransactionId, commit: bool) -> Result<()> {
        if !commit && self.transactions.is_gone(id) {
            return Ok(());
        }
        let transaction = self.transactions.take(id)?.end();
        if !commit {
            return Ok(());
        }
        if let Some(applied) = transaction.commit(&self.writer).await? {
            // The next statement of this client may plan against the local manifest without a read index.
            self.writer.meta.wait_version(applied.version, READ_INDEX_TIMEOUT).await?;
        }
        Ok(())
    }

    /// Runs `BEGIN`, `COMMIT` and `ROLLBACK`.
    ///
    /// # Errors
    /// `InvalidArgument` for a statement that does not fit the state of the session, and the errors of the
    /// commit.
    pub(crate) async fn execute(&self, session: &Session, statement: &Statement) -> Result<Executed> {
        let Statement::Statement(statement) = statement else {
            return Err(unsupported(&statement.to_string()));
        };
        let open =
            || session.transaction().ok_or_else(|| Error::invalid("there is no transaction in progress"));
        match statement.as_ref() {
            ast::Statement::StartTransaction { modes, .. } => {
                if session.transaction().is_some() {
                    return Err(Error::invalid("a transaction is in progress already"));
                }
                session.set_transaction(Some(self.begin(session, isolation(modes)?)?))?;
            }
            ast::Statement::Commit { .. } => {
                let id = open()?;
                session.set_transaction(None)?;
                self.end(id, true).await?;
            }
            ast::Statement::Rollback { savepoint: Some(_), .. } => {
                return Err(Error::unsupported("savepoints are not supported"));
            }
            ast::Statement::Rollback { .. } => {
                let id = open()?;
                session.set_transaction(None)?;
                self.end(id, false).await?;
            }
            other => return Err(unsupported(&other.to_string())),
        }
        Ok(Executed::Affected(0))
    }
}
