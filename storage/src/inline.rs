//! Inline segments: a few rows as an Arrow IPC stream, small enough to travel in the log.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::DataType;
use plexus_model::{ColumnStatistics, Error, Result, TableSchema};

use crate::statistics::StatisticsBuilder;
use crate::types;

pub struct EncodedInline {
    pub bytes: Vec<u8>,
    pub rows: u64,
    pub columns: Vec<ColumnStatistics>,
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
    let mut writer = StreamWriter::try_new(Vec::new(), &arrow_schema).map_err(fail)?;
    writer.write(&batch).map_err(fail)?;
    let bytes = writer.into_inner().map_err(fail)?;
    Ok(EncodedInline { bytes, rows: batch.num_rows() as u64, columns: statistics.finish() })
}

fn compact(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Utf8View => Arc::new(array.as_string_view().gc()),
        DataType::BinaryView => Arc::new(array.as_binary_view().gc()),
        _ => array.clone(),
    }
}

/// The rows of an inline segment.
pub fn decode(bytes: &[u8]) -> Result<Vec<RecordBatch>> {
    StreamReader::try_new(Cursor::new(bytes), None)
        .and_then(|reader| reader.collect::<Result<Vec<_>, _>>())
        .map_err(|e| Error::corrupt(format!("inline rows of {} bytes: {e}", bytes.len())).with_source(e))
}
