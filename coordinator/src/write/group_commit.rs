//! Group commit of small writes.
//!
//! While one commit is in flight, the next group gathers in the queue. The rows of all statements of a group
//! that write to the same table become one inline segment per shard, and all tables share one log entry. Each
//! statement gets its own result. When a group is rejected, its tables are committed one by one, so that a
//! dropped table does not fail the inserts into another one.
//!
//! Tables with a primary key are committed separately, one commit per table. The statements of such a group
//! are processed in order: each statement sees the keys of the statements before it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use futures::future::{BoxFuture, join_all};
use plexus_index::{KeyIndex, build_key_index};
use plexus_model::{
    Applied, ChangeKind, Commit, Error, ErrorKind, Manifest, NewSegment, Result, RowSet, SegmentId, Table,
    TableChange,
};
use plexus_storage::{CanonicalKeys, primary_keys, take_rows, types};
use tokio_util::sync::CancellationToken;

use crate::limits::{GROUP_BYTES_MAX, GROUP_SIZE_MAX, READ_INDEX_TIMEOUT, WRITE_ATTEMPTS_MAX};
use crate::write::group_queue::{GroupTask, PendingWrite, TableKey, WriteResult};
use crate::write::keys;
use crate::write::keys::OnDuplicate;
use crate::write::row_changes::RowChanges;
use crate::write::writer::{Writer, current_with_schema_of};

impl GroupTask {
    /// Starts a task that commits groups until `stop` is canceled.
    pub fn start(mut self, writer: Writer, stop: CancellationToken) {
        tokio::spawn(async move {
            loop {
                let group = tokio::select! {
                    group = self.next_group() => group,
                    () = stop.cancelled() => return,
                };
                let Some(group) = group else {
                    return;
                };
                commit_group(&writer, group).await;
            }
        });
    }

    /// Waits for a write, and takes the writes that are in the queue behind it. `None` when all senders are
    /// gone.
    async fn next_group(&mut self) -> Option<Vec<PendingWrite>> {
        let first = self.0.recv().await?;
        let mut bytes = first.rows.bytes;
        let mut group = vec![first];
        while bytes < GROUP_BYTES_MAX
            && group.len() < GROUP_SIZE_MAX
            && let Ok(next) = self.0.try_recv()
        {
            bytes += next.rows.bytes;
            group.push(next);
        }
        Some(group)
    }
}

/// Commits a group and replies to all of its statements.
async fn commit_group(writer: &Writer, group: Vec<PendingWrite>) {
    let (keyed, plain): (Vec<_>, Vec<_>) = group.into_iter().partition(|p| p.rows.table.schema.has_key());
    let mut commits: Vec<BoxFuture<()>> =
        split_by_table(keyed).into_values().map(|group| Box::pin(commit_keyed(writer, group)) as _).collect();
    if !plain.is_empty() {
        commits.push(Box::pin(commit_plain(writer, plain)));
    }
    join_all(commits).await;
}

/// Splits a group by table and schema version.
fn split_by_table(group: Vec<PendingWrite>) -> BTreeMap<TableKey, Vec<PendingWrite>> {
    let mut tables: BTreeMap<TableKey, Vec<PendingWrite>> = BTreeMap::new();
    for pending in group {
        tables.entry(pending.table_key()).or_default().push(pending);
    }
    tables
}

/// Commits statements on tables without a primary key.
async fn commit_plain(writer: &Writer, group: Vec<PendingWrite>) {
    let result = commit_inline(writer, &group).await;
    let has_several_tables = group.iter().any(|p| p.table_key() != group[0].table_key());
    // A rejected commit has certainly changed nothing. With any other error the commit may have been applied,
    // and a second one under a new token would write the rows twice.
    let rejected = result.as_ref().is_err_and(|e| !e.is_retryable() || e.kind() == ErrorKind::Conflict);
    if !(has_several_tables && rejected) {
        return reply_all(group, &result);
    }
    for group in split_by_table(group).into_values() {
        let result = commit_inline(writer, &group).await;
        reply_all(group, &result);
    }
}

/// Replies to all statements of a group with the result of their commit.
fn reply_all(group: Vec<PendingWrite>, result: &Result<Applied>) {
    for pending in group {
        let rows = pending.row_count();
        let result = result.as_ref().map(|a| WriteResult { rows, version: Some(a.version) });
        // The send fails when the caller has stopped waiting, which is fine.
        let _ = pending.reply.send(result.map_err(|e| Error::new(e.kind(), e.message())));
    }
}

