//! The statistics of segments as DataFusion statistics.

use arrow_schema::{DataType, TimeUnit};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics as PlanColumn, ScalarValue, Statistics};
use plexus_model::{Bound, ColumnStatistics as Known, Segment, Table, Version};

use crate::scan::distinct::{self, Sample};

/// A bound as a value of the type of its column; `None` where it does not fit the type.
pub(crate) fn to_scalar(bound: Bound, t: &DataType) -> Option<ScalarValue> {
    Some(match (bound, t) {
        (Bound::Int(v), DataType::Int8) => ScalarValue::Int8(Some(v.try_into().ok()?)),
        (Bound::Int(v), DataType::Int16) => ScalarValue::Int16(Some(v.try_into().ok()?)),
        (Bound::Int(v), DataType::Int32) => ScalarValue::Int32(Some(v.try_into().ok()?)),
        (Bound::Int(v), DataType::Int64) => ScalarValue::Int64(Some(v)),
        (Bound::Int(v), DataType::Date32) => ScalarValue::Date32(Some(v.try_into().ok()?)),
        (Bound::Int(v), DataType::Date64) => ScalarValue::Date64(Some(v)),
        (Bound::Int(v), DataType::Time32(TimeUnit::Second)) => {
            ScalarValue::Time32Second(Some(v.try_into().ok()?))
        }
        (Bound::Int(v), DataType::Time32(_)) => ScalarValue::Time32Millisecond(Some(v.try_into().ok()?)),
        (Bound::Int(v), DataType::Time64(TimeUnit::Microsecond)) => ScalarValue::Time64Microsecond(Some(v)),
        (Bound::Int(v), DataType::Time64(_)) => ScalarValue::Time64Nanosecond(Some(v)),
        (Bound::Int(v), DataType::Timestamp(unit, zone)) => match unit {
            TimeUnit::Second => ScalarValue::TimestampSecond(Some(v), zone.clone()),
            TimeUnit::Millisecond => ScalarValue::TimestampMillisecond(Some(v), zone.clone()),
            TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(Some(v), zone.clone()),
            TimeUnit::Nanosecond => ScalarValue::TimestampNanosecond(Some(v), zone.clone()),
        },
        (Bound::UInt(v), DataType::UInt8) => ScalarValue::UInt8(Some(v.try_into().ok()?)),
        (Bound::UInt(v), DataType::UInt16) => ScalarValue::UInt16(Some(v.try_into().ok()?)),
        (Bound::UInt(v), DataType::UInt32) => ScalarValue::UInt32(Some(v.try_into().ok()?)),
        (Bound::UInt(v), DataType::UInt64) => ScalarValue::UInt64(Some(v)),
        (Bound::Float(v), DataType::Float32) => ScalarValue::Float32(Some(v as f32)),
        (Bound::Float(v), DataType::Float64) => ScalarValue::Float64(Some(v)),
        (Bound::Decimal(v), DataType::Decimal128(precision, scale)) => {
            ScalarValue::Decimal128(Some(v), *precision, *scale)
        }
        _ => return None,
    })
}

/// The statistics of one segment, with those of each column of the schema.
pub(crate) fn segment_statistics(
    segment: &Segment,
    version: Version,
    table: &Table,
    types: &arrow_schema::Schema,
) -> Statistics {
    let schema = &table.schema;
    // A decimal bound is in the scale that the column had when the segment was written.
    let scales_hold = segment.schema_version == table.schema_version;
    let statistics: Vec<_> = segment.statistics.iter().collect();
    let rows = segment.live_rows(version) as usize;
    // Bounds and null counts cover all rows of the segment, including those that this version does not see.
    let partial = version < segment.newest && segment.has_versions();
    let all_visible = !partial && segment.deletions_at(version).next().is_none();
    let column_statistics = schema
        .columns
        .iter()
        .zip(types.fields())
        .map(|(column, field)| {
            let Some(known) = statistics.iter().find(|c| c.column == column.id) else {
                return PlanColumn::new_unknown();
            };
            let bound = |pick: fn(&(Bound, Bound)) -> Bound| {
                known
                    .bounds
                    .as_ref()
                    .filter(|b| scales_hold || !matches!(b.0, Bound::Decimal(_)))
                    .and_then(|b| to_scalar(pick(b), field.data_type()))
                    .map_or(Precision::Absent, |v| precise(v, all_visible))
            };
            PlanColumn {
                null_count: precise(known.nulls as usize, all_visible),
                min_value: bound(|b| b.0),
                max_value: bound(|b| b.1),
                distinct_count: known.distinct.map_or(Precision::Absent, |d| Precision::Inexact(d as usize)),
                byte_size: value_bytes(known, field.data_type(), rows),
                ..PlanColumn::new_unknown()
            }
        })
        .collect::<Vec<_>>();
    let bytes = column_statistics.iter().map(|c| c.byte_size.get_value().copied());
    let guess = segment.bytes() as usize * COMPRESSION_GUESS;
    Statistics {
        num_rows: precise(rows, !partial),
        total_byte_size: Precision::Inexact(bytes.sum::<Option<usize>>().unwrap_or(guess)),
        column_statistics,
    }
}

/// An exact value, or an estimate.
fn precise<T: std::fmt::Debug + Clone + PartialEq + Eq + PartialOrd>(value: T, exact: bool) -> Precision<T> {
    if exact { Precision::Exact(value) } else { Precision::Inexact(value) }
}

