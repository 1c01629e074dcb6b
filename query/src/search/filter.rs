//! Predicates as sets of rows, one segment at a time.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow_schema::Schema;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, Result, plan_err};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::PhysicalExpr;
use futures::TryStreamExt;
use moka::sync::Cache;
use plexus_model::{RowSelection, RowSet, SegmentId, Version};
use plexus_storage::{SegmentReads, project, types};

use super::source::{Part, Source};
use crate::table::PinnedTable;

/// Bytes of sets that a node keeps.
const CACHE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A segment, a predicate, and what of the segment was seen.
pub type FilterKey = (SegmentId, String, (u64, Version));

pub fn cache() -> Cache<FilterKey, Arc<RowSet>> {
    let weight = |key: &FilterKey, rows: &Arc<RowSet>| {
        u32::try_from(rows.serialized_size() + key.1.len() + 64).unwrap_or(u32::MAX)
    };
    Cache::builder().max_capacity(CACHE_BYTES_MAX).weigher(weight).build()
}

/// A predicate over the rows of a table.
pub struct Filter {
    predicate: Arc<dyn PhysicalExpr>,
    /// Columns that it names, by their place in the table.
    columns: Vec<usize>,
    /// Segments that may have rows for which it holds.
    segments: HashSet<SegmentId>,
    /// The predicate for people.
    text: String,
    /// The predicate, with what its columns are.
    key: String,
}

impl Filter {
    /// `None` when nothing is asked for.
    ///
    /// # Errors
    /// What is wrong with the predicate.
    pub fn new(source: &Source, state: &dyn Session, filters: &[Expr]) -> Result<Option<Self>> {
        let Some(expr) = conjunction(filters.iter().cloned()) else {
            return Ok(None);
        };
        let pinned = PinnedTable::new(source.table.clone(), source.version, source.context.clone());
        let segments = pinned.segments(state, filters)?.into_iter().map(|(segment, _)| segment.id).collect();
        let schema = DFSchema::try_from(pinned.arrow_schema().clone())?;
        let predicate = state.create_physical_expr(expr, &schema)?;
        let mut columns: Vec<usize> = collect_columns(&predicate).iter().map(Column::index).collect();
        if columns.is_empty() {
            // Something has to be read to know how many rows there are.
            columns.push(0);
        }
        columns.sort_unstable();
        let read: Schema = pinned.arrow_schema().project(&columns)?;
        let predicate = predicate.transform(|expr| match expr.downcast_ref::<Column>() {
            Some(column) => {
                let moved: Arc<dyn PhysicalExpr> = Arc::new(Column::new_with_schema(column.name(), &read)?);
                Ok(Transformed::yes(moved))
            }
            None => Ok(Transformed::no(expr)),
        })?;
        let text = filters.iter().map(ToString::to_string).collect::<Vec<_>>().join(" AND ");
        let schema = &source.table.schema;
        let of: Vec<_> =
            columns.iter().map(|at| (schema.columns[*at].id, &schema.columns[*at].data_type)).collect();
        let key = format!("{filters:?} {of:?}");
        Ok(Some(Self { predicate: predicate.data, columns, segments, text, key }))
    }

    fn key_of(&self, source: &Source, part: &Part) -> FilterKey {
        let seen = SegmentReads::hidden_fingerprint(&part.segment, source.version);
        (part.segment.id, self.key.clone(), seen)
    }

    /// The rows of a segment that the version sees and for which the predicate holds, if that is known.
    pub fn known(&self, source: &Source, part: &Part) -> Option<Arc<RowSet>> {
        match self.segments.contains(&part.segment.id) {
            true => source.context.caches.filtered.get(&self.key_of(source, part)),
            false => Some(Arc::default()),
        }
    }

    /// Keeps what another node has found.
    pub fn remember(&self, source: &Source, part: &Part, rows: &Arc<RowSet>) {
        source.context.caches.filtered.insert(self.key_of(source, part), rows.clone());
    }

    /// The rows of a segment that the version sees and for which the predicate holds.
    pub async fn rows(&self, source: &Source, part: &Part) -> Result<Arc<RowSet>> {
        if let Some(rows) = self.known(source, part) {
            return Ok(rows);
        }
        let failed = |e: plexus_model::Error| {
            DataFusionError::External(Box::new(e.context(format!("segment {}", part.segment.id))))
        };
        let schema = project(&source.table.schema, &self.columns);
        debug_assert_eq!(types::to_arrow(&schema).fields().len(), self.columns.len());
        let pick = RowSelection::AllExcept(part.hidden.clone());
        let mut batches =
            source.reads().scan(&source.table, &part.segment, &schema, pick).await.map_err(failed)?;
        let mut rows = RowSet::new();
        while let Some(found) = batches.try_next().await.map_err(failed)? {
            let holds = self.predicate.evaluate(&found.rows)?.into_array(found.rows.num_rows())?;
            let Some(holds) = holds.as_boolean_opt() else {
                return plan_err!("{} is not true or false", self.text);
            };
            let positions = found.positions.iter().zip(holds.iter());
            rows.extend(positions.filter(|(_, holds)| *holds == Some(true)).map(|(row, _)| *row as u32));
        }
        rows.optimize();
        let rows = Arc::new(rows);
        self.remember(source, part, &rows);
        Ok(rows)
    }
}
