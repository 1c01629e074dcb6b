//! The Flight SQL service: which command runs which operation.
//!
//! `arrow-flight` dispatches every Flight SQL command to one method of its [`FlightSqlService`] trait. The
//! one implementation here holds no logic: operations are in the modules for statements, prepared statements,
//! transactions, ingest and metadata.

use std::pin::Pin;
use std::sync::Arc;

use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfoData};
use arrow_flight::sql::server::{DoPutError, FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionBeginTransactionRequest, ActionBeginTransactionResult, ActionCancelQueryRequest,
    ActionCancelQueryResult, ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult, ActionEndTransactionRequest, Any, Command, CommandGetCatalogs,
    CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
    CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables, CommandGetXdbcTypeInfo,
    CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementIngest,
    CommandStatementQuery, CommandStatementUpdate, DoPutPreparedStatementResult, SqlInfo,
    TicketStatementQuery,
};
use arrow_flight::{Action, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, Ticket};
use futures::{Stream, stream};
use plexus_coordinator::{Coordinator, Session, TransactionId};
use plexus_model::{Manifest, Result as PlexusResult};
use plexus_query::CATALOG;
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use crate::sql::bindings::Bindings;
use crate::sql::ingest::PutStream;
use crate::sql::metadata;
use crate::sql::response::{DataStream, metadata_info, metadata_rows, no_rows};
use crate::sql::seal::Seal;
use crate::sql::sessions::Sessions;
use crate::status::to_status;

type HandshakeStream = Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>;

/// Runs Flight SQL commands with a coordinator.
pub struct SqlService {
    pub(crate) coordinator: Arc<Coordinator>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) bindings: Bindings,
    sql_info: SqlInfoData,
    type_info: XdbcTypeInfoData,
}

impl SqlService {
    /// What seals the handles and tickets of this cluster.
    pub(crate) fn seal(&self) -> Seal {
        Seal::of(&self.coordinator.meta().manifest().secret)
    }

    /// Creates the service, without any sessions.
    ///
    /// # Errors
    /// `Internal` when the constant answers about this server cannot be built, which is a bug.
    pub fn new(coordinator: Arc<Coordinator>) -> PlexusResult<Self> {
        Ok(Self {
            coordinator,
            sessions: Arc::default(),
            bindings: Bindings::default(),
            sql_info: metadata::sql_info()?,
            type_info: metadata::type_info()?,
        })
    }

    /// The session of a request that runs or describes statements.
    pub(crate) fn session<T>(&self, request: &Request<T>) -> Result<Arc<Session>, Status> {
        self.sessions.for_request(request.metadata())
    }

    /// The session of a request, bound to `transaction` if the request names one.
    pub(crate) fn session_in<T>(
        &self,
        request: &Request<T>,
        transaction: Option<TransactionId>,
    ) -> Result<Arc<Session>, Status> {
        let session = self.session(request)?;
        Ok(match transaction {
            Some(id) => Arc::new(session.in_transaction(id)),
            None => session,
        })
    }

    /// A manifest that is at least as new as every commit acknowledged before this call.
    pub(crate) async fn manifest(&self) -> Result<Arc<Manifest>, Status> {
        self.coordinator.pin().await.map_err(|e| to_status(&e))
    }
}

