//! Arranges rows of a client as a table has its columns: their order, and the defaults of those that are
//! absent.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow_schema::{DataType, Field, Schema};
use plexus_model::{Error, Result, Table};
use plexus_query::ColumnDefaults;
use plexus_storage::types;

use crate::write::assign::assign_value;

/// Bytes that the rows of one part take in columns of fixed width.
const PART_BYTES: usize = 64 * 1024 * 1024;

/// The rows of a batch in parts that the table stores in some megabytes. A null vector takes as much as any
/// other, and a client sends thousands of them in a few bytes.
pub(crate) fn parts<'a>(
    batch: &'a RecordBatch,
    table: &Table,
) -> impl Iterator<Item = RecordBatch> + use<'a> {
    let schema = types::to_arrow(&table.schema);
    let bytes: usize = schema.fields().iter().map(|field| fixed_bytes(field.data_type())).sum();
    let rows = (PART_BYTES / bytes.max(1)).max(1);
    let total = batch.num_rows();
    // A batch without rows is checked as well.
    let starts = (0..total.max(1)).step_by(rows);
    starts.map(move |start| batch.slice(start, rows.min(total - start)))
}

/// Bytes that each value of a type takes, whatever it is.
fn fixed_bytes(data_type: &DataType) -> usize {
    match data_type {
        DataType::FixedSizeList(item, length) => {
            fixed_bytes(item.data_type()).saturating_mul(usize::try_from(*length).unwrap_or(0))
        }
        DataType::Struct(fields) => fields.iter().map(|field| fixed_bytes(field.data_type())).sum(),
        other => other.primitive_width().unwrap_or(size_of::<u64>()),
    }
}

/// Arranges the columns of a batch, whose names are `names`, in the order of the table. Absent columns have
/// their default, or are null. Types are not changed.
///
/// # Errors
/// `InvalidArgument` when `names` does not match the batch or the table, or has duplicates.
pub(crate) fn arrange(
    batch: &RecordBatch,
    names: &[String],
    defaults: &ColumnDefaults,
    table: &Table,
) -> Result<RecordBatch> {
    if names.len() != batch.num_columns() {
        return Err(Error::invalid(format!(
            "table {}: {} columns are named, the rows have {}",
            table.name,
            names.len(),
            batch.num_columns()
        )));
    }
    let mut seen = HashSet::new();
    for name in names {
        if table.schema.column_index(name).is_none() {
            return Err(Error::invalid(format!("table {} has no column {name:?}", table.name)));
        }
        if !seen.insert(name) {
            return Err(Error::invalid(format!("table {}: column {name:?} is given twice", table.name)));
        }
    }
    let schema = types::to_arrow(&table.schema);
    let mut fields = Vec::with_capacity(schema.fields().len());
    let mut arrays = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let array = match names.iter().position(|name| name == field.name()) {
            Some(source) => batch.column(source).clone(),
            None => match defaults.values(field.name(), batch.num_rows())? {
                Some(values) => assign_value(&values, field.data_type(), defaults.zone())
                    .map_err(|e| e.context(format!("default of column {:?}", field.name())))?,
                None => new_null_array(field.data_type(), batch.num_rows()),
            },
        };
        fields.push(Field::new(field.name(), array.data_type().clone(), true));
        arrays.push(array);
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
        .map_err(|e| Error::invalid(format!("rows for table {}: {e}", table.name)).with_source(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_take_what_they_take() {
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        assert_eq!(fixed_bytes(&DataType::FixedSizeList(item.clone(), 65_536)), 262_144);
        assert_eq!(fixed_bytes(&DataType::Struct(vec![item].into())), 4);
    }
}
