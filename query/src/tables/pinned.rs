//! A table at a pinned version.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Constraint, Constraints, DataFusionError, Result, Statistics};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use plexus_model::{RowSet, Segment, SegmentData, SegmentId, Table, Version};
use plexus_storage::{decode_inline, types};

use crate::scan::bounds;
use crate::scan::files::to_file;
use crate::scan::leaf::Scan;
use crate::scan::pruning;
use crate::search::exec::statistics::statistics;
use crate::search::exec::text_binding::Bindings;
use crate::search::snapshot::snapshot::SearchSnapshot;
use crate::tables::context::TableContext;

/// A table as one version of the manifest shows it.
#[derive(Debug)]
pub struct PinnedTable {
    table: Arc<Table>,
    version: Version,
    schema: SchemaRef,
    constraints: Constraints,
    context: TableContext,
    /// Queries over its texts that the statement asks.
    bindings: Bindings,
}

impl PinnedTable {
    pub fn new(table: Arc<Table>, version: Version, context: TableContext) -> Self {
        let schema = types::to_arrow(&table.schema);
        let key = table.schema.primary_key.iter().map(|&i| i as usize).collect::<Vec<_>>();
        let constraints = if key.is_empty() { vec![] } else { vec![Constraint::PrimaryKey(key)] };
        let constraints = Constraints::new_unverified(constraints);
        Self { table, version, schema, constraints, context, bindings: Bindings::default() }
    }

    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn context(&self) -> &TableContext {
        &self.context
    }

    pub fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    /// The version of the table, as searches see it.
    pub async fn search_snapshot(&self) -> Result<SearchSnapshot> {
        let snapshot =
            SearchSnapshot::open(self.table.clone(), self.version, self.context.search.clone()).await;
        snapshot.map_err(|e| DataFusionError::External(Box::new(e)))
    }

    /// Finds out what the scores of bound queries depend on.
    pub async fn score_bindings(&self) -> Result<()> {
        let bindings = self.bindings.all();
        if bindings.iter().all(|binding| binding.statistics.initialized()) {
            return Ok(());
        }
        let snapshot = self.search_snapshot().await?;
        for binding in bindings {
            let known =
                binding.statistics.get_or_try_init(|| statistics(&snapshot, &binding.fields, &binding.query));
            known.await.map_err(|e| DataFusionError::External(Box::new(e)))?;
        }
        Ok(())
    }

    pub fn arrow_schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Segments that the filters may match, with their statistics.
    pub fn segments(
        &self,
        state: &dyn Session,
        filters: &[Expr],
    ) -> Result<Vec<(Arc<Segment>, Arc<Statistics>)>> {
        pruning::candidate_segments(&self.table, self.version, &self.schema, state, filters)
    }

    /// Reads the table, or of each segment only the rows that are `picked`.
    pub async fn scan_rows(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
        picked: Option<&HashMap<SegmentId, Arc<RowSet>>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.score_bindings().await?;
        let mut files = Vec::new();
        let mut file_statistics = Vec::new();
        let mut inline_rows: Vec<RecordBatch> = Vec::new();
        for (segment, statistics) in self.segments(state, filters)? {
            let failed = |e: plexus_model::Error| {
                DataFusionError::External(Box::new(e.context(format!("segment {}", segment.id))))
            };
            let reads = &self.context.scans.reader;
            let mut hidden =
                reads.invisible_rows(&self.table, &segment, self.version).await.map_err(failed)?;
            let mut statistics = statistics;
            if let Some(picked) = picked {
                let Some(rows) = picked.get(&segment.id).filter(|rows| !rows.is_empty()) else {
                    continue;
                };
                let mut others = RowSet::new();
                others.insert_range(0..segment.rows as u32);
                others -= &**rows;
                others |= &*hidden;
                hidden = Arc::new(others);
                statistics = Arc::new(Statistics::new_unknown(&self.schema));
            }
            match &segment.data {
                SegmentData::File(_) => {
                    files.extend(to_file(&self.table, &segment, hidden, statistics.clone()));
                    file_statistics.push(statistics);
                }
                SegmentData::Inline(bytes) => {
                    inline_rows.extend(decode_inline(bytes, &self.table.schema, &hidden).map_err(failed)?);
                }
            }
        }
        let inline_rows = match inline_rows.len() {
            0 | 1 => inline_rows,
            // Thousands of one-row batches would cost more than the rows.
            _ => vec![arrow::compute::concat_batches(&self.schema, &inline_rows)?],
        };
        let statistics = bounds::merge(file_statistics.iter().map(|s| &**s), self.schema.fields().len());
        let partitions = state.config().target_partitions();
        let scan = Scan {
            table: &self.table,
            schema: self.schema.clone(),
            files,
            statistics,
            inline: inline_rows,
            projection,
            limit,
            partitions,
        };
        scan.plan(&self.context.scans)
    }
}

#[async_trait]
impl TableProvider for PinnedTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn constraints(&self) -> Option<&Constraints> {
        Some(&self.constraints)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn statistics(&self) -> Option<Statistics> {
        let each: Vec<Statistics> = self
            .table
            .visible(self.version)
            .map(|s| bounds::segment_statistics(s, self.version, &self.table, &self.schema))
            .collect();
        Some(bounds::merge(each.iter(), self.schema.fields().len()))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // They prune segments here; the physical optimizer then moves what Vortex can evaluate into the
        // scan and keeps the rest above it.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.scan_rows(state, projection, filters, limit, None).await
    }
}
