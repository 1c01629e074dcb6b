//! Coerces rows of a client to the types of the columns of a table.
//!
//! Rows that arrive as Arrow keep their values or are rejected: a cast that would round, truncate or overflow
//! a value is an error that names the value. Rows of a statement are assigned: see
//! [`assign`](crate::write::assign).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{self, CastOptions};
use arrow::datatypes::{Float16Type, Float32Type, Float64Type};
use arrow::util::display::array_value_to_string;
use arrow_schema::{ArrowError, DataType, SchemaRef};
use plexus_model::{Error, Result, Table};
use plexus_query::plain_text;
use plexus_storage::{
    canonical_floats, decimals_as_floats, dropped_field, sql_name, with_fields_of, without_hidden_values,
};

use crate::write::expansion::check_expanded;
use crate::write::valid_values::check_values;

/// A value that does not fit is an error, not a null.
pub(crate) const STRICT: CastOptions<'static> =
    CastOptions { safe: false, format_options: arrow::util::display::FormatOptions::new() };

/// Casts the columns of a batch to the types of a table, without any loss. The batch must have the columns of
/// the table in their order.
///
/// # Errors
/// `InvalidArgument` names the first column and value that cannot be stored.
pub(crate) fn coerce(batch: RecordBatch, schema: &SchemaRef, table: &Table) -> Result<RecordBatch> {
    cast_columns(batch, schema, table, cast_exactly)
}

/// Checks and casts the columns of a batch, and gives floats one zero and one NaN. `cast` converts a column
/// whose type differs from that of the table.
pub(crate) fn cast_columns(
    batch: RecordBatch,
    schema: &SchemaRef,
    table: &Table,
    cast: impl Fn(&ArrayRef, &DataType) -> Result<ArrayRef>,
) -> Result<RecordBatch> {
    if batch.num_columns() != schema.fields().len() {
        return Err(Error::invalid(format!(
            "table {} has {} columns, the rows have {}",
            table.name,
            schema.fields().len(),
            batch.num_columns()
        )));
    }
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (array, field) in batch.columns().iter().zip(schema.fields()) {
        let with_column = |e: Error| e.context(format!("column {:?} of table {}", field.name(), table.name));
        if !field.is_nullable() && array.logical_null_count() > 0 {
            return Err(Error::invalid(format!(
                "column {:?} of table {} must not be null",
                field.name(),
                table.name
            )));
        }
        let column = match array.data_type() == field.data_type() {
            true => array.clone(),
            false => cast(array, field.data_type()).map_err(with_column)?,
        };
        check_vectors(&column).map_err(with_column)?;
        check_values(&column).map_err(with_column)?;
        columns.push(without_hidden_values(&canonical_floats(&column)));
    }
    RecordBatch::try_new(schema.clone(), columns)
        .map_err(|e| Error::invalid(format!("rows for table {}: {e}", table.name)).with_source(e))
}

/// The error for a cast that failed.
pub(crate) fn cast_error(from: &DataType, to: &DataType, error: &ArrowError) -> Error {
    let reason = plain_text(&error.to_string());
    Error::invalid(format!("{} does not fit {}: {reason}", sql_name(from), sql_name(to)))
}

/// Fails for types of which the second has no place for what the first holds.
///
/// # Errors
/// `InvalidArgument` names both types.
pub(crate) fn check_kept(from: &DataType, to: &DataType) -> Result<()> {
    match dropped_field(from, to) {
        Some(dropped) => Err(Error::invalid(dropped)),
        None if to.is_null() && !from.is_null() => {
            Err(Error::invalid(format!("a column of type NULL has no place for {}", sql_name(from))))
        }
        None => Ok(()),
    }
}

/// What a cast between two types does to values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum CastEffect {
    /// It preserves them or fails.
    Lossless,
    /// It may round or truncate them. Only a cast back to the original type shows whether it did.
    MayRound,
}

