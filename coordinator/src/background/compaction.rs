//! Compaction: rewrites several segments of a shard as fewer, larger segments without their deleted rows.
//!
//! Readers of older versions continue to use the source segments until these are vacuumed. Compaction never
//! blocks writers: `apply` carries deletions that were committed during a compaction over to its result.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::{FutureExt, TryStreamExt};
use plexus_model::{
    ChangeKind, Column, ErrorKind, Manifest, NewSegment, Result, RowRelocation, RowSelection, RowSet,
    Segment, SegmentId, Table, TableChange, TableId, TableSchema, Version, encode_row_set,
};
use plexus_storage::{rows_bytes, types};

use super::context::TaskContext;
use super::runner::BackgroundTask;
use crate::background::compaction_policy;
use crate::background::compaction_policy::{CompactionCandidate, SizeTargets};
use crate::limits::MAINTENANCE_INTERVAL;
use crate::write::writer::Writer;

/// Number of times that a compaction is proposed while the schema of its table changes. After that it is
/// abandoned, and a later run selects segments again.
const COMMIT_ATTEMPTS_MAX: usize = 10;

/// The effect of one or more compactions.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Compacted {
    /// Number of source segments.
    pub(crate) segments_before: u64,
    /// Number of segments written.
    pub(crate) segments_after: u64,
    /// Bytes of the source segments.
    pub(crate) bytes_before: u64,
    /// Bytes of the segments written.
    pub(crate) bytes_after: u64,
    /// Rows written.
    pub(crate) rows: u64,
}

impl Compacted {
    /// The effect of replacing `sources` by `results`.
    pub(crate) fn new(sources: &[Arc<Segment>], results: &[NewSegment]) -> Self {
        Self {
            segments_before: sources.len() as u64,
            segments_after: results.len() as u64,
            bytes_before: sources.iter().map(|s| s.bytes()).sum(),
            bytes_after: results.iter().map(|s| s.0.bytes()).sum(),
            rows: results.iter().map(|s| s.0.rows).sum(),
        }
    }

