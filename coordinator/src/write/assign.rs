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

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute;
use arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type, SchemaRef};
use datafusion::common::{DataFusionError, Result as EngineResult, ScalarValue, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use plexus_model::{Error, Result, Table};
use plexus_storage::types;

use crate::write::coerce::{STRICT, cast_columns, cast_error, check_finite};

/// The name of [`AssignFunction`] in SQL. Its second argument is the index of the column.
pub(crate) const ASSIGN: &str = "$assign";

/// Converts the columns of a batch to the types of a table. The batch must have the columns of the table in
/// their order.
///
/// # Errors
/// `InvalidArgument` names the first column and value that cannot be stored.
pub(crate) fn assign(batch: RecordBatch, schema: &SchemaRef, table: &Table) -> Result<RecordBatch> {
    cast_columns(batch, schema, table, assign_value)
}

/// Converts an array to the type of a column.
///
/// # Errors
/// `InvalidArgument` names the first value that does not fit.
pub(crate) fn assign_value(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if array.data_type() == to {
        return Ok(array.clone());
    }
    let from = array.data_type().clone();
    let failed = |e| cast_error(&from, to, &e);
    let rounded = if to.is_integer() { round(array).map_err(failed)? } else { array.clone() };
    let converted = compute::cast_with_options(&rounded, to, &STRICT).map_err(failed)?;
    check_finite(array, &converted)?;
    Ok(converted)
}

/// Rounds floats and decimals to whole numbers, halves away from zero. A cast to an integer would cut.
fn round(array: &ArrayRef) -> Result<ArrayRef, arrow::error::ArrowError> {
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
    signature: Signature,
}

impl AssignFunction {
    /// The function for the columns of a table.
    pub(crate) fn of(table: Arc<Table>) -> ScalarUDF {
        ScalarUDF::from(Self { table, signature: Signature::any(2, Volatility::Immutable) })
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
        self.table.id == other.table.id && self.table.schema_version == other.table.schema_version
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
            assign_value(array, &to).map_err(|e| {
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
    use arrow::array::{Decimal128Array, Float64Array, Int64Array, StringArray};
    use arrow::datatypes::{Int32Type, Int64Type};

    use super::*;

    #[test]
    fn numbers_are_rounded_and_never_cut() {
        let to_integer = |values: Vec<f64>| {
            assign_value(&(Arc::new(Float64Array::from(values)) as ArrayRef), &DataType::Int64)
        };
        let rounded = to_integer(vec![7.9, -7.9, 0.5, -0.5, 2.4]).unwrap();
        assert_eq!(rounded.as_primitive::<Int64Type>().values(), &[8, -8, 1, -1, 2]);
        for value in [f64::NAN, f64::INFINITY, 1e19] {
            assert!(to_integer(vec![value]).is_err(), "{value}");
        }
        let decimals = Decimal128Array::from(vec![79, -75, 14]).with_precision_and_scale(38, 1).unwrap();
        let rounded = assign_value(&(Arc::new(decimals) as ArrayRef), &DataType::Int32).unwrap();
        assert_eq!(rounded.as_primitive::<Int32Type>().values(), &[8, -8, 1]);
    }

    #[test]
    fn values_that_do_not_fit_are_errors() {
        let big: ArrayRef = Arc::new(Int64Array::from(vec![i64::from(i32::MAX) + 1]));
        assert!(assign_value(&big, &DataType::Int32).is_err());
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        assert!(assign_value(&text, &DataType::Int32).is_err());
        let wide: ArrayRef = Arc::new(Float64Array::from(vec![1e300]));
        assert!(assign_value(&wide, &DataType::Float32).is_err());
    }
}
