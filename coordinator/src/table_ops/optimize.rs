//! `OPTIMIZE`: the segments of a table become few and full, and their rows ordered if that is wanted.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::row::{RowConverter, SortField};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, ScalarUDF, SortExpr, ident};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::Expr;
use futures::TryStreamExt;
use plexus_model::{
    ChangeKind, Error, ErrorKind, Manifest, NewSegment, Result, Segment, SegmentId, Table, TableChange,
    TableId,
};
use plexus_storage::{rows_bytes, types};

use super::report;
use super::zorder::{Sample, ZOrder};
use crate::background::compaction::{self, Compacted};
use crate::background::compaction_policy::{self, Sizes};
use crate::background::flush::flush;
use crate::errors::from_datafusion;
use crate::exec::context::{Executed, StatementContext};
use crate::limits::{OPTIMIZE_ATTEMPTS_MAX, SEGMENT_BYTES_TARGET, ZORDER_SAMPLE_ROWS};
use crate::sql::names::{identifier, quoted};
use crate::sql::parse;
use crate::table_ops::ProcedureExecutor;

/// In which order rows are written.
enum Order {
    /// As they are, which lets writers go on: see [`merging`].
    AsIs,
    /// By columns, one after the other.
    By(Vec<String>),
    /// Near each other when they are near in all of these columns.
    Near(Vec<String>),
}

impl ProcedureExecutor {
    /// Writes the segments of a table anew: all that are not full or have deleted rows, or when rows are to
    /// be ordered all that there are. With a predicate, only those that may have rows for which it holds.
    pub(super) async fn optimize(
        &self,
        scope: &StatementContext<'_>,
        table: &Arc<Table>,
        predicate: Option<Expr>,
        order: Option<Vec<Expr>>,
    ) -> Result<Executed> {
        let order = order_of(table, order)?;
        let predicate = predicate.map(|p| p.to_string());
        // What is wrong with it is said before anything is done.
        self.matching(scope, table, predicate.as_deref())?;
        self.flush(table).await?;
        let mut total = Compacted::default();
        for shard in 0..table.shards.len() as u32 {
            self.optimize_shard(scope, table.id, shard, predicate.as_deref(), &order, &mut total).await?;
            tracing::info!(table = %table.name, shard, of = table.shards.len(), "optimized a shard");
        }
        let number = |n: u64| Arc::new(UInt64Array::from(vec![n]));
        report(vec![
            ("rows", number(total.rows)),
            ("files_before", number(total.segments_before)),
            ("files_after", number(total.segments_after)),
            ("bytes_before", number(total.bytes_before)),
            ("bytes_after", number(total.bytes_after)),
        ])
    }

    /// Segments that may have rows for which a predicate holds.
    fn matching(
        &self,
        scope: &StatementContext<'_>,
        table: &Arc<Table>,
        predicate: Option<&str>,
    ) -> Result<Vec<SegmentId>> {
        let version = scope.manifest.version;
        match predicate {
            None => Ok(table.visible(version).map(|s| s.id).collect()),
            Some(predicate) => self
                .planner
                .engine
                .matching_segments(&self.planner.local_state(scope)?, table, version, predicate)
                .map_err(|e| from_datafusion(e).context(format!("OPTIMIZE ... WHERE {predicate}"))),
        }
    }

    /// Rows that are in the log become files.
    async fn flush(&self, table: &Table) -> Result<()> {
        for shard in 0..table.shards.len() as u32 {
            let inline = table.segments.values().filter(|s| s.is_inline() && s.shard == shard);
            let inline: Vec<_> = inline.cloned().collect();
            match flush(&self.writer, table, shard, inline).await {
                // The background work was first.
                Err(e) if e.kind() == ErrorKind::Conflict => {}
                written => written?,
            }
        }
        Ok(())
    }

    async fn optimize_shard(
        &self,
        scope: &StatementContext<'_>,
        id: TableId,
        shard: u32,
        predicate: Option<&str>,
        order: &Order,
        total: &mut Compacted,
    ) -> Result<()> {
        for _ in 0..OPTIMIZE_ATTEMPTS_MAX {
            let manifest = self.planner.pin().await?;
            let table = manifest.tables.get(&id).filter(|t| t.dropped.is_none()).cloned();
            let table = table.ok_or_else(|| Error::conflict("the table was dropped meanwhile"))?;
            let scope = StatementContext { manifest: manifest.clone(), ..*scope };
            let chosen = self.matching(&scope, &table, predicate)?;
            let done = match order {
                Order::AsIs => {
                    let now = compaction::now_ms();
                    let mut candidates = compaction::candidates(&table, manifest.version, shard, now);
                    candidates.retain(|c| chosen.contains(&c.id));
                    for group in compaction_policy::all(&candidates, &Sizes::of(&table)) {
                        let merged =
                            compaction::compact(&self.writer, &manifest, &table, shard, &group, "optimize")
                                .await?;
                        total.add(merged.unwrap_or_default());
                    }
                    return Ok(());
                }
                Order::By(_) | Order::Near(_) => self.sort_shard(&scope, &table, shard, &chosen, order).await,
            };
            match done {
                Err(e) if e.kind() == ErrorKind::Conflict => {
                    tracing::debug!(error = %e, shard, "an ordered compact lost a race");
                }
                Err(e) => return Err(e),
                Ok(merged) => {
                    total.add(merged);
                    return Ok(());
                }
            }
        }
        Err(Error::unavailable(format!(
            "shard {shard} was changed {OPTIMIZE_ATTEMPTS_MAX} times while its rows were put in order: the shards \
             before it are done; run OPTIMIZE again when less is written"
        )))
    }

