//! A user table at a pinned version.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use plexus_model::{RowSet, Segment, SegmentData, SegmentId, Table, Version};
use plexus_storage::{decode_inline, project, rows_bytes, types};

use crate::scan::bounds;
use crate::scan::files::to_file;
use crate::scan::key_lookup::KeyLookup;
use crate::scan::leaf::Scan;
use crate::scan::pruning;
use crate::search::exec::statistics::statistics;
use crate::search::exec::text_binding::Bindings;
use crate::search::snapshot::SearchSnapshot;
use crate::tables::context::TableContext;

/// The rows of a batch alone: those that were looked up keep the blocks in memory that they are in.
fn copied(batch: &RecordBatch) -> plexus_model::Result<RecordBatch> {
    let rows: Vec<(usize, usize)> = (0..batch.num_rows()).map(|row| (0, row)).collect();
    arrow::compute::interleave_record_batch(&[batch], &rows)
        .map_err(|e| plexus_model::Error::internal(format!("copying rows: {e}")).with_source(e))
}

/// Rows that a search selects in a segment up to which they are looked up one by one. A scan decodes whole
/// blocks: for ten rows with a text or a vector, that takes ten times as long as the search.
const LOOKED_UP_ROWS_MAX: u64 = 256;

/// Rows that are looked up at once, before it is seen how large they are.
const LOOKED_UP_AT_ONCE: usize = 64;

/// Bytes of looked up rows of a table, which stay in memory until the statement ends. Others are scanned.
const LOOKED_UP_BYTES_MAX: usize = 16 << 20;

/// A table as one version of the manifest shows it.
#[derive(Debug)]
pub(crate) struct PinnedTable {
    table: Arc<Table>,
    version: Version,
    schema: SchemaRef,
    context: TableContext,
    /// The full-text queries of the statement on this table.
    bindings: Bindings,
}

impl PinnedTable {
    /// The table at a version.
    pub(crate) fn new(table: Arc<Table>, version: Version, context: TableContext) -> Self {
        let schema = types::to_arrow(&table.schema);
        Self { table, version, schema, context, bindings: Bindings::default() }
    }

    /// The table in the manifest.
    pub(crate) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The pinned version.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// What the table needs of this node.
    pub(crate) fn context(&self) -> &TableContext {
        &self.context
    }

    /// The full-text queries of the statement on this table.
    pub(crate) fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    /// The version of the table as searches read it.
    ///
    /// # Errors
    /// When a deletion vector cannot be read.
    pub(crate) async fn search_snapshot(&self) -> Result<SearchSnapshot> {
        let snapshot =
            SearchSnapshot::open(self.table.clone(), self.version, self.context.search.clone()).await;
        snapshot.map_err(|e| DataFusionError::External(Box::new(e)))
    }

    /// Collects the statistics that the scores of bound full-text queries depend on. Must be called before
    /// rows are scored.
    ///
    /// # Errors
    /// When a segment or its text index cannot be read.
    pub(crate) async fn collect_statistics(&self) -> Result<()> {
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

    /// The columns of the table.
    pub(crate) fn arrow_schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The segments that may have rows that satisfy the filters, with their statistics.
    ///
    /// # Errors
    /// When a filter cannot be compiled.
    pub(crate) fn segments(
        &self,
        state: &dyn Session,
        filters: &[Expr],
    ) -> Result<Vec<(Arc<Segment>, Arc<Statistics>)>> {
        pruning::candidate_segments(&self.table, self.version, &self.schema, state, filters)
    }

    /// Looks up columns of rows of a segment; `None` where a scan is better: for many rows, and for those
    /// that take more than `bytes_max`.
    async fn look_up(
        &self,
        segment: &Segment,
        columns: &[usize],
        rows: RowSet,
        bytes_max: usize,
    ) -> plexus_model::Result<Option<Vec<RecordBatch>>> {
        if rows.len() > LOOKED_UP_ROWS_MAX || columns.is_empty() || segment.is_inline() {
            return Ok(None);
        }
        let columns = project(&self.table.schema, columns);
        let reads = &self.context.scans.reader;
        let (mut batches, mut bytes, mut left) = (Vec::new(), 0, rows.into_iter().peekable());
        while left.peek().is_some() {
            let part: RowSet = left.by_ref().take(LOOKED_UP_AT_ONCE).collect();
            let batch = reads.lookup_rows(&self.table, segment, &columns, part).await?;
            bytes += rows_bytes(&batch);
            if bytes > bytes_max {
                return Ok(None);
            }
            batches.push(copied(&batch)?);
        }
        Ok(Some(batches))
    }

    /// Plans a scan of the table, or only of the selected rows of each segment.
    ///
    /// # Errors
    /// When a filter cannot be compiled, or a deletion vector or an inline segment cannot be read.
    pub(crate) async fn scan_rows(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
        selected: Option<&HashMap<SegmentId, Arc<RowSet>>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.collect_statistics().await?;
        let mut files = Vec::new();
        let mut file_statistics = Vec::new();
        let mut inline_rows: Vec<RecordBatch> = Vec::new();
        let mut looked_up = Vec::new();
        let mut bytes_left = LOOKED_UP_BYTES_MAX;
        let segments = self.segments(state, filters)?;
        let key = match selected {
            Some(_) => None,
            None => {
                let candidates = segments.iter().map(|(segment, _)| &**segment);
                KeyLookup::of(&self.table, &self.schema, filters, candidates)
            }
        };
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let columns = projection.unwrap_or(&all);
        for (segment, statistics) in segments {
            let failed = |e: plexus_model::Error| {
                DataFusionError::External(Box::new(e.context(format!("segment {}", segment.id))))
            };
            let reads = &self.context.scans.reader;
            let mut invisible =
                reads.invisible_rows(&self.table, &segment, self.version).await.map_err(failed)?;
            let mut statistics = statistics;
            if let Some(selected) = selected {
                let Some(rows) = selected.get(&segment.id).filter(|rows| !rows.is_empty()) else {
                    continue;
                };
                let few = &**rows - &*invisible;
                if let Some(found) = self.look_up(&segment, columns, few, bytes_left).await.map_err(failed)? {
                    bytes_left = bytes_left.saturating_sub(found.iter().map(rows_bytes).sum());
                    looked_up.extend(found);
                    continue;
                }
                let mut others = RowSet::new();
                others.insert_range(0..segment.rows as u32);
                invisible = Arc::new((others - &**rows) | &*invisible);
                statistics = Arc::new(Statistics::new_unknown(&self.schema));
            }
            match &segment.data {
                SegmentData::File(_) => {
                    if let Some(key) = key.as_ref().filter(|_| !columns.is_empty())
                        && let Some(rows) =
                            key.rows(reads, &self.table, &segment, &invisible).await.map_err(failed)?
                    {
                        if !rows.is_empty() {
                            let columns = project(&self.table.schema, columns);
                            let rows = reads.lookup_rows(&self.table, &segment, &columns, rows).await;
                            looked_up.push(rows.map_err(failed)?);
                        }
                        continue;
                    }
                    files.extend(to_file(&self.table, &segment, invisible, statistics.clone()));
                    file_statistics.push(statistics);
                }
                SegmentData::Inline(bytes) => {
                    inline_rows.extend(decode_inline(bytes, &self.table.schema, &invisible).map_err(failed)?);
                }
            }
        }
        let inline_rows = match inline_rows.len() {
            0 | 1 => inline_rows,
            // Many batches of one row each would cost more than copying the rows.
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
            looked_up,
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
        // Filters prune segments here. The physical optimizer then pushes those that Vortex can evaluate into
        // the scan and keeps the others above it.
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
