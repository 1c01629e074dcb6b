//! Files that are loaded together: the columns of the first, which the others may have in another order.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use plexus_model::{Error, Result};
use plexus_storage::sql_name;

use super::{Batches, Input, damaged, infer};

/// Gives files that are loaded together the columns of the first in its order, each with a type that holds
/// the values of all of them.
///
/// # Errors
/// `InvalidArgument` names two files with different columns, and the difference.
pub(crate) fn unify(inputs: &mut [Input]) -> Result<()> {
    let Some((first, others)) = inputs.split_first_mut() else {
        return Err(Error::invalid("no files to load"));
    };
    let mut fields: Vec<Field> = first.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    first.order = (0..fields.len()).collect();
    let mut are_texts = first.is_text();
    for input in others {
        input.order = places(&fields, &input.schema).ok_or_else(|| different_columns(input, first))?;
        are_texts &= input.is_text();
        for (field, place) in fields.iter_mut().zip(&input.order) {
            let (other, known) = (input.schema.field(*place), field.data_type());
            let common = match are_texts {
                true => Some(infer::common_type(known, other.data_type())),
                false => wider(known, other.data_type()),
            };
            let common = common.ok_or_else(|| {
                Error::invalid(format!(
                    "{}: column {:?} is {}, in the files before it is {}: load them separately",
                    input.path.display(),
                    field.name(),
                    sql_name(other.data_type()),
                    sql_name(known)
                ))
            })?;
            let is_nullable = field.is_nullable() || other.is_nullable();
            *field = field.clone().with_data_type(common).with_nullable(is_nullable);
        }
    }
    for field in &mut fields {
        match are_texts {
            true => field.set_data_type(infer::with_texts(field.data_type())),
            false if field.data_type().is_null() => field.set_data_type(DataType::Utf8),
            false => {}
        }
    }
    for input in inputs {
        if input.is_text() {
            let mut own: Vec<Field> = vec![Field::new("", DataType::Null, true); fields.len()];
            for (field, place) in fields.iter().zip(&input.order) {
                own[*place] = field.clone();
            }
            input.schema = Arc::new(Schema::new(own));
        }
        input.unified = Some(Arc::new(Schema::new(fields.clone())));
    }
    Ok(())
}

/// The type that holds the values of two. Of whole numbers beside doubles only those that doubles hold;
/// others are refused when they are read.
fn wider(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::*;
    let is_signed = |data_type: &DataType| data_type.is_signed_integer();
    Some(match (a, b) {
        (a, b) if a == b => a.clone(),
        (Null, other) | (other, Null) => other.clone(),
        (Dictionary(_, values), other) | (other, Dictionary(_, values)) => wider(values, other)?,
        (a, b) if a.is_integer() && b.is_integer() && is_signed(a) == is_signed(b) => {
            if a.primitive_width() < b.primitive_width() { b.clone() } else { a.clone() }
        }
        (Float64, Float32 | Float16) | (Float32 | Float16, Float64) => Float64,
        (Float64, other) | (other, Float64) if other.is_integer() => Float64,
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View) => LargeUtf8,
        (Binary | LargeBinary | BinaryView, Binary | LargeBinary | BinaryView) => LargeBinary,
        _ => return None,
    })
}

/// For each field its place in a schema of the same names. Where a name stands twice, the order has to be the
/// same.
fn places(fields: &[Field], schema: &SchemaRef) -> Option<Vec<usize>> {
    if fields.len() != schema.fields().len() {
        return None;
    }
    if fields.iter().map(Field::name).eq(schema.fields().iter().map(|field| field.name())) {
        return Some((0..fields.len()).collect());
    }
    let places: Option<Vec<usize>> = fields.iter().map(|field| schema.index_of(field.name()).ok()).collect();
    places.filter(|places| (0..fields.len()).all(|place| places.contains(&place)))
}

fn different_columns(input: &Input, first: &Input) -> Error {
    let lacking = |of: &Input, other: &Input| {
        let mut names = of.schema.fields().iter().map(|field| field.name());
        let name = names.find(|name| other.schema.index_of(name).is_err())?;
        Some(format!("{} has no column {name:?}", other.path.display()))
    };
    let difference = lacking(input, first).or_else(|| lacking(first, input));
    let difference = difference.unwrap_or_else(|| "a name stands several times".to_owned());
    Error::invalid(format!(
        "{} and {} have different columns: {difference}; load them separately",
        input.path.display(),
        first.path.display()
    ))
}

/// Batches with the columns of all files.
pub(super) fn unified(input: &Input, batches: Batches) -> Batches {
    let Some(schema) = input.unified.clone() else {
        return batches;
    };
    let (path, order) = (input.path.clone(), input.order.clone());
    Box::new(batches.map(move |batch| {
        let batch = batch?;
        let columns = order.iter().zip(schema.fields()).map(|(place, field)| {
            converted(batch.column(*place), field.data_type())
                .map_err(|e| Error::invalid(format!("{}: column {:?}: {e}", path.display(), field.name())))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        RecordBatch::try_new(schema.clone(), columns).map_err(|e| damaged(&path, e))
    }))
}

/// Values in a [wider] type.
fn converted(values: &ArrayRef, to: &DataType) -> std::result::Result<ArrayRef, ArrowError> {
    let from = values.data_type();
    if from == to {
        return Ok(values.clone());
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let wide = cast_with_options(values, to, &strict)?;
    if from.is_integer() && to.is_floating() && &cast_with_options(&wide, from, &strict)? != values {
        return Err(ArrowError::CastError(format!(
            "a whole number is too large for {}, which it is in another file",
            sql_name(to)
        )));
    }
    Ok(wide)
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn wider_types_hold_both() {
        use DataType::*;
        let dictionary = || Dictionary(Box::new(Int32), Box::new(Utf8));
        for (a, b, expected) in [
            (Int32, Int64, Some(Int64)),
            (UInt8, UInt16, Some(UInt16)),
            (UInt8, Int16, None),
            (Null, Float64, Some(Float64)),
            (dictionary(), Utf8, Some(Utf8)),
            (dictionary(), Int64, None),
            (Int64, Float64, Some(Float64)),
            (Int64, Float32, None),
            (Utf8, Utf8View, Some(LargeUtf8)),
            (Utf8, Int64, None),
        ] {
            assert_eq!(wider(&a, &b), expected, "{a} {b}");
            assert_eq!(wider(&b, &a), expected, "{b} {a}");
        }
        let numbers = |value: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![Some(value), None])) };
        assert!(converted(&numbers(1 << 53), &Float64).is_ok());
        assert!(converted(&numbers((1 << 53) + 1), &Float64).is_err());
    }
}
