//! Group commit of small writes.
//!
//! While one commit is in flight the next gathers: the rows of all statements that wait for the same
//! table become one inline segment a shard, and all tables share one log entry. Each statement keeps its
//! own result. When a group is refused, its tables are tried one by one, so that a table that was dropped
//! does not fail the inserts into another.
//!
//! Rows of a table with a primary key are grouped with those of the same table alone: in their order each
//! statement sees the keys of those before it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use plexus_index::{KeyIndex, build_key_index};
use plexus_model::{
    Applied, ChangeKind, Commit, Error, ErrorKind, NewSegment, Result, RowSet, SegmentId, Table, TableChange,
};
use plexus_storage::{CanonicalKeys, primary_keys, take_rows, types};
use tokio_util::sync::CancellationToken;

use crate::limits::{GROUP_BYTES_MAX, GROUP_SIZE_MAX, READ_INDEX_TIMEOUT, WRITE_ATTEMPTS_MAX};
use crate::write::group_queue::{GroupTask, Pending, TableKey, Written};
use crate::write::keys;
use crate::write::keys::OnDuplicate;
use crate::write::row_changes::RowChanges;
use crate::write::writer::{Writer, current};

impl GroupTask {
    /// Commits groups until `stop` is cancelled.
    pub fn start(mut self, writer: Writer, stop: CancellationToken) {
        tokio::spawn(async move {
            loop {
                let first = tokio::select! {
                    first = self.0.recv() => first,
                    () = stop.cancelled() => return,
                };
                let Some(first) = first else {
                    return;
                };
                let mut bytes = first.rows.bytes;
                let mut group: Vec<Pending> = vec![first];
                while bytes < GROUP_BYTES_MAX
                    && group.len() < GROUP_SIZE_MAX
                    && let Ok(next) = self.0.try_recv()
                {
                    bytes += next.rows.bytes;
                    group.push(next);
                }
                commit_group(&writer, group).await;
            }
        });
    }
}

pub async fn commit_group(writer: &Writer, group: Vec<Pending>) {
    let (keyed, plain): (Vec<_>, Vec<_>) = group.into_iter().partition(|p| p.rows.table.schema.has_key());
    let mut commits: Vec<futures::future::BoxFuture<()>> =
        by_table(keyed).into_values().map(|group| Box::pin(commit_keyed(writer, group)) as _).collect();
    if !plain.is_empty() {
        commits.push(Box::pin(commit_plain(writer, plain)));
    }
    futures::future::join_all(commits).await;
}

pub fn by_table(group: Vec<Pending>) -> BTreeMap<TableKey, Vec<Pending>> {
    let mut tables: BTreeMap<TableKey, Vec<Pending>> = BTreeMap::new();
    for pending in group {
        tables.entry(pending.key()).or_default().push(pending);
    }
    tables
}

pub async fn commit_plain(writer: &Writer, group: Vec<Pending>) {
    let result = commit(writer, &group).await;
    let several = group.iter().any(|p| p.key() != group[0].key());
    // Only a refusal is known to have changed nothing; anything else must not be tried under a new token.
    let refused = result.as_ref().is_err_and(|e| !e.is_retryable() || e.kind() == ErrorKind::Conflict);
    if !(several && refused) {
        return answer(group, &result);
    }
    for group in by_table(group).into_values() {
        let result = commit(writer, &group).await;
        answer(group, &result);
    }
}

pub fn answer(group: Vec<Pending>, result: &Result<Applied>) {
    for pending in group {
        let rows = pending.row_count();
        let result = result.as_ref().map(|a| Written { rows, version: Some(a.version) });
        // A caller that gave up does not need its answer.
        let _ = pending.reply.send(result.map_err(|e| Error::new(e.kind(), e.message())));
    }
}

pub async fn commit(writer: &Writer, group: &[Pending]) -> Result<Applied> {
    type Shards<'a> = BTreeMap<u32, Vec<&'a RecordBatch>>;
    let mut tables: BTreeMap<TableKey, (&Arc<Table>, Shards)> = BTreeMap::new();
    for pending in group {
        let rows = &pending.rows;
        let (_, shards) = tables.entry(pending.key()).or_insert_with(|| (&rows.table, BTreeMap::new()));
        for (shard, batch) in &rows.parts {
            shards.entry(*shard).or_default().push(batch);
        }
    }
    let base = writer.meta.manifest().version;
    let mut changes = Vec::with_capacity(tables.len());
    for (table, shards) in tables.into_values() {
        let add = shards.into_iter().map(|(shard, batches)| writer.inline(table, shard, &batches));
        let add = add.collect::<Result<Vec<NewSegment>>>()?;
        let change = TableChange::new(table.id, table.schema_version, base, ChangeKind::Write);
        changes.push(TableChange { add, ..change });
    }
    propose(writer, changes, group).await
}

pub async fn propose(writer: &Writer, changes: Vec<TableChange>, group: &[Pending]) -> Result<Applied> {
    let operation = group.first().map_or("insert", |p| p.operation).to_owned();
    let longest = group.iter().map(|p| p.since.elapsed()).max().unwrap_or_default();
    let duration_us = longest.as_micros() as u64;
    let commit = Commit { changes, operation, duration_us, ..Commit::default() };
    writer.propose(commit).await
}

/// Commits statements on one table with a primary key.
pub async fn commit_keyed(writer: &Writer, group: Vec<Pending>) {
    // What this node knows is enough to begin with: the commit is refused where it is not.
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
        Err(error) => answer(group, &Err(error)),
    }
}

