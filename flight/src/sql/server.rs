//! The Flight SQL commands.
//!
//! Everything arrives as a query: drivers prepare first and then ask for a FlightInfo, also for DML and
//! DDL. Those run exactly once, when the FlightInfo is made; its ticket then stands for an empty result.
//! Queries run when their ticket is redeemed.

use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfoData};
use arrow_flight::sql::server::{DoPutError, FlightSqlService, PeekableFlightDataStream};

use arrow_flight::sql::{
    ActionBeginTransactionRequest, ActionBeginTransactionResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, ActionEndTransactionRequest,
    Any, Command, CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
    CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
    CommandGetXdbcTypeInfo, CommandPreparedStatementQuery, CommandPreparedStatementUpdate,
    CommandStatementIngest, CommandStatementQuery, CommandStatementUpdate, DoPutPreparedStatementResult,
    DoPutUpdateResult, EndTransaction, ProstMessageExt, SqlInfo, TableExistsOption, TableNotExistOption,
    TicketStatementQuery,
};
use arrow_flight::{
    Action, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse,
    IpcMessage, PutResult, SchemaAsIpc, Ticket,
};
use arrow_ipc::writer::IpcWriteOptions;
use arrow_schema::{Schema, SchemaRef};
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use plexus_coordinator::{
    Coordinator, Executed, IngestMode, IngestTarget, Isolation, OnDuplicate, RowStream, Session,
    TransactionId,
};
use plexus_model::{Error, Manifest, Result as PlexusResult, Version};
use plexus_query::CATALOG;
use plexus_storage::rows_bytes;
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use crate::sql::encode::{encode_row_set, wire_schema};
use crate::sql::metadata;
use crate::sql::sessions::{Sessions, bearer, credentials};
use crate::sql::tickets::StatementHandle;
use crate::status::{from_status, to_status};

type DataStream = BoxStream<'static, Result<FlightData, Status>>;
/// Some drivers leave the padding of their credentials out.
const CREDENTIALS: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Rows of parameters are held in memory until all have come.
const PARAMETER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Answers Flight SQL commands with a coordinator.
pub struct SqlService {
    pub(crate) coordinator: Arc<Coordinator>,
    pub(crate) sessions: Arc<Sessions>,
    sql_info: SqlInfoData,
    type_info: XdbcTypeInfoData,
}

impl SqlService {
    pub fn new(coordinator: Arc<Coordinator>) -> PlexusResult<Self> {
        Ok(Self {
            coordinator,
            sessions: Arc::default(),
            sql_info: metadata::sql_info()?,
            type_info: metadata::type_info()?,
        })
    }

    fn session<T>(&self, request: &Request<T>) -> Arc<Session> {
        self.sessions.of(request.metadata())
    }

    /// The session of a request, for statements of the transaction that the client names, if it does.
    fn session_in<T>(&self, request: &Request<T>, transaction: Option<TransactionId>) -> Arc<Session> {
        let session = self.session(request);
        match transaction {
            Some(id) => Arc::new(session.in_transaction(id)),
            None => session,
        }
    }

    pub(crate) async fn manifest(&self) -> Result<Arc<Manifest>, Status> {
        self.coordinator.pin().await.map_err(|e| to_status(&e))
    }

