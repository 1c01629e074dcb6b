//! The rows of a result.

use arrow::array::RecordBatch;
use arrow_schema::SchemaRef;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use plexus_model::Result;

/// A stream of result batches with its schema.
pub struct RowStream {
    /// Schema of every batch.
    pub schema: SchemaRef,
    /// The batches. The stream ends after the first error.
    pub stream: BoxStream<'static, Result<RecordBatch>>,
}

impl RowStream {
    /// A stream over batches that are in memory.
    pub fn from_batches(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        Self { schema, stream: stream::iter(batches.into_iter().map(Ok)).boxed() }
    }
}
