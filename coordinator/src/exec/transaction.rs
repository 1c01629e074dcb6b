//! One transaction: its pinned version, its staged changes, and its commit.
//!
//! Staged changes are applied to a private copy of the pinned manifest, so the statements of the transaction
//! read their own writes through the ordinary read path. The commit proposes the difference between the two
//! manifests. The log refuses it when a concurrent commit changed the same rows or wrote the same keys: first
//! committer wins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use plexus_model::{
    Applied, Commit, DeletionVector, Error, ErrorKind, Manifest, NewSegment, Result, RowSelection, Segment,
    Table, TableId, Version,
};

use crate::limits::{TRANSACTION_INLINE_BYTES_MAX, WRITE_TIME_MAX};
use crate::write::row_changes::{RowChanges, inline_union};
use crate::write::writer::Writer;

/// Isolation level: what concurrent commits may have done when the transaction commits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    /// Snapshot isolation: concurrent commits may change anything but the same rows and keys.
    #[default]
    Snapshot,
    /// Serializable: concurrent commits must not have changed a table that the transaction read.
    Serializable,
}

/// A transaction in progress.
#[derive(Debug)]
pub(crate) struct Transaction {
    isolation: Isolation,
    /// The manifest that the first statement pinned, and its copy with the changes so far.
    pinned: Option<(Arc<Manifest>, Arc<Manifest>)>,
    /// Tables that were read; filled for [`Isolation::Serializable`] only.
    read: BTreeSet<TableId>,
    started: Instant,
}

impl Transaction {
    /// A transaction that has not pinned a version yet.
    pub(crate) fn new(isolation: Isolation) -> Self {
        Self { isolation, pinned: None, read: BTreeSet::new(), started: Instant::now() }
    }

    /// The manifest that its statements read, with the staged changes; `None` before [`Self::pin`].
    pub(crate) fn manifest(&self) -> Option<&Arc<Manifest>> {
        self.pinned.as_ref().map(|(_, current)| current)
    }

    /// Whether the transaction has changed rows.
    pub(crate) fn has_changes(&self) -> bool {
        self.pinned.as_ref().is_some_and(|(base, current)| !Arc::ptr_eq(base, current))
    }

    /// Drops the pinned version, so that the next statement pins a newer one.
    ///
    /// # Errors
    /// `InvalidArgument` when changes are staged.
    pub(crate) fn restart(&mut self) -> Result<()> {
        if self.has_changes() {
            return Err(Error::invalid(
                "the transaction has changed rows: commit it before tables are defined or changed",
            ));
        }
        self.pinned = None;
        Ok(())
    }

    /// Pins the version that the transaction reads. Later calls change nothing.
    pub(crate) fn pin(&mut self, manifest: Arc<Manifest>) {
        self.pinned.get_or_insert_with(|| (manifest.clone(), manifest));
    }

    /// Makes the transaction one that has changed rows.
    #[cfg(test)]
    pub(crate) fn mark_changed(&mut self) {
        if let Some((_, current)) = &mut self.pinned {
            *current = Arc::new((**current).clone());
        }
    }

    /// Records that a statement read a table, for the serializability check at commit.
    pub(crate) fn note_read(&mut self, table: TableId) {
        if self.isolation == Isolation::Serializable {
            self.read.insert(table);
        }
    }

    /// Makes changes visible to the following statements of the transaction.
    ///
    /// # Errors
    /// The error of flushing large inline changes to files. The changes are not staged then.
    pub(crate) async fn stage(&mut self, writer: &Writer, changes: RowChanges) -> Result<()> {
        let table = changes.table.id;
        let before = self.pinned.clone();
        self.apply(changes);
        let bounded = self.flush_large_inline(writer, table).await;
        if bounded.is_err() {
            self.pinned = before;
        }
        bounded
    }

    /// Applies changes to the private manifest, as the log will when they are committed.
    fn apply(&mut self, changes: RowChanges) {
        let Some((_, current)) = &mut self.pinned else {
            return;
        };
        let version = current.version;
        let manifest = Arc::make_mut(current);
        let Some(table) = manifest.tables.get_mut(&changes.table.id) else {
            return;
        };
        let table = Arc::make_mut(table);
        for mut segment in changes.added.into_iter().map(|s| s.0) {
            segment.added = version;
            segment.newest = version;
            segment.deletions.iter_mut().for_each(|d| d.added = version);
            table.segments.insert(segment.id, Arc::new(segment));
        }
        for (id, rows) in changes.deleted {
            if let Some(segment) = table.segments.get_mut(&id) {
                Arc::make_mut(segment)
                    .deletions
                    .push(DeletionVector { added: version, ..DeletionVector::inline(&rows) });
            }
        }
        for id in changes.removed {
            if let Some(segment) = table.segments.get_mut(&id) {
                Arc::make_mut(segment).removed = Some(version);
            }
        }
    }

