//! Inline segments: a few rows as an Arrow IPC stream, small enough to travel inside a log entry.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::DataType;
use plexus_model::{Error, Result, Statistics, TableSchema};

use crate::encode::primary_keys;
use crate::ipc_check;
use crate::statistics::StatisticsBuilder;
use crate::types;

/// An encoded inline segment.
pub struct EncodedInline {
    /// The Arrow IPC stream.
    pub bytes: Vec<u8>,
    /// Number of rows.
    pub rows: u64,
    /// Statistics of the columns, without distinct counts.
    pub statistics: Statistics,
    /// Hashes of the primary keys in row order. Empty when the table has no key.
    pub keys: Vec<u64>,
}

/// Encodes the rows of all batches as one inline segment. The batches have the columns of `schema` in order.
///
/// # Errors
/// `Internal` when the batches do not have the schema. `Unsupported` when a key column has no canonical form.
pub fn encode(schema: &TableSchema, batches: &[&RecordBatch]) -> Result<EncodedInline> {
    let arrow_schema = types::to_arrow(schema);
    let encode_error =
        |e: arrow::error::ArrowError| Error::internal(format!("encoding inline rows: {e}")).with_source(e);
    let batch = concat_batches(&arrow_schema, batches.iter().copied()).map_err(encode_error)?;
    // View arrays of a few rows can reference buffers of many more rows, which would be encoded as well.
    let columns = batch.columns().iter().map(compact_views).collect();
    let batch = RecordBatch::try_new(arrow_schema.clone(), columns).map_err(encode_error)?;
    let mut statistics = StatisticsBuilder::new(schema);
    statistics.add(&batch);
    let keys = if schema.has_key() { primary_keys(schema, &batch)?.hashes() } else { vec![] };
    let stored =
        RecordBatch::try_new(types::to_stored(schema), batch.columns().to_vec()).map_err(encode_error)?;
    let rows = stored.num_rows() as u64;
    Ok(EncodedInline {
        bytes: write_ipc(&stored).map_err(encode_error)?,
        rows,
        statistics: statistics.finish(),
        keys,
    })
}

fn write_ipc(batch: &RecordBatch) -> Result<Vec<u8>, arrow::error::ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(batch)?;
    writer.into_inner()
}

/// Encodes a batch for another node. [`decode`] reads it.
///
/// # Errors
/// `Internal` when Arrow cannot encode the batch.
pub fn encode_batch(batch: &RecordBatch) -> Result<Vec<u8>> {
    let encode_error =
        |e: arrow::error::ArrowError| Error::internal(format!("encoding rows: {e}")).with_source(e);
    let columns = batch.columns().iter().map(compact_views).collect();
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &rows)
        .and_then(|b| write_ipc(&b))
        .map_err(encode_error)
}

/// Encodes a single value, given as an array of one row: the initial value of a column in its schema.
///
/// # Errors
/// `Internal` when Arrow cannot encode the value.
pub fn encode_value(value: ArrayRef) -> Result<Vec<u8>> {
    RecordBatch::try_from_iter([("value", value)])
        .and_then(|batch| write_ipc(&batch))
        .map_err(|e| Error::internal(format!("encoding a value: {e}")).with_source(e))
}

/// Decodes what [`encode_value`] wrote, as an array of one row.
///
/// # Errors
/// `Corrupt` when the bytes are damaged.
pub fn decode_value(bytes: &[u8]) -> Result<ArrayRef> {
    let batch = decode(bytes)?.into_iter().find(|b| b.num_rows() == 1 && b.num_columns() == 1);
    batch.map(|b| b.column(0).clone()).ok_or_else(|| Error::corrupt("an encoded value is not a single row"))
}

/// Copies the values of a view array to buffers that hold nothing else.
fn compact_views(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Utf8View => Arc::new(array.as_string_view().gc()),
        DataType::BinaryView => Arc::new(array.as_binary_view().gc()),
        _ => array.clone(),
    }
}

/// Decodes an inline segment. Its columns are named by their ids, as in every stored segment.
///
/// # Errors
/// `Corrupt` when the bytes are damaged.
pub fn decode(bytes: &[u8]) -> Result<Vec<RecordBatch>> {
    ipc_check::check_stream(bytes)
        .map_err(|e| Error::corrupt(format!("inline rows of {} bytes: {}", bytes.len(), e.message())))?;
    StreamReader::try_new(Cursor::new(bytes), None)
        .and_then(|reader| reader.collect::<Result<Vec<_>, _>>())
        .map_err(|e| Error::corrupt(format!("inline rows of {} bytes: {e}", bytes.len())).with_source(e))
}
