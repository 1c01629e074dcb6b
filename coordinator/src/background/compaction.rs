//! Merging: segments of a shard become fewer and fuller, without the rows that were deleted.
//!
//! Readers of older versions go on with the segments that were merged, until those are vacuumed. Writers are
//! never held up: what they delete while a compact runs, `apply` deletes from its result as well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::TryStreamExt;
use plexus_model::{
    ChangeKind, Column, ErrorKind, Manifest, NewSegment, Result, RowRelocation, RowSelection, RowSet,
    Segment, SegmentId, Table, TableChange, TableId, TableSchema, Version, encode_row_set,
};
use plexus_storage::{rows_bytes, types};

use super::context::{TaskContext, log_failure};
use super::runner::BackgroundTask;
use crate::background::compaction_policy;
use crate::background::compaction_policy::{Candidate, Sizes};
use crate::limits::MAINTENANCE_INTERVAL;
use crate::write::writer::Writer;

/// Times that a compact is proposed while the schema changes, before it is given up for now.
pub const ATTEMPTS_MAX: usize = 10;

/// What a compact did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Compacted {
    pub segments_before: u64,
    pub segments_after: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
    pub rows: u64,
}

impl Compacted {
    pub fn add(&mut self, other: Self) {
        self.segments_before += other.segments_before;
        self.segments_after += other.segments_after;
        self.bytes_before += other.bytes_before;
        self.bytes_after += other.bytes_after;
        self.rows += other.rows;
    }
}

/// What it is that `sources` became `results`.
pub fn summary(sources: &[Arc<Segment>], results: &[NewSegment]) -> Compacted {
    Compacted {
        segments_before: sources.len() as u64,
        segments_after: results.len() as u64,
        bytes_before: sources.iter().map(|s| s.bytes()).sum(),
        bytes_after: results.iter().map(|s| s.0.bytes()).sum(),
        rows: results.iter().map(|s| s.0.rows).sum(),
    }
}

pub fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// What the policy needs to know of the segments of a shard.
pub fn candidates(table: &Table, version: Version, shard: u32, now_ms: u64) -> Vec<Candidate> {
    let files = table.visible(version).filter(|s| s.shard == shard && !s.is_inline());
    files
        .map(|s| Candidate {
            id: s.id,
            bytes: s.bytes(),
            memory_bytes: memory_bytes(table, s),
            rows: s.rows,
            deleted: s.rows - s.live_rows(version),
            deletions: s.deletions.len(),
            age_s: now_ms.saturating_sub(s.id.created_ms()) / 1_000,
        })
        .collect()
}

/// About what the rows of a segment take in memory, which is what its making was bounded by.
pub fn memory_bytes(table: &Table, segment: &Segment) -> u64 {
    let width = |column: u32| {
        let column = table.schema.columns.iter().find(|c| c.id == column);
        column.and_then(|c| types::to_data_type(&c.data_type).primitive_width()).unwrap_or(0) as u64
    };
    segment.statistics.iter().map(|c| c.bytes.unwrap_or_else(|| width(c.column) * segment.rows)).sum()
}

/// The schema under which rows are relocations: all columns that a version of the table that can still be read has.
pub fn stored_schema(table: &Table) -> TableSchema {
    let mut schema = (*table.schema).clone();
    for history in table.history.iter().rev() {
        for column in &history.schema.columns {
            match schema.columns.iter_mut().find(|c| c.id == column.id) {
                // Rows that nobody sees any more may not fit what was asked for since.
                Some(now) => now.nullable |= column.nullable,
                None => {
                    schema.columns.push(Column { nullable: true, ..column.clone() });
                    let initial = history.schema.initial_defaults.iter().find(|(id, _)| *id == column.id);
                    schema.initial_defaults.extend(initial.cloned());
                }
            }
        }
    }
    schema
}

/// Merges segments of one shard as `manifest` has them, and commits it. `None` when somebody else took one of
/// them away meanwhile.
#[tracing::instrument(level = "info", skip_all, fields(table = %table.name, shard = shard))]
pub async fn compact(
    writer: &Writer,
    manifest: &Manifest,
    table: &Arc<Table>,
    shard: u32,
    chosen: &[SegmentId],
    operation: &str,
) -> Result<Option<Compacted>> {
    let started = Instant::now();
    let version = manifest.version;
    let there = chosen.iter().filter_map(|id| table.segments.get(id).cloned());
    let sources: Vec<Arc<Segment>> = there.filter(|s| s.removed.is_none()).collect();
    if sources.len() != chosen.len() {
        return Ok(None);
    }
    let level = sources.iter().map(|s| s.level).max().unwrap_or(0).saturating_add(1);
    let mut output = Output::new(writer, table, shard, level);
    for source in &sources {
        output.copy(source, version).await?;
    }
    output.flush().await?;
    let Output { segments, relocations, .. } = output;
    let merged = summary(&sources, &segments);
    let change = TableChange {
        add: segments,
        remove: chosen.to_vec(),
        relocations,
        ..TableChange::new(table.id, table.schema_version, version, ChangeKind::Relocate)
    };
    let committed = commit(writer, change, table.id, operation, started).await?;
    tracing::debug!(?merged, committed, "merged segments");
    Ok(committed.then_some(merged))
}