    /// Flushes the inline rows of many small statements to files. This bounds the memory of the transaction
    /// and the size of its log entry.
    async fn flush_large_inline(&mut self, writer: &Writer, table: TableId) -> Result<()> {
        let Some((base, current)) = &mut self.pinned else {
            return Ok(());
        };
        let Some(table) = current.tables.get(&table) else {
            return Ok(());
        };
        let before = base.tables.get(&table.id);
        let own = |s: &&Arc<Segment>| {
            s.is_inline() && s.removed.is_none() && before.is_none_or(|t| !t.segments.contains_key(&s.id))
        };
        let inline: Vec<Arc<Segment>> = table.segments.values().filter(own).cloned().collect();
        if inline.iter().map(|s| s.bytes()).sum::<u64>() <= TRANSACTION_INLINE_BYTES_MAX {
            return Ok(());
        }
        let mut changes = RowChanges::new(table.clone());
        changes.added = flush_inline(writer, table, &inline).await?;
        changes.removed = inline.iter().map(|s| s.id).collect();
        self.apply(changes);
        Ok(())
    }

    /// Proposes the staged changes as one commit. `None` when there are none.
    ///
    /// # Errors
    /// `Conflict` when a concurrent commit changed the same rows or keys, and `ResourceExhausted` when the
    /// transaction ran too long. Nothing is changed then.
    pub(crate) async fn commit(self, writer: &Writer) -> Result<Option<Applied>> {
        let Some((base, current)) = &self.pinned else {
            return Ok(None);
        };
        if self.started.elapsed() > WRITE_TIME_MAX {
            return Err(Error::exhausted(format!(
                "the transaction is older than {WRITE_TIME_MAX:?}: its segments may have been \
                 collected as garbage"
            )));
        }
        let mut changes = Vec::new();
        for (id, table) in &current.tables {
            let Some(before) = base.tables.get(id).filter(|before| !Arc::ptr_eq(before, table)) else {
                continue;
            };
            let changed = difference(before, table, base.version)?;
            if !changed.is_empty() {
                changes.push(changed.into_change(writer, before, base.version).await?);
            }
        }
        if changes.is_empty() {
            return Ok(None);
        }
        let unchanged = self.read.iter().map(|table| (*table, base.version)).collect();
        let duration_us = self.started.elapsed().as_micros() as u64;
        let operation = "transaction".to_owned();
        let commit = Commit { changes, unchanged, operation, duration_us, ..Commit::default() };
        let proposed = writer.propose(commit).await;
        proposed.map(Some).map_err(|e| match e.kind() {
            ErrorKind::Conflict => Error::conflict(format!(
                "the transaction started at version {} and conflicts with a later one: {}; nothing was \
                 changed, run it again from its beginning",
                base.version,
                e.message()
            )),
            _ => e,
        })
    }
}

/// The changes that lead from one state of a table to another. Rows that a transaction both wrote and deleted
/// do not appear.
fn difference(before: &Arc<Table>, after: &Arc<Table>, version: Version) -> Result<RowChanges> {
    let mut changes = RowChanges::new(before.clone());
    for (id, segment) in &after.segments {
        let Some(old) = before.segments.get(id) else {
            if segment.removed.is_none() && segment.live_rows(version) > 0 {
                let mut segment = (**segment).clone();
                segment.deletions = merge_deletions(&segment.deletions)?;
                changes.added.push(NewSegment(segment));
            }
            continue;
        };
        if segment.removed.is_some() && old.removed.is_none() {
            changes.removed.push(*id);
        } else if segment.deletions.len() > old.deletions.len() {
            changes.delete(*id, &inline_union(&segment.deletions[old.deletions.len()..])?);
        }
    }
    Ok(changes)
}

/// Several deletion vectors of one segment as at most one.
fn merge_deletions(deletions: &[DeletionVector]) -> Result<Vec<DeletionVector>> {
    let rows = inline_union(deletions)?;
    Ok(if rows.is_empty() { vec![] } else { vec![DeletionVector::inline(&rows)] })
}

/// Writes the live rows of inline segments to files, one file per shard.
async fn flush_inline(writer: &Writer, table: &Table, inline: &[Arc<Segment>]) -> Result<Vec<NewSegment>> {
    let mut shards: BTreeMap<u32, Vec<RecordBatch>> = BTreeMap::new();
    for segment in inline {
        let deleted = inline_union(&segment.deletions)?;
        let mut rows = writer
            .reader
            .scan(table, segment, &table.schema, RowSelection::AllExcept(deleted.into()))
            .await?;
        while let Some(found) = rows.try_next().await? {
            shards.entry(segment.shard).or_default().push(found.rows);
        }
    }
    let mut files = Vec::new();
    for (shard, batches) in shards {
        files.push(writer.upload(table, shard, 0, table.schema.clone(), batches.into()).await?);
    }
    Ok(files)
}
