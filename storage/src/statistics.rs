//! Computes the column statistics of a segment: nulls, distinct values, sizes, and the bounds of small
//! ordered types.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute;
use arrow::datatypes::*;
use plexus_model::{Bound, ColumnStatistics, Statistics, TableSchema};

use crate::distinct::DistinctCounter;
use crate::routing::CanonicalKeys;
use crate::size::array_bytes;

/// Accumulates the statistics of the batches that make up one segment.
pub(crate) struct StatisticsBuilder {
    columns: Vec<ColumnBuilder>,
}

/// Accumulates the statistics of one column.
struct ColumnBuilder {
    statistics: ColumnStatistics,
    /// The column has no bounds: its type has none, or a batch contained NaN.
    unbounded: bool,
    /// `None` when distinct values are not counted, and for types whose values have no canonical form.
    distinct: Option<DistinctCounter>,
}

impl StatisticsBuilder {
    /// A builder for the columns of `schema`.
    pub(crate) fn new(schema: &TableSchema) -> Self {
        let columns = schema.columns.iter().map(|c| ColumnBuilder {
            statistics: ColumnStatistics::new(c.id),
            unbounded: false,
            distinct: None,
        });
        Self { columns: columns.collect() }
    }

    /// Counts distinct values as well. This takes 2 KiB of memory per column.
    pub(crate) fn with_distinct(mut self) -> Self {
        self.columns.iter_mut().for_each(|c| c.distinct = Some(DistinctCounter::new()));
        self
    }

    /// Adds a batch that has the columns of the schema in order.
    ///
    /// # Panics
    /// When the batch has another number of columns.
    pub(crate) fn add(&mut self, batch: &RecordBatch) {
        assert_eq!(batch.num_columns(), self.columns.len(), "batch does not have the columns of its table");
        for (column, array) in self.columns.iter_mut().zip(batch.columns()) {
            column.add(array);
        }
    }

    /// The statistics of all batches.
    pub(crate) fn finish(self) -> Statistics {
        let columns: Vec<ColumnStatistics> = self
            .columns
            .into_iter()
            .map(|c| ColumnStatistics { distinct: c.distinct.map(|d| d.estimate()), ..c.statistics })
            .collect();
        Statistics::new(&columns)
    }
}

impl ColumnBuilder {
    fn add(&mut self, array: &ArrayRef) {
        self.statistics.nulls += array.null_count() as u64;
        if let Some(bytes) = variable_bytes(array) {
            *self.statistics.bytes.get_or_insert(0) += bytes;
        }
        if let Some(counter) = &mut self.distinct {
            match CanonicalKeys::new(std::slice::from_ref(array)) {
                Ok(values) => values.for_each_hash(|row, hash| {
                    if array.is_valid(row) {
                        counter.add_hash(hash);
                    }
                }),
                Err(_) => self.distinct = None,
            }
        }
        if array.null_count() == array.len() || self.unbounded {
            return;
        }
        match bounds(array.as_ref()) {
            Some(new) => self.statistics.bounds = Some(merge_bounds(self.statistics.bounds, new)),
            None => {
                self.unbounded = true;
                self.statistics.bounds = None;
            }
        }
    }
}

/// Size of the values of a type of variable width or a nested type; `None` for fixed-width types.
fn variable_bytes(array: &ArrayRef) -> Option<u64> {
    array.data_type().primitive_width().is_none().then(|| array_bytes(array) as u64)
}

/// The bounds of the union of two sets of values.
fn merge_bounds(old: Option<(Bound, Bound)>, new: (Bound, Bound)) -> (Bound, Bound) {
    let Some(old) = old else { return new };
    let smaller = |a: Bound, b: Bound| if less(&b, &a) { b } else { a };
    let larger = |a: Bound, b: Bound| if less(&a, &b) { b } else { a };
    (smaller(old.0, new.0), larger(old.1, new.1))
}

fn less(a: &Bound, b: &Bound) -> bool {
    match (a, b) {
        (Bound::Int(a), Bound::Int(b)) => a < b,
        (Bound::UInt(a), Bound::UInt(b)) => a < b,
        // The order of Arrow's kernels, in which -0.0 is below 0.0.
        (Bound::Float(a), Bound::Float(b)) => a.total_cmp(b).is_lt(),
        (Bound::Decimal(a), Bound::Decimal(b)) => a < b,
        _ => unreachable!("bounds of one column have one type"),
    }
}

/// Smallest and largest value of an array that has at least one; `None` where the type has no bounds.
fn bounds(array: &dyn Array) -> Option<(Bound, Bound)> {
    macro_rules! min_max {
        ($type:ty, $bound:ident) => {{
            let array = array.as_primitive::<$type>();
            Some((Bound::$bound(compute::min(array)?.into()), Bound::$bound(compute::max(array)?.into())))
        }};
    }
    macro_rules! floats {
        ($type:ty) => {{
            let array = array.as_primitive::<$type>();
            // Arrow sorts NaN above all other values. Comparisons with NaN do not follow that order, so
            // pruning by such bounds would lose rows.
            let max = compute::max(array)?;
            let min = compute::min(array)?;
            (!max.is_nan() && !min.is_nan()).then(|| (Bound::Float(min.into()), Bound::Float(max.into())))
        }};
    }
    match array.data_type() {
        DataType::Int8 => min_max!(Int8Type, Int),
        DataType::Int16 => min_max!(Int16Type, Int),
        DataType::Int32 => min_max!(Int32Type, Int),
        DataType::Int64 => min_max!(Int64Type, Int),
        DataType::UInt8 => min_max!(UInt8Type, UInt),
        DataType::UInt16 => min_max!(UInt16Type, UInt),
        DataType::UInt32 => min_max!(UInt32Type, UInt),
        DataType::UInt64 => min_max!(UInt64Type, UInt),
        DataType::Float32 => floats!(Float32Type),
        DataType::Float64 => floats!(Float64Type),
        DataType::Date32 => min_max!(Date32Type, Int),
        DataType::Date64 => min_max!(Date64Type, Int),
        DataType::Time32(TimeUnit::Second) => min_max!(Time32SecondType, Int),
        DataType::Time32(TimeUnit::Millisecond) => min_max!(Time32MillisecondType, Int),
        DataType::Time64(TimeUnit::Microsecond) => min_max!(Time64MicrosecondType, Int),
        DataType::Time64(TimeUnit::Nanosecond) => min_max!(Time64NanosecondType, Int),
        DataType::Timestamp(TimeUnit::Second, _) => min_max!(TimestampSecondType, Int),
        DataType::Timestamp(TimeUnit::Millisecond, _) => min_max!(TimestampMillisecondType, Int),
        DataType::Timestamp(TimeUnit::Microsecond, _) => min_max!(TimestampMicrosecondType, Int),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => min_max!(TimestampNanosecondType, Int),
        DataType::Decimal128(..) => min_max!(Decimal128Type, Decimal),
        _ => None,
    }
}
