//! Tickets and handles that say all there is to know, so that any node can serve them.

use arrow::array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use plexus_coordinator::TransactionId;
use plexus_model::{Error, Result};
use rkyv::{Archive, Deserialize, Serialize};

/// A prepared statement, or the ticket of a query: the text and its bound parameters.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct StatementHandle {
    pub sql: String,
    /// One Arrow IPC stream; empty when nothing is bound.
    pub parameters: Vec<u8>,
    /// The statement ran when its ticket was made and has no rows.
    pub done: bool,
    /// Version of the manifest at which the ticket of a query was made; zero when it was not.
    pub version: u64,
    /// The transaction that the statement is part of; zero when it is none.
    pub transaction: u128,
    /// What `RETURNING` gave back when the statement ran: one Arrow IPC stream.
    pub returned: Vec<u8>,
}

/// Clients receive messages of 4 MiB, and there is more in one than handles.
const MESSAGE_BYTES_MAX: usize = 3 * 1024 * 1024;

impl StatementHandle {
    pub fn new(sql: impl Into<String>) -> Self {
        let (parameters, returned) = (vec![], vec![]);
        Self { sql: sql.into(), parameters, done: false, version: 0, transaction: 0, returned }
    }

    /// The ticket of a statement that ran already.
    pub fn done() -> Self {
        Self { done: true, ..Self::new("") }
    }

    /// The ticket of a statement that ran already and gave rows back.
    pub fn returned(batches: &[RecordBatch], schema: &Schema) -> Result<Self> {
        let write = || {
            let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
            batches.iter().try_for_each(|batch| writer.write(batch))?;
            writer.into_inner()
        };
        let fail =
            |e: arrow::error::ArrowError| Error::internal(format!("rows of a ticket: {e}")).with_source(e);
        Ok(Self { returned: write().map_err(fail)?, ..Self::done() })
    }

    /// The rows that were given back, with their schema; `None` when there was no `RETURNING`.
    pub fn returned_rows(&self) -> Result<Option<(SchemaRef, Vec<RecordBatch>)>> {
        if self.returned.is_empty() {
            return Ok(None);
        }
        let fail =
            |e: arrow::error::ArrowError| Error::invalid(format!("rows of a ticket: {e}")).with_source(e);
        let reader = StreamReader::try_new(self.returned.as_slice(), None).map_err(fail)?;
        let schema = reader.schema();
        Ok(Some((schema, reader.collect::<Result<Vec<_>, _>>().map_err(fail)?)))
    }

    pub fn in_transaction(self, id: Option<TransactionId>) -> Self {
        Self { transaction: id.map_or(0, |id| id.0), ..self }
    }

    pub fn transaction(&self) -> Option<TransactionId> {
        (self.transaction != 0).then_some(plexus_model::Token(self.transaction))
    }

    pub fn bind(mut self, parameters: &RecordBatch) -> Result<Self> {
        let write = || {
            let mut writer = StreamWriter::try_new(Vec::new(), &parameters.schema())?;
            writer.write(parameters)?;
            writer.into_inner()
        };
        self.parameters = write().map_err(|e| Error::invalid(format!("parameters: {e}")).with_source(e))?;
        Ok(self)
    }

    pub fn parameters(&self) -> Result<Option<RecordBatch>> {
        if self.parameters.is_empty() {
            return Ok(None);
        }
        let batches = StreamReader::try_new(self.parameters.as_slice(), None)
            .and_then(|reader| reader.collect::<Result<Vec<_>, _>>())
            .map_err(|e| Error::invalid(format!("parameters of a handle: {e}")).with_source(e))?;
        Ok(batches.into_iter().next())
    }

    /// Refuses a handle that would not fit in a message to a client that has it so many times, before
    /// anything runs.
    pub fn check_size(&self, times: usize) -> Result<()> {
        let bytes = self.sql.len() + self.parameters.len();
        let most = MESSAGE_BYTES_MAX / times;
        if bytes > most {
            return Err(Error::invalid(format!(
                "the statement and its parameters take {bytes} bytes, more than the {most} of a ticket: \
                 put the data into a table, or bind it as rows of parameters"
            )));
        }
        Ok(())
    }

    pub fn encode(&self) -> Bytes {
        plexus_model::encode(self).into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        plexus_model::decode("statement handle", bytes).map_err(|e| Error::invalid(e.message()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn handles_say_all_and_garbage_is_an_invalid_argument() {
        let batch = RecordBatch::try_from_iter([(
            "0",
            Arc::new(Int64Array::from(vec![7])) as arrow::array::ArrayRef,
        )])
        .unwrap();
        let handle = StatementHandle::new("SELECT $1").bind(&batch).unwrap();
        let back = StatementHandle::decode(&handle.encode()).unwrap();
        assert_eq!(back.parameters().unwrap().unwrap(), batch);
        let error = StatementHandle::decode(b"not a handle of ours, surely").unwrap_err();
        assert_eq!(error.kind(), plexus_model::ErrorKind::InvalidArgument);
    }
}
