//! Tickets and handles that say all there is to know, so that any node can serve them.

use arrow::array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use bytes::Bytes;
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
}

/// Clients receive messages of 4 MiB, and there is more in one than handles.
const MESSAGE_BYTES_MAX: usize = 3 * 1024 * 1024;

impl StatementHandle {
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), parameters: vec![], done: false, version: 0 }
    }

    /// The ticket of a statement that ran already.
    pub fn done() -> Self {
        Self { sql: String::new(), parameters: vec![], done: true, version: 0 }
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
