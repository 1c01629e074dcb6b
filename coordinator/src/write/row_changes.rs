//! The changes of one statement to the rows of one table, before they are committed.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use plexus_model::limits::INLINE_DELETION_BYTES_MAX;
use plexus_model::{
    ChangeKind, DeletionVector, Error, NewSegment, Result, RowSet, Segment, SegmentId, Table, TableChange,
    Version,
};

use crate::limits::{DELETIONS_INLINE_BYTES_MAX, MANY_DELETIONS_INLINE_BYTES_MAX, UPLOADS_MAX};
use crate::write::keys::{OnDuplicate, RowsBySegment};
use crate::write::writer::Writer;

/// Changes to the rows of one table.
#[derive(Clone, Debug)]
pub(crate) struct RowChanges {
    /// The table with the schema of the added segments.
    pub(crate) table: Arc<Table>,
    /// New segments. Those in files are durable.
    pub(crate) added: Vec<NewSegment>,
    /// Deleted rows of existing segments.
    pub(crate) deleted: RowsBySegment,
    /// Existing segments that are removed as a whole.
    pub(crate) removed: Vec<SegmentId>,
}

impl RowChanges {
    /// No changes.
    pub(crate) fn new(table: Arc<Table>) -> Self {
        Self { table, added: vec![], deleted: RowsBySegment::new(), removed: vec![] }
    }

    /// Whether there is nothing to commit.
    pub(crate) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.deleted.is_empty() && self.removed.is_empty()
    }

    /// Adds new segments.
    pub(crate) fn add(&mut self, segments: Vec<NewSegment>) {
        self.added.extend(segments);
    }

    /// Deletes rows of an existing segment.
    pub(crate) fn delete(&mut self, segment: SegmentId, rows: &RowSet) {
        *self.deleted.entry(segment).or_default() |= rows;
    }

    /// Resolves duplicate primary keys, among the added rows and with the rows that `version` of `table`
    /// sees. Returns the number of rows that are written.
    ///
    /// # Errors
    /// Those of [`KeyIndexes::resolve`](crate::KeyIndexes).
    pub(crate) async fn resolve_keys(
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
        let mut ignored = 0;
        for segment in self.added.iter_mut().map(|s| &mut s.0) {
            if let Some(rows) = resolved.ignored.get(&segment.id) {
                ignored += rows.len();
                segment.deletions = vec![DeletionVector::inline(rows)];
            }
        }
        self.added.retain(|s| s.0.deletions.iter().map(|d| d.count).sum::<u64>() < s.0.rows);
        Ok(added - ignored)
    }

    /// The change to propose, computed from `version` of `table`. Large deletion vectors are written to
    /// files.
    ///
    /// # Errors
    /// `Conflict` when `table` does not have a segment any more. `Unavailable` when a file cannot be
    /// replicated.
    pub(crate) async fn into_change(
        self,
        writer: &Writer,
        table: &Table,
        version: Version,
    ) -> Result<TableChange> {
        let mut removed = self.removed;
        let mut deleted = Vec::with_capacity(self.deleted.len());
        for (id, rows) in self.deleted {
            let segment = table.segments.get(&id).ok_or_else(|| {
                Error::conflict(format!(
                    "table {}: segment {id} was removed by a concurrent commit",
                    table.name
                ))
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
            // A flush needs the deletions of inline segments, so these must be in the log as well.
            let inline_max = if segment.is_inline() { usize::MAX } else { inline_max };
            let (id, shard) = (segment.id, segment.shard);
            async move {
                writer.deletion_vector(table, shard, &rows, inline_max).await.map(|deletion| (id, deletion))
            }
        };
        let deletions: Vec<_> = deleted.into_iter().map(write).collect();
        let delete = stream::iter(deletions).buffered(UPLOADS_MAX).try_collect().await?;
        let change = TableChange::new(table.id, self.table.schema_version, version, ChangeKind::Write);
        Ok(TableChange { add: self.added, remove: removed, delete, ..change })
    }
}

/// The union of deletion vectors that are not committed yet. Vectors in files are left out: before the commit
/// there are none.
///
/// # Errors
/// `Corrupt` when a vector cannot be decoded.
pub(crate) fn inline_union(deletions: &[DeletionVector]) -> Result<RowSet> {
    let mut rows = RowSet::new();
    for deletion in deletions {
        rows |= deletion.inline_rows()?.unwrap_or_default();
    }
    Ok(rows)
}
