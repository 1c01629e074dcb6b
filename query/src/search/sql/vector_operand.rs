//! The vectors of an argument of a function.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array};
use arrow::compute;
use arrow::datatypes::Float32Type;
use arrow_schema::{DataType, Field, FieldRef};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::ColumnarValue;

/// The vectors of one argument.
pub(super) struct VectorOperand {
    values: Float32Array,
    /// The range of values of each vector; `None` where it is null.
    ranges: Vec<Option<(usize, usize)>>,
    /// Whether the vector is the same for all rows.
    constant: bool,
}

impl VectorOperand {
    /// The vectors of a value of a type that [`vector_type`] returned.
    ///
    /// # Errors
    /// For values of other types.
    pub(super) fn new(value: &ColumnarValue) -> Result<Self> {
        match value {
            ColumnarValue::Array(array) => Self::of(array, false),
            ColumnarValue::Scalar(scalar) => Self::of(&scalar.to_array()?, true),
        }
    }

    /// The vectors of an array; of its first row for all rows if it is `constant`.
    ///
    /// # Errors
    /// For arrays of other types.
    pub(super) fn of(array: &ArrayRef, constant: bool) -> Result<Self> {
        let (values, ranges): (ArrayRef, Vec<_>) = match array.data_type() {
            DataType::FixedSizeList(_, length) => {
                let (lists, length) = (array.as_fixed_size_list(), *length as usize);
                let range = |row: usize| lists.is_valid(row).then_some((row * length, (row + 1) * length));
                (lists.values().clone(), (0..lists.len()).map(range).collect())
            }
            DataType::List(_) => {
                let lists = array.as_list::<i32>();
                let offsets = lists.value_offsets();
                let range = |row: usize| {
                    lists.is_valid(row).then_some((offsets[row] as usize, offsets[row + 1] as usize))
                };
                (lists.values().clone(), (0..lists.len()).map(range).collect())
            }
            other => return exec_err!("{other} does not hold vectors"),
        };
        let values = compute::cast(&values, &DataType::Float32)?;
        let values = values.as_primitive::<Float32Type>().clone();
        let no_nulls = |range: &(usize, usize)| values.slice(range.0, range.1 - range.0).null_count() == 0;
        let ranges = match values.null_count() {
            0 => ranges,
            _ => ranges.into_iter().map(|range| range.filter(no_nulls)).collect(),
        };
        Ok(Self { values, ranges, constant })
    }

    /// The vector of a row; `None` if it or one of its components is null.
    pub(super) fn vector(&self, row: usize) -> Option<&[f32]> {
        let (start, end) = (*self.ranges.get(if self.constant { 0 } else { row })?)?;
        self.values.values().get(start..end)
    }
}

/// The item of lists that hold vectors, as functions take them.
pub(super) fn vector_item() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Float32, true))
}

/// The item of vectors that functions return, and columns have: no component is null.
pub(super) fn component() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Float32, false))
}

/// The type of a result that has as many components as an argument.
pub(super) fn result_type(argument: &DataType) -> DataType {
    match argument {
        DataType::FixedSizeList(_, length) => DataType::FixedSizeList(component(), *length),
        _ => DataType::List(component()),
    }
}

/// The type as which a function takes vectors of a type: lists of single-precision floats.
///
/// # Errors
/// For types that hold none.
pub(super) fn vector_type(function: &str, data_type: &DataType) -> Result<DataType> {
    match data_type {
        DataType::FixedSizeList(_, length) => Ok(DataType::FixedSizeList(vector_item(), *length)),
        DataType::List(_) | DataType::LargeList(_) | DataType::Null => Ok(DataType::List(vector_item())),
        other => plan_err!("{function} takes vectors, not {}", plexus_storage::sql_name(other)),
    }
}
