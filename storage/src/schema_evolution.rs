//! Rows as segments hold them, through the schema that a reader has.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array, new_null_array};
use arrow::compute;
use arrow_schema::SchemaRef;
use plexus_model::{Column, Error, Result, RowSet, TableSchema};

use crate::{inline, types};

/// Columns that are found by their ids become those of `schema` in its order: cast where the type was
/// widened, with their initial value where they did not exist yet. `arrow` is the Arrow form of `schema`.
pub fn evolve(stored: &RecordBatch, schema: &TableSchema, arrow: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema
        .columns
        .iter()
        .map(|column| match stored.column_by_name(&column.id.to_string()) {
            Some(array) => widen(array, column),
            None => initial(schema, column, stored.num_rows()),
        })
        .collect::<Result<Vec<ArrayRef>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(stored.num_rows()));
    RecordBatch::try_new_with_options(arrow.clone(), columns, &options)
        .map_err(|e| Error::internal(format!("stored rows: {e}")).with_source(e))
}

fn widen(array: &ArrayRef, column: &Column) -> Result<ArrayRef> {
    let wanted = types::to_data_type(&column.data_type);
    if *array.data_type() == wanted {
        return Ok(array.clone());
    }
    compute::cast(array, &wanted)
        .map_err(|e| Error::internal(format!("column {:?}: {e}", column.name)).with_source(e))
}

/// The value of a column in rows that were written before it was there.
fn initial(schema: &TableSchema, column: &Column, rows: usize) -> Result<ArrayRef> {
    let wanted = types::to_data_type(&column.data_type);
    let Some(bytes) = schema.initial_of(column.id) else {
        return Ok(new_null_array(&wanted, rows));
    };
    let value = widen(&inline::decode_value(bytes)?, column)?;
    let same = UInt64Array::from(vec![0; rows]);
    compute::take(&value, &same, None)
        .map_err(|e| Error::internal(format!("column {:?}: {e}", column.name)).with_source(e))
}

/// The initial value of a column as an array of one row: null unless the schema says otherwise.
pub fn initial_value(schema: &TableSchema, column: &Column) -> Result<ArrayRef> {
    initial(schema, column, 1)
}

/// The rows of an inline segment in a reader's schema, without those that it does not see: they need not
/// fit it.
pub fn decode_inline(bytes: &[u8], schema: &TableSchema, hidden: &RowSet) -> Result<Vec<RecordBatch>> {
    let arrow = types::to_arrow(schema);
    let mut first = 0;
    let mut rows = Vec::new();
    for batch in inline::decode(bytes)? {
        let count = batch.num_rows() as u64;
        let visible: Vec<u64> = (0..count).filter(|row| !hidden.contains((first + row) as u32)).collect();
        let batch = if visible.len() as u64 == count { batch } else { take_rows(&batch, visible)? };
        rows.push(evolve(&batch, schema, &arrow)?);
        first += count;
    }
    Ok(rows)
}

/// The part of a schema that has only these columns, by index.
pub fn project(schema: &TableSchema, columns: &[usize]) -> TableSchema {
    let columns = columns.iter().map(|&i| schema.columns[i].clone()).collect();
    TableSchema { columns, primary_key: vec![], ..schema.clone() }
}

/// Takes rows of a batch by their positions.
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