    /// Runs what has no rows, describes what has, and makes the ticket.
    async fn flight_info(
        &self,
        session: &Session,
        handle: StatementHandle,
        as_ticket: impl FnOnce(Bytes) -> Any,
        descriptor: FlightDescriptor,
    ) -> Result<Response<FlightInfo>, Status> {
        let run = async {
            let parameters = handle.parameters()?;
            if self.coordinator.returns_rows(&handle.sql)? {
                // In the ticket, and in the descriptor that comes back.
                handle.check_size(2)?;
                let described = self.coordinator.describe(session, &handle.sql, parameters.as_ref()).await?;
                if let Some(schema) = described.schema {
                    let handle = StatementHandle { version: described.version.0, ..handle };
                    return Ok((wire_schema(&schema, session.string_view()), handle, -1));
                }
            }
            match self.coordinator.execute(session, &handle.sql, parameters.as_ref()).await? {
                Executed::Affected(rows) => {
                    Ok((Arc::new(Schema::empty()), StatementHandle::done(), rows as i64))
                }
                Executed::Returned(rows, affected) => {
                    let schema = wire_schema(&rows.schema, session.string_view());
                    let batches: Vec<RecordBatch> = rows.stream.try_collect().await?;
                    Ok((schema, StatementHandle::returned(&batches, &rows.schema)?, affected as i64))
                }
                Executed::Rows(_) => Err(Error::internal("a statement without a schema returned rows")),
            }
        };
        let (schema, handle, records) = run.await.map_err(|e| to_status(&e))?;
        // An INSERT of many rows would come back with its own text, above what clients receive.
        let descriptor = if handle.done { FlightDescriptor::default() } else { descriptor };
        let mut info = info(&schema, as_ticket(handle.encode()), descriptor)?;
        info.total_records = records;
        Ok(Response::new(info))
    }

    async fn rows(
        &self,
        session: &Session,
        handle: &StatementHandle,
    ) -> Result<Response<DataStream>, Status> {
        let run = async {
            if let Some((schema, batches)) = handle.returned_rows()? {
                return Ok(RowStream::from_batches(schema, batches));
            }
            if handle.done {
                return Ok(RowStream::from_batches(Arc::new(Schema::empty()), vec![]));
            }
            let parameters = handle.parameters()?;
            let executed = match handle.version {
                0 => self.coordinator.execute(session, &handle.sql, parameters.as_ref()).await?,
                version => {
                    self.coordinator
                        .redeem(session, &handle.sql, parameters.as_ref(), Version(version))
                        .await?
                }
            };
            match executed {
                Executed::Rows(rows) | Executed::Returned(rows, _) => Ok(rows),
                Executed::Affected(_) => Ok(RowStream::from_batches(Arc::new(Schema::empty()), vec![])),
            }
        };
        let rows = run.await.map_err(|e| to_status(&e))?;
        Ok(Response::new(encode_row_set(rows, session.string_view())))
    }

    /// The rows of a whole table, for plain Flight.
    pub(crate) async fn table_rows(
        &self,
        session: &Session,
        path: &[String],
    ) -> Result<Response<DataStream>, Status> {
        self.rows(session, &StatementHandle::new(select_all(path)?)).await
    }

    pub(crate) async fn table_info(
        &self,
        session: &Session,
        descriptor: FlightDescriptor,
    ) -> Result<Response<FlightInfo>, Status> {
        let sql = select_all(&descriptor.path)?;
        self.flight_info(session, StatementHandle::new(sql), as_statement_ticket, descriptor).await
    }
}

pub(crate) fn select_all(path: &[String]) -> Result<String, Status> {
    if path.is_empty() || path.len() > 3 || path.iter().any(String::is_empty) {
        return Err(Status::invalid_argument(format!(
            "path {path:?}: give a table, a schema and a table, or a catalog, a schema and a table"
        )));
    }
    let quoted: Vec<String> = path.iter().map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect();
    Ok(format!("SELECT * FROM {}", quoted.join(".")))
}

fn as_statement_ticket(statement_handle: Bytes) -> Any {
    TicketStatementQuery { statement_handle }.as_any()
}

fn as_prepared_ticket(prepared_statement_handle: Bytes) -> Any {
    CommandPreparedStatementQuery { prepared_statement_handle }.as_any()
}

/// One endpoint without a location: redeem the ticket where you got it.
pub(crate) fn info(schema: &Schema, ticket: Any, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
    let info = FlightInfo::new()
        .try_with_schema(schema)
        .map_err(|e| Status::internal(format!("schema of a result: {e}")))?;
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket.encode_to_vec()));
    Ok(info.with_endpoint(endpoint).with_descriptor(descriptor))
}

