//! Running statements and serving their rows.
//!
//! Drivers send every statement as a query, DML and DDL included: they ask for its FlightInfo, then redeem
//! the ticket. A statement with side effects runs exactly once, while its FlightInfo is made, and its ticket
//! carries the result. A query runs when its ticket is redeemed, at the manifest version of its FlightInfo.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_flight::sql::{Any, CommandStatementQuery, CommandStatementUpdate};
use arrow_flight::{FlightDescriptor, FlightInfo};
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use futures::TryStreamExt;
use plexus_coordinator::{Executed, RowStream, Session};
use plexus_model::{Error, Result as PlexusResult, Version};
use tonic::{Request, Response, Status};

use crate::sql::encode::{encode_rows, nullable, wire_schema};
use crate::sql::response::{DataStream, flight_info, statement_ticket};
use crate::sql::server::SqlService;
use crate::sql::tickets::StatementHandle;
use crate::sql::transactions::transaction_id;
use crate::status::to_status;

impl SqlService {
    /// The FlightInfo of a statement. Runs the statement now unless it is a query.
    pub(crate) async fn statement_info(
        &self,
        session: &Session,
        handle: StatementHandle,
        as_ticket: impl FnOnce(Bytes) -> Any,
        descriptor: FlightDescriptor,
    ) -> Result<Response<FlightInfo>, Status> {
        let (schema, handle, records) =
            self.describe_or_run(session, handle).await.map_err(|e| to_status(&e))?;
        // The descriptor of a large INSERT holds all of its text: sent back, it would exceed the message size
        // that clients accept. Some clients refuse a descriptor without a type.
        let descriptor = if handle.executed { FlightDescriptor::new_cmd(vec![]) } else { descriptor };
        let mut info = flight_info(&schema, as_ticket(handle.encode(&self.seal())), descriptor)?;
        info.total_records = records;
        Ok(Response::new(info))
    }

    /// Describes a query, or runs any other statement. Returns the schema of the rows on the wire, the handle
    /// for the ticket, and the number of affected rows (-1 for a query).
    async fn describe_or_run(
        &self,
        session: &Session,
        handle: StatementHandle,
    ) -> PlexusResult<(SchemaRef, StatementHandle, i64)> {
        let parameters = handle.parameters()?;
        if self.coordinator.returns_rows(session, &handle.sql).await? {
            // The response holds the statement twice: in the ticket and in the descriptor.
            handle.check_size(2)?;
            let described = self.coordinator.describe(session, &handle.sql, parameters.as_ref()).await?;
            if let Some(schema) = described.schema {
                let handle = handle.of_query(described.version, session.own_settings());
                return Ok((wire_schema(&nullable(&schema), session.string_view()), handle, -1));
            }
        }
        match self.coordinator.execute(session, &handle.sql, parameters.as_ref()).await? {
            Executed::Affected(rows) => {
                Ok((Arc::new(Schema::empty()), StatementHandle::executed(), rows as i64))
            }
            Executed::Returned(rows, affected) => {
                let schema = wire_schema(&nullable(&rows.schema), session.string_view());
                let batches: Vec<RecordBatch> = rows.stream.try_collect().await?;
                Ok((schema, StatementHandle::with_returned(&batches, &rows.schema)?, affected as i64))
            }
            Executed::Rows(_) => Err(Error::internal("a statement without a schema returned rows")),
        }
    }

    /// The rows of a ticket.
    pub(crate) async fn statement_rows(
        &self,
        session: &Session,
        handle: &StatementHandle,
    ) -> Result<Response<DataStream>, Status> {
        // Reading a ticket must not change anything: a proxy or a client may read it again.
        let is_run = handle.version > 0 || handle.executed;
        if !is_run && !self.coordinator.returns_rows(session, &handle.sql).await.map_err(|e| to_status(&e))? {
            return Err(Status::permission_denied(
                "a handle of a statement that changes something is no ticket: run it with DoPut, or ask for \
                 its FlightInfo",
            ));
        }
        let rows = self.redeem(session, handle).await.map_err(|e| to_status(&e))?;
        let rows = RowStream { schema: nullable(&rows.schema), stream: rows.stream };
        Ok(Response::new(encode_rows(rows, session.string_view())))
    }

    async fn redeem(&self, session: &Session, handle: &StatementHandle) -> PlexusResult<RowStream> {
        let empty = || RowStream::from_batches(Arc::new(Schema::empty()), vec![]);
        if let Some((schema, batches)) = handle.returned_rows()? {
            return Ok(RowStream::from_batches(schema, batches));
        }
        if handle.executed {
            return Ok(empty());
        }
        let parameters = handle.parameters()?;
        let executed = match handle.version {
            0 => self.coordinator.execute(session, &handle.sql, parameters.as_ref()).await?,
            version => {
                let (version, ticket) = (Version(version), handle.ticket);
                self.coordinator.redeem(session, &handle.sql, parameters.as_ref(), version, ticket).await?
            }
        };
        match executed {
            Executed::Rows(rows) | Executed::Returned(rows, _) => Ok(rows),
            Executed::Affected(_) => Ok(empty()),
        }
    }

    /// The FlightInfo of a statement that is not prepared.
    pub(crate) async fn query_info(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let transaction = transaction_id(query.transaction_id.as_ref())?;
        let session = self.session_in(&request, transaction)?;
        let handle = StatementHandle::new(query.query).in_transaction(transaction);
        self.statement_info(&session, handle, statement_ticket, request.into_inner()).await
    }

    /// Runs a script of statements and returns the number of affected rows.
    pub(crate) async fn update<T>(
        &self,
        command: &CommandStatementUpdate,
        request: &Request<T>,
    ) -> Result<i64, Status> {
        let session = self.session_in(request, transaction_id(command.transaction_id.as_ref())?)?;
        let affected = self.coordinator.execute_script(&session, &command.query).await;
        affected.map(|rows| rows as i64).map_err(|e| to_status(&e))
    }

    /// All rows of a table, for plain Flight clients.
    pub(crate) async fn table_rows(
        &self,
        session: &Session,
        path: &[String],
    ) -> Result<Response<DataStream>, Status> {
        self.statement_rows(session, &StatementHandle::new(select_all(path)?)).await
    }

    /// The FlightInfo of a table, for plain Flight clients.
    pub(crate) async fn table_info(
        &self,
        session: &Session,
        descriptor: FlightDescriptor,
    ) -> Result<Response<FlightInfo>, Status> {
        let sql = select_all(&descriptor.path)?;
        self.statement_info(session, StatementHandle::new(sql), statement_ticket, descriptor).await
    }
}

/// The query that reads the table at a Flight path: `[table]`, `[schema, table]` or
/// `[catalog, schema, table]`.
pub(crate) fn select_all(path: &[String]) -> Result<String, Status> {
    if path.is_empty() || path.len() > 3 || path.iter().any(String::is_empty) {
        return Err(Status::invalid_argument(format!(
            "path {path:?}: give a table, a schema and a table, or a catalog, a schema and a table"
        )));
    }
    let quoted: Vec<String> = path.iter().map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect();
    Ok(format!("SELECT * FROM {}", quoted.join(".")))
}
