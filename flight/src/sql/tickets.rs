//! Statement handles and tickets.
//!
//! A handle carries the statement, its bound parameters and, once it ran, its result, so that any node can
//! serve a handle that another node made. It is sealed, so that nobody else can make one.

use arrow::array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use plexus_coordinator::TransactionId;
use plexus_model::{Error, Result, Version};
use plexus_storage::ipc_check::check_stream;
use rkyv::{Archive, Deserialize, Serialize};
use tonic::Status;

use crate::sql::seal::Seal;
use crate::status::to_status;

/// The content of a prepared statement handle or of a query ticket.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(crate) struct StatementHandle {
    /// Random id of the prepared statement; zero if the statement is not prepared.
    pub(crate) prepared: u128,
    /// Text of the statement; empty in the ticket of an executed one.
    pub(crate) sql: String,
    /// The bound parameters as an Arrow IPC stream of one batch; empty when none are bound.
    pub(crate) parameters: Vec<u8>,
    /// Whether the statement ran when its ticket was made, so that redeeming the ticket runs nothing.
    pub(crate) executed: bool,
    /// Manifest version that a query reads; zero when the version is chosen at execution.
    pub(crate) version: u64,
    /// Random id of the ticket, by which the client can cancel the query; zero if it is no ticket of a query.
    pub(crate) ticket: u128,
    /// Transaction that the statement belongs to; zero for none.
    pub(crate) transaction: u128,
    /// Settings of the session in which the ticket was made.
    pub(crate) settings: Vec<(String, String)>,
    /// Rows of the `RETURNING` clause as an Arrow IPC stream; empty without such a clause.
    pub(crate) returned: Vec<u8>,
}

/// Limit on the handles in one response. gRPC clients accept messages of 4 MiB by default; the rest is left
/// for schemas and framing.
const HANDLES_BYTES_MAX: usize = 3 * 1024 * 1024;

impl StatementHandle {
    /// The handle of a statement without parameters, outside of any transaction.
    pub(crate) fn new(sql: impl Into<String>) -> Self {
        let (parameters, returned) = (vec![], vec![]);
        Self {
            prepared: 0,
            sql: sql.into(),
            parameters,
            executed: false,
            version: 0,
            ticket: 0,
            transaction: 0,
            settings: vec![],
            returned,
        }
    }

    /// The ticket of a query that is to read `version`.
    pub(crate) fn of_query(self, version: Version, settings: Vec<(String, String)>) -> Self {
        Self { version: version.0, ticket: uuid::Uuid::new_v4().as_u128(), settings, ..self }
    }

    /// The handle of a prepared statement.
    pub(crate) fn prepared(sql: impl Into<String>) -> Self {
        Self { prepared: uuid::Uuid::new_v4().as_u128(), ..Self::new(sql) }
    }

    /// The ticket of a statement that has run and returned no rows.
    pub(crate) fn executed() -> Self {
        Self { executed: true, ..Self::new("") }
    }

    /// The ticket of a statement that has run and returned rows.
    pub(crate) fn with_returned(batches: &[RecordBatch], schema: &Schema) -> Result<Self> {
        let write = || {
            let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
            batches.iter().try_for_each(|batch| writer.write(batch))?;
            writer.into_inner()
        };
        let fail =
            |e: arrow::error::ArrowError| Error::internal(format!("rows in a ticket: {e}")).with_source(e);
        Ok(Self { returned: write().map_err(fail)?, ..Self::executed() })
    }

    /// The rows of the `RETURNING` clause and their schema; `None` without such a clause.
    pub(crate) fn returned_rows(&self) -> Result<Option<(SchemaRef, Vec<RecordBatch>)>> {
        if self.returned.is_empty() {
            return Ok(None);
        }
        let fail =
            |e: arrow::error::ArrowError| Error::invalid(format!("rows in a ticket: {e}")).with_source(e);
        check_stream(self.returned.as_slice()).map_err(|e| e.context("rows in a ticket"))?;
        let reader = StreamReader::try_new(self.returned.as_slice(), None).map_err(fail)?;
        let schema = reader.schema();
        Ok(Some((schema, reader.collect::<Result<Vec<_>, _>>().map_err(fail)?)))
    }

    /// This handle as part of a transaction.
    pub(crate) fn in_transaction(self, id: Option<TransactionId>) -> Self {
        Self { transaction: id.map_or(0, |id| id.0), ..self }
    }

    /// The transaction that the statement belongs to.
    pub(crate) fn transaction(&self) -> Option<TransactionId> {
        (self.transaction != 0).then_some(plexus_model::Token(self.transaction))
    }

    /// This handle with bound parameters.
    pub(crate) fn bind(mut self, parameters: &RecordBatch) -> Result<Self> {
        let write = || {
            let mut writer = StreamWriter::try_new(Vec::new(), &parameters.schema())?;
            writer.write(parameters)?;
            writer.into_inner()
        };
        self.parameters = write().map_err(|e| Error::invalid(format!("parameters: {e}")).with_source(e))?;
        Ok(self)
    }

    /// The bound parameters.
    pub(crate) fn parameters(&self) -> Result<Option<RecordBatch>> {
        if self.parameters.is_empty() {
            return Ok(None);
        }
        check_stream(self.parameters.as_slice()).map_err(|e| e.context("parameters in a handle"))?;
        let batches = StreamReader::try_new(self.parameters.as_slice(), None)
            .and_then(|reader| reader.collect::<Result<Vec<_>, _>>())
            .map_err(|e| Error::invalid(format!("parameters in a handle: {e}")).with_source(e))?;
        Ok(batches.into_iter().next())
    }

    /// Refuses a handle that is too large for a response with `copies` of it. Called before the statement
    /// runs, since afterwards the client could not be told its result.
    pub(crate) fn check_size(&self, copies: usize) -> Result<()> {
        let bytes = self.sql.len() + self.parameters.len();
        let bytes_max = HANDLES_BYTES_MAX / copies;
        if bytes > bytes_max {
            return Err(Error::invalid(format!(
                "the statement and its parameters take {bytes} bytes, a ticket holds at most {bytes_max}: \
                 load the data into a table, or bind it as rows of parameters"
            )));
        }
        Ok(())
    }

    /// The bytes of this handle on the wire.
    pub(crate) fn encode(&self, seal: &Seal) -> Bytes {
        seal.close(plexus_model::encode(self))
    }

    /// Decodes a handle that a client sent.
    ///
    /// # Errors
    /// `Unauthenticated` for one that no node of this cluster made.
    pub(crate) fn decode(bytes: &[u8], seal: &Seal) -> Result<Self, Status> {
        // A sealed handle that cannot be decoded is one of another version of the program.
        let invalid = |e: Error| to_status(&Error::invalid(e.message()));
        plexus_model::decode("statement handle", seal.open(bytes)?).map_err(invalid)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn handles_round_trip_and_others_are_refused() {
        let batch = RecordBatch::try_from_iter([(
            "0",
            Arc::new(Int64Array::from(vec![7])) as arrow::array::ArrayRef,
        )])
        .unwrap();
        let handle = StatementHandle::new("SELECT $1").bind(&batch).unwrap();
        let seal = Seal::of(&plexus_model::Secret::from_bytes([7; 32]));
        let decoded = StatementHandle::decode(&handle.encode(&seal), &seal).unwrap();
        assert_eq!(decoded.parameters().unwrap().unwrap(), batch);
        let error = StatementHandle::decode(b"these bytes are not a handle", &seal).unwrap_err();
        assert_eq!(error.code(), tonic::Code::Unauthenticated);
    }
}