fn metadata_info<M: ProstMessageExt>(
    schema: &Schema,
    command: M,
    request: Request<FlightDescriptor>,
) -> Result<Response<FlightInfo>, Status> {
    Ok(Response::new(info(schema, command.as_any(), request.into_inner())?))
}

fn one_batch(batch: Result<RecordBatch, impl std::fmt::Display>) -> Result<Response<DataStream>, Status> {
    let batch = batch.map_err(|e| Status::internal(format!("metadata: {e}")))?;
    Ok(Response::new(encode_row_set(RowStream::from_batches(batch.schema(), vec![batch]), false)))
}

fn empty(schema: SchemaRef) -> Result<Response<DataStream>, Status> {
    Ok(Response::new(encode_row_set(RowStream::from_batches(schema, vec![]), false)))
}

fn schema_bytes(schema: &Schema) -> Result<Bytes, Status> {
    let options = IpcWriteOptions::default();
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &options)
        .try_into()
        .map_err(|e: arrow::error::ArrowError| Status::internal(e.to_string()))?;
    Ok(bytes)
}

/// The batches of a DoPut, with their schema; `None` when the client sent none.
async fn put_batches(
    mut data: PeekableFlightDataStream,
) -> Result<Option<(SchemaRef, BoxStream<'static, PlexusResult<RecordBatch>>)>, Status> {
    match data.peek().await {
        None => return Ok(None),
        Some(Err(e)) => return Err(e.clone()),
        Some(Ok(message)) if message.data_header.is_empty() => return Ok(None),
        Some(Ok(_)) => {}
    }
    let messages = data.map_err(|e| FlightError::Tonic(Box::new(e)));
    let mut batches = FlightRecordBatchStream::new_from_flight_data(messages);
    // The schema is the first message; it is known once the first batch, or the end, was read.
    let first = batches.next().await.transpose().map_err(put_error)?;
    let Some(schema) = batches.schema().cloned() else {
        return Ok(None);
    };
    let rest = batches.map_err(|e| from_status(&put_error(e)));
    Ok(Some((schema, stream::iter(first.map(Ok)).chain(rest).boxed())))
}

fn put_error(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => Status::invalid_argument(format!("rows that were sent: {other}")),
    }
}

/// The rows of parameters that were bound; `None` when the statement was sent without any.
async fn collect_parameters(data: PeekableFlightDataStream) -> Result<Option<Vec<RecordBatch>>, Status> {
    let Some((schema, mut batches)) = put_batches(data).await? else {
        return Ok(None);
    };
    if schema.fields().is_empty() {
        return Ok(None);
    }
    let (mut collected, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = batches.try_next().await.map_err(|e| to_status(&e))? {
        bytes += rows_bytes(&batch);
        if bytes > PARAMETER_BYTES_MAX {
            return Err(Status::resource_exhausted(format!(
                "more than {PARAMETER_BYTES_MAX} bytes of parameters: bind fewer rows at once, or use bulk ingest"
            )));
        }
        collected.push(batch);
    }
    Ok(Some(collected))
}

/// `PutResult` of an ingest by plain Flight.
fn put_result(rows: u64) -> Response<BoxStream<'static, Result<PutResult, Status>>> {
    let result = DoPutUpdateResult { record_count: rows as i64 };
    let put = PutResult { app_metadata: result.encode_to_vec().into() };
    Response::new(stream::once(async { Ok(put) }).boxed())
}

fn check_catalog(name: Option<&str>) -> Result<(), Status> {
    match name.filter(|name| !name.is_empty() && *name != CATALOG) {
        Some(name) => {
            Err(Status::not_found(format!("catalog {name:?} does not exist; there is only {CATALOG:?}")))
        }
        None => Ok(()),
    }
}

