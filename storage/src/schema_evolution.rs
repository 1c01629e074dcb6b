//! Schema evolution: rows of segments that were written with an older schema, in the schema of the reader.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array, new_null_array};
use arrow::compute;
use arrow_schema::SchemaRef;
use plexus_model::{Column, Error, Result, RowSet, TableSchema};

use crate::{inline, types};

/// Converts stored rows, whose columns are named by id, to the columns of `schema` in its order. A column
/// whose type was widened is cast. A column that the segment does not have gets its initial value. `arrow` is
/// the Arrow form of `schema`.
///
/// # Errors
/// `Internal` when a stored column cannot become the one of the schema.
pub fn evolve(stored: &RecordBatch, schema: &TableSchema, arrow: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema
        .columns
        .iter()
        .map(|column| match stored.column_by_name(&column.id.to_string()) {
            Some(array) => widen(array, column),
            None => initial_values(schema, column, stored.num_rows()),
        })
        .collect::<Result<Vec<ArrayRef>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(stored.num_rows()));
    RecordBatch::try_new_with_options(arrow.clone(), columns, &options).map_err(|e| {
        Error::internal(format!("converting stored rows to the schema of the reader: {e}")).with_source(e)
    })
}

/// Casts a column to the type of the schema.
fn widen(array: &ArrayRef, column: &Column) -> Result<ArrayRef> {
    let target = types::to_data_type(&column.data_type);
    if *array.data_type() == target {
        return Ok(array.clone());
    }
    compute::cast(array, &target)
        .map_err(|e| Error::internal(format!("column {:?}: {e}", column.name)).with_source(e))
}

/// The values of a column in `rows` rows that are older than the column: its initial value, or null.
fn initial_values(schema: &TableSchema, column: &Column, rows: usize) -> Result<ArrayRef> {
    let data_type = types::to_data_type(&column.data_type);
    let Some(bytes) = schema.initial_default_of(column.id) else {
        return Ok(new_null_array(&data_type, rows));
    };
    let value = widen(&inline::decode_value(bytes)?, column)?;
    let indices = UInt64Array::from(vec![0; rows]);
    compute::take(&value, &indices, None)
        .map_err(|e| Error::internal(format!("column {:?}: {e}", column.name)).with_source(e))
}

/// Decodes an inline segment in the schema of the reader, without the rows in `invisible`. These are removed
/// before the conversion, because deleted rows need not satisfy a newer schema.
///
/// # Errors
/// `Corrupt` when the bytes are damaged. `Internal` when a row cannot be converted to the schema.
pub fn decode_inline(bytes: &[u8], schema: &TableSchema, invisible: &RowSet) -> Result<Vec<RecordBatch>> {
    let arrow = types::to_arrow(schema);
    let mut first = 0;
    let mut rows = Vec::new();
    for batch in inline::decode(bytes)? {
        let count = batch.num_rows() as u64;
        let visible: Vec<u64> = (0..count).filter(|row| !invisible.contains((first + row) as u32)).collect();
        let batch = if visible.len() as u64 == count { batch } else { take_rows(&batch, visible)? };
        rows.push(evolve(&batch, schema, &arrow)?);
        first += count;
    }
    Ok(rows)
}

/// The schema restricted to the columns at these positions, without the primary key.
pub fn project(schema: &TableSchema, columns: &[usize]) -> TableSchema {
    let columns = columns.iter().map(|&i| schema.columns[i].clone()).collect();
    TableSchema { columns, primary_key: vec![], ..schema.clone() }
}

/// The rows of a batch at these positions.
///
/// # Errors
/// `Internal` when Arrow cannot copy the rows.
///
/// # Panics
/// When a position is out of bounds.
pub fn take_rows(batch: &RecordBatch, rows: Vec<u64>) -> Result<RecordBatch> {
    if batch.num_columns() == 0 {
        let count = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        return RecordBatch::try_new_with_options(batch.schema(), vec![], &count)
            .map_err(|e| Error::internal(format!("taking {} rows: {e}", rows.len())).with_source(e));
    }
    let rows: ArrayRef = Arc::new(UInt64Array::from(rows));
    compute::take_record_batch(batch, &rows)
        .map_err(|e| Error::internal(format!("taking {} rows: {e}", rows.len())).with_source(e))
}
