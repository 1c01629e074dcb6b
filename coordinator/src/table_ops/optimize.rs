//! `OPTIMIZE`: compacts the segments of a table into few, large segments, and sorts their rows on request.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::row::{RowConverter, SortField};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, ScalarUDF, SortExpr, ident};
use datafusion::sql::sqlparser::ast::{Expr, Query, SelectItem};
use futures::TryStreamExt;
use plexus_model::{
    ChangeKind, Error, ErrorKind, Manifest, NewSegment, Result, Segment, SegmentId, Table, TableChange,
    TableId,
};
use plexus_storage::{rows_bytes, types};

use super::report;
use super::zorder::{Sample, ZOrder};
use crate::background::compaction::{self, Compacted};
use crate::background::compaction_policy::{self, SizeTargets};
use crate::background::flush::flush;
use crate::errors::from_datafusion;
use crate::exec::context::{Executed, StatementContext};
use crate::limits::{OPTIMIZE_ATTEMPTS_MAX, SEGMENT_BYTES_TARGET, ZORDER_SAMPLE_ROWS};
use crate::sql::names::name_of;
use crate::sql::syntax;
use crate::table_ops::ProcedureExecutor;

/// In which order rows are written.
enum RowOrder {
    /// In their current order. Concurrent writes do not interfere: see [`compaction`].
    Unchanged,
    /// Sorted by columns.
    Sort(Vec<String>),
    /// In the z-order of columns.
    ZOrder(Vec<String>),
}

impl ProcedureExecutor {
    /// Rewrites the segments of a table: those that are not full or have deleted rows, or all of them when
    /// the rows are sorted. With a predicate, only segments that may contain matching rows.
    ///
    /// # Errors
    /// Those of the predicate and of the `ZORDER BY` columns. `Unavailable` when concurrent writes interfere
    /// with sorting too often.
    pub(super) async fn optimize(
        &self,
        context: &StatementContext<'_>,
        table: &Arc<Table>,
        predicate: Option<Expr>,
        order: Option<Vec<Expr>>,
    ) -> Result<Executed> {
        let order = requested_order(table, order)?;
        // Reports an invalid predicate before anything is changed.
        self.matching(context, table, predicate.as_ref())?;
        self.flush(table).await?;
        let mut total = Compacted::default();
        for shard in 0..table.shards.len() as u32 {
            self.optimize_shard(context, table.id, shard, predicate.as_ref(), &order, &mut total).await?;
            tracing::info!(table = %table.name, shard, of = table.shards.len(), "optimized a shard");
        }
        let count = |n: u64| Arc::new(UInt64Array::from(vec![n]));
        report(vec![
            ("rows", count(total.rows)),
            ("files_before", count(total.segments_before)),
            ("files_after", count(total.segments_after)),
            ("bytes_before", count(total.bytes_before)),
            ("bytes_after", count(total.bytes_after)),
        ])
    }

    /// Segments that may contain rows that match a predicate.
    fn matching(
        &self,
        context: &StatementContext<'_>,
        table: &Arc<Table>,
        predicate: Option<&Expr>,
    ) -> Result<Vec<SegmentId>> {
        let version = context.manifest.version;
        match predicate {
            None => Ok(table.visible(version).map(|s| s.id).collect()),
            Some(predicate) => self
                .planner
                .engine
                .matching_segments(&self.planner.local_state(context)?, table, version, predicate)
                .map_err(|e| from_datafusion(e).context(format!("OPTIMIZE ... WHERE {predicate}"))),
        }
    }

    /// Flushes all inline segments of a table.
    async fn flush(&self, table: &Table) -> Result<()> {
        for shard in 0..table.shards.len() as u32 {
            let inline = table.segments.values().filter(|s| s.is_inline() && s.shard == shard);
            let inline: Vec<_> = inline.cloned().collect();
            match flush(&self.writer, table, shard, inline).await {
                // The background task has flushed them.
                Err(e) if e.kind() == ErrorKind::Conflict => {}
                flushed => flushed?,
            }
        }
        Ok(())
    }

