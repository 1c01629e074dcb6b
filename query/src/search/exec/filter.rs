//! Predicates of a search: which rows of each segment satisfy them, with the results cached per segment.

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
use plexus_model::{RowSelection, RowSet, SegmentId};
use plexus_storage::{SegmentReader, project, types};

use crate::scan::pruning::candidate_segments;
use crate::search::snapshot::caches::FilterKey;
use crate::search::snapshot::{SearchSnapshot, SegmentView};

/// A predicate over the rows of a table.
pub(crate) struct Filter {
    predicate: Arc<dyn PhysicalExpr>,
    /// Positions in the table of the columns that the predicate reads.
    columns: Vec<usize>,
    /// Segments that may have matching rows, by the statistics in the manifest.
    segments: HashSet<SegmentId>,
    /// The predicate for error messages.
    text: String,
    /// The predicate and its column ids and types, as a cache key. Names alone would confuse renamed columns.
    key: String,
}

impl Filter {
    /// Compiles the conjunction of `filters`; `None` when there are none.
    ///
    /// # Errors
    /// When a filter cannot be compiled over the columns of the table.
    pub(crate) fn new(
        snapshot: &SearchSnapshot,
        state: &dyn Session,
        filters: &[Expr],
    ) -> Result<Option<Self>> {
        let Some(expr) = conjunction(filters.iter().cloned()) else {
            return Ok(None);
        };
        let arrow_schema = types::to_arrow(&snapshot.table.schema);
        let candidates =
            candidate_segments(&snapshot.table, snapshot.version, &arrow_schema, state, filters)?;
        let segments = candidates.into_iter().map(|(segment, _)| segment.id).collect();
        let schema = DFSchema::try_from(arrow_schema.clone())?;
        let predicate = state.create_physical_expr(expr, &schema)?;
        let mut columns: Vec<usize> = collect_columns(&predicate).iter().map(Column::index).collect();
        if columns.is_empty() {
            // At least one column must be read to learn the number of rows.
            columns.push(0);
        }
        columns.sort_unstable();
        let read: Schema = arrow_schema.project(&columns)?;
        let predicate = predicate.transform(|expr| match expr.downcast_ref::<Column>() {
            Some(column) => {
                let projected: Arc<dyn PhysicalExpr> =
                    Arc::new(Column::new_with_schema(column.name(), &read)?);
                Ok(Transformed::yes(projected))
            }
            None => Ok(Transformed::no(expr)),
        })?;
        let text = filters.iter().map(ToString::to_string).collect::<Vec<_>>().join(" AND ");
        let schema = &snapshot.table.schema;
        let key_columns: Vec<_> =
            columns.iter().map(|at| (schema.columns[*at].id, &schema.columns[*at].data_type)).collect();
        let key = format!("{filters:?} {key_columns:?}");
        Ok(Some(Self { predicate: predicate.data, columns, segments, text, key }))
    }

    fn key_of(&self, snapshot: &SearchSnapshot, view: &SegmentView) -> FilterKey {
        let visibility = SegmentReader::visibility_fingerprint(&view.segment, snapshot.version);
        (view.segment.id, self.key.clone(), visibility)
    }

    /// The visible rows of a segment that match, if they are known without reading the segment.
    pub(crate) fn known(&self, snapshot: &SearchSnapshot, view: &SegmentView) -> Option<Arc<RowSet>> {
        match self.segments.contains(&view.segment.id) {
            true => snapshot.context.caches.filter_results.get(&self.key_of(snapshot, view)),
            false => Some(Arc::default()),
        }
    }

    /// Caches the matching rows of a segment. They may have been computed by another node.
    pub(crate) fn remember(&self, snapshot: &SearchSnapshot, view: &SegmentView, rows: &Arc<RowSet>) {
        snapshot.context.caches.filter_results.insert(self.key_of(snapshot, view), rows.clone());
    }

    /// The visible rows of a segment that match.
    ///
    /// # Errors
    /// When the segment cannot be read, or the predicate cannot be evaluated on its rows.
    pub(crate) async fn rows(&self, snapshot: &SearchSnapshot, view: &SegmentView) -> Result<Arc<RowSet>> {
        if let Some(rows) = self.known(snapshot, view) {
            return Ok(rows);
        }
        let failed = |e: plexus_model::Error| {
            DataFusionError::External(Box::new(e.context(format!("segment {}", view.segment.id))))
        };
        let schema = project(&snapshot.table.schema, &self.columns);
        debug_assert_eq!(types::to_arrow(&schema).fields().len(), self.columns.len());
        let visible = RowSelection::AllExcept(view.invisible.clone());
        let mut batches =
            snapshot.reads().scan(&snapshot.table, &view.segment, &schema, visible).await.map_err(failed)?;
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
        self.remember(snapshot, view, &rows);
        Ok(rows)
    }
}
