//! Which segments a filter can match, by the bounds and the shards that the manifest records.

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
use plexus_model::Table;

/// Whether each segment may hold a row that the filters accept.
pub fn keep(
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
    // What cannot be expressed over bounds prunes nothing.
    #[allow(deprecated)] // its successor hides why nothing can be pruned
    let Ok(predicate) = PruningPredicate::try_new(predicate, schema.clone()) else {
        return Ok(vec![true; segments.len()]);
    };
    predicate.prune(&SegmentBounds { schema, segments })
}

struct SegmentBounds<'a> {
    schema: &'a SchemaRef,
    segments: &'a [Arc<Statistics>],
}

impl SegmentBounds<'_> {
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

fn count(value: &Precision<usize>) -> Option<u64> {
    match value {
        Precision::Exact(n) => Some(*n as u64),
        _ => None,
    }
}

/// The only shard whose rows the filters accept: when they fix every column of the primary key.
pub fn only_shard(table: &Table, schema: &SchemaRef, filters: &[Expr]) -> Option<u32> {
    if table.schema.primary_key.is_empty() {
        return None;
    }
    let key = table
        .schema
        .primary_key
        .iter()
        .map(|&index| {
            let field = schema.field(index as usize);
            let value = filters.iter().find_map(|filter| equal_to(filter, field.name()))?;
            value.cast_to(field.data_type()).ok().filter(|v| !v.is_null())?.to_array().ok()
        })
        .collect::<Option<Vec<ArrayRef>>>()?;
    plexus_storage::shard_of_key(&key, table.shards.len() as u32).ok()
}

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