#[tonic::async_trait]
impl FlightSqlService for SqlService {
    type FlightService = Self;

    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}

    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<HandshakeStream>, Status> {
        let token = self.sessions.handshake(request.metadata())?;
        let payload = token.clone().into_bytes().into();
        let answer = stream::once(async { Ok(HandshakeResponse { protocol_version: 0, payload }) });
        let mut response: Response<HandshakeStream> = Response::new(Box::pin(answer));
        let header = format!("Bearer {token}")
            .parse()
            .map_err(|_| Status::internal("the session token is not a valid header value"))?;
        response.metadata_mut().insert("authorization", header);
        Ok(response)
    }

    // Statements, prepared statements, transactions, ingest.

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.query_info(query, request).await
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.prepared_info(query, request).await
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        self.rows_of_handle(&ticket.statement_handle, &request).await
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        self.rows_of_handle(&query.prepared_statement_handle, &request).await
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        self.create_prepared(query, request).await
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        self.close_prepared(&query);
        Ok(())
    }

    async fn do_action_begin_transaction(
        &self,
        _query: ActionBeginTransactionRequest,
        request: Request<Action>,
    ) -> Result<ActionBeginTransactionResult, Status> {
        self.begin_transaction(&request)
    }

    async fn do_action_end_transaction(
        &self,
        query: ActionEndTransactionRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        self.end_transaction(query).await
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        _request: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        let info = FlightInfo::decode(query.info)
            .map_err(|e| Status::invalid_argument(format!("CancelQuery: {e}")))?;
        // The values of both enumerations are the same.
        Ok(ActionCancelQueryResult { result: self.cancel(&info).await? as i32 })
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        self.bind_prepared(query, request).await
    }

    async fn do_put_prepared_statement_update(
        &self,
        query: CommandPreparedStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        self.update_prepared(query, request).await
    }

    async fn do_put_statement_update(
        &self,
        command: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        self.update(&command, &request).await
    }

    async fn do_put_statement_ingest(
        &self,
        command: CommandStatementIngest,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        self.ingest(command, request).await
    }

    // Requests that are not Flight SQL.

    /// Called for a `DoPut` that is not a Flight SQL command: rows of a plain Flight client.
    async fn do_put_fallback(
        &self,
        request: Request<PeekableFlightDataStream>,
        message: Any,
    ) -> Result<Response<PutStream>, Status> {
        self.put_table(request, message).await
    }

    async fn do_put_error_callback(
        &self,
        _request: Request<PeekableFlightDataStream>,
        error: DoPutError,
    ) -> Result<Response<PutStream>, Status> {
        let missing = match error {
            DoPutError::MissingCommand => "command",
            DoPutError::MissingFlightDescriptor => "descriptor",
        };
        Err(Status::invalid_argument(format!("the DoPut has no {missing}")))
    }

    /// Called for a descriptor that is not a Flight SQL command: the path of a table, for plain Flight.
    async fn get_flight_info_fallback(
        &self,
        cmd: Command,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let session = self.session(&request)?;
        let descriptor = request.into_inner();
        if descriptor.path.is_empty() {
            return Err(Status::unimplemented(format!("{} is not supported", cmd.type_url())));
        }
        self.table_info(&session, descriptor).await
    }

    // Metadata: the FlightInfo of a command, then its rows.

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        metadata_info(&query.into_builder().schema(), query, request)
    }

    async fn do_get_catalogs(
        &self,
        query: CommandGetCatalogs,
        _request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        let mut builder = query.into_builder();
        builder.append(CATALOG);
        metadata_rows(builder.build())
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        metadata_info(&query.clone().into_builder().schema(), query, request)
    }

    async fn do_get_schemas(
        &self,
        query: CommandGetDbSchemas,
        _request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        metadata_rows(metadata::schemas(query, &*self.manifest().await?))
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        metadata_info(&query.clone().into_builder().schema(), query, request)
    }

    async fn do_get_tables(
        &self,
        query: CommandGetTables,
        request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        let views = self.sessions.known(request.metadata()).is_some_and(|session| session.string_view());
        metadata_rows(metadata::tables(query, &*self.manifest().await?, views))
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        metadata_info(&query.into_builder().schema(), query, request)
    }

    async fn do_get_table_types(
        &self,
        query: CommandGetTableTypes,
        _request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        let mut builder = query.into_builder();
        metadata::TABLE_TYPES.iter().for_each(|t| builder.append(*t));
        metadata_rows(builder.build())
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        metadata_info(SqlInfoDataBuilder::schema(), query, request)
    }

    async fn do_get_sql_info(
        &self,
        query: CommandGetSqlInfo,
        _request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        metadata_rows(query.into_builder(&self.sql_info).build())
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        metadata_info(&query.into_builder(&self.type_info).schema(), query, request)
    }

    async fn do_get_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        _request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        metadata_rows(query.into_builder(&self.type_info).build())
    }

    async fn get_flight_info_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        metadata_info(&metadata::primary_keys_schema(), query, request)
    }

    async fn do_get_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        _request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        metadata_rows(metadata::primary_keys(&query, &*self.manifest().await?))
    }

    async fn get_flight_info_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        metadata_info(&metadata::foreign_keys_schema(), query, request)
    }

    async fn do_get_exported_keys(
        &self,
        _query: CommandGetExportedKeys,
        _request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        no_rows(metadata::foreign_keys_schema())
    }

    async fn get_flight_info_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        metadata_info(&metadata::foreign_keys_schema(), query, request)
    }

    async fn do_get_imported_keys(
        &self,
        _query: CommandGetImportedKeys,
        _request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        no_rows(metadata::foreign_keys_schema())
    }

    async fn get_flight_info_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        metadata_info(&metadata::foreign_keys_schema(), query, request)
    }

    async fn do_get_cross_reference(
        &self,
        _query: CommandGetCrossReference,
        _request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        no_rows(metadata::foreign_keys_schema())
    }
}