fn ingest_mode(command: &CommandStatementIngest) -> Result<IngestMode, Status> {
    let Some(options) = &command.table_definition_options else {
        return Ok(IngestMode::Append);
    };
    match (options.if_not_exist(), options.if_exists()) {
        (TableNotExistOption::Create, TableExistsOption::Fail) => Ok(IngestMode::Create),
        (TableNotExistOption::Create, TableExistsOption::Append) => Ok(IngestMode::CreateAppend),
        (TableNotExistOption::Create, TableExistsOption::Replace) => Ok(IngestMode::Replace),
        (_, TableExistsOption::Append | TableExistsOption::Unspecified) => Ok(IngestMode::Append),
        (missing, exists) => Err(Status::invalid_argument(format!(
            "ingest with if_not_exist = {missing:?} and if_exists = {exists:?} is not supported"
        ))),
    }
}

fn number(options: &std::collections::HashMap<String, String>, name: &str) -> Result<Option<u32>, Status> {
    options
        .get(name)
        .map(|text| {
            text.parse().map_err(|_| Status::invalid_argument(format!("ingest option {name} = {text:?}")))
        })
        .transpose()
}

/// What an ingest does about rows whose primary key is there already.
fn on_duplicate(options: &std::collections::HashMap<String, String>) -> Result<OnDuplicate, Status> {
    match options.get("on_conflict").map(String::as_str) {
        None | Some("fail") => Ok(OnDuplicate::Fail),
        Some("replace") => Ok(OnDuplicate::Replace),
        Some("ignore") => Ok(OnDuplicate::Ignore),
        Some(other) => Err(Status::invalid_argument(format!(
            "ingest option on_conflict = {other:?}: there are fail, replace, ignore"
        ))),
    }
}