    /// Optimizes one shard and adds the effect to `total`.
    async fn optimize_shard(
        &self,
        context: &StatementContext<'_>,
        id: TableId,
        shard: u32,
        predicate: Option<&Expr>,
        order: &RowOrder,
        total: &mut Compacted,
    ) -> Result<()> {
        for _ in 0..OPTIMIZE_ATTEMPTS_MAX {
            let manifest = self.planner.pin().await?;
            let table = manifest.tables.get(&id).filter(|t| t.dropped.is_none()).cloned();
            let table = table.ok_or_else(|| Error::conflict("the table was dropped during OPTIMIZE"))?;
            let context = StatementContext { manifest: manifest.clone(), ..*context };
            let chosen = self.matching(&context, &table, predicate)?;
            let sorted = match order {
                RowOrder::Unchanged => {
                    return self.compact_shard(&manifest, &table, shard, &chosen, total).await;
                }
                RowOrder::Sort(_) | RowOrder::ZOrder(_) => {
                    self.sort_shard(&context, &table, shard, &chosen, order).await
                }
            };
            match sorted {
                Err(e) if e.kind() == ErrorKind::Conflict => {
                    tracing::debug!(error = %e, shard, "sorting a shard conflicted with another commit");
                }
                Err(e) => return Err(e),
                Ok(compacted) => {
                    total.add(compacted);
                    return Ok(());
                }
            }
        }
        Err(Error::unavailable(format!(
            "shard {shard} was changed {OPTIMIZE_ATTEMPTS_MAX} times while its rows were sorted: the shards \
             before it are done; run OPTIMIZE again when there are fewer writes"
        )))
    }

    /// Compacts segments of one shard and keeps the order of their rows.
    async fn compact_shard(
        &self,
        manifest: &Manifest,
        table: &Arc<Table>,
        shard: u32,
        chosen: &[SegmentId],
        total: &mut Compacted,
    ) -> Result<()> {
        let now = compaction::now_ms();
        let mut candidates = compaction::candidates(table, manifest.version, shard, now);
        candidates.retain(|c| chosen.contains(&c.id));
        for group in compaction_policy::group_all(&candidates, &SizeTargets::for_table(table)) {
            let compacted =
                compaction::compact(&self.writer, manifest, table, shard, &group, "optimize").await?;
            total.add(compacted.unwrap_or_default());
        }
        Ok(())
    }

    /// Rewrites segments of one shard with their rows in an order.
    ///
    /// # Errors
    /// `Conflict` when a concurrent commit changed one of the segments.
    async fn sort_shard(
        &self,
        context: &StatementContext<'_>,
        table: &Arc<Table>,
        shard: u32,
        chosen: &[SegmentId],
        order: &RowOrder,
    ) -> Result<Compacted> {
        let started = Instant::now();
        let version = context.manifest.version;
        let is_source = |s: &&Arc<Segment>| s.shard == shard && !s.is_inline() && chosen.contains(&s.id);
        let sources: Vec<Arc<Segment>> = table.visible(version).filter(is_source).cloned().collect();
        if sources.is_empty() {
            return Ok(Compacted::default());
        }
        let context = StatementContext {
            manifest: manifest_with_segments(&context.manifest, table, &sources),
            ..*context
        };
        let live_rows = sources.iter().map(|s| s.live_rows(version)).sum();
        let plan = self.ordered_plan(&context, table, order, live_rows).await?;
        let mut rows =
            self.planner.run(&plan, &context.manifest, || self.planner.local_state(&context)).await?;
        let level = sources.iter().map(|s| s.level).max().unwrap_or(0).saturating_add(1);
        let schema = types::to_arrow(&table.schema);
        let mut added: Vec<NewSegment> = Vec::new();
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut bytes = 0;
        loop {
            let batch = rows.stream.try_next().await?;
            let last = batch.is_none();
            if let Some(batch) = batch {
                bytes += rows_bytes(&batch);
                let batch = RecordBatch::try_new(schema.clone(), batch.columns().to_vec());
                batches.push(batch.map_err(|e| {
                    Error::internal(format!("sorted rows do not have the schema of the table: {e}"))
                })?);
            }
            if bytes >= SEGMENT_BYTES_TARGET || (last && !batches.is_empty()) {
                let rows = std::mem::take(&mut batches).into();
                added.push(self.writer.upload(table, shard, level, table.schema.clone(), rows).await?);
                bytes = 0;
            }
            if last {
                break;
            }
        }
        let compacted = Compacted::new(&sources, &added);
        let change = TableChange {
            add: added,
            remove: sources.iter().map(|s| s.id).collect(),
            ..TableChange::new(table.id, table.schema_version, version, ChangeKind::Relocate)
        };
        self.writer.commit(vec![change], "optimize", started).await?;
        Ok(compacted)
    }

