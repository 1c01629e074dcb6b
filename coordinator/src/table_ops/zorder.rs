//! Z-order: a linear order of rows that keeps rows with similar values in several columns close together.
//!
//! Each value is replaced by its rank in a sample of its column, which removes the influence of skew and
//! type. The bits of the ranks are interleaved from the highest on into a Morton code (Morton: "A computer
//! oriented geodetic data base and a new technique in file sequencing", 1966).

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::row::{OwnedRow, RowConverter, SortField};
use arrow_schema::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

/// Bits of a rank, so that the ranks of all columns fit into 64 bits. At most 16.
fn rank_bits(columns: usize) -> u32 {
    (u64::BITS / columns.max(1) as u32).min(16)
}

/// A scalar function from the values of columns to their Morton code.
pub(crate) struct ZOrder {
    /// For each column, the quantiles of its sample, ascending.
    bounds: Arc<Vec<Vec<OwnedRow>>>,
    signature: Signature,
}

/// A sample of the values of columns. A [`ZOrder`] is made from it.
pub(crate) struct Sample {
    /// For each column, its converter to comparable rows, and the sampled values.
    columns: Vec<(RowConverter, Vec<OwnedRow>)>,
}

impl Sample {
    /// An empty sample of columns of these types.
    ///
    /// # Errors
    /// When values of a type have no order.
    pub(crate) fn new(types: impl Iterator<Item = DataType>) -> Result<Self> {
        let columns = types.map(|t| Ok((RowConverter::new(vec![SortField::new(t)])?, vec![])));
        Ok(Self { columns: columns.collect::<Result<_>>()? })
    }

    /// Adds rows. Copies the values, so the memory of the batch can be freed.
    ///
    /// # Errors
    /// When the columns do not have the types of the sample.
    pub(crate) fn add(&mut self, rows: &RecordBatch) -> Result<()> {
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

/// At most `2^bits` values that divide the sorted sample into parts of about equal size.
fn quantiles(mut values: Vec<OwnedRow>, bits: u32) -> Vec<OwnedRow> {
    values.sort();
    let step = values.len().div_ceil(1 << bits).max(1);
    let mut bounds: Vec<OwnedRow> = values.into_iter().step_by(step).collect();
    bounds.dedup();
    bounds
}

/// Interleaves the lowest `bits` bits of each rank, from the highest bit on.
fn interleave(ranks: &[u64], bits: u32) -> u64 {
    let mut code = 0;
    for bit in (0..bits).rev() {
        for rank in ranks {
            code = code << 1 | (rank >> bit & 1);
        }
    }
    code
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
                // The first bound is the smallest value of the sample. Subtracting one makes ranks start at
                // zero and fit into their bits.
                let below = self.bounds[index].partition_point(|bound| bound.row() <= value);
                ranks[row][index] = below.saturating_sub(1) as u64;
            }
        }
        let codes: UInt64Array = ranks.iter().map(|ranks| Some(interleave(ranks, bits))).collect();
        Ok(ColumnarValue::Array(Arc::new(codes)))
    }
}

impl std::fmt::Debug for ZOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZOrder").field("columns", &self.bounds.len()).finish()
    }
}

// The planner compares functions. Each is equal only to itself.
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
    fn bits_are_interleaved() {
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
