//! What a statement does to the rows of one table, before it is committed.

use std::sync::Arc;

use plexus_model::{
    ChangeKind, Deletion, Error, NewSegment, Result, Rows, SegmentId, Table, TableChange, Version,
};

use crate::ingest::Writer;
use crate::keys::{OnDuplicate, RowsOf};

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

    pub fn delete(&mut self, segment: SegmentId, rows: &Rows) {
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
                segment.deletions = vec![Deletion::inline(rows)];
            }
        }
        self.added.retain(|s| s.0.deletions.iter().map(|d| d.count).sum::<u64>() < s.0.rows);
        Ok(added - kept_out)
    }

    /// The change as it is proposed, computed from `version` of `table`.
    pub async fn into_change(self, writer: &Writer, table: &Table, version: Version) -> Result<TableChange> {
        let mut delete = Vec::with_capacity(self.deleted.len());
        let mut removed = self.removed;
        for (id, rows) in self.deleted {
            let segment = table.segments.get(&id).ok_or_else(|| {
                Error::conflict(format!("table {}: segment {id} was removed meanwhile", table.name))
            })?;
            if segment.live_rows(version) == rows.len() {
                removed.push(id);
                continue;
            }
            delete.push((id, writer.deletion(table, segment.shard, &rows).await?));
        }
        let change = TableChange::new(table.id, self.table.schema_version, version, ChangeKind::Write);
        Ok(TableChange { add: self.added, remove: removed, delete, ..change })
    }
}
