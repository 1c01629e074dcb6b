//! Assignment: converts the values of a statement to the types of the columns that they are stored in.
//!
//! As in the SQL standard, numbers are rounded to the digits that a column has, and a value that does not fit
//! is an error. Rows of a statement are converted as a whole ([`assign`]), which is enough for columns that
//! get their values from one expression. Where several expressions share a column (the rows of `VALUES`, the
//! clauses of a merge), the engine would first find a type for all of them, in which a value may lose digits.
//! There each expression is converted by itself: [`AssignFunction`].

use std::any::Any;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, make_array};
use arrow::compute;
use arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type, Int64Type, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Result as EngineResult, ScalarValue, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use plexus_model::{Error, Result, Table};
use plexus_query::{DEFAULT_ZONE, clocks_of, completed, instants_of, plain};
use plexus_storage::{decimals_as_floats, sql_name, types, with_fields_of};

use crate::write::coerce::{STRICT, cast_columns, cast_error, check_finite, check_kept};

/// The name of [`AssignFunction`] in SQL. Its second argument is the index of the column.
pub(crate) const ASSIGN: &str = "$assign";

/// Converts the columns of a batch to the types of a table. The batch must have the columns of the table in
/// their order. `zone` is that of the session, for times that have none.
///
/// # Errors
/// `InvalidArgument` names the first column and value that cannot be stored.
pub(crate) fn assign(
    batch: RecordBatch,
    schema: &SchemaRef,
    table: &Table,
    zone: &str,
) -> Result<RecordBatch> {
    cast_columns(batch, schema, table, |array, to| assign_value(array, to, zone))
}

/// Converts an array to the type of a column.
///
/// # Errors
/// `InvalidArgument` names the first value that does not fit.
pub(crate) fn assign_value(array: &ArrayRef, to: &DataType, zone: &str) -> Result<ArrayRef> {
    if array.data_type() == to {
        return Ok(array.clone());
    }
    let from = array.data_type().clone();
    check_kept(&from, to)?;
    if let Some(aligned) = with_fields_of(array, to).map_err(|e| cast_error(&from, to, &e))? {
        return assign_value(&aligned, to, zone);
    }
    let failed = |e| cast_error(&from, to, &e);
    if (from.is_numeric() && is_time(to)) || (is_time(&from) && to.is_numeric()) {
        let (from, to) = (sql_name(&from), sql_name(to));
        return Err(Error::invalid(format!("a value of type {from} is no {to}: write a CAST")));
    }
    let array = &match to {
        DataType::Timestamp(_, of_zone) => completed(array, of_zone.as_ref().map(|_| zone)),
        _ => array.clone(),
    };
    let array = match in_zone(array, to, zone)? {
        Some(zoned) => zoned,
        None => items_assigned(array, to, zone)?.unwrap_or_else(|| array.clone()),
    };
    // Text with more digits than the column has is rounded as a timestamp is.
    let array = match (array.data_type(), to) {
        (
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View,
            DataType::Timestamp(TimeUnit::Second | TimeUnit::Millisecond, of_zone),
        ) => {
            let fine = DataType::Timestamp(TimeUnit::Microsecond, of_zone.clone());
            compute::cast_with_options(&array, &fine, &STRICT).map_err(failed)?
        }
        _ => array,
    };
    let rounded = match to {
        to if to.is_integer() => round(&array).map_err(failed)?,
        DataType::Timestamp(unit, _) => round_time(&array, *unit).map_err(failed)?,
        _ => array.clone(),
    };
    let converted = match decimals_as_floats(&rounded, to) {
        Some(floats) => floats.map_err(failed)?,
        None => compute::cast_with_options(&rounded, to, &STRICT).map_err(failed)?,
    };
    check_finite(&array, &converted)?;
    Ok(converted)
}

/// Whether a type is one of points in time.
fn is_time(data_type: &DataType) -> bool {
    use DataType::{Date32, Date64, Time32, Time64, Timestamp};
    matches!(data_type, Date32 | Date64 | Time32(_) | Time64(_) | Timestamp(..))
}

