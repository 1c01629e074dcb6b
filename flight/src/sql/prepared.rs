//! Prepared statements. A handle carries the statement and its bound parameters.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_flight::sql::server::PeekableFlightDataStream;
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult, CommandPreparedStatementQuery, CommandPreparedStatementUpdate,
    DoPutPreparedStatementResult,
};
use arrow_flight::{Action, FlightDescriptor, FlightInfo, Ticket};
use arrow_schema::Schema;
use plexus_coordinator::{Executed, Session};
use plexus_model::Error;
use tonic::{Request, Response, Status};

use crate::sql::encode::{nullable, wire_schema};
use crate::sql::response::{DataStream, prepared_ticket, schema_bytes};
use crate::sql::server::SqlService;
use crate::sql::tickets::StatementHandle;
use crate::sql::transactions::transaction_id;
use crate::sql::upload::collect_parameters;
use crate::status::to_status;

impl SqlService {
    /// Plans a statement and returns its handle with the schemas of its result and its parameters.
    pub(crate) async fn create_prepared(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let transaction = transaction_id(query.transaction_id.as_ref())?;
        let session = self.session_in(&request, transaction)?;
        let handle = StatementHandle::prepared(query.query).in_transaction(transaction);
        handle.check_size(1).map_err(|e| to_status(&e))?;
        let described =
            self.coordinator.describe(&session, &handle.sql, None).await.map_err(|e| to_status(&e))?;
        let dataset = match described.schema {
            Some(schema) => schema_bytes(&wire_schema(&nullable(&schema), session.string_view()))?,
            None => schema_bytes(&Schema::empty())?,
        };
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: handle.encode(&self.seal()),
            dataset_schema: dataset,
            parameter_schema: schema_bytes(&described.parameters)?,
        })
    }

    /// Runs or describes a prepared statement; see [`SqlService::statement_info`].
    pub(crate) async fn prepared_info(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let handle = StatementHandle::decode(&query.prepared_statement_handle, &self.seal())?;
        let handle = self.bindings.complete(handle);
        let session = self.session_in(&request, handle.transaction())?;
        self.statement_info(&session, handle, prepared_ticket, request.into_inner()).await
    }

    /// The rows that a handle or a ticket stands for.
    pub(crate) async fn rows_of_handle(
        &self,
        handle: &[u8],
        request: &Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        let handle = self.bindings.complete(StatementHandle::decode(handle, &self.seal())?);
        // A ticket may be redeemed on another node than the one that has the session.
        let session = match self.sessions.known(request.metadata()) {
            Some(session) => session,
            None => {
                let manifest = self.coordinator.meta().manifest();
                let session = Session::of_ticket(&handle.settings, &manifest);
                Arc::new(session.map_err(|e| to_status(&e))?)
            }
        };
        let session = match handle.transaction() {
            Some(id) => Arc::new(session.in_transaction(id)),
            None => session,
        };
        self.statement_rows(&session, &handle).await
    }

    /// Binds one row of parameters to a query and returns the handle that includes it.
    pub(crate) async fn bind_prepared(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let handle = StatementHandle::decode(&query.prepared_statement_handle, &self.seal())?;
        let parameters = collect_parameters(request.into_inner()).await?.unwrap_or_default();
        let rows: usize = parameters.iter().map(RecordBatch::num_rows).sum();
        if rows > 1 {
            return Err(Status::invalid_argument(format!(
                "a query takes one row of parameters, {rows} were bound"
            )));
        }
        let handle = match parameters.into_iter().find(|b| b.num_rows() > 0) {
            Some(batch) => handle
                .bind(&batch)
                .and_then(|handle| handle.check_size(1).map(|()| handle))
                .map_err(|e| to_status(&e))?,
            None => handle,
        };
        self.bindings.remember(&handle);
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(handle.encode(&self.seal())) })
    }

    /// Ends a prepared statement.
    pub(crate) fn close_prepared(&self, request: &ActionClosePreparedStatementRequest) {
        // A handle that is none has nothing to close.
        if let Ok(handle) = StatementHandle::decode(&request.prepared_statement_handle, &self.seal()) {
            self.bindings.forget(&handle);
        }
    }

    /// Runs a prepared update once per uploaded row of parameters. Without uploaded rows it runs once, with
    /// the parameters in the handle, if any. Returns the number of affected rows.
    pub(crate) async fn update_prepared(
        &self,
        query: CommandPreparedStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let handle = StatementHandle::decode(&query.prepared_statement_handle, &self.seal())?;
        let session = self.session_in(&request, handle.transaction())?;
        let parameters = collect_parameters(request.into_inner()).await?;
        let affected = async {
            let Some(parameters) = parameters else {
                let bound = handle.parameters()?;
                return match self.coordinator.execute(&session, &handle.sql, bound.as_ref()).await? {
                    Executed::Affected(rows) | Executed::Returned(_, rows) => Ok(rows),
                    Executed::Rows(_) => Err(Error::invalid("the statement is a query, not an update")),
                };
            };
            self.coordinator.execute_many(&session, &handle.sql, &parameters).await
        };
        affected.await.map(|rows| rows as i64).map_err(|e| to_status(&e))
    }
}
