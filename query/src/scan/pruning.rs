//! Pruning: which segments a filter can match, by the bounds and shards in the manifest.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt64Array};
use arrow_schema::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, DFSchema, Result, ScalarValue, Statistics};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::physical_optimizer::pruning::PruningPredicate;
use plexus_model::{Segment, Table, Version};

use crate::scan::bounds;

/// Whether each segment may have a row that satisfies all filters.
///
/// # Errors
/// When a filter cannot be compiled over the schema.
pub(crate) fn keep(
    state: &dyn Session,
    filters: &[Expr],
    schema: &SchemaRef,
    segments: &[Arc<Statistics>],
) -> Result<Vec<bool>> {
    let Some(filter) = conjunction(filters.iter().cloned()) else {
        return Ok(vec![true; segments.len()]);
    };
    let df_schema = DFSchema::try_from(schema.clone())?;
    let predicate = state.create_physical_expr(filter, &df_schema)?;
    // A predicate that cannot be evaluated on bounds prunes nothing.
    #[allow(deprecated)] // its successor hides why nothing can be pruned
    let Ok(predicate) = PruningPredicate::try_new(predicate, schema.clone()) else {
        return Ok(vec![true; segments.len()]);
    };
    predicate.prune(&SegmentBounds { schema, segments })
}

/// The statistics of several segments, as the pruning predicate reads them.
struct SegmentBounds<'a> {
    schema: &'a SchemaRef,
    segments: &'a [Arc<Statistics>],
}

impl SegmentBounds<'_> {
    /// One value per segment, null where it is unknown.
    fn values(
        &self,
        column: &Column,
        pick: fn(&Statistics, usize) -> Option<ScalarValue>,
    ) -> Option<ArrayRef> {
        let index = self.schema.index_of(&column.name).ok()?;
        let data_type = self.schema.field(index).data_type();
        let values = self
            .segments
            .iter()
            .map(|s| pick(s, index).map_or_else(|| ScalarValue::try_from(data_type), Ok))
            .collect::<Result<Vec<_>>>()
            .ok()?;
        ScalarValue::iter_to_array(values).ok()
    }
}

impl PruningStatistics for SegmentBounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |s, i| s.column_statistics[i].min_value.get_value().cloned())
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |s, i| s.column_statistics[i].max_value.get_value().cloned())
    }

    fn num_containers(&self) -> usize {
        self.segments.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let index = self.schema.index_of(&column.name).ok()?;
        let counts = self.segments.iter().map(|s| count(&s.column_statistics[index].null_count));
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(self.segments.iter().map(|s| count(&s.num_rows)).collect::<UInt64Array>()))
    }

    fn contained(
        &self,
        _column: &Column,
        _values: &HashSet<ScalarValue>,
    ) -> Option<arrow::array::BooleanArray> {
        None
    }
}

/// A count for pruning. Estimates are left out, since pruning compares row counts with null counts.
fn count(value: &Precision<usize>) -> Option<u64> {
    match value {
        Precision::Exact(n) => Some(*n as u64),
        _ => None,
    }
}

/// The only shard that can have rows that satisfy the filters, if they fix every column of the primary key.
fn only_shard(table: &Table, schema: &SchemaRef, filters: &[Expr]) -> Option<u32> {
    plexus_storage::shard_of_key(&only_key(table, schema, filters)?, table.shards.len() as u32).ok()
}

/// The only primary key that rows can have that satisfy the filters, if they fix every column of it.
pub(crate) fn only_key(table: &Table, schema: &SchemaRef, filters: &[Expr]) -> Option<Vec<ArrayRef>> {
    if table.schema.primary_key.is_empty() {
        return None;
    }
    let columns = table.schema.primary_key.iter().map(|&index| {
        let field = schema.field(index as usize);
        let value = filters.iter().find_map(|filter| equal_to(filter, field.name()))?;
        value.cast_to(field.data_type()).ok().filter(|v| !v.is_null())?.to_array().ok()
    });
    columns.collect()
}