/// Times that change between clocks and instants, by the clocks of a zone; `None` for other values.
fn in_zone(array: &ArrayRef, to: &DataType, zone: &str) -> Result<Option<ArrayRef>> {
    use DataType::{Date32, Date64, LargeUtf8, Timestamp, Utf8, Utf8View};
    if zone == DEFAULT_ZONE {
        return Ok(None);
    }
    let failed = |e: DataFusionError| Error::invalid(plain(&e));
    let cast = |to: &DataType| {
        compute::cast_with_options(array, to, &STRICT).map_err(|e| cast_error(array.data_type(), to, &e))
    };
    Ok(match (array.data_type(), to) {
        (Utf8 | LargeUtf8 | Utf8View, Timestamp(unit, Some(_))) => {
            Some(cast(&Timestamp(*unit, Some(zone.into())))?)
        }
        (Timestamp(_, None), Timestamp(_, Some(_))) => Some(instants_of(array, zone).map_err(failed)?),
        (Date32 | Date64, Timestamp(unit, Some(_))) => {
            Some(instants_of(&cast(&Timestamp(*unit, None))?, zone).map_err(failed)?)
        }
        (Timestamp(_, Some(_)), Timestamp(_, None) | Date32 | Date64) => {
            Some(clocks_of(array, zone).map_err(failed)?)
        }
        _ => None,
    })
}

/// A list, struct or map whose items have the types that a column has for them; `None` for other values.
fn items_assigned(array: &ArrayRef, to: &DataType, zone: &str) -> Result<Option<ArrayRef>> {
    let item_type = |field: &FieldRef| field.data_type().clone();
    let types: Vec<DataType> = match (array.data_type(), to) {
        (
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..),
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _),
        )
        | (DataType::Map(..), DataType::Map(item, _)) => vec![item_type(item)],
        (DataType::Struct(from), DataType::Struct(to))
            if from.iter().map(|field| field.name()).eq(to.iter().map(|field| field.name())) =>
        {
            to.iter().map(item_type).collect()
        }
        _ => return Ok(None),
    };
    let data = array.to_data();
    let children = data.child_data().iter().cloned().zip(&types);
    let children = children.map(|(child, to)| assign_value(&make_array(child), to, zone));
    let children: Vec<ArrayRef> = children.collect::<Result<_>>()?;
    let retyped = |field: &FieldRef, child: &ArrayRef| {
        Arc::new(field.as_ref().clone().with_data_type(child.data_type().clone()))
    };
    let data_type = match (array.data_type(), children.as_slice()) {
        (DataType::List(item), [child]) => DataType::List(retyped(item, child)),
        (DataType::LargeList(item), [child]) => DataType::LargeList(retyped(item, child)),
        (DataType::FixedSizeList(item, size), [child]) => {
            DataType::FixedSizeList(retyped(item, child), *size)
        }
        (DataType::Map(entries, sorted), [child]) => DataType::Map(retyped(entries, child), *sorted),
        (DataType::Struct(fields), children) => DataType::Struct(
            fields.iter().zip(children).map(|(field, child)| retyped(field, child)).collect(),
        ),
        _ => return Ok(None),
    };
    let children = children.iter().map(|child| child.to_data()).collect();
    let built = data.into_builder().data_type(data_type).child_data(children).build();
    built.map(|data| Some(make_array(data))).map_err(|e| cast_error(array.data_type(), to, &e))
}

/// Rounds timestamps to a coarser precision. A cast would cut.
fn round_time(array: &ArrayRef, unit: TimeUnit) -> Result<ArrayRef, ArrowError> {
    let per_second = |unit: &TimeUnit| match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    let DataType::Timestamp(from, zone) = array.data_type() else {
        return Ok(array.clone());
    };
    let ratio: i64 = per_second(from) / per_second(&unit);
    if ratio <= 1 {
        return Ok(array.clone());
    }
    let values = compute::cast(array, &DataType::Int64)?;
    let values = values.as_primitive::<Int64Type>();
    let rounded: Int64Array =
        values.unary(|value| value.div_euclid(ratio) + i64::from(value.rem_euclid(ratio) * 2 >= ratio));
    compute::cast(&rounded, &DataType::Timestamp(unit, zone.clone()))
}