    /// Adds the effect of another compaction.
    pub(crate) fn add(&mut self, other: Self) {
        self.segments_before += other.segments_before;
        self.segments_after += other.segments_after;
        self.bytes_before += other.bytes_before;
        self.bytes_after += other.bytes_after;
        self.rows += other.rows;
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// The file segments of a shard that `version` sees, as the input of [`compaction_policy`].
pub(crate) fn candidates(
    table: &Table,
    version: Version,
    shard: u32,
    now_ms: u64,
) -> Vec<CompactionCandidate> {
    let files = table.visible(version).filter(|s| s.shard == shard && !s.is_inline());
    files
        .map(|s| CompactionCandidate {
            id: s.id,
            bytes: s.bytes(),
            memory_bytes: memory_bytes(table, s),
            rows: s.rows,
            deleted_rows: s.rows - s.live_rows(version),
            deletion_vectors: s.deletions.len(),
            age_s: now_ms.saturating_sub(s.id.created_ms()) / 1_000,
        })
        .collect()
}

/// Approximate bytes that the rows of a segment take in memory. Writers cut segments by this measure.
fn memory_bytes(table: &Table, segment: &Segment) -> u64 {
    let width = |column: u32| {
        let column = table.schema.columns.iter().find(|c| c.id == column);
        column.and_then(|c| types::to_data_type(&c.data_type).primitive_width()).unwrap_or(0) as u64
    };
    segment.statistics.iter().map(|c| c.bytes.unwrap_or_else(|| width(c.column) * segment.rows)).sum()
}

/// The schema for rewritten rows: the columns of all versions of the table that can still be read.
pub(crate) fn schema_of_all_versions(table: &Table) -> TableSchema {
    let mut schema = (*table.schema).clone();
    for history in table.history.iter().rev() {
        for column in &history.schema.columns {
            match schema.columns.iter_mut().find(|c| c.id == column.id) {
                // Rows that only older versions see may violate a later NOT NULL constraint.
                Some(current) => current.nullable |= column.nullable,
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

/// Compacts the segments `chosen` of one shard as `manifest` has them, and commits the result. Returns `None`
/// when a concurrent commit removed one of the segments.
///
/// # Errors
/// Those of reading the segments, of writing the new ones (`Unavailable` without a majority of the replicas)
/// and of the commit.
#[tracing::instrument(level = "info", skip_all, fields(table = %table.name, shard = shard))]
pub(crate) async fn compact(
    writer: &Writer,
    manifest: &Manifest,
    table: &Arc<Table>,
    shard: u32,
    chosen: &[SegmentId],
    operation: &str,
) -> Result<Option<Compacted>> {
    let started = Instant::now();
    let version = manifest.version;
    let known = chosen.iter().filter_map(|id| table.segments.get(id).cloned());
    let sources: Vec<Arc<Segment>> = known.filter(|s| s.removed.is_none()).collect();
    if sources.len() != chosen.len() {
        return Ok(None);
    }
    let level = sources.iter().map(|s| s.level).max().unwrap_or(0).saturating_add(1);
    let mut output = CompactionOutput::new(writer, table, shard, level);
    for source in &sources {
        output.append_live_rows(source, version).await?;
    }
    output.write_segment().await?;
    let CompactionOutput { segments, relocations, .. } = output;
    let compacted = Compacted::new(&sources, &segments);
    let change = TableChange {
        add: segments,
        remove: chosen.to_vec(),
        relocations,
        ..TableChange::new(table.id, table.schema_version, version, ChangeKind::Relocate)
    };
    let committed = commit_compaction(writer, change, table.id, operation, started).await?;
    tracing::debug!(?compacted, committed, "compacted segments");
    Ok(committed.then_some(compacted))
}

/// Commits a compaction. Returns whether it was accepted; it is not when a concurrent commit removed one of
/// its segments or dropped the table.
async fn commit_compaction(
    writer: &Writer,
    mut change: TableChange,
    table: TableId,
    operation: &str,
    started: Instant,
) -> Result<bool> {
    for _ in 0..COMMIT_ATTEMPTS_MAX {
        match writer.commit(vec![change.clone()], operation, started).await {
            Ok(_) => return Ok(true),
            Err(e) if e.kind() == ErrorKind::Conflict => {
                tracing::debug!(error = %e, "a compaction conflicted with another commit");
                let manifest = writer.meta.manifest();
                let current = manifest.tables.get(&table).filter(|t| t.dropped.is_none());
                match current.map(|t| t.schema_version) {
                    // The new segments stay valid under a changed schema, because columns are matched by id.
                    Some(schema) if schema != change.schema_version => change.schema_version = schema,
                    _ => return Ok(false),
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// Rows of one source segment that are in the buffered batches.
struct BufferedRun {
    /// The source segment.
    source: SegmentId,
    /// Position of the first of the rows in the new segment.
    offset: u32,
    /// Positions of the rows in the source segment.
    rows: RowSet,
}

/// Collects rows of source segments, and writes a new segment whenever enough rows are buffered.
struct CompactionOutput<'a> {
    writer: &'a Writer,
    table: &'a Arc<Table>,
    shard: u32,
    schema: Arc<TableSchema>,
    level: u8,
    batches: Vec<RecordBatch>,
    /// Bytes of the batches in memory.
    bytes: usize,
    /// Rows of the batches.
    rows: u32,
    /// Bytes in memory at which the batches become a segment.
    target_bytes: usize,
    /// The origin of the buffered rows, in their order.
    runs: Vec<BufferedRun>,
    relocations: Vec<RowRelocation>,
    segments: Vec<NewSegment>,
}

impl<'a> CompactionOutput<'a> {
    fn new(writer: &'a Writer, table: &'a Arc<Table>, shard: u32, level: u8) -> Self {
        Self {
            writer,
            table,
            shard,
            schema: Arc::new(schema_of_all_versions(table)),
            level,
            batches: vec![],
            bytes: 0,
            rows: 0,
            target_bytes: SizeTargets::for_table(table).target_bytes,
            runs: vec![],
            relocations: vec![],
            segments: vec![],
        }
    }

    /// Appends the rows of a segment that `version` sees.
    async fn append_live_rows(&mut self, source: &Segment, version: Version) -> Result<()> {
        let reader = &self.writer.reader;
        let invisible = reader.invisible_rows(self.table, source, version).await?;
        let selection = RowSelection::AllExcept(invisible);
        let mut stream = reader.scan(self.table, source, &self.schema, selection).await?;
        let mut rows = RowSet::new();
        let mut offset = self.rows;
        while let Some(found) = stream.try_next().await? {
            rows.extend(found.positions.iter().map(|p| *p as u32));
            self.rows += found.rows.num_rows() as u32;
            self.bytes += rows_bytes(&found.rows);
            self.batches.push(found.rows);
            if self.bytes >= self.target_bytes {
                self.runs.push(BufferedRun { source: source.id, offset, rows: std::mem::take(&mut rows) });
                self.write_segment().await?;
                offset = 0;
            }
        }
        if !rows.is_empty() {
            self.runs.push(BufferedRun { source: source.id, offset, rows });
        }
        Ok(())
    }

    /// Writes the buffered rows as one segment and records where each of them came from.
    async fn write_segment(&mut self) -> Result<()> {
        let batches = std::mem::take(&mut self.batches);
        (self.bytes, self.rows) = (0, 0);
        if batches.iter().all(|b| b.num_rows() == 0) {
            return Ok(());
        }
        let (schema, level) = (self.schema.clone(), self.level);
        let segment = self.writer.upload(self.table, self.shard, level, schema, batches.into()).await?;
        for BufferedRun { source, offset, mut rows } in std::mem::take(&mut self.runs) {
            rows.optimize();
            self.relocations.push(RowRelocation {
                from: source,
                to: segment.0.id,
                offset,
                rows: encode_row_set(&rows),
            });
        }
        self.segments.push(segment);
        Ok(())
    }
}

/// Compacts the shards whose first live replica is this node, one compaction at a time.
pub(crate) struct CompactionTask(pub(crate) TaskContext);

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
                if !self.0.is_first_live_replica(&manifest, table, shard) {
                    continue;
                }
                let candidates = candidates(table, manifest.version, shard, now_ms());
                let targets = SizeTargets::for_table(table);
                if let Some(chosen) = compaction_policy::select_segments(&candidates, &targets) {
                    let compact = compact(&self.0.writer, &manifest, table, shard, &chosen, "compaction");
                    let unit = format!("compaction-{}-{shard}", table.id);
                    self.0.attempts.run(unit, compact.map(|compacted| compacted.map(|_| ()))).await;
                }
            }
        }
        Ok(())
    }
}
