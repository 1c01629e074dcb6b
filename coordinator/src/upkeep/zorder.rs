//! Z-order: one order of rows that keeps those near each other that are near in several columns.
//!
//! Each value becomes its rank among a sample of its column, so that skew and types do not matter; the bits of
//! the ranks, interleaved from the highest on, are the place of a row (Morton, 1966).

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::compute::concat;
use arrow::row::{OwnedRow, RowConverter, SortField};
use arrow_schema::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

/// Bits of a rank: all columns together have 64.
fn rank_bits(columns: usize) -> u32 {
    (u64::BITS / columns.max(1) as u32).min(16)
}

/// The place of rows, as a function of their columns.
pub struct ZOrder {
    /// By column: values that divide the sample into parts of the same size, ascending.
    bounds: Arc<Vec<Vec<OwnedRow>>>,
    signature: Signature,
}

impl ZOrder {
    /// `sample`: rows of the columns.
    pub fn new(sample: &[RecordBatch], columns: usize) -> Result<Self> {
        let mut bounds = Vec::with_capacity(columns);
        for column in 0..columns {
            let parts: Vec<&dyn arrow::array::Array> =
                sample.iter().map(|b| b.column(column).as_ref()).collect();
            bounds.push(if parts.is_empty() {
                vec![]
            } else {
                quantiles(concat(&parts)?, rank_bits(columns))?
            });
        }
        let signature = Signature::any(columns, Volatility::Immutable);
        Ok(Self { bounds: Arc::new(bounds), signature })
    }
}

fn quantiles(values: ArrayRef, bits: u32) -> Result<Vec<OwnedRow>> {
    let converter = RowConverter::new(vec![SortField::new(values.data_type().clone())])?;
    let rows = converter.convert_columns(&[values])?;
    let mut sorted: Vec<OwnedRow> = rows.iter().map(|row| row.owned()).collect();
    sorted.sort();
    sorted.dedup();
    let step = sorted.len().div_ceil(1 << bits).max(1);
    Ok(sorted.into_iter().step_by(step).collect())
}

/// Bits of numbers in turn, from the highest of `bits` on.
fn interleave(ranks: &[u64], bits: u32) -> u64 {
    let mut place = 0;
    for bit in (0..bits).rev() {
        for rank in ranks {
            place = place << 1 | (rank >> bit & 1);
        }
    }
    place
}

impl ScalarUDFImpl for ZOrder {
    fn name(&self) -> &str {
        "z_order"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::UInt64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let bits = rank_bits(columns.len());
        let mut ranks = vec![vec![0; columns.len()]; args.number_rows];
        for (index, column) in columns.iter().enumerate() {
            let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())])?;
            let values = converter.convert_columns(std::slice::from_ref(column))?;
            for (row, value) in values.iter().enumerate() {
                ranks[row][index] = self.bounds[index].partition_point(|bound| bound.row() <= value) as u64;
            }
        }
        let places: UInt64Array = ranks.iter().map(|ranks| Some(interleave(ranks, bits))).collect();
        Ok(ColumnarValue::Array(Arc::new(places)))
    }
}

impl std::fmt::Debug for ZOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZOrder").field("columns", &self.bounds.len()).finish()
    }
}

// The planner compares functions: one is equal to itself alone.
impl PartialEq for ZOrder {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.bounds, &other.bounds)
    }
}

impl Eq for ZOrder {}

impl Hash for ZOrder {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.bounds).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_taken_in_turn() {
        assert_eq!(interleave(&[0b11, 0b00], 2), 0b1010);
        assert_eq!(interleave(&[0b01, 0b11, 0b10], 2), 0b011_110);
        assert_eq!(rank_bits(1), 16);
        assert_eq!(rank_bits(8), 8);
    }

    #[test]
    fn ranks_do_not_depend_on_skew() {
        let values: ArrayRef =
            Arc::new(arrow::array::Int64Array::from_iter_values((0..1000i64).map(|i| i * i * i)));
        assert_eq!(quantiles(values, 3).unwrap().len(), 8);
    }
}
