//! What a statement does to the rows of one table, before it is committed.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use plexus_model::limits::INLINE_DELETION_BYTES_MAX;
use plexus_model::{
    ChangeKind, DeletionVector, Error, NewSegment, Result, RowSet, Segment, SegmentId, Table, TableChange,
    Version,
};

use crate::limits::{DELETIONS_INLINE_BYTES_MAX, MANY_DELETIONS_INLINE_BYTES_MAX, UPLOADS_MAX};
use crate::write::keys::{OnDuplicate, RowsOf};
use crate::write::writer::Writer;

/// Segments that come, rows that go, segments that go whole.
#[derive(Clone, Debug)]
pub struct RowChanges {
    pub table: Arc<Table>,
    pub added: Vec<NewSegment>,
    pub deleted: RowsOf,
    pub removed: Vec<SegmentId>,
}

impl RowChanges {
    pub fn new(table: Arc<Table>) -> Self {
        Self { table, added: vec![], deleted: RowsOf::new(), removed: vec![] }
    }

    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.deleted.is_empty() && self.removed.is_empty()
    }

    pub fn add(&mut self, segments: Vec<NewSegment>) {
        self.added.extend(segments);
    }

    pub fn delete(&mut self, segment: SegmentId, rows: &RowSet) {
        *self.deleted.entry(segment).or_default() |= rows;
    }

    /// Makes the added rows agree with the keys that `version` of `table` sees, and with each other. Returns
    /// how many rows are written.
    pub async fn resolve_keys(
        &mut self,
        writer: &Writer,
        table: &Table,
        version: Version,
        mode: OnDuplicate,
    ) -> Result<u64> {
        let added: u64 = self.added.iter().map(|s| s.0.rows).sum();
        if !table.schema.has_key() || self.added.is_empty() {
            return Ok(added);
        }
        let resolved = writer.keys.resolve(table, version, &self.deleted, &self.added, mode).await?;
        for (segment, rows) in &resolved.replaced {
            self.delete(*segment, rows);
        }
        let mut kept_out = 0;
        for segment in self.added.iter_mut().map(|s| &mut s.0) {
            if let Some(rows) = resolved.kept_out.get(&segment.id) {
                kept_out += rows.len();
                segment.deletions = vec![DeletionVector::inline(rows)];
            }
        }
        self.added.retain(|s| s.0.deletions.iter().map(|d| d.count).sum::<u64>() < s.0.rows);
        Ok(added - kept_out)
    }

    /// The change as it is proposed, computed from `version` of `table`.
    pub async fn into_change(self, writer: &Writer, table: &Table, version: Version) -> Result<TableChange> {
        let mut removed = self.removed;
        let mut deleted = Vec::with_capacity(self.deleted.len());
        for (id, rows) in self.deleted {
            let segment = table.segments.get(&id).ok_or_else(|| {
                Error::conflict(format!("table {}: segment {id} was removed meanwhile", table.name))
            })?;
            match segment.live_rows(version) == rows.len() {
                true => removed.push(id),
                false => deleted.push((segment, rows)),
            }
        }
        let bytes: usize = deleted.iter().map(|(_, rows)| rows.serialized_size()).sum();
        let many = bytes > DELETIONS_INLINE_BYTES_MAX;
        let inline_max = if many { MANY_DELETIONS_INLINE_BYTES_MAX } else { INLINE_DELETION_BYTES_MAX };
        let write = |(segment, rows): (&Arc<Segment>, RowSet)| {
            // What leaves the log for a file takes its deletions along, which therefore are in the log.
            let inline_max = if segment.is_inline() { usize::MAX } else { inline_max };
            let (id, shard) = (segment.id, segment.shard);
            async move { writer.deletion(table, shard, &rows, inline_max).await.map(|deletion| (id, deletion)) }
        };
        let deletions: Vec<_> = deleted.into_iter().map(write).collect();
        let delete = stream::iter(deletions).buffered(UPLOADS_MAX).try_collect().await?;
        let change = TableChange::new(table.id, self.table.schema_version, version, ChangeKind::Write);
        Ok(TableChange { add: self.added, remove: removed, delete, ..change })
    }
}

/// The rows of deletions that are not committed yet, which are in no file.
pub fn inline_union(deletions: &[DeletionVector]) -> Result<RowSet> {
    let mut rows = RowSet::new();
    for deletion in deletions {
        rows |= deletion.inline_rows()?.unwrap_or_default();
    }
    Ok(rows)
}
