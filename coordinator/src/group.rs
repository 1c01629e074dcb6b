//! Group commit of small writes.
//!
//! While one commit is in flight the next gathers: the rows of all statements that wait for the same
//! table become one inline segment a shard, and all tables share one log entry. Each statement keeps its
//! own result. When a group is refused, its tables are tried one by one, so that a table that was dropped
//! does not fail the inserts into another.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use plexus_model::{
    Applied, Command, Commit, Error, ErrorKind, NewSegment, Result, SegmentData, SegmentId, Table,
    TableChange, TableId,
};
use plexus_raft::Meta;
use plexus_storage::inline;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::ingest::new_segment;
use crate::limits::{COMMIT_TIMEOUT, GROUP_BYTES_MAX, GROUP_QUEUE_MAX, GROUP_SIZE_MAX};

/// Hands small writes to the task that commits them.
#[derive(Clone)]
pub struct GroupCommitter {
    queue: mpsc::Sender<Pending>,
}

struct Pending {
    table: Arc<Table>,
    parts: Vec<(u32, RecordBatch)>,
    /// About how much the rows add to the entry.
    bytes: usize,
    operation: &'static str,
    reply: oneshot::Sender<Result<Applied>>,
}

/// Rows of one schema: a table, and the version of its schema that the statement pinned.
type TableKey = (TableId, u32);

impl Pending {
    fn key(&self) -> TableKey {
        (self.table.id, self.table.schema_version)
    }
}

impl GroupCommitter {
    /// Starts the task; it ends when `stop` is cancelled.
    pub fn start(meta: Arc<Meta>, stop: CancellationToken) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Pending>(GROUP_QUEUE_MAX);
        tokio::spawn(async move {
            loop {
                let first = tokio::select! {
                    first = waiting.recv() => first,
                    () = stop.cancelled() => return,
                };
                let Some(first) = first else {
                    return;
                };
                let mut bytes = first.bytes;
                let mut group: Vec<Pending> = vec![first];
                while bytes < GROUP_BYTES_MAX
                    && group.len() < GROUP_SIZE_MAX
                    && let Ok(next) = waiting.try_recv()
                {
                    bytes += next.bytes;
                    group.push(next);
                }
                commit_group(&meta, group).await;
            }
        });
        Self { queue }
    }

    /// Commits the rows, already routed to shards, together with those of other statements.
    pub async fn insert(
        &self,
        table: Arc<Table>,
        parts: Vec<(u32, RecordBatch)>,
        bytes: usize,
        operation: &'static str,
    ) -> Result<Applied> {
        let (reply, answer) = oneshot::channel();
        let gone = |_| Error::unavailable("the node is stopping");
        self.queue
            .send(Pending { table, parts, bytes, operation, reply })
            .await
            .map_err(|e| gone(e.to_string()))?;
        answer.await.map_err(|e| gone(e.to_string()))?
    }
}

async fn commit_group(meta: &Meta, group: Vec<Pending>) {
    let result = commit(meta, &group).await;
    let several = group.iter().any(|p| p.key() != group[0].key());
    // Only a refusal is known to have changed nothing; anything else must not be tried under a new token.
    let refused = result.as_ref().is_err_and(|e| !e.is_retryable() || e.kind() == ErrorKind::Conflict);
    if !(several && refused) {
        return answer(group, &result);
    }
    let mut tables: BTreeMap<TableKey, Vec<Pending>> = BTreeMap::new();
    for pending in group {
        tables.entry(pending.key()).or_default().push(pending);
    }
    for group in tables.into_values() {
        let result = commit(meta, &group).await;
        answer(group, &result);
    }
}

fn answer(group: Vec<Pending>, result: &Result<Applied>) {
    for pending in group {
        let result = result.as_ref().map(|a| *a).map_err(|e| Error::new(e.kind(), e.message()));
        // A caller that gave up does not need its answer.
        let _ = pending.reply.send(result);
    }
}

async fn commit(meta: &Meta, group: &[Pending]) -> Result<Applied> {
    type Shards<'a> = BTreeMap<u32, Vec<&'a RecordBatch>>;
    let mut tables: BTreeMap<TableKey, (&Arc<Table>, Shards)> = BTreeMap::new();
    for pending in group {
        let (_, shards) = tables.entry(pending.key()).or_insert_with(|| (&pending.table, BTreeMap::new()));
        for (shard, batch) in &pending.parts {
            shards.entry(*shard).or_default().push(batch);
        }
    }
    let mut changes = Vec::with_capacity(tables.len());
    for (table, shards) in tables.into_values() {
        let mut add = Vec::with_capacity(shards.len());
        for (shard, batches) in shards {
            let encoded = inline::encode(&table.schema, &batches)?;
            let data = SegmentData::Inline(encoded.bytes);
            let id = SegmentId::generate();
            add.push(NewSegment(new_segment(
                table,
                id,
                shard,
                encoded.rows,
                0,
                data,
                encoded.columns,
                vec![],
            )));
        }
        changes.push(TableChange {
            table: table.id,
            schema_version: table.schema_version,
            add,
            remove: vec![],
        });
    }
    let operation = group.first().map_or("insert", |p| p.operation).to_owned();
    meta.propose(Command::Commit(Commit { changes, operation }), COMMIT_TIMEOUT).await
}