/// The size of the values of a column in memory, if the type or the statistics determine it.
fn value_bytes(known: &Known, data_type: &DataType, rows: usize) -> Precision<usize> {
    let fixed = data_type.primitive_width().map(|width| width * rows);
    let variable = || known.bytes.map(|bytes| bytes as usize);
    fixed.or_else(variable).map_or(Precision::Absent, Precision::Inexact)
}

/// Assumed ratio of bytes in memory to bytes in the file, for segments whose column sizes are unknown.
const COMPRESSION_GUESS: usize = 4;

/// The statistics of several segments together.
pub(crate) fn merge<'a>(segments: impl Iterator<Item = &'a Statistics>, columns: usize) -> Statistics {
    let mut rows = Precision::Exact(0usize);
    let mut bytes = 0usize;
    let mut merged: Vec<Option<PlanColumn>> = vec![None; columns];
    let mut samples: Vec<Vec<Sample>> = vec![vec![]; columns];
    for statistics in segments {
        let segment_rows = statistics.num_rows.get_value().copied().unwrap_or(0);
        rows = rows.add(&statistics.num_rows);
        bytes += statistics.total_byte_size.get_value().copied().unwrap_or(0);
        for ((into, samples), column) in
            merged.iter_mut().zip(&mut samples).zip(&statistics.column_statistics)
        {
            if let Some(distinct) = column.distinct_count.get_value() {
                let nulls = column.null_count.get_value().copied().unwrap_or(0);
                let values = segment_rows.saturating_sub(nulls) as f64;
                samples.push(Sample { values, distinct: *distinct as f64, width: width(column) });
            }
            match into {
                None => *into = Some(column.clone()),
                Some(into) => add_column(into, column, segment_rows),
            }
        }
    }
    let column_statistics = merged.into_iter().zip(samples).map(|(column, samples)| {
        let column = column.unwrap_or_else(PlanColumn::new_unknown);
        let distinct = distinct::estimate(&samples, width(&column));
        let distinct_count = distinct.map_or(Precision::Absent, |d| Precision::Inexact(d as usize));
        PlanColumn { distinct_count, ..column }
    });
    Statistics {
        num_rows: rows,
        total_byte_size: Precision::Inexact(bytes),
        column_statistics: column_statistics.collect(),
    }
}

/// The distance between the bounds of a column.
fn width(column: &PlanColumn) -> Option<f64> {
    let (min, max) = (column.min_value.get_value()?, column.max_value.get_value()?);
    max.distance(min).map(|distance| distance as f64)
}

/// Extends the statistics `into` by those of a column of a segment with `rows` rows.
fn add_column(into: &mut PlanColumn, column: &PlanColumn, rows: usize) {
    let only_nulls = |c: &PlanColumn, rows: usize| c.null_count == Precision::Exact(rows);
    into.null_count = into.null_count.add(&column.null_count);
    into.byte_size = into.byte_size.add(&column.byte_size);
    if only_nulls(column, rows) {
        return;
    }
    if into.min_value == Precision::Absent
        && into.max_value == Precision::Absent
        && into.null_count.get_value().is_some()
    {
        // There were only nulls so far, or values without bounds. In the latter case the bounds of this
        // segment do not enclose them, so the result has no bounds.
        return;
    }
    into.min_value = into.min_value.min(&column.min_value);
    into.max_value = into.max_value.max(&column.max_value);
    if column.min_value == Precision::Absent {
        into.min_value = Precision::Absent;
        into.max_value = Precision::Absent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(nulls: usize, bounds: Option<(i64, i64)>) -> PlanColumn {
        let scalar = |v| Precision::Exact(ScalarValue::Int64(Some(v)));
        PlanColumn {
            null_count: Precision::Exact(nulls),
            min_value: bounds.map_or(Precision::Absent, |(min, _)| scalar(min)),
            max_value: bounds.map_or(Precision::Absent, |(_, max)| scalar(max)),
            ..PlanColumn::new_unknown()
        }
    }

    fn segment(rows: usize, nulls: usize, bounds: Option<(i64, i64)>) -> Statistics {
        Statistics {
            num_rows: Precision::Exact(rows),
            total_byte_size: Precision::Inexact(rows * 8),
            column_statistics: vec![column(nulls, bounds)],
        }
    }

    fn merged(segments: &[Statistics]) -> PlanColumn {
        merge(segments.iter(), 1).column_statistics.remove(0)
    }

    #[test]
    fn bounds_of_several_segments_enclose_all_of_them() {
        let all = [segment(10, 1, Some((5, 9))), segment(10, 2, Some((-3, 4))), segment(4, 4, None)];
        assert_eq!(merged(&all), column(7, Some((-3, 9))));
        assert_eq!(merge(all.iter(), 1).num_rows, Precision::Exact(24));
    }

    #[test]
    fn a_segment_without_bounds_leaves_the_result_without_bounds() {
        // Values without bounds: a NaN, or a type that has no order.
        let unknown = segment(10, 0, None);
        let known = segment(10, 0, Some((5, 9)));
        assert_eq!(merged(&[known.clone(), unknown.clone()]).min_value, Precision::Absent);
        assert_eq!(merged(&[unknown, known]).max_value, Precision::Absent);
    }

    #[test]
    fn a_bound_that_does_not_fit_its_column_is_none() {
        assert_eq!(to_scalar(Bound::Int(300), &DataType::Int8), None);
        assert_eq!(to_scalar(Bound::Int(3), &DataType::Utf8), None);
        assert_eq!(to_scalar(Bound::Int(3), &DataType::Int8), Some(ScalarValue::Int8(Some(3))));
    }
}
