//! Arranges rows of a client as a table has its columns: their order, and the defaults of those that are
//! absent.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow_schema::{Field, Schema};
use plexus_model::{Error, Result, Table};
use plexus_query::ColumnDefaults;
use plexus_storage::types;

use crate::write::assign::assign_value;

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
