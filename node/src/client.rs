//! A Flight SQL client for the command line, the tests and the benchmarks. Works with any Flight SQL server.

use arrow::array::RecordBatch;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::{FlightSqlServiceClient, PreparedStatement};
use arrow_flight::sql::{
    CommandStatementIngest, DoPutUpdateResult, ProstMessageExt, TableDefinitionOptions, TableExistsOption,
    TableNotExistOption,
};
use arrow_flight::{FlightDescriptor, FlightInfo};
use arrow_schema::{Schema, SchemaRef};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use plexus_flight::status::from_status;
use plexus_model::{Error, Result};
use prost::Message;
use tokio::sync::oneshot;
use tonic::IntoStreamingRequest;
use tonic::transport::{Channel, Endpoint};

/// Larger than any message that a server sends.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// A connection to a server, with a session.
pub struct Client {
    inner: FlightSqlServiceClient<Channel>,
}

/// The result of a statement.
pub struct StatementResult {
    /// Schema of the rows. Has no fields if the statement returns no rows.
    pub schema: SchemaRef,
    /// The rows, as they arrive.
    pub rows: BoxStream<'static, Result<RecordBatch>>,
    /// Number of rows that the statement has changed. `None` for a query.
    pub affected: Option<u64>,
}

/// The target of an ingest, and how to treat existing tables and rows.
pub struct IngestOptions {
    /// Schema of the table; the session's current schema if `None`.
    pub schema: Option<String>,
    /// Name of the table.
    pub table: String,
    /// Create the table. Fails if it exists.
    pub create: bool,
    /// Replace the table, or create it if it does not exist.
    pub replace: bool,
    /// Replace existing rows with the same primary key, instead of failing.
    pub upsert: bool,
    /// Number of shards of a new table.
    pub shards: Option<u32>,
    /// Replicas of each shard of a new table.
    pub replicas: Option<u32>,
    /// Primary key columns of a new table; empty for none.
    pub primary_key: Vec<String>,
}

fn from_flight(error: FlightError) -> Error {
    match error {
        FlightError::Tonic(status) => from_status(&status),
        other => Error::unavailable(other.to_string()),
    }
}

/// The error of encoding rows, or that of the rows.
fn from_encoder(error: FlightError) -> Error {
    match error {
        FlightError::ExternalError(error) => match error.downcast::<Error>() {
            Ok(error) => *error,
            Err(other) => Error::invalid(other.to_string()),
        },
        other => Error::invalid(format!("encoding rows: {other}")),
    }
}

