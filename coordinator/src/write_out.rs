//! Rows that travelled in the log leave it for files, which take their place at all versions.

use std::sync::Arc;
use std::time::Instant;

use plexus_model::{ChangeKind, Flush, Result, RowSet, Segment, SegmentData, SegmentId, Table, TableChange};
use plexus_storage::{SegmentRows, decode_inline};

use crate::ingest::Writer;
use crate::limits::{WRITE_OUT_AGE, WRITE_OUT_BYTES, WRITE_OUT_SEGMENTS};
use crate::merging::{self, now_ms};

/// Whether inline segments of a shard should become a file: they are many, or old.
pub fn is_due(segments: &[Arc<Segment>]) -> bool {
    let bytes: u64 = segments.iter().map(|s| s.bytes()).sum();
    let oldest = segments.iter().map(|s| s.id.created_ms()).min();
    let aged = oldest.is_some_and(|ms| now_ms().saturating_sub(ms) > WRITE_OUT_AGE.as_millis() as u64);
    bytes > WRITE_OUT_BYTES || segments.len() > WRITE_OUT_SEGMENTS || aged
}

/// Exchanges inline segments of one shard for a file.
///
/// # Errors
/// `Conflict` when somebody else has exchanged one of them.
#[tracing::instrument(level = "info", skip_all, fields(table = %table.name, shard = shard))]
pub async fn write_out(
    writer: &Writer,
    table: &Table,
    shard: u32,
    mut segments: Vec<Arc<Segment>>,
) -> Result<()> {
    if segments.is_empty() {
        return Ok(());
    }
    // In the order of their versions, which is how a reader of an older one knows what it sees.
    segments.sort_by_key(|s| (s.added, s.id));
    let schema = Arc::new(merging::stored_schema(table));
    let mut rows = SegmentRows::default();
    for segment in &segments {
        if let SegmentData::Inline(bytes) = &segment.data {
            rows.batches.extend(decode_inline(bytes, &schema, &RowSet::new())?);
            rows.versions.push((segment.added, segment.rows as usize));
        }
    }
    let segment = writer.upload(table, shard, 0, schema, rows).await?;
    let base = writer.meta.manifest().version;
    let change = TableChange::new(table.id, table.schema_version, base, ChangeKind::Relocate);
    let from: Vec<SegmentId> = segments.iter().map(|s| s.id).collect();
    let count = from.len();
    let change = TableChange { flush: vec![Flush { from, segment }], ..change };
    writer.commit(vec![change], "write out", Instant::now()).await?;
    tracing::debug!(segments = count, "wrote inline rows out");
    Ok(())
}
