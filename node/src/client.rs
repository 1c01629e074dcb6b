//! A Flight SQL client for the command line: any server, ours first.

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
use tokio::sync::oneshot;
use tonic::IntoStreamingRequest;
use tonic::transport::{Channel, Endpoint};

/// Above anything that a server sends in one message.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// A connection with a session.
pub struct Client {
    inner: FlightSqlServiceClient<Channel>,
}

/// What a statement gave.
pub struct Answer {
    /// Without fields for statements that return no rows.
    pub schema: SchemaRef,
    pub rows: BoxStream<'static, Result<RecordBatch>>,
    /// Rows that a statement without rows has written.
    pub affected: Option<u64>,
}

/// How an ingest treats its table.
pub struct IngestOptions {
    pub schema: Option<String>,
    pub table: String,
    pub create: bool,
    pub replace: bool,
    /// Replace rows whose primary key is there already.
    pub upsert: bool,
    pub shards: Option<u32>,
    pub replicas: Option<u32>,
    pub primary_key: Vec<String>,
}

fn flight(error: FlightError) -> Error {
    match error {
        FlightError::Tonic(status) => from_status(&status),
        other => Error::unavailable(other.to_string()),
    }
}

impl Client {
    /// Connects and begins a session.
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
        inner.handshake("plexus", "").await.map_err(flight)?;
        Ok(Self { inner })
    }

    /// Runs one statement.
    pub async fn execute(&mut self, sql: &str) -> Result<Answer> {
        let info: FlightInfo = self.inner.execute(sql.to_owned(), None).await.map_err(flight)?;
        let affected = (info.total_records >= 0).then_some(info.total_records as u64);
        let schema: Schema = info
            .clone()
            .try_decode_schema()
            .map_err(|e| Error::corrupt(format!("schema of the answer: {e}")))?;
        let schema: SchemaRef = schema.into();
        if schema.fields().is_empty() {
            return Ok(Answer { schema, rows: futures::stream::empty().boxed(), affected });
        }
        let ticket = info
            .endpoint
            .into_iter()
            .next()
            .and_then(|e| e.ticket)
            .ok_or_else(|| Error::corrupt("the answer has no endpoint"))?;
        let rows = self.inner.do_get(ticket).await.map_err(flight)?;
        Ok(Answer { schema, rows: rows.map_err(flight).boxed(), affected: None })
    }

    /// Runs one statement and takes all of its rows.
    pub async fn query(&mut self, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let answer = self.execute(sql).await?;
        Ok((answer.schema, answer.rows.try_collect().await?))
    }

    /// Prepares a statement, to run it with values for its parameters.
    pub async fn prepare(&mut self, sql: &str) -> Result<Prepared> {
        let statement = self.inner.prepare(sql.to_owned(), None).await.map_err(flight)?;
        Ok(Prepared { inner: self.inner.clone(), statement })
    }

    /// The schema of a table, if there is one.
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

    /// Sends rows to a table, in one commit. When `rows` fails, the call is broken off, so that the server
    /// cannot take what came so far for all there is.
    pub async fn ingest(
        &mut self,
        options: IngestOptions,
        schema: SchemaRef,
        rows: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<u64> {
        let (failed, failure) = oneshot::channel::<Error>();
        let mut failed = Some(failed);
        let rows = rows.then(move |row| {
            let failed = failed.take_if(|_| row.is_err());
            async move {
                match (row, failed) {
                    (Ok(batch), _) => Ok(batch),
                    (Err(error), failed) => {
                        if let Some(failed) = failed {
                            let _ = failed.send(error);
                        }
                        futures::future::pending().await
                    }
                }
            }
        });
        let descriptor = FlightDescriptor::new_cmd(prost_bytes(&command(options)));
        let data = FlightDataEncoderBuilder::new()
            .with_schema(schema)
            .with_flight_descriptor(Some(descriptor))
            .build(rows)
            // The stream above never yields an error: it stays pending instead.
            .filter_map(|message| async move { message.ok() });
        let mut request = data.into_streaming_request();
        if let Some(token) = self.inner.token() {
            let header =
                format!("Bearer {token}").parse().map_err(|_| Error::internal("token is no header value"))?;
            request.metadata_mut().insert("authorization", header);
        }
        let put = async {
            let mut results =
                self.inner.inner_mut().do_put(request).await.map_err(|s| from_status(&s))?.into_inner();
            let result = results.message().await.map_err(|s| from_status(&s))?;
            let result = result.ok_or_else(|| Error::unknown("the server did not confirm the ingest"))?;
            let result: DoPutUpdateResult = prost_decode(&result.app_metadata)?;
            Ok(result.record_count.max(0) as u64)
        };
        tokio::select! {
            result = put => result,
            Ok(error) = failure => Err(error),
        }
    }
}

/// A statement that is prepared.
pub struct Prepared {
    inner: FlightSqlServiceClient<Channel>,
    statement: PreparedStatement<Channel>,
}

impl Prepared {
    /// Runs it with a row of parameters, and takes all rows that it gives.
    pub async fn query(&mut self, parameters: RecordBatch) -> Result<Vec<RecordBatch>> {
        self.statement.set_parameters(parameters).map_err(flight)?;
        let info = self.statement.execute().await.map_err(flight)?;
        let ticket = info.endpoint.into_iter().next().and_then(|endpoint| endpoint.ticket);
        let ticket = ticket.ok_or_else(|| Error::corrupt("the answer has no endpoint"))?;
        let rows = self.inner.do_get(ticket).await.map_err(flight)?;
        rows.map_err(flight).try_collect().await
    }
}

fn command(options: IngestOptions) -> CommandStatementIngest {
    let (if_not_exist, if_exists) = match (options.create, options.replace) {
        (_, true) => (TableNotExistOption::Create, TableExistsOption::Replace),
        (true, false) => (TableNotExistOption::Create, TableExistsOption::Fail),
        (false, false) => (TableNotExistOption::Fail, TableExistsOption::Append),
    };
    let numbers = [("shards", options.shards), ("replicas", options.replicas)];
    let mut extra: std::collections::HashMap<String, String> =
        numbers.into_iter().filter_map(|(name, n)| Some((name.to_owned(), n?.to_string()))).collect();
    if !options.primary_key.is_empty() {
        extra.insert("primary_key".into(), options.primary_key.join(","));
    }
    if options.upsert {
        extra.insert("on_conflict".into(), "replace".into());
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
        options: extra,
    }
}

fn prost_bytes(command: &CommandStatementIngest) -> Vec<u8> {
    use prost::Message;
    command.as_any().encode_to_vec()
}

fn prost_decode(bytes: &[u8]) -> Result<DoPutUpdateResult> {
    use prost::Message;
    DoPutUpdateResult::decode(bytes).map_err(|e| Error::corrupt(format!("answer to an ingest: {e}")))
}