/// Casts an array without any loss. A float that becomes a narrower float is rounded all the same, as in
/// every database.
///
/// # Errors
/// `InvalidArgument` when there is no such cast, or names the first value that would change.
pub(crate) fn cast_exactly(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let from = array.data_type();
    let cast = |array: &ArrayRef, from: &DataType, to: &DataType| {
        let floats = decimals_as_floats(array, to);
        let cast = floats.unwrap_or_else(|| compute::cast_with_options(array, to, &STRICT));
        cast.map_err(|e| cast_error(from, to, &e))
    };
    check_expanded(array)?;
    check_kept(from, to)?;
    if let Some(aligned) = with_fields_of(array, to).map_err(|e| cast_error(from, to, &e))? {
        return cast_exactly(&aligned, to);
    }
    if let DataType::Dictionary(_, values) = from {
        return cast_exactly(&cast(array, from, values)?, to);
    }
    if let DataType::RunEndEncoded(_, values) = from {
        return cast_exactly(&cast(array, from, values.data_type())?, to);
    }
    if from == to {
        return Ok(array.clone());
    }
    // Field by field: each field is checked by the rule for its own type.
    if let (DataType::Struct(from_fields), DataType::Struct(to_fields)) = (from, to)
        && from_fields.iter().map(|f| f.name()).eq(to_fields.iter().map(|f| f.name()))
    {
        let structs = array.as_struct();
        let converted: Vec<ArrayRef> = structs
            .columns()
            .iter()
            .zip(to_fields)
            .map(|(column, field)| {
                cast_exactly(column, field.data_type())
                    .map_err(|e| e.context(format!("field {:?}", field.name())))
            })
            .collect::<Result<_>>()?;
        let converted = StructArray::try_new(to_fields.clone(), converted, structs.nulls().cloned());
        return Ok(Arc::new(converted.map_err(|e| cast_error(from, to, &e))?));
    }
    if let (DataType::List(from_item), DataType::List(to_item)) = (from, to)
        && from_item.data_type().is_nested()
    {
        let lists = array.as_list::<i32>();
        let (first, last) = (lists.value_offsets()[0], lists.value_offsets()[lists.len()]);
        let items = cast_exactly(
            &lists.values().slice(first as usize, (last - first) as usize),
            to_item.data_type(),
        )?;
        let offsets = OffsetBuffer::from_lengths(lists.offsets().lengths());
        let lists = ListArray::try_new(to_item.clone(), offsets, items, lists.nulls().cloned());
        return Ok(Arc::new(lists.map_err(|e| cast_error(from, to, &e))?));
    }
    let effect = cast_effect(from, to).ok_or_else(|| {
        Error::invalid(format!("the rows have type {}, the table has {}", sql_name(from), sql_name(to)))
    })?;
    let converted = cast(array, from, to)?;
    if effect == CastEffect::MayRound {
        let round_trip = cast(&converted, to, from)?;
        let differs = |row: &usize| array.slice(*row, 1) != round_trip.slice(*row, 1);
        if array != &round_trip
            && let Some(row) = (0..array.len()).find(differs)
        {
            let value = array_value_to_string(array, row).unwrap_or_default();
            return Err(Error::invalid(format!(
                "{} {value} does not fit {}: it would be rounded",
                sql_name(from),
                sql_name(to)
            )));
        }
    }
    check_finite(array, &converted)?;
    Ok(converted)
}

/// Rejects components of vectors that are no numbers: nothing has a distance from them. Infinite ones also
/// result from numbers that are too large for `HALFVEC`, which the casts of the query planner do not reject.
///
/// # Errors
/// `InvalidArgument` names the first such vector.
fn check_vectors(array: &ArrayRef) -> Result<()> {
    let DataType::FixedSizeList(item, _) = array.data_type() else {
        return Ok(());
    };
    let (vector, most) = match item.data_type() {
        DataType::Float16 => ("HALFVEC", "65504"),
        DataType::Float32 if !item.is_nullable() => ("VECTOR", "3.4e38"),
        _ => return Ok(()),
    };
    let is_number = |row: usize| all_finite(array.as_fixed_size_list().value(row).as_ref());
    if all_finite(array.as_fixed_size_list().values()) {
        return Ok(());
    }
    match (0..array.len()).find(|row| array.is_valid(*row) && !is_number(*row)) {
        Some(row) => {
            let value = array_value_to_string(array, row).unwrap_or_default();
            Err(Error::invalid(format!(
                "{value:.200} has a component that is NaN or infinite: {vector} holds numbers up to {most}"
            )))
        }
        None => Ok(()),
    }
}

/// Whether all values of an array of floats are numbers, those in the place of nulls included.
fn all_finite(array: &dyn Array) -> bool {
    match array.data_type() {
        DataType::Float16 => array.as_primitive::<Float16Type>().values().iter().all(|x| x.is_finite()),
        DataType::Float32 => array.as_primitive::<Float32Type>().values().iter().all(|x| x.is_finite()),
        _ => true,
    }
}

