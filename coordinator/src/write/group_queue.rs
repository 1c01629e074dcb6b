//! The queue of the group committer: small writes wait here for the commit that they share.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use futures::FutureExt;
use plexus_model::{Error, Result, Table, TableId, Version};
use tokio::sync::{mpsc, oneshot};

use crate::limits::GROUP_QUEUE_MAX;
use crate::running::committing;
use crate::write::keys::OnDuplicate;

/// The result of a successful write.
#[derive(Clone, Copy, Debug)]
pub struct WriteResult {
    /// Number of rows written.
    pub rows: u64,
    /// Version from which the rows are visible; `None` when no row was written or the write is not committed
    /// yet.
    pub version: Option<Version>,
}

/// Sends small writes to the task that commits them. Cheap to clone.
#[derive(Clone)]
pub struct GroupCommitter {
    queue: mpsc::Sender<PendingWrite>,
}

/// Rows of one statement, routed to shards.
pub(crate) struct RowsToWrite {
    /// The table as the statement pinned it.
    pub(crate) table: Arc<Table>,
    /// Shards with their rows. A shard may occur several times.
    pub(crate) parts: Vec<(u32, RecordBatch)>,
    /// Approximate bytes of the rows in the log entry.
    pub(crate) bytes: usize,
    /// How rows with existing primary keys are handled.
    pub(crate) on_duplicate: OnDuplicate,
}

/// A write in the queue.
pub(crate) struct PendingWrite {
    /// The rows.
    pub(crate) rows: RowsToWrite,
    /// Name of the operation in the commit history.
    pub(crate) operation: &'static str,
    /// When the write entered the queue.
    pub(crate) enqueued_at: Instant,
    /// Receives the result.
    pub(crate) reply: oneshot::Sender<Result<WriteResult>>,
}

/// A table and the version of its schema. Only rows with the same key fit into one segment.
pub(crate) type TableKey = (TableId, u32);

impl PendingWrite {
    /// The table and schema of the rows.
    pub(crate) fn table_key(&self) -> TableKey {
        (self.rows.table.id, self.rows.table.schema_version)
    }

    /// Number of rows in all shards.
    pub(crate) fn row_count(&self) -> u64 {
        self.rows.parts.iter().map(|(_, batch)| batch.num_rows() as u64).sum()
    }
}

/// The receiving side of the queue. It becomes a running task with [`GroupTask::start`]. The two steps are
/// needed because the task needs a [`Writer`](crate::Writer), and a writer needs the sending side.
pub struct GroupTask(pub(super) mpsc::Receiver<PendingWrite>);

impl GroupCommitter {
    /// A queue: its sending side and its receiving side.
    pub fn new() -> (Self, GroupTask) {
        let (queue, pending) = mpsc::channel::<PendingWrite>(GROUP_QUEUE_MAX);
        (Self { queue }, GroupTask(pending))
    }

    /// Commits the rows together with those of other statements. Waits for the commit.
    ///
    /// # Errors
    /// `AlreadyExists` or `InvalidArgument` for a rejected primary key, `Unavailable` when the node is
    /// stopping. Otherwise the error of the commit.
    pub(crate) async fn write(&self, rows: RowsToWrite, operation: &'static str) -> Result<WriteResult> {
        let (reply, result) = oneshot::channel();
        let stopping = |_| Error::unavailable("the node is stopping");
        let pending = PendingWrite { rows, operation, enqueued_at: Instant::now(), reply };
        let commit = async {
            self.queue.send(pending).await.map_err(|e| stopping(e.to_string()))?;
            result.await.map_err(|e| stopping(e.to_string()))?
        };
        committing(commit.boxed()).await
    }
}