#[tonic::async_trait]
impl FlightSqlService for SqlService {
    type FlightService = Self;

    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}

    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>>, Status> {
        // Any user is let in until there are users.
        let token = match (credentials(request.metadata(), "basic"), bearer(request.metadata())) {
            (Some(basic), _) => {
                let decoded = CREDENTIALS.decode(basic).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                if !decoded.is_some_and(|text| text.contains(':')) {
                    return Err(Status::unauthenticated("malformed Basic authorization"));
                }
                self.sessions.open()
            }
            // A client that brings a token of its own goes on with it.
            (None, Some(token)) => token,
            (None, None) => {
                return Err(Status::unauthenticated("the handshake needs Basic or Bearer authorization"));
            }
        };
        let payload = token.clone().into_bytes().into();
        let answer = stream::once(async { Ok(HandshakeResponse { protocol_version: 0, payload }) });
        let mut response: Response<Pin<Box<dyn Stream<Item = _> + Send>>> = Response::new(Box::pin(answer));
        let header =
            format!("Bearer {token}").parse().map_err(|_| Status::internal("token is no header value"))?;
        response.metadata_mut().insert("authorization", header);
        Ok(response)
    }

    // Statements.

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let transaction = transaction_id(query.transaction_id.as_ref())?;
        let session = self.session_in(&request, transaction);
        self.flight_info(
            &session,
            StatementHandle::new(query.query).in_transaction(transaction),
            as_statement_ticket,
            request.into_inner(),
        )
        .await
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let handle = decode_handle(&query.prepared_statement_handle)?;
        let session = self.session_in(&request, handle.transaction());
        self.flight_info(&session, handle, as_prepared_ticket, request.into_inner()).await
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        let handle = decode_handle(&ticket.statement_handle)?;
        let session = self.session_in(&request, handle.transaction());
        self.rows(&session, &handle).await
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        let handle = decode_handle(&query.prepared_statement_handle)?;
        let session = self.session_in(&request, handle.transaction());
        self.rows(&session, &handle).await
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let transaction = transaction_id(query.transaction_id.as_ref())?;
        let session = self.session_in(&request, transaction);
        let handle = StatementHandle::new(query.query).in_transaction(transaction);
        handle.check_size(1).map_err(|e| to_status(&e))?;
        let described =
            self.coordinator.describe(&session, &handle.sql, None).await.map_err(|e| to_status(&e))?;
        let dataset = match described.schema {
            Some(schema) => schema_bytes(&wire_schema(&schema, session.string_view()))?,
            None => schema_bytes(&Schema::empty())?,
        };
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: handle.encode(),
            dataset_schema: dataset,
            parameter_schema: schema_bytes(&described.parameters)?,
        })
    }

    async fn do_action_close_prepared_statement(
        &self,
        _query: ActionClosePreparedStatementRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        // A handle holds nothing here.
        Ok(())
    }

    async fn do_action_begin_transaction(
        &self,
        _query: ActionBeginTransactionRequest,
        _request: Request<Action>,
    ) -> Result<ActionBeginTransactionResult, Status> {
        let id = self.coordinator.begin(Isolation::default()).map_err(|e| to_status(&e))?;
        Ok(ActionBeginTransactionResult { transaction_id: id.0.to_be_bytes().to_vec().into() })
    }

    async fn do_action_end_transaction(
        &self,
        query: ActionEndTransactionRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        let commit = match query.action() {
            EndTransaction::Commit => true,
            EndTransaction::Rollback => false,
            EndTransaction::Unspecified => {
                return Err(Status::invalid_argument("end of a transaction: neither commit nor rollback"));
            }
        };
        let id = transaction_id(Some(&query.transaction_id))?
            .ok_or_else(|| Status::invalid_argument("end of a transaction without its id"))?;
        self.coordinator.end(id, commit).await.map_err(|e| to_status(&e))
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let handle = decode_handle(&query.prepared_statement_handle)?;
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
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(handle.encode()) })
    }

    async fn do_put_prepared_statement_update(
        &self,
        query: CommandPreparedStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let handle = decode_handle(&query.prepared_statement_handle)?;
        let session = self.session_in(&request, handle.transaction());
        let parameters = collect_parameters(request.into_inner()).await?;
        let run = async {
            let Some(parameters) = parameters else {
                let bound = handle.parameters()?;
                return match self.coordinator.execute(&session, &handle.sql, bound.as_ref()).await? {
                    Executed::Affected(rows) | Executed::Returned(_, rows) => Ok(rows),
                    Executed::Rows(_) => Err(Error::invalid("a query was sent as an update")),
                };
            };
            self.coordinator.execute_many(&session, &handle.sql, &parameters).await
        };
        run.await.map(|rows| rows as i64).map_err(|e| to_status(&e))
    }

    async fn do_put_statement_update(
        &self,
        command: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let session = self.session_in(&request, transaction_id(command.transaction_id.as_ref())?);
        let affected = self.coordinator.execute_script(&session, &command.query).await;
        affected.map(|rows| rows as i64).map_err(|e| to_status(&e))
    }

    async fn do_put_statement_ingest(
        &self,
        command: CommandStatementIngest,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let session = self.session_in(&request, transaction_id(command.transaction_id.as_ref())?);
        if command.temporary {
            return Err(Status::unimplemented("temporary tables are not supported"));
        }
        check_catalog(command.catalog.as_deref())?;
        let keys = command.options.get("primary_key").map(String::as_str).unwrap_or_default();
        let target = IngestTarget {
            schema: command.schema.clone().filter(|s| !s.is_empty()),
            table: command.table.clone(),
            mode: ingest_mode(&command)?,
            shards: number(&command.options, "shards")?,
            replicas: number(&command.options, "replicas")?,
            on_duplicate: on_duplicate(&command.options)?,
            primary_key: keys.split(',').map(str::trim).filter(|k| !k.is_empty()).map(Into::into).collect(),
        };
        let Some((schema, batches)) = put_batches(request.into_inner()).await? else {
            return Err(Status::invalid_argument("an ingest without a schema"));
        };
        let written = self.coordinator.ingest(&session, target, schema, batches).await;
        written.map(|w| w.rows as i64).map_err(|e| to_status(&e))
    }

    /// Plain Flight: rows for a table path.
    async fn do_put_fallback(
        &self,
        mut request: Request<PeekableFlightDataStream>,
        message: Any,
    ) -> Result<Response<BoxStream<'static, Result<PutResult, Status>>>, Status> {
        let session = self.session(&request);
        let first = match request.get_mut().peek().await {
            Some(Ok(first)) => first,
            Some(Err(e)) => return Err(e.clone()),
            None => return Err(Status::invalid_argument("a DoPut without messages")),
        };
        let path = first.flight_descriptor.as_ref().map(|d| d.path.clone()).unwrap_or_default();
        if path.is_empty() {
            return Err(Status::unimplemented(format!("DoPut of {:?} is not supported", message.type_url)));
        }
        select_all(&path)?;
        let mut parts = path.into_iter().rev();
        let (table, schema, catalog) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        check_catalog(catalog.as_deref())?;
        let target = IngestTarget {
            schema,
            table,
            mode: IngestMode::CreateAppend,
            shards: None,
            replicas: None,
            on_duplicate: OnDuplicate::Fail,
            primary_key: vec![],
        };
        let Some((schema, batches)) = put_batches(request.into_inner()).await? else {
            return Err(Status::invalid_argument("a DoPut without a schema"));
        };
        let written =
            self.coordinator.ingest(&session, target, schema, batches).await.map_err(|e| to_status(&e))?;
        Ok(put_result(written.rows))
    }

    async fn do_put_error_callback(
        &self,
        _request: Request<PeekableFlightDataStream>,
        error: DoPutError,
    ) -> Result<Response<BoxStream<'static, Result<PutResult, Status>>>, Status> {
        let missing = match error {
            DoPutError::MissingCommand => "a command",
            DoPutError::MissingFlightDescriptor => "a descriptor",
        };
        Err(Status::invalid_argument(format!("a DoPut without {missing}")))
    }

    async fn get_flight_info_fallback(
        &self,
        cmd: Command,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let session = self.session(&request);
        let descriptor = request.into_inner();
        if descriptor.path.is_empty() {
            return Err(Status::unimplemented(format!("{} is not supported", cmd.type_url())));
        }
        self.table_info(&session, descriptor).await
    }

    // Metadata.

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
        one_batch(builder.build())
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
        one_batch(metadata::schemas(query, &*self.manifest().await?))
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
        let views = self.session(&request).string_view();
        one_batch(metadata::tables(query, &*self.manifest().await?, views))
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
        one_batch(builder.build())
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
        one_batch(query.into_builder(&self.sql_info).build())
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
        one_batch(query.into_builder(&self.type_info).build())
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
        one_batch(metadata::primary_keys(&query, &*self.manifest().await?))
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
        empty(metadata::foreign_keys_schema())
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
        empty(metadata::foreign_keys_schema())
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
        empty(metadata::foreign_keys_schema())
    }
}

/// The transaction that a client names; an empty name is none.
fn transaction_id(bytes: Option<&Bytes>) -> Result<Option<TransactionId>, Status> {
    match bytes.filter(|bytes| !bytes.is_empty()) {
        Some(bytes) => match bytes.as_ref().try_into() {
            Ok(id) => Ok(Some(plexus_model::Token(u128::from_be_bytes(id)))),
            Err(_) => Err(Status::invalid_argument(format!("a transaction id of {} bytes", bytes.len()))),
        },
        None => Ok(None),
    }
}

fn decode_handle(bytes: &[u8]) -> Result<StatementHandle, Status> {
    StatementHandle::decode(bytes).map_err(|e| to_status(&e))
}