    /// The plan of a query for all rows of a table in an order.
    async fn ordered_plan(
        &self,
        context: &StatementContext<'_>,
        table: &Table,
        order: &RowOrder,
        row_count: u64,
    ) -> Result<LogicalPlan> {
        let all_rows = self.planner.plan_query(context, rows_of(table, vec![syntax::wildcard()])).await?;
        let sort: Vec<SortExpr> = match order {
            RowOrder::Unchanged => return Ok(all_rows),
            RowOrder::Sort(columns) => columns.iter().map(|c| ident(c).sort(true, true)).collect(),
            RowOrder::ZOrder(columns) => {
                let z_order = ScalarUDF::from(self.z_order(context, table, columns, row_count).await?);
                vec![z_order.call(columns.iter().map(ident).collect()).sort(true, true)]
            }
        };
        LogicalPlanBuilder::from(all_rows)
            .sort(sort)
            .and_then(LogicalPlanBuilder::build)
            .map_err(from_datafusion)
    }

    /// The z-order of columns, from a sample of their values: every n-th row.
    async fn z_order(
        &self,
        context: &StatementContext<'_>,
        table: &Table,
        columns: &[String],
        row_count: u64,
    ) -> Result<ZOrder> {
        let item = |column: &String| SelectItem::UnnamedExpr(Expr::Identifier(syntax::ident(column)));
        let plan =
            self.planner.plan_query(context, rows_of(table, columns.iter().map(item).collect())).await?;
        let mut rows =
            self.planner.run(&plan, &context.manifest, || self.planner.local_state(context)).await?;
        let stride = (row_count as usize).div_ceil(ZORDER_SAMPLE_ROWS).max(1);
        let types = rows.schema.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>();
        let mut sample = Sample::new(types.into_iter()).map_err(from_datafusion)?;
        let mut rows_before = 0;
        while let Some(batch) = rows.stream.try_next().await? {
            let positions: UInt64Array = (0..batch.num_rows())
                .filter(|row| (rows_before + row).is_multiple_of(stride))
                .map(|row| row as u64)
                .collect();
            rows_before += batch.num_rows();
            let sampled = arrow::compute::take_record_batch(&batch, &positions)
                .map_err(|e| Error::internal(format!("sampling rows: {e}")))?;
            sample.add(&sampled).map_err(from_datafusion)?;
        }
        Ok(sample.into())
    }
}

/// The query for columns of all rows of a table.
fn rows_of(table: &Table, items: Vec<SelectItem>) -> Query {
    let name = syntax::object_name([table.name.schema.as_str(), &table.name.table]);
    let from = syntax::table(name, syntax::ident(&table.name.table));
    syntax::select(items, vec![syntax::relation(from)], None)
}

/// A manifest in which a table has only the given segments, so that a query for the table reads only those.
fn manifest_with_segments(manifest: &Manifest, table: &Table, segments: &[Arc<Segment>]) -> Arc<Manifest> {
    let segments = segments.iter().map(|s| (s.id, s.clone())).collect();
    let mut manifest = manifest.clone();
    manifest.tables.insert(table.id, Arc::new(Table { segments, ..table.clone() }));
    Arc::new(manifest)
}

/// The order of the statement, or that of the table when the statement has none.
///
/// # Errors
/// `InvalidArgument`, `NotFound` or `Unsupported` when rows cannot be ordered by an expression.
fn requested_order(table: &Table, order: Option<Vec<Expr>>) -> Result<RowOrder> {
    let Some(exprs) = order else {
        let columns = table.schema.columns.iter();
        let name = |id: &u32| columns.clone().find(|c| c.id == *id).map(|c| c.name.clone());
        let cluster_by: Vec<String> = table.schema.cluster_by.iter().filter_map(name).collect();
        return Ok(if cluster_by.is_empty() { RowOrder::Unchanged } else { RowOrder::Sort(cluster_by) });
    };
    let mut columns = Vec::new();
    for expr in exprs {
        let name = match &expr {
            Expr::Identifier(ident) => name_of(ident),
            _ => return Err(Error::invalid(format!("ZORDER BY {expr}: a column is needed"))),
        };
        let Some(index) = table.schema.column_index(&name) else {
            return Err(Error::not_found(format!("ZORDER BY: table {} has no column {name:?}", table.name)));
        };
        let data_type = types::to_data_type(&table.schema.columns[index].data_type);
        if data_type.is_nested() || !RowConverter::supports_fields(&[SortField::new(data_type.clone())]) {
            return Err(Error::unsupported(format!(
                "ZORDER BY {name}: values of type {data_type} have no order"
            )));
        }
        columns.push(name);
    }
    match columns.len() {
        1..=ZORDER_COLUMNS_MAX => Ok(RowOrder::ZOrder(columns)),
        count => {
            Err(Error::invalid(format!("ZORDER BY takes 1 to {ZORDER_COLUMNS_MAX} columns, not {count}")))
        }
    }
}

/// Maximum number of columns of a z-order. With more columns, each one has too little influence on the order.
const ZORDER_COLUMNS_MAX: usize = 8;
