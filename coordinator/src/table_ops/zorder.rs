//! Z-order: one order of rows that keeps those near each other that are near in several columns.
//!
//! Each value becomes its rank among a sample of its column, so that skew and types do not matter; the bits of
//! the ranks, interleaved from the highest on, are the place of a row (Morton, 1966).

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt64Array};
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

/// Values of columns, from which a [`ZOrder`] learns how they are spread.
pub struct Sample {
    columns: Vec<(RowConverter, Vec<OwnedRow>)>,
}

impl Sample {
    pub fn new(types: impl Iterator<Item = DataType>) -> Result<Self> {
        let columns = types.map(|t| Ok((RowConverter::new(vec![SortField::new(t)])?, vec![])));
        Ok(Self { columns: columns.collect::<Result<_>>()? })
    }

    /// Adds rows of the columns. Nothing of the batch is kept but their values.
    pub fn add(&mut self, rows: &RecordBatch) -> Result<()> {
        for ((converter, values), column) in self.columns.iter_mut().zip(rows.columns()) {
            let converted = converter.convert_columns(std::slice::from_ref(column))?;
            values.extend(converted.iter().map(|row| row.owned()));
        }
        Ok(())
    }
}

impl From<Sample> for ZOrder {
    fn from(sample: Sample) -> Self {
        let count = sample.columns.len();
        let bits = rank_bits(count);
        let bounds = sample.columns.into_iter().map(|(_, values)| quantiles(values, bits)).collect();
        Self { bounds: Arc::new(bounds), signature: Signature::any(count, Volatility::Immutable) }
    }
}

/// At most `2^bits` values, between which about as many of the sample are.
fn quantiles(mut values: Vec<OwnedRow>, bits: u32) -> Vec<OwnedRow> {
    values.sort();
    let step = values.len().div_ceil(1 << bits).max(1);
    let mut bounds: Vec<OwnedRow> = values.into_iter().step_by(step).collect();
    bounds.dedup();
    bounds
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
                // The first bound is the smallest value, so that the ranks begin at zero and fit their bits.
                let below = self.bounds[index].partition_point(|bound| bound.row() <= value);
                ranks[row][index] = below.saturating_sub(1) as u64;
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
    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    #[test]
    fn bits_are_taken_in_turn() {
        assert_eq!(interleave(&[0b11, 0b00], 2), 0b1010);
        assert_eq!(interleave(&[0b01, 0b11, 0b10], 2), 0b011_110);
        assert_eq!(rank_bits(1), 16);
        assert_eq!(rank_bits(8), 8);
    }

    #[test]
    fn ranks_do_not_depend_on_skew_and_fit_their_bits() {
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values((0..1000i64).map(|i| i * i * i)));
        let mut sample = Sample::new([DataType::Int64].into_iter()).unwrap();
        sample.add(&RecordBatch::try_from_iter([("a", values)]).unwrap()).unwrap();
        let bounds = quantiles(sample.columns.remove(0).1, 3);
        assert_eq!(bounds.len(), 8);
        let ranks: Vec<usize> =
            bounds.iter().map(|value| bounds.partition_point(|b| b <= value).saturating_sub(1)).collect();
        assert_eq!(ranks, (0..8).collect::<Vec<_>>());
    }
}
