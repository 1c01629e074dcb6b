//! Group commit of small writes.
//!
//! While one commit is in flight the next gathers: the rows of all statements that wait for the same
//! table become one inline segment a shard, and all tables share one log entry. Each statement keeps its
//! own result. When a group is refused, its statements are tried one by one, so that one statement's
//! dropped table does not fail another's insert.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use plexus_model::{
    Applied, Command, Commit, Error, NewSegment, Result, SegmentData, SegmentId, Table, TableChange, TableId,
};
use plexus_raft::Meta;
use plexus_storage::inline;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::ingest::new_segment;
use crate::limits::{COMMIT_TIMEOUT, GROUP_QUEUE_MAX, GROUP_SIZE_MAX};

/// Hands small writes to the task that commits them.
#[derive(Clone)]
pub struct GroupCommitter {
    queue: mpsc::Sender<Pending>,
}

struct Pending {
    table: Arc<Table>,
    parts: Vec<(u32, RecordBatch)>,
    operation: &'static str,
    reply: oneshot::Sender<Result<Applied>>,
}

impl GroupCommitter {
    /// Starts the task; it ends when `stop` is cancelled.
    pub fn start(meta: Arc<Meta>, stop: CancellationToken) -> Self {
        let (queue, mut waiting) = mpsc::channel(GROUP_QUEUE_MAX);
        tokio::spawn(async move {
            let mut group = Vec::new();
            loop {
                let received = tokio::select! {
                    n = waiting.recv_many(&mut group, GROUP_SIZE_MAX) => n,
                    () = stop.cancelled() => return,
                };
                if received == 0 {
                    return;
                }
                commit_group(&meta, std::mem::take(&mut group)).await;
            }
        });
        Self { queue }
    }

    /// Commits the rows, already routed to shards, together with those of other statements.
    pub async fn insert(
        &self,
        table: Arc<Table>,
        parts: Vec<(u32, RecordBatch)>,
        operation: &'static str,
    ) -> Result<Applied> {
        let (reply, answer) = oneshot::channel();
        let gone = |_| Error::unavailable("the node is stopping");
        self.queue.send(Pending { table, parts, operation, reply }).await.map_err(|e| gone(e.to_string()))?;
        answer.await.map_err(|e| gone(e.to_string()))?
    }
}

async fn commit_group(meta: &Meta, group: Vec<Pending>) {
    if group.len() > 1 {
        match commit(meta, &group).await {
            Ok(applied) => {
                group.into_iter().for_each(|p| drop(p.reply.send(Ok(applied))));
                return;
            }
            // Only a refusal is known to have changed nothing; anything else must not be tried under a
            // new token.
            Err(e) if e.is_retryable() && e.kind() != plexus_model::ErrorKind::Conflict => {
                for p in group {
                    let _ = p.reply.send(Err(Error::new(e.kind(), e.message())));
                }
                return;
            }
            Err(_) => {}
        }
    }
    for pending in group {
        let result = commit(meta, std::slice::from_ref(&pending)).await;
        let _ = pending.reply.send(result);
    }
}

async fn commit(meta: &Meta, group: &[Pending]) -> Result<Applied> {
    type Shards<'a> = BTreeMap<u32, Vec<&'a RecordBatch>>;
    let mut tables: BTreeMap<TableId, (&Arc<Table>, Shards)> = BTreeMap::new();
    for pending in group {
        let (_, shards) = tables.entry(pending.table.id).or_insert_with(|| (&pending.table, BTreeMap::new()));
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
