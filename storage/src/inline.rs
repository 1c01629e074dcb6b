//! Inline segments: a few rows as an Arrow IPC stream, small enough to travel in the log.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::DataType;
use plexus_model::{Error, Result, Statistics, TableSchema};

use crate::encode::keys_of;
use crate::statistics::StatisticsBuilder;
use crate::types;

pub struct EncodedInline {
    pub bytes: Vec<u8>,
    pub rows: u64,
    pub statistics: Statistics,
    /// Hashes of the primary keys, if the table has one.
    pub keys: Vec<u64>,
}

/// Encodes the rows of all batches as one.
pub fn encode(schema: &TableSchema, batches: &[&RecordBatch]) -> Result<EncodedInline> {
    let arrow_schema = types::to_arrow(schema);
    let fail =
        |e: arrow::error::ArrowError| Error::internal(format!("encoding inline rows: {e}")).with_source(e);
    let batch = concat_batches(&arrow_schema, batches.iter().copied()).map_err(fail)?;
    // Views of a few rows can drag along the buffers of many.
    let columns = batch.columns().iter().map(compact).collect();
    let batch = RecordBatch::try_new(arrow_schema.clone(), columns).map_err(fail)?;
    let mut statistics = StatisticsBuilder::new(schema);
    statistics.add(&batch);
    let keys = if schema.has_key() { keys_of(schema, &batch)?.hashes() } else { vec![] };
    let stored = RecordBatch::try_new(types::to_stored(schema), batch.columns().to_vec()).map_err(fail)?;
    let rows = stored.num_rows() as u64;
    Ok(EncodedInline { bytes: write(&stored).map_err(fail)?, rows, statistics: statistics.finish(), keys })
}

fn write(batch: &RecordBatch) -> Result<Vec<u8>, arrow::error::ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(batch)?;
    writer.into_inner()
}

/// Rows on their way to another node, which [`decode`] reads.
pub fn encode_batch(batch: &RecordBatch) -> Result<Vec<u8>> {
    let fail = |e: arrow::error::ArrowError| Error::internal(format!("encoding rows: {e}")).with_source(e);
    let columns = batch.columns().iter().map(compact).collect();
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &rows).and_then(|b| write(&b)).map_err(fail)
}

/// One value as it is kept with a schema.
pub fn encode_value(value: ArrayRef) -> Result<Vec<u8>> {
    RecordBatch::try_from_iter([("value", value)])
        .and_then(|batch| write(&batch))
        .map_err(|e| Error::internal(format!("encoding a value: {e}")).with_source(e))
}

/// What [`encode_value`] wrote, as an array of one row.
pub fn decode_value(bytes: &[u8]) -> Result<ArrayRef> {
    let batch = decode(bytes)?.into_iter().find(|b| b.num_rows() == 1 && b.num_columns() == 1);
    batch.map(|b| b.column(0).clone()).ok_or_else(|| Error::corrupt("a value that is not one row"))
}

fn compact(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Utf8View => Arc::new(array.as_string_view().gc()),
        DataType::BinaryView => Arc::new(array.as_binary_view().gc()),
        _ => array.clone(),
    }
}

/// The rows of an inline segment, under the names of the stored columns.
pub fn decode(bytes: &[u8]) -> Result<Vec<RecordBatch>> {
    StreamReader::try_new(Cursor::new(bytes), None)
        .and_then(|reader| reader.collect::<Result<Vec<_>, _>>())
        .map_err(|e| Error::corrupt(format!("inline rows of {} bytes: {e}", bytes.len())).with_source(e))
}