/// Commits the rows of a group as one inline segment per table and shard.
async fn commit_inline(writer: &Writer, group: &[PendingWrite]) -> Result<Applied> {
    type Shards<'a> = BTreeMap<u32, Vec<&'a RecordBatch>>;
    let mut tables: BTreeMap<TableKey, (&Arc<Table>, Shards)> = BTreeMap::new();
    for pending in group {
        let rows = &pending.rows;
        let (_, shards) = tables.entry(pending.table_key()).or_insert_with(|| (&rows.table, BTreeMap::new()));
        for (shard, batch) in &rows.parts {
            shards.entry(*shard).or_default().push(batch);
        }
    }
    let base = writer.meta.manifest().version;
    let mut changes = Vec::with_capacity(tables.len());
    for (table, shards) in tables.into_values() {
        let add = shards.into_iter().map(|(shard, batches)| writer.inline_segment(table, shard, &batches));
        let add = add.collect::<Result<Vec<NewSegment>>>()?;
        let change = TableChange::new(table.id, table.schema_version, base, ChangeKind::Write);
        changes.push(TableChange { add, ..change });
    }
    propose(writer, changes, group).await
}

/// Proposes the changes of a group. The commit history gets the operation of the first statement and the time
/// since the oldest one entered the queue.
async fn propose(writer: &Writer, changes: Vec<TableChange>, group: &[PendingWrite]) -> Result<Applied> {
    let operation = group.first().map_or("insert", |p| p.operation).to_owned();
    let longest = group.iter().map(|p| p.enqueued_at.elapsed()).max().unwrap_or_default();
    let duration_us = longest.as_micros() as u64;
    let commit = Commit { changes, operation, duration_us, ..Commit::default() };
    writer.propose(commit).await
}

/// Commits statements on one table with a primary key.
async fn commit_keyed(writer: &Writer, group: Vec<PendingWrite>) {
    // The first attempt uses the local manifest without a read index. If it is stale, the commit is rejected.
    let mut manifest = writer.meta.manifest();
    let mut attempt = 1;
    let results = loop {
        let outcome = attempt_keyed(writer, &manifest, &group, attempt > 1).await;
        match outcome {
            Err(e) if e.kind() == ErrorKind::Conflict && attempt < WRITE_ATTEMPTS_MAX => attempt += 1,
            outcome => break outcome,
        }
        manifest = match writer.meta.read(READ_INDEX_TIMEOUT).await {
            Ok(manifest) => manifest,
            Err(e) => break Err(e),
        };
    };
    match results {
        Ok(results) => {
            for (pending, result) in group.into_iter().zip(results) {
                let _ = pending.reply.send(result);
            }
        }
        Err(error) => reply_all(group, &Err(error)),
    }
}

/// Resolves the keys of a group against the rows that `manifest` sees, and commits the result. Returns the
/// results of the statements, or an error for all of them.
///
/// A commit validates only rows that it writes. When rows are rejected or ignored because of a stored key,
/// only a manifest that is `linearizable` can justify that.
///
/// # Errors
/// `Conflict` when the manifest is stale or may be. Try again with a newer one.
async fn attempt_keyed(
    writer: &Writer,
    manifest: &Manifest,
    group: &[PendingWrite],
    linearizable: bool,
) -> Result<Vec<Result<WriteResult>>> {
    let table = current_with_schema_of(manifest, &group[0].rows.table)?;
    let mut shards = split_by_shard(group);
    for (number, shard) in &mut shards {
        shard.find_stored_rows(writer, &table, manifest, *number).await?;
    }
    let mut outcomes: Vec<Result<u64>> = Vec::with_capacity(group.len());
    for (statement, pending) in group.iter().enumerate() {
        let on_duplicate = pending.rows.on_duplicate;
        let checked = shards.values().try_for_each(|shard| shard.check(&table, statement, on_duplicate));
        outcomes.push(match checked {
            Ok(()) => Ok(shards.values_mut().map(|s| s.write_statement(statement, on_duplicate)).sum()),
            Err(e) => Err(e),
        });
    }
    let all_written = |(outcome, pending): (&Result<u64>, &PendingWrite)| {
        outcome.as_ref().is_ok_and(|rows| *rows == pending.row_count())
    };
    if !linearizable && !outcomes.iter().zip(group).all(all_written) {
        return Err(Error::conflict("keys exist already in the local manifest, which may be stale"));
    }
    let mut changes = RowChanges::new(table.clone());
    for (number, shard) in shards {
        shard.into_changes(writer, &table, number, &mut changes)?;
    }
    let version = match changes.is_empty() {
        true => None,
        false => {
            let change = changes.into_change(writer, &table, manifest.version).await?;
            Some(propose(writer, vec![change], group).await?.version)
        }
    };
    let written = |rows| WriteResult { rows, version };
    Ok(outcomes.into_iter().map(|outcome| outcome.map(written)).collect())
}