/// Rounds floats and decimals to whole numbers, halves away from zero. A cast to an integer would cut.
fn round(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Float16 => round(&compute::cast(array, &DataType::Float32)?),
        DataType::Float32 => {
            Ok(Arc::new(array.as_primitive::<Float32Type>().unary::<_, Float32Type>(f32::round)))
        }
        DataType::Float64 => {
            Ok(Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(f64::round)))
        }
        // A cast between decimals rounds. One more digit than before, for 9.9.
        DataType::Decimal32(precision, scale) if *scale > 0 => {
            compute::cast_with_options(array, &DataType::Decimal64(precision + 1, 0), &STRICT)
        }
        DataType::Decimal64(precision, scale) if *scale > 0 => {
            compute::cast_with_options(array, &DataType::Decimal128(precision + 1, 0), &STRICT)
        }
        DataType::Decimal128(precision, scale) if *scale > 0 => {
            compute::cast_with_options(array, &DataType::Decimal256(precision + 1, 0), &STRICT)
        }
        DataType::Decimal256(precision, scale) if *scale > 0 => {
            compute::cast_with_options(array, &DataType::Decimal256(*precision, 0), &STRICT)
        }
        _ => Ok(array.clone()),
    }
}

/// `$assign(value, column)`: a value as it is stored in the column of that index.
#[derive(Debug)]
pub(crate) struct AssignFunction {
    table: Arc<Table>,
    zone: String,
    signature: Signature,
}

impl AssignFunction {
    /// The function for the columns of a table, in a session with a time zone.
    pub(crate) fn of(table: Arc<Table>, zone: String) -> ScalarUDF {
        ScalarUDF::from(Self { table, zone, signature: Signature::any(2, Volatility::Immutable) })
    }

    /// The function in a plan, if it is this one.
    pub(crate) fn in_plan(function: &ScalarUDF) -> Option<&Self> {
        let inner: &dyn Any = function.inner().as_ref();
        inner.downcast_ref()
    }

    /// The type of the column of that index.
    pub(crate) fn data_type(&self, column: &ScalarValue) -> Option<DataType> {
        let ScalarValue::Int64(Some(index)) = column else {
            return None;
        };
        let column = self.table.schema.columns.get(usize::try_from(*index).ok()?)?;
        Some(types::to_data_type(&column.data_type))
    }
}

impl PartialEq for AssignFunction {
    fn eq(&self, other: &Self) -> bool {
        let of = |function: &Self| (function.table.id, function.table.schema_version);
        of(self) == of(other) && self.zone == other.zone
    }
}

impl Eq for AssignFunction {}

impl Hash for AssignFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.table.id, self.table.schema_version).hash(state);
    }
}