/// Rejects a cast that made a finite value infinite.
///
/// # Errors
/// `InvalidArgument` names the first such value.
pub(crate) fn check_finite(array: &ArrayRef, converted: &ArrayRef) -> Result<()> {
    let is_text = matches!(array.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let text = |row: usize| array_value_to_string(array, row).unwrap_or_default();
    let row = match is_text {
        false => first_new_infinity(array, converted),
        // The text "infinity" is a valid float.
        true if count_infinities(converted) > 0 => (0..array.len()).find(|&row| {
            count_infinities(&converted.slice(row, 1)) > 0 && !text(row).to_ascii_lowercase().contains("inf")
        }),
        true => None,
    };
    let Some(row) = row else {
        return Ok(());
    };
    let (value, from, to) = (text(row), array.data_type(), converted.data_type());
    Err(Error::invalid(format!("{} {value} does not fit {}: it is too large", sql_name(from), sql_name(to))))
}

/// The first row with a finite value in `before` that is infinite in `after`.
fn first_new_infinity(before: &ArrayRef, after: &ArrayRef) -> Option<usize> {
    if count_infinities(after) <= count_infinities(before) {
        return None;
    }
    (0..before.len())
        .find(|&row| count_infinities(&after.slice(row, 1)) > count_infinities(&before.slice(row, 1)))
}

/// Number of infinite values in an array, with those in lists and structs.
fn count_infinities(array: &ArrayRef) -> usize {
    let in_range =
        |values: &ArrayRef, start: usize, end: usize| count_infinities(&values.slice(start, end - start));
    match array.data_type() {
        t if t.is_floating() => {
            let wide = compute::cast(array, &DataType::Float64).ok();
            wide.map_or(0, |wide| {
                wide.as_primitive::<Float64Type>().iter().flatten().filter(|v| v.is_infinite()).count()
            })
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            in_range(
                list.values(),
                list.value_offsets()[0] as usize,
                list.value_offsets()[list.len()] as usize,
            )
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            in_range(
                list.values(),
                list.value_offsets()[0] as usize,
                list.value_offsets()[list.len()] as usize,
            )
        }
        DataType::FixedSizeList(..) => count_infinities(array.as_fixed_size_list().values()),
        DataType::Struct(_) => array.as_struct().columns().iter().map(count_infinities).sum(),
        _ => 0,
    }
}

/// The effect of a cast between two types; `None` when values of one type cannot be stored as the other.
fn cast_effect(from: &DataType, to: &DataType) -> Option<CastEffect> {
    use DataType::*;
    let text = |t: &DataType| matches!(t, Utf8 | LargeUtf8 | Utf8View);
    let bytes = |t: &DataType| matches!(t, Binary | LargeBinary | BinaryView | FixedSizeBinary(_));
    let date = |t: &DataType| matches!(t, Date32 | Date64 | Timestamp(..));
    let time = |t: &DataType| matches!(t, Time32(_) | Time64(_));
    let inner =
        |a: &DataType, b: &DataType| if a == b { Some(CastEffect::Lossless) } else { cast_effect(a, b) };
    match (from, to) {
        (Null, _) => Some(CastEffect::Lossless),
        (
            List(a) | LargeList(a) | ListView(a) | LargeListView(a) | FixedSizeList(a, _),
            List(b) | LargeList(b) | ListView(b) | LargeListView(b) | FixedSizeList(b, _),
        ) => inner(a.data_type(), b.data_type()),
        (Struct(a), Struct(b)) if a.len() == b.len() => {
            let fields = a.iter().zip(b);
            let effects =
                fields.map(|(a, b)| inner(a.data_type(), b.data_type()).filter(|_| a.name() == b.name()));
            effects.collect::<Option<Vec<CastEffect>>>()?.into_iter().max().or(Some(CastEffect::Lossless))
        }
        (Map(a, _), Map(b, _)) => inner(a.data_type(), b.data_type()),
        // A float is rounded to a narrower float, as in every database.
        (a, b) if a.is_floating() && b.is_floating() => Some(CastEffect::Lossless),
        (a, b) if a.is_integer() && b.is_integer() => Some(CastEffect::Lossless),
        (a, b) if a.is_numeric() && b.is_numeric() => Some(CastEffect::MayRound),
        (a, b) if (date(a) && date(b)) || (time(a) && time(b)) => Some(CastEffect::MayRound),
        (a, b) if (text(a) && text(b)) || (bytes(a) && bytes(b)) => Some(CastEffect::Lossless),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Date32Array, Decimal128Array, DictionaryArray, Float64Array, Int64Array, ListArray,
        TimestampMicrosecondArray, TimestampNanosecondArray,
    };
    use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType, TimestampNanosecondType};
    use arrow_schema::Field;
    use arrow_schema::TimeUnit;
    use proptest::prelude::*;

    use super::*;

    fn cast(array: impl Array + 'static, to: DataType) -> Result<ArrayRef> {
        cast_exactly(&(Arc::new(array) as ArrayRef), &to)
    }

    #[test]
    fn times_change_their_unit_without_loss() {
        let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        let finer = cast(TimestampMicrosecondArray::from(vec![Some(5), None]), nanos.clone()).unwrap();
        assert_eq!(finer.as_primitive::<TimestampNanosecondType>().value(0), 5_000);
        let coarser = cast(TimestampNanosecondArray::from(vec![7_000]), micros.clone()).unwrap();
        assert_eq!(coarser.as_primitive::<TimestampMicrosecondType>().value(0), 7);
        let error = cast(TimestampNanosecondArray::from(vec![7_000, 7_001]), micros).unwrap_err();
        assert!(error.message().contains("00.000007001"), "{error}");
        assert!(cast(TimestampMicrosecondArray::from(vec![i64::MAX]), nanos.clone()).is_err());
        assert!(cast(Date32Array::from(vec![19_000]), nanos).is_ok());
        assert!(cast(TimestampMicrosecondArray::from(vec![1]), DataType::Date32).is_err());
    }

    #[test]
    fn numbers_change_their_type_without_loss() {
        let cents = DataType::Decimal128(10, 2);
        assert!(cast(Float64Array::from(vec![0.1, 12.25]), cents.clone()).is_ok());
        let error = cast(Float64Array::from(vec![0.125]), cents.clone()).unwrap_err();
        assert!(error.message().contains("0.125"), "{error}");
        let mills = |v| Decimal128Array::from(vec![v]).with_precision_and_scale(10, 3).unwrap();
        assert!(cast(mills(1_250), cents.clone()).is_ok());
        assert!(cast(mills(1_255), cents).is_err());
        assert!(cast(Float64Array::from(vec![Some(3.0), None]), DataType::Int32).is_ok());
        assert!(cast(Float64Array::from(vec![3.5]), DataType::Int32).is_err());
        assert!(cast(Int64Array::from(vec![(1 << 53) + 1]), DataType::Float64).is_err());
        assert!(cast(Int64Array::from(vec![300]), DataType::Int8).is_err());
        assert!(cast(Int64Array::from(vec![3]), DataType::Utf8).is_err());
    }

    #[test]
    fn dictionaries_are_decoded_before_the_cast() {
        let values: DictionaryArray<Int32Type> = vec!["a", "b", "a"].into_iter().collect();
        assert_eq!(cast(values, DataType::Utf8View).unwrap().as_string_view().value(2), "a");
    }

    #[test]
    fn nested_values_are_not_rounded() {
        let list = |item| DataType::List(Arc::new(Field::new("item", item, true)));
        let floats =
            |v: f64| ListArray::from_iter_primitive::<Float64Type, _, _>([None, Some(vec![Some(v), None])]);
        assert!(cast(floats(2.0), list(DataType::Int32)).is_ok());
        let error = cast(floats(1.5), list(DataType::Int32)).unwrap_err();
        assert!(error.message().contains("1.5"), "{error}");
        // Integers can become a vector, and a float can become a narrower float.
        let vector = DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, true)), 2);
        let ints = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), Some(2)])]);
        assert!(cast(ints, vector.clone()).is_ok());
        let tenth = ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![Some(0.1), Some(0.2)])]);
        assert!(cast(tenth, vector).is_ok());
    }

    #[test]
    fn a_cast_that_makes_a_float_infinite_is_rejected() {
        assert!(cast(Float64Array::from(vec![0.1, f64::INFINITY]), DataType::Float32).is_ok());
        let error = cast(Float64Array::from(vec![0.1, 1e300]), DataType::Float32).unwrap_err();
        assert!(error.message().contains("1e300"), "{error}");
        let vector = DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, true)), 2);
        let huge = ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![Some(1.0), Some(1e300)])]);
        assert!(cast(huge, vector).is_err());
    }

    #[test]
    fn each_field_of_a_struct_is_cast_by_its_own_rule() {
        let of = |a, b| vec![Field::new("a", a, true), Field::new("b", b, true)].into();
        let rows = |a: f64, b: f64| {
            let fields: Vec<ArrayRef> =
                vec![Arc::new(Float64Array::from(vec![a])), Arc::new(Float64Array::from(vec![b]))];
            StructArray::new(of(DataType::Float64, DataType::Float64), fields, None)
        };
        let to = DataType::Struct(of(DataType::Float32, DataType::Int32));
        assert!(cast(rows(0.1, 2.0), to.clone()).is_ok());
        let error = cast(rows(0.1, 2.5), to).unwrap_err();
        assert!(error.message().contains("\"b\"") && error.message().contains("2.5"), "{error}");
    }

    proptest! {
        #[test]
        fn values_survive_a_successful_cast(
            values in proptest::collection::vec(proptest::option::of(any::<i64>()), 0..50),
            shift in 0u32..63,
        ) {
            let values: Vec<Option<i64>> = values.into_iter().map(|v| v.map(|v| v >> shift)).collect();
            let array: ArrayRef = Arc::new(Int64Array::from(values));
            for to in [
                DataType::Int8,
                DataType::UInt32,
                DataType::Float32,
                DataType::Float64,
                DataType::Decimal128(12, 2),
                DataType::Decimal128(38, 10),
            ] {
                if let Ok(converted) = cast_exactly(&array, &to) {
                    prop_assert_eq!(&compute::cast(&converted, &DataType::Int64).unwrap(), &array);
                }
            }
        }
    }
}
