//! Ending the query of a ticket.

use arrow_flight::sql::{Any, CommandPreparedStatementQuery, TicketStatementQuery};
use arrow_flight::{CancelStatus, FlightInfo};
use prost::Message;
use tonic::Status;

use crate::sql::server::SqlService;
use crate::sql::tickets::StatementHandle;
use crate::status::to_status;

impl SqlService {
    /// Ends the query of a FlightInfo, on whichever node its ticket was redeemed. Before that, it cannot be
    /// cancelled.
    pub(crate) async fn cancel(&self, info: &FlightInfo) -> Result<CancelStatus, Status> {
        let mut found = false;
        for endpoint in &info.endpoint {
            let Some(handle) = endpoint.ticket.as_ref().and_then(|ticket| handle_of(&ticket.ticket)) else {
                return Err(Status::invalid_argument("the FlightInfo has no ticket of a query"));
            };
            let ticket = StatementHandle::decode(&handle, &self.seal())?.ticket;
            if ticket != 0 {
                let query = format!("{ticket:032x}");
                found |= self.coordinator.kill(&query).await.map_err(|e| to_status(&e))?;
            }
        }
        Ok(if found { CancelStatus::Cancelled } else { CancelStatus::NotCancellable })
    }
}

/// The handle in a ticket of a statement.
fn handle_of(ticket: &[u8]) -> Option<bytes::Bytes> {
    let any = Any::decode(ticket).ok()?;
    if let Ok(Some(ticket)) = any.unpack::<TicketStatementQuery>() {
        return Some(ticket.statement_handle);
    }
    any.unpack::<CommandPreparedStatementQuery>().ok().flatten().map(|query| query.prepared_statement_handle)
}