    /// Writes segments of one shard anew, their rows in an order.
    async fn sort_shard(
        &self,
        scope: &StatementContext<'_>,
        table: &Arc<Table>,
        shard: u32,
        chosen: &[SegmentId],
        order: &Order,
    ) -> Result<Compacted> {
        let started = Instant::now();
        let version = scope.manifest.version;
        let of_shard = |s: &&Arc<Segment>| s.shard == shard && !s.is_inline() && chosen.contains(&s.id);
        let sources: Vec<Arc<Segment>> = table.visible(version).filter(of_shard).cloned().collect();
        if sources.is_empty() {
            return Ok(Compacted::default());
        }
        let scope = StatementContext { manifest: only(&scope.manifest, table, &sources), ..*scope };
        let live = sources.iter().map(|s| s.live_rows(version)).sum();
        let plan = self.ordered(&scope, table, order, live).await?;
        let mut rows = self.planner.run(&plan, &scope.manifest, || self.planner.local_state(&scope)).await?;
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
                batches.push(batch.map_err(|e| Error::internal(format!("ordered rows: {e}")))?);
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
        let merged = compaction::summary(&sources, &added);
        let change = TableChange {
            add: added,
            remove: sources.iter().map(|s| s.id).collect(),
            ..TableChange::new(table.id, table.schema_version, version, ChangeKind::Relocate)
        };
        self.writer.commit(vec![change], "optimize", started).await?;
        Ok(merged)
    }

    /// The plan of all rows of a table in an order.
    async fn ordered(
        &self,
        scope: &StatementContext<'_>,
        table: &Table,
        order: &Order,
        rows_in_all: u64,
    ) -> Result<LogicalPlan> {
        let name = quoted([&table.name.schema, &table.name.table]);
        let all = self.planned(scope, &format!("SELECT * FROM {name}")).await?;
        let by: Vec<SortExpr> = match order {
            Order::AsIs => return Ok(all),
            Order::By(columns) => columns.iter().map(|c| ident(c).sort(true, true)).collect(),
            Order::Near(columns) => {
                let place = ScalarUDF::from(self.z_order(scope, table, columns, rows_in_all).await?);
                vec![place.call(columns.iter().map(ident).collect()).sort(true, true)]
            }
        };
        LogicalPlanBuilder::from(all).sort(by).and_then(LogicalPlanBuilder::build).map_err(from_datafusion)
    }

    /// The z-order of columns, after a look at a sample of them.
    async fn z_order(
        &self,
        scope: &StatementContext<'_>,
        table: &Table,
        columns: &[String],
        rows_in_all: u64,
    ) -> Result<ZOrder> {
        let name = quoted([&table.name.schema, &table.name.table]);
        let named: Vec<String> = columns.iter().map(|c| quoted([c]).to_string()).collect();
        let plan = self.planned(scope, &format!("SELECT {} FROM {name}", named.join(", "))).await?;
        let mut rows = self.planner.run(&plan, &scope.manifest, || self.planner.local_state(scope)).await?;
        let every = (rows_in_all as usize).div_ceil(ZORDER_SAMPLE_ROWS).max(1);
        let types = rows.schema.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>();
        let mut sample = Sample::new(types.into_iter()).map_err(from_datafusion)?;
        let mut seen = 0;
        while let Some(batch) = rows.stream.try_next().await? {
            let picked: UInt64Array = (0..batch.num_rows())
                .filter(|row| (seen + row).is_multiple_of(every))
                .map(|row| row as u64)
                .collect();
            seen += batch.num_rows();
            let picked = arrow::compute::take_record_batch(&batch, &picked);
            let picked = picked.map_err(|e| Error::internal(format!("a sample of rows: {e}")))?;
            sample.add(&picked).map_err(from_datafusion)?;
        }
        Ok(sample.into())
    }

    async fn planned(&self, scope: &StatementContext<'_>, sql: &str) -> Result<LogicalPlan> {
        let statement = Statement::Statement(Box::new(parse::plain_statement(sql)?));
        self.planner.local_state(scope)?.statement_to_plan(statement).await.map_err(from_datafusion)
    }
}

/// A database of which nothing is there but some segments of a table: what reads it reads those.
fn only(manifest: &Manifest, table: &Table, segments: &[Arc<Segment>]) -> Arc<Manifest> {
    let segments = segments.iter().map(|s| (s.id, s.clone())).collect();
    let mut manifest = manifest.clone();
    manifest.tables.insert(table.id, Arc::new(Table { segments, ..table.clone() }));
    Arc::new(manifest)
}

/// The order that a statement asks for, or the table.
fn order_of(table: &Table, order: Option<Vec<Expr>>) -> Result<Order> {
    let Some(exprs) = order else {
        let columns = table.schema.columns.iter();
        let name = |id: &u32| columns.clone().find(|c| c.id == *id).map(|c| c.name.clone());
        let by: Vec<String> = table.schema.cluster_by.iter().filter_map(name).collect();
        return Ok(if by.is_empty() { Order::AsIs } else { Order::By(by) });
    };
    let mut columns = Vec::new();
    for expr in exprs {
        let name = match &expr {
            Expr::Identifier(_) => identifier(&expr.to_string()),
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
        1..=ZORDER_COLUMNS_MAX => Ok(Order::Near(columns)),
        many => Err(Error::invalid(format!("ZORDER BY takes 1 to {ZORDER_COLUMNS_MAX} columns, not {many}"))),
    }
}

/// Columns of a z-order: of more, each counts for too little.
const ZORDER_COLUMNS_MAX: usize = 8;