impl ScalarUDFImpl for AssignFunction {
    fn name(&self) -> &str {
        ASSIGN
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> EngineResult<DataType> {
        exec_err!("the type depends on the column")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> EngineResult<FieldRef> {
        match args.scalar_arguments.get(1).copied().flatten().and_then(|index| self.data_type(index)) {
            Some(data_type) => Ok(Arc::new(Field::new(ASSIGN, data_type, true))),
            None => exec_err!("there is no such column"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let [value, ColumnarValue::Scalar(ScalarValue::Int64(Some(index)))] = args.args.as_slice() else {
            return exec_err!("{ASSIGN} takes a value and a column");
        };
        let column = usize::try_from(*index).ok().and_then(|index| self.table.schema.columns.get(index));
        let Some(column) = column else {
            return exec_err!("there is no column {index}");
        };
        let to = types::to_data_type(&column.data_type);
        let convert = |array: &ArrayRef| {
            assign_value(array, &to, &self.zone).map_err(|e| {
                let e = e.context(format!("column {:?} of table {}", column.name, self.table.name));
                DataFusionError::External(Box::new(Error::new(e.kind(), e.message())))
            })
        };
        match value {
            ColumnarValue::Array(array) => convert(array).map(ColumnarValue::Array),
            ColumnarValue::Scalar(scalar) => {
                let array = convert(&scalar.to_array()?)?;
                ScalarValue::try_from_array(&array, 0).map(ColumnarValue::Scalar)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal128Array, Float64Array, ListArray, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::{Int32Type, TimestampMillisecondType, TimestampSecondType};

    use super::*;

    #[test]
    fn numbers_are_rounded_and_never_cut() {
        let to_integer = |values: Vec<f64>| {
            assign_value(&(Arc::new(Float64Array::from(values)) as ArrayRef), &DataType::Int64, DEFAULT_ZONE)
        };
        let rounded = to_integer(vec![7.9, -7.9, 0.5, -0.5, 2.4]).unwrap();
        assert_eq!(rounded.as_primitive::<Int64Type>().values(), &[8, -8, 1, -1, 2]);
        for value in [f64::NAN, f64::INFINITY, 1e19] {
            assert!(to_integer(vec![value]).is_err(), "{value}");
        }
        let decimals = Decimal128Array::from(vec![79, -75, 14]).with_precision_and_scale(38, 1).unwrap();
        let rounded =
            assign_value(&(Arc::new(decimals) as ArrayRef), &DataType::Int32, DEFAULT_ZONE).unwrap();
        assert_eq!(rounded.as_primitive::<Int32Type>().values(), &[8, -8, 1]);
    }

    #[test]
    fn items_are_rounded_and_times_keep_their_clock() {
        let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>([
            Some(vec![Some(1.5), None, Some(2.4)]),
            None,
        ]));
        let to = DataType::List(Arc::new(Field::new("item", DataType::Int32, true)));
        let rounded = assign_value(&list, &to, DEFAULT_ZONE).unwrap();
        let first = rounded.as_list::<i32>().value(0);
        assert_eq!(first.as_primitive::<Int32Type>().iter().collect::<Vec<_>>(), [Some(2), None, Some(2)]);
        assert!(rounded.is_null(1));

        let millis = DataType::Timestamp(TimeUnit::Millisecond, None);
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_900, 1_499, -1_900]));
        let rounded = assign_value(&times, &millis, DEFAULT_ZONE).unwrap();
        assert_eq!(rounded.as_primitive::<TimestampMillisecondType>().values(), &[2, 1, -2]);

        let text: ArrayRef = Arc::new(StringArray::from(vec!["2024-07-01 12:00:00", "2024-07-01 12:00:00Z"]));
        let instants = DataType::Timestamp(TimeUnit::Second, Some("UTC".into()));
        let stored = assign_value(&text, &instants, "Europe/Berlin").unwrap();
        assert_eq!(stored.as_primitive::<TimestampSecondType>().values(), &[1_719_828_000, 1_719_835_200]);
        let clocks = assign_value(&stored, &DataType::Timestamp(TimeUnit::Second, None), "Europe/Berlin");
        assert_eq!(
            clocks.unwrap().as_primitive::<TimestampSecondType>().values(),
            &[1_719_835_200, 1_719_842_400]
        );
    }

    #[test]
    fn values_that_do_not_fit_are_errors() {
        let big: ArrayRef = Arc::new(Int64Array::from(vec![i64::from(i32::MAX) + 1]));
        assert!(assign_value(&big, &DataType::Int32, DEFAULT_ZONE).is_err());
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        assert!(assign_value(&text, &DataType::Int32, DEFAULT_ZONE).is_err());
        let wide: ArrayRef = Arc::new(Float64Array::from(vec![1e300]));
        assert!(assign_value(&wide, &DataType::Float32, DEFAULT_ZONE).is_err());
    }
}
