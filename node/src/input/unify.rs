//! Files that are loaded together: the columns of the first, which the others may have in another order.

use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};
use plexus_model::{Error, Result};

use super::{Batches, Input, damaged, infer};

/// Gives files that are loaded together the columns of the first in its order, and text files the types that
/// hold the values of all of them.
///
/// # Errors
/// `InvalidArgument` names two files with different columns, and the difference.
pub(crate) fn unify(inputs: &mut [Input]) -> Result<()> {
    let Some((first, others)) = inputs.split_first_mut() else {
        return Err(Error::invalid("no files to load"));
    };
    let mut fields: Vec<Field> = first.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    for input in others.iter_mut() {
        let order = order_of(&fields, &input.schema)
            .ok_or_else(|| different(input, first, "columns", &difference(&input.schema, &first.schema)))?;
        for (field, column) in fields.iter_mut().zip(&order) {
            let (found, known) = (input.schema.field(*column).data_type(), field.data_type().clone());
            if *found != known {
                if !(input.is_text() && first.is_text()) {
                    let what = format!("{}: {found} and {known}", field.name());
                    return Err(different(input, first, "types", &what));
                }
                field.set_data_type(infer::common_type(found, &known));
            }
        }
        input.order = order;
    }
    for input in inputs.iter_mut().filter(|input| input.is_text()) {
        let mut own: Vec<Field> = input.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        if input.order.is_empty() {
            own.clone_from(&fields);
        }
        for (column, field) in input.order.iter().zip(&fields) {
            own[*column] = field.clone();
        }
        input.schema = Arc::new(Schema::new(own));
    }
    Ok(())
}

/// For each field its column in a schema that has the same names. Where a name stands twice, the order is the
/// same.
fn order_of(fields: &[Field], schema: &SchemaRef) -> Option<Vec<usize>> {
    if fields.len() != schema.fields().len() {
        return None;
    }
    if fields.iter().map(Field::name).eq(schema.fields().iter().map(|field| field.name())) {
        return Some((0..fields.len()).collect());
    }
    let mut order: Vec<usize> =
        fields.iter().map(|field| schema.index_of(field.name()).ok()).collect::<Option<_>>()?;
    let columns = order.clone();
    order.sort_unstable();
    order.dedup();
    (order.len() == columns.len()).then_some(columns)
}

/// A column that one of two schemas has.
fn difference(schema: &SchemaRef, first: &SchemaRef) -> String {
    let lacking = |of: &SchemaRef, other: &SchemaRef| {
        let mut names = of.fields().iter().map(|field| field.name());
        names.find(|name| other.index_of(name).is_err()).cloned()
    };
    match (lacking(schema, first), lacking(first, schema)) {
        (Some(name), _) => format!("only the one has {name:?}"),
        (None, Some(name)) => format!("only the other has {name:?}"),
        (None, None) => "a name stands several times".to_owned(),
    }
}

fn different(input: &Input, first: &Input, what: &str, detail: &str) -> Error {
    Error::invalid(format!(
        "{} and {} have different {what}, {detail}: load them separately",
        input.path.display(),
        first.path.display()
    ))
}

/// Batches with their columns in another order.
pub(super) fn reordered(input: &Input, batches: Batches) -> Batches {
    let order = input.order.clone();
    if order.is_empty() || order.is_sorted() {
        return batches;
    }
    let path = input.path.clone();
    Box::new(batches.map(move |batch| batch?.project(&order).map_err(|e| damaged(&path, e))))
}
