//! How large rows are.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow_schema::DataType;

/// Bytes that the rows of a batch take, however large the buffers are that they are part of: batches that
/// came in one message share its buffer.
pub fn rows_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(array_bytes).sum()
}

fn array_bytes(array: &ArrayRef) -> usize {
    let viewed = match array.data_type() {
        DataType::Utf8View => array.as_string_view().total_bytes_len(),
        DataType::BinaryView => array.as_binary_view().total_bytes_len(),
        _ => 0,
    };
    viewed + array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size())
}