/// Proposes a compact. Whether it was accepted.
pub async fn commit(
    writer: &Writer,
    mut change: TableChange,
    table: TableId,
    operation: &str,
    started: Instant,
) -> Result<bool> {
    for _ in 0..ATTEMPTS_MAX {
        match writer.commit(vec![change.clone()], operation, started).await {
            Ok(_) => return Ok(true),
            Err(e) if e.kind() == ErrorKind::Conflict => {
                tracing::debug!(error = %e, "a compact lost a race");
                let manifest = writer.meta.manifest();
                let now = manifest.tables.get(&table).filter(|t| t.dropped.is_none());
                match now.map(|t| t.schema_version) {
                    // Another schema is no obstacle: columns have their ids.
                    Some(schema) if schema != change.schema_version => change.schema_version = schema,
                    _ => return Ok(false),
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// Segments in the making.
pub struct Output<'a> {
    writer: &'a Writer,
    table: &'a Arc<Table>,
    shard: u32,
    schema: Arc<TableSchema>,
    level: u8,
    batches: Vec<RecordBatch>,
    bytes: usize,
    /// Rows of the batches.
    rows: u32,
    /// So many become a segment.
    target_bytes: usize,
    /// Where they are from: a segment, the place of its first row, and which of its rows.
    open: Vec<(SegmentId, u32, RowSet)>,
    relocations: Vec<RowRelocation>,
    segments: Vec<NewSegment>,
}

impl<'a> Output<'a> {
    fn new(writer: &'a Writer, table: &'a Arc<Table>, shard: u32, level: u8) -> Self {
        let schema = Arc::new(stored_schema(table));
        let (batches, open, relocations, segments) = (vec![], vec![], vec![], vec![]);
        let target_bytes = Sizes::of(table).target_bytes;
        Self {
            writer,
            table,
            shard,
            schema,
            level,
            batches,
            bytes: 0,
            rows: 0,
            target_bytes,
            open,
            relocations,
            segments,
        }
    }

    /// Appends the rows of a segment that a version sees.
    async fn copy(&mut self, source: &Segment, version: Version) -> Result<()> {
        let reads = &self.writer.reader;
        let hidden = reads.invisible_rows(self.table, source, version).await?;
        let mut rows = reads.scan(self.table, source, &self.schema, RowSelection::AllExcept(hidden)).await?;
        let mut part = RowSet::new();
        let mut offset = self.rows;
        while let Some(found) = rows.try_next().await? {
            part.extend(found.positions.iter().map(|p| *p as u32));
            self.rows += found.rows.num_rows() as u32;
            self.bytes += rows_bytes(&found.rows);
            self.batches.push(found.rows);
            if self.bytes >= self.target_bytes {
                self.open.push((source.id, offset, std::mem::take(&mut part)));
                self.flush().await?;
                offset = 0;
            }
        }
        if !part.is_empty() {
            self.open.push((source.id, offset, part));
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let batches = std::mem::take(&mut self.batches);
        (self.bytes, self.rows) = (0, 0);
        if batches.iter().all(|b| b.num_rows() == 0) {
            return Ok(());
        }
        let (schema, level) = (self.schema.clone(), self.level);
        let segment = self.writer.upload(self.table, self.shard, level, schema, batches.into()).await?;
        for (from, offset, mut rows) in std::mem::take(&mut self.open) {
            rows.optimize();
            self.relocations.push(RowRelocation {
                from,
                to: segment.0.id,
                offset,
                rows: encode_row_set(&rows),
            });
        }
        self.segments.push(segment);
        Ok(())
    }
}

/// Compacts shards whose first live replica is this node, one compaction after the other.
pub struct CompactionTask(pub TaskContext);

#[async_trait]
impl BackgroundTask for CompactionTask {
    fn name(&self) -> &'static str {
        "compaction"
    }

    fn interval(&self) -> Duration {
        MAINTENANCE_INTERVAL
    }

    fn is_heavy(&self) -> bool {
        true
    }

    async fn run(&mut self) -> Result<()> {
        if self.0.store.is_none() {
            return Ok(());
        }
        let manifest = self.0.meta.manifest();
        for table in manifest.tables.values().filter(|t| t.dropped.is_none()) {
            for shard in 0..table.shards.len() as u32 {
                if !self.0.is_first(&manifest, table, shard) {
                    continue;
                }
                let candidates = candidates(table, manifest.version, shard, now_ms());
                if let Some(chosen) = compaction_policy::choose(&candidates, &Sizes::of(table)) {
                    let merged = compact(&self.0.writer, &manifest, table, shard, &chosen, "compact").await;
                    log_failure("compact", merged.map(|_| ()));
                }
            }
        }
        Ok(())
    }
}