impl Client {
    /// Connects and opens a session.
    ///
    /// # Errors
    /// `InvalidArgument` when the URL is malformed, `Unavailable` when the server cannot be reached.
    pub async fn connect(url: &str) -> Result<Self> {
        let http = url.replacen("grpc://", "http://", 1).replacen("grpc+tcp://", "http://", 1);
        let endpoint = Endpoint::from_shared(http)
            .map_err(|e| Error::invalid(format!("url {url:?}: {e}")))?
            .connect_timeout(std::time::Duration::from_secs(10))
            .tcp_nodelay(true)
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024);
        let channel = endpoint
            .connect()
            .await
            .map_err(|e| Error::unavailable(format!("cannot connect to {url}: {e}")).with_source(e))?;
        let service = arrow_flight::flight_service_client::FlightServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let mut inner = FlightSqlServiceClient::new_from_inner(service);
        inner.handshake("plexus", "").await.map_err(from_flight)?;
        Ok(Self { inner })
    }

    /// Runs one statement and streams its rows.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn execute(&mut self, sql: &str) -> Result<StatementResult> {
        let info: FlightInfo = self.inner.execute(sql.to_owned(), None).await.map_err(from_flight)?;
        let affected = (info.total_records >= 0).then_some(info.total_records as u64);
        let schema: Schema = info
            .clone()
            .try_decode_schema()
            .map_err(|e| Error::corrupt(format!("schema of the result: {e}")))?;
        let schema: SchemaRef = schema.into();
        if schema.fields().is_empty() {
            return Ok(StatementResult { schema, rows: futures::stream::empty().boxed(), affected });
        }
        let ticket = info
            .endpoint
            .into_iter()
            .next()
            .and_then(|e| e.ticket)
            .ok_or_else(|| Error::corrupt("the FlightInfo has no endpoint"))?;
        let rows = self.inner.do_get(ticket).await.map_err(from_flight)?;
        Ok(StatementResult { schema, rows: rows.map_err(from_flight).boxed(), affected: None })
    }

    /// Runs one statement and collects its rows.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn query(&mut self, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let answer = self.execute(sql).await?;
        Ok((answer.schema, answer.rows.try_collect().await?))
    }

    /// Prepares a statement with parameters.
    ///
    /// # Errors
    /// Those of planning the statement.
    pub async fn prepare(&mut self, sql: &str) -> Result<Prepared> {
        let statement = self.inner.prepare(sql.to_owned(), None).await.map_err(from_flight)?;
        Ok(Prepared { inner: self.inner.clone(), statement })
    }

    /// The schema of a table. `None` if the table does not exist.
    ///
    /// # Errors
    /// Errors of the connection.
    pub async fn table_schema(&mut self, schema: Option<&str>, table: &str) -> Result<Option<SchemaRef>> {
        let path = schema.into_iter().chain([table]).map(str::to_owned).collect();
        let request = tonic::Request::new(FlightDescriptor::new_path(path));
        match self.inner.inner_mut().get_schema(request).await {
            Ok(found) => {
                let schema: Schema =
                    (&found.into_inner()).try_into().map_err(|e: arrow::error::ArrowError| {
                        Error::corrupt(format!("schema of {table}: {e}"))
                    })?;
                Ok(Some(schema.into()))
            }
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(from_status(&status)),
        }
    }

    /// Writes rows to a table in one commit and returns their number.
    ///
    /// If `rows` yields an error, the request is cancelled rather than ended: the server must not take the
    /// rows sent so far for the complete input.
    ///
    /// # Errors
    /// The error of `rows`, or that of the server.
    pub async fn ingest(
        &mut self,
        options: IngestOptions,
        schema: SchemaRef,
        rows: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<u64> {
        let (failed, failure) = oneshot::channel::<Error>();
        let mut failed = Some(failed);
        let descriptor = FlightDescriptor::new_cmd(ingest_command(options).as_any().encode_to_vec());
        let data = FlightDataEncoderBuilder::new()
            .with_schema(schema)
            .with_flight_descriptor(Some(descriptor))
            .build(rows.map_err(|error| FlightError::ExternalError(Box::new(error))))
            // An error is that of the rows, or that of a batch which is not of the schema.
            .then(move |message| {
                let failed = failed.take_if(|_| message.is_err());
                async move {
                    match message {
                        Ok(message) => message,
                        Err(error) => {
                            if let Some(failed) = failed {
                                let _ = failed.send(from_encoder(error));
                            }
                            futures::future::pending().await
                        }
                    }
                }
            });
        let mut request = data.into_streaming_request();
        if let Some(token) = self.inner.token() {
            let header = format!("Bearer {token}")
                .parse()
                .map_err(|_| Error::internal("the session token is not a valid header value"))?;
            request.metadata_mut().insert("authorization", header);
        }
        let put = async {
            let mut results =
                self.inner.inner_mut().do_put(request).await.map_err(|s| from_status(&s))?.into_inner();
            let result = results.message().await.map_err(|s| from_status(&s))?;
            let result = result.ok_or_else(|| Error::unknown("the server did not confirm the ingest"))?;
            let result = DoPutUpdateResult::decode(result.app_metadata.as_ref())
                .map_err(|e| Error::corrupt(format!("result of an ingest: {e}")))?;
            Ok(result.record_count.max(0) as u64)
        };
        tokio::select! {
            result = put => result,
            Ok(error) = failure => Err(error),
        }
    }
}

/// A prepared statement.
pub struct Prepared {
    inner: FlightSqlServiceClient<Channel>,
    statement: PreparedStatement<Channel>,
}

impl Prepared {
    /// Runs the statement with one row of parameters and collects its rows.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn query(&mut self, parameters: RecordBatch) -> Result<Vec<RecordBatch>> {
        self.statement.set_parameters(parameters).map_err(from_flight)?;
        let info = self.statement.execute().await.map_err(from_flight)?;
        let ticket = info.endpoint.into_iter().next().and_then(|endpoint| endpoint.ticket);
        let ticket = ticket.ok_or_else(|| Error::corrupt("the FlightInfo has no endpoint"))?;
        let rows = self.inner.do_get(ticket).await.map_err(from_flight)?;
        rows.map_err(from_flight).try_collect().await
    }
}

fn ingest_command(options: IngestOptions) -> CommandStatementIngest {
    let (if_not_exist, if_exists) = match (options.create, options.replace) {
        (_, true) => (TableNotExistOption::Create, TableExistsOption::Replace),
        (true, false) => (TableNotExistOption::Create, TableExistsOption::Fail),
        (false, false) => (TableNotExistOption::Fail, TableExistsOption::Append),
    };
    let numbers = [("shards", options.shards), ("replicas", options.replicas)];
    let mut other: std::collections::HashMap<String, String> =
        numbers.into_iter().filter_map(|(name, n)| Some((name.to_owned(), n?.to_string()))).collect();
    if !options.primary_key.is_empty() {
        other.insert("primary_key".into(), options.primary_key.join(","));
    }
    if options.upsert {
        other.insert("on_conflict".into(), "replace".into());
    }
    CommandStatementIngest {
        table_definition_options: Some(TableDefinitionOptions {
            if_not_exist: if_not_exist.into(),
            if_exists: if_exists.into(),
        }),
        table: options.table,
        schema: options.schema,
        catalog: None,
        temporary: false,
        transaction_id: None,
        options: other,
    }
}