/// Collects the rows of a group by shard.
fn split_by_shard(group: &[PendingWrite]) -> BTreeMap<u32, ShardRows> {
    let mut shards: BTreeMap<u32, ShardRows> = BTreeMap::new();
    for (statement, pending) in group.iter().enumerate() {
        for (shard, batch) in &pending.rows.parts {
            let shard = shards.entry(*shard).or_default();
            shard.batches.push(batch.clone());
            shard.statements.extend(std::iter::repeat_n(statement, batch.num_rows()));
        }
    }
    shards
}

/// The rows that the statements of a group write to one shard. Rows are identified by their position in the
/// concatenated batches.
#[derive(Default)]
struct ShardRows {
    batches: Vec<RecordBatch>,
    /// For each row, the statement that writes it.
    statements: Vec<usize>,
    /// The concatenated batches, after [`Self::find_stored_rows`].
    rows: Option<RecordBatch>,
    /// For each row, its canonical key, after [`Self::find_stored_rows`].
    keys: Vec<Vec<u8>>,
    /// The stored row with the same key, by row, after [`Self::find_stored_rows`].
    stored: HashMap<u32, (SegmentId, u32)>,
    /// The row that is written for each key, after the statements so far.
    written: HashMap<Vec<u8>, u32>,
    /// Stored rows that are replaced.
    replaced: Vec<(SegmentId, u32)>,
}

impl ShardRows {
    /// Finds the stored rows with the keys of these rows.
    async fn find_stored_rows(
        &mut self,
        writer: &Writer,
        table: &Table,
        manifest: &Manifest,
        shard: u32,
    ) -> Result<()> {
        let rows = concat_batches(&types::to_arrow(&table.schema), &self.batches)
            .map_err(|e| Error::internal(format!("concatenating rows: {e}")).with_source(e))?;
        let keys: CanonicalKeys = primary_keys(&table.schema, &rows)?;
        let index = KeyIndex::open(build_key_index(&keys.hashes()).into())?;
        self.stored = writer.keys.find(table, manifest.version, shard, &keys, index).await?;
        self.keys = (0..keys.len()).map(|row| keys.bytes(row)).collect();
        self.rows = Some(rows);
        Ok(())
    }

    /// The rows of one statement.
    fn rows_of(&self, statement: usize) -> impl Iterator<Item = u32> + '_ {
        let statements = self.statements.iter().zip(0..);
        statements.filter(move |(s, _)| **s == statement).map(|(_, row)| row)
    }

    /// Checks that a statement can write its rows after the statements before it.
    ///
    /// # Errors
    /// `InvalidArgument` for a key that the statement writes twice, `AlreadyExists` for a key that exists.
    fn check(&self, table: &Table, statement: usize, on_duplicate: OnDuplicate) -> Result<()> {
        let mut keys_of_statement = HashSet::new();
        for row in self.rows_of(statement) {
            let key = &self.keys[row as usize];
            let is_repeated = !keys_of_statement.insert(key);
            if is_repeated && on_duplicate != OnDuplicate::Ignore {
                return Err(keys::duplicate_error(table, &self.describe_key(table, row)));
            }
            let exists = self.written.contains_key(key) || self.stored.contains_key(&row);
            if exists && on_duplicate == OnDuplicate::Fail {
                return Err(keys::exists_error(table, &self.describe_key(table, row)));
            }
        }
        Ok(())
    }

    /// The key of a row, for error messages.
    fn describe_key(&self, table: &Table, row: u32) -> String {
        let Some(rows) = &self.rows else {
            return String::new();
        };
        let columns: Vec<_> =
            table.schema.primary_key.iter().map(|&i| rows.column(i as usize).clone()).collect();
        keys::describe_key(&columns, row as usize)
    }

    /// Writes the rows of a statement that passed [`Self::check`]. Returns their number.
    fn write_statement(&mut self, statement: usize, on_duplicate: OnDuplicate) -> u64 {
        let mut count = 0;
        for row in self.rows_of(statement).collect::<Vec<_>>() {
            let key = self.keys[row as usize].clone();
            let stored = self.stored.get(&row).copied();
            if on_duplicate == OnDuplicate::Ignore && (stored.is_some() || self.written.contains_key(&key)) {
                continue;
            }
            self.replaced.extend(stored);
            self.written.insert(key, row);
            count += 1;
        }
        count
    }

    /// Adds the written and the replaced rows to the changes of the table.
    fn into_changes(
        self,
        writer: &Writer,
        table: &Table,
        shard: u32,
        changes: &mut RowChanges,
    ) -> Result<()> {
        for (segment, row) in self.replaced {
            changes.delete(segment, &RowSet::from_iter([row]));
        }
        let mut written: Vec<u64> = self.written.into_values().map(u64::from).collect();
        written.sort_unstable();
        if let (Some(rows), false) = (self.rows, written.is_empty()) {
            changes.add(vec![writer.inline_segment(table, shard, &[&take_rows(&rows, written)?])?]);
        }
        Ok(())
    }
}