/// One look at the keys that a manifest sees, and one commit. Answers each statement, or says why none
/// could be answered. What is not written is checked by no commit: it must be decided at the `newest` version.
pub async fn attempt_keyed(
    writer: &Writer,
    manifest: &plexus_model::Manifest,
    group: &[Pending],
    newest: bool,
) -> Result<Vec<Result<Written>>> {
    let table = current(manifest, &group[0].rows.table)?;
    let mut shards: BTreeMap<u32, ShardRows> = BTreeMap::new();
    for (statement, pending) in group.iter().enumerate() {
        for (shard, batch) in &pending.rows.parts {
            let shard = shards.entry(*shard).or_default();
            shard.batches.push(batch.clone());
            shard.statements.extend(std::iter::repeat_n(statement, batch.num_rows()));
        }
    }
    for (number, shard) in &mut shards {
        shard.look_up(writer, &table, manifest, *number).await?;
    }
    let mut outcomes: Vec<Result<u64>> = Vec::with_capacity(group.len());
    for (statement, pending) in group.iter().enumerate() {
        let checked = shards.values().try_for_each(|shard| shard.check(&table, statement, pending));
        outcomes.push(match checked {
            Ok(()) => Ok(shards.values_mut().map(|s| s.take(statement, pending.rows.on_duplicate)).sum()),
            Err(e) => Err(e),
        });
    }
    let all_written = |(outcome, pending): (&Result<u64>, &Pending)| {
        outcome.as_ref().is_ok_and(|rows| *rows == pending.row_count())
    };
    if !newest && !outcomes.iter().zip(group).all(all_written) {
        return Err(Error::conflict("keys are there, as far as this node knows"));
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
    let written = |rows| Written { rows, version };
    Ok(outcomes.into_iter().map(|outcome| outcome.map(written)).collect())
}

/// The rows that the statements of a group have for one shard.
#[derive(Default)]
pub struct ShardRows {
    batches: Vec<RecordBatch>,
    /// Which statement each row is from.
    statements: Vec<usize>,
    /// All rows, and what follows from them, once they were looked up.
    rows: Option<RecordBatch>,
    keys: Vec<Vec<u8>>,
    /// Rows with the same key that are visible, by the row here.
    stored: HashMap<u32, (SegmentId, u32)>,
    /// The row that each key is written with, so far.
    written: HashMap<Vec<u8>, u32>,
    /// Visible rows whose place was taken.
    replaced: Vec<(SegmentId, u32)>,
}

impl ShardRows {
    async fn look_up(
        &mut self,
        writer: &Writer,
        table: &Table,
        manifest: &plexus_model::Manifest,
        shard: u32,
    ) -> Result<()> {
        let rows = concat_batches(&types::to_arrow(&table.schema), &self.batches)
            .map_err(|e| Error::internal(format!("gathering rows: {e}")).with_source(e))?;
        let keys: CanonicalKeys = primary_keys(&table.schema, &rows)?;
        let index = Arc::new(KeyIndex::open(build_key_index(&keys.hashes()).into())?);
        self.stored = writer.keys.find(table, manifest.version, shard, &keys, index).await?;
        self.keys = (0..keys.len()).map(|row| keys.bytes(row)).collect();
        self.rows = Some(rows);
        Ok(())
    }

    fn rows_of(&self, statement: usize) -> impl Iterator<Item = u32> + '_ {
        let each = self.statements.iter().zip(0..);
        each.filter(move |(s, _)| **s == statement).map(|(_, row)| row)
    }

    /// Whether a statement can write its rows, after those before it.
    fn check(&self, table: &Table, statement: usize, pending: &Pending) -> Result<()> {
        let mut mine = std::collections::HashSet::new();
        for row in self.rows_of(statement) {
            let key = &self.keys[row as usize];
            let twice = !mine.insert(key);
            if twice && pending.rows.on_duplicate != OnDuplicate::Ignore {
                return Err(keys::given_twice(table, &self.describe(table, row)));
            }
            let there = self.written.contains_key(key) || self.stored.contains_key(&row);
            if there && pending.rows.on_duplicate == OnDuplicate::Fail {
                return Err(keys::exists(table, &self.describe(table, row)));
            }
        }
        Ok(())
    }

    fn describe(&self, table: &Table, row: u32) -> String {
        let Some(rows) = &self.rows else {
            return String::new();
        };
        let columns: Vec<_> =
            table.schema.primary_key.iter().map(|&i| rows.column(i as usize).clone()).collect();
        keys::describe_key(&columns, row as usize)
    }

    /// Writes the rows of a statement that was checked; returns how many.
    fn take(&mut self, statement: usize, mode: OnDuplicate) -> u64 {
        let mut count = 0;
        for row in self.rows_of(statement).collect::<Vec<_>>() {
            let key = self.keys[row as usize].clone();
            let stored = self.stored.get(&row).copied();
            if mode == OnDuplicate::Ignore && (stored.is_some() || self.written.contains_key(&key)) {
                continue;
            }
            self.replaced.extend(stored);
            self.written.insert(key, row);
            count += 1;
        }
        count
    }

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
        let mut last: Vec<u64> = self.written.into_values().map(u64::from).collect();
        last.sort_unstable();
        if let (Some(rows), false) = (self.rows, last.is_empty()) {
            changes.add(vec![writer.inline(table, shard, &[&take_rows(&rows, last)?])?]);
        }
        Ok(())
    }
}
