//! Flush: writes the rows of inline segments, which travel in the log, to a file. The file replaces the
//! inline segments at all versions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use plexus_model::{
    ChangeKind, Error, Flush, Result, RowSet, Segment, SegmentData, SegmentId, Table, TableChange,
};
use plexus_storage::{SegmentRows, decode_inline};

use super::context::TaskContext;
use super::runner::BackgroundTask;
use crate::background::compaction;
use crate::background::compaction::now_ms;
use crate::limits::{FLUSH_AGE, FLUSH_BYTES, FLUSH_SEGMENTS, MAINTENANCE_INTERVAL};
use crate::write::writer::Writer;

/// Whether the inline segments of a shard should be flushed: they are large, many, or old.
fn is_due(segments: &[Arc<Segment>]) -> bool {
    let bytes: u64 = segments.iter().map(|s| s.bytes()).sum();
    let oldest = segments.iter().map(|s| s.id.created_ms()).min();
    let aged = oldest.is_some_and(|ms| now_ms().saturating_sub(ms) > FLUSH_AGE.as_millis() as u64);
    bytes > FLUSH_BYTES || segments.len() > FLUSH_SEGMENTS || aged
}

/// Flushes inline segments of one shard to a file.
///
/// # Errors
/// `Conflict` when a concurrent commit has flushed one of them. `Unavailable` when a majority of the replicas
/// cannot be reached.
#[tracing::instrument(level = "info", skip_all, fields(table = %table.name, shard = shard))]
pub(crate) async fn flush(
    writer: &Writer,
    table: &Table,
    shard: u32,
    mut segments: Vec<Arc<Segment>>,
) -> Result<()> {
    if segments.is_empty() {
        return Ok(());
    }
    // Ordered by version: a reader of an older version sees a prefix of the file.
    segments.sort_by_key(|s| (s.added, s.id));
    let schema = Arc::new(compaction::schema_of_all_versions(table));
    let mut rows = SegmentRows::default();
    for segment in &segments {
        if let SegmentData::Inline(bytes) = &segment.data {
            let batches = decode_inline(bytes, &schema, &RowSet::new())?;
            let decoded: usize = batches.iter().map(RecordBatch::num_rows).sum();
            if decoded as u64 != segment.rows {
                return Err(Error::corrupt(format!(
                    "inline segment {} has {decoded} rows, {} were announced",
                    segment.id, segment.rows
                )));
            }
            rows.batches.extend(batches);
            rows.versions.push((segment.added, segment.rows as usize));
        }
    }
    let segment = writer.upload(table, shard, 0, schema, rows).await?;
    let base = writer.meta.manifest().version;
    let change = TableChange::new(table.id, table.schema_version, base, ChangeKind::Relocate);
    let from: Vec<SegmentId> = segments.iter().map(|s| s.id).collect();
    let count = from.len();
    let change = TableChange { flush: vec![Flush { from, segment }], ..change };
    writer.commit(vec![change], "flush", Instant::now()).await?;
    tracing::debug!(segments = count, "flushed inline segments");
    Ok(())
}

/// Flushes inline segments that are due, of the shards whose first live replica is this node.
pub(crate) struct FlushTask(pub(crate) TaskContext);

#[async_trait]
impl BackgroundTask for FlushTask {
    fn name(&self) -> &'static str {
        "flush"
    }

    fn interval(&self) -> Duration {
        MAINTENANCE_INTERVAL
    }

    async fn run(&mut self) -> Result<()> {
        let manifest = self.0.meta.manifest();
        if self.0.store.is_none() {
            return Ok(());
        }
        for table in manifest.tables.values().filter(|t| t.inline_bytes > 0) {
            // Removed segments are flushed too: until they are vacuumed, older versions can be read.
            let mut shards: BTreeMap<u32, Vec<Arc<Segment>>> = BTreeMap::new();
            for segment in table.segments.values().filter(|s| s.is_inline()) {
                shards.entry(segment.shard).or_default().push(segment.clone());
            }
            for (shard, segments) in shards {
                let due = table.dropped.is_some() || is_due(&segments);
                if due && self.0.is_first_live_replica(&manifest, table, shard) {
                    // A shard without a live majority must not block the others.
                    let unit = format!("flush-{}-{shard}", table.id);
                    self.0.attempts.run(unit, flush(&self.0.writer, table, shard, segments)).await;
                }
            }
        }
        Ok(())
    }
}