/// The value that a filter requires of a column.
fn equal_to<'a>(filter: &'a Expr, column: &str) -> Option<&'a ScalarValue> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else {
        return None;
    };
    match (left.as_ref(), op, right.as_ref()) {
        (Expr::Column(c), Operator::Eq, Expr::Literal(value, _))
        | (Expr::Literal(value, _), Operator::Eq, Expr::Column(c))
            if c.name == column =>
        {
            Some(value)
        }
        (_, Operator::And, _) => equal_to(left, column).or_else(|| equal_to(right, column)),
        _ => None,
    }
}

/// The segments of a table version that may have rows that satisfy the filters, with their statistics.
///
/// # Errors
/// When a filter cannot be compiled.
pub(crate) fn candidate_segments(
    table: &Table,
    version: Version,
    schema: &SchemaRef,
    state: &dyn Session,
    filters: &[Expr],
) -> Result<Vec<(Arc<Segment>, Arc<Statistics>)>> {
    let shard = only_shard(table, schema, filters);
    let (segments, statistics): (Vec<_>, Vec<_>) = table
        .visible(version)
        .filter(|segment| shard.is_none_or(|shard| segment.shard == shard))
        .map(|segment| {
            let statistics = bounds::segment_statistics(segment, version, table, schema);
            (segment.clone(), Arc::new(statistics))
        })
        .unzip();
    let keep = keep(state, filters, schema, &statistics)?;
    let pairs = segments.into_iter().zip(statistics).zip(keep);
    Ok(pairs.filter_map(|(pair, keep)| keep.then_some(pair)).collect())
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};
    use plexus_model::placement::rendezvous;
    use plexus_model::{Column, ColumnType, NodeId, Shard, TableId, TableName, TableSchema, Version};
    use plexus_storage::types;

    use super::*;

    fn table(key: &[u32]) -> Table {
        let column = |id, name: &str, data_type| Column { id, name: name.into(), data_type, nullable: false };
        let columns = vec![column(1, "a", ColumnType::Int64), column(2, "b", ColumnType::Utf8)];
        let shard = |n| Shard { replicas: rendezvous(1, n, &[NodeId(1)], 1) };
        Table {
            id: TableId(1),
            name: TableName::new("public", "t"),
            schema: Arc::new(TableSchema { columns, primary_key: key.to_vec(), ..TableSchema::default() }),
            schema_version: 1,
            replicas: 1,
            shards: Arc::new((0..64).map(shard).collect()),
            created: Version(1),
            created_time_us: 0,
            dropped: None,
            dropped_time_us: 0,
            segments: Default::default(),
            inline_bytes: 0,
            history: vec![],
            oldest: Version(1),
            changed: Version(1),
            relocations: Default::default(),
        }
    }

    fn only(key: &[u32], filters: &[Expr]) -> Option<u32> {
        let table = table(key);
        only_shard(&table, &types::to_arrow(&table.schema), filters)
    }

    #[test]
    fn filters_that_fix_the_whole_key_leave_one_shard() {
        let stored: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![7]));
        let shard = plexus_storage::shard_of_key(&[stored], 64).unwrap();
        assert_eq!(only(&[0], &[col("a").eq(lit(7i64))]), Some(shard));
        // The literal may have another type and be on either side.
        assert_eq!(only(&[0], &[col("b").eq(lit("x")).and(lit(7i32).eq(col("a")))]), Some(shard));
        let both = only(&[0, 1], &[col("a").eq(lit(7i64)), col("b").eq(lit("x"))]);
        assert!(both.is_some());
    }

    #[test]
    fn filters_that_leave_the_key_open_prune_no_shard() {
        assert_eq!(only(&[], &[col("a").eq(lit(7i64))]), None);
        assert_eq!(only(&[0], &[col("a").gt(lit(7i64))]), None);
        assert_eq!(only(&[0], &[col("a").eq(lit(7i64)).or(col("b").eq(lit("x")))]), None);
        assert_eq!(only(&[0, 1], &[col("a").eq(lit(7i64))]), None);
        assert_eq!(only(&[0], &[col("a").eq(lit(ScalarValue::Int64(None)))]), None);
    }
}
