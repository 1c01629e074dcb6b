//! Transactions of Flight SQL clients: the id on the wire, begin, commit and rollback.

use arrow_flight::Action;
use arrow_flight::sql::{ActionBeginTransactionResult, ActionEndTransactionRequest, EndTransaction};
use bytes::Bytes;
use plexus_coordinator::{Isolation, TransactionId};
use plexus_model::Token;
use tonic::{Request, Status};

use crate::sql::server::SqlService;
use crate::status::to_status;

/// The transaction that a request names. An absent or empty id means none.
pub(crate) fn transaction_id(bytes: Option<&Bytes>) -> Result<Option<TransactionId>, Status> {
    match bytes.filter(|bytes| !bytes.is_empty()) {
        Some(bytes) => match bytes.as_ref().try_into() {
            Ok(id) => Ok(Some(Token(u128::from_be_bytes(id)))),
            Err(_) => Err(Status::invalid_argument(format!(
                "a transaction id has 16 bytes, this one has {}",
                bytes.len()
            ))),
        },
        None => Ok(None),
    }
}

impl SqlService {
    /// Begins a transaction with the default isolation.
    pub(crate) fn begin_transaction(
        &self,
        request: &Request<Action>,
    ) -> Result<ActionBeginTransactionResult, Status> {
        let session = self.session(request)?;
        let id = self.coordinator.begin(&session, Isolation::default()).map_err(|e| to_status(&e))?;
        Ok(ActionBeginTransactionResult { transaction_id: id.0.to_be_bytes().to_vec().into() })
    }

    /// Commits or rolls back a transaction.
    pub(crate) async fn end_transaction(&self, query: ActionEndTransactionRequest) -> Result<(), Status> {
        let commit = match query.action() {
            EndTransaction::Commit => true,
            EndTransaction::Rollback => false,
            EndTransaction::Unspecified => {
                return Err(Status::invalid_argument("EndTransaction needs an action: commit or rollback"));
            }
        };
        let id = transaction_id(Some(&query.transaction_id))?
            .ok_or_else(|| Status::invalid_argument("EndTransaction needs a transaction id"))?;
        self.coordinator.end(id, commit).await.map_err(|e| to_status(&e))
    }
}
