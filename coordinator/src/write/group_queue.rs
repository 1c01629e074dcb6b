//! Writing rows: from batches to one commit.
//!
//! Batches are checked against the schema that the statement pinned, routed to shards, encoded once and
//! sent to all replicas as they fill. One commit at the end makes all of it visible, or none: segments
//! of a load that fails are unreachable and become garbage.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use plexus_model::{Error, Result, Table, TableId, Version};
use tokio::sync::{mpsc, oneshot};

use crate::limits::GROUP_QUEUE_MAX;
use crate::write::keys::OnDuplicate;

/// The result of a write.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    pub rows: u64,
    /// Version from which the rows are visible; `None` when there were none.
    pub version: Option<Version>,
}

/// Hands small writes to the task that commits them.
#[derive(Clone)]
pub struct GroupCommitter {
    queue: mpsc::Sender<Pending>,
}

/// Rows of one statement, routed to shards.
pub struct RowsToWrite {
    pub table: Arc<Table>,
    pub parts: Vec<(u32, RecordBatch)>,
    /// About how much the rows add to the entry.
    pub bytes: usize,
    pub on_duplicate: OnDuplicate,
}

pub struct Pending {
    pub rows: RowsToWrite,
    pub operation: &'static str,
    pub since: Instant,
    pub reply: oneshot::Sender<Result<Written>>,
}

/// Rows of one schema: a table, and the version of its schema that the statement pinned.
pub type TableKey = (TableId, u32);

impl Pending {
    pub fn key(&self) -> TableKey {
        (self.rows.table.id, self.rows.table.schema_version)
    }

    pub fn row_count(&self) -> u64 {
        self.rows.parts.iter().map(|(_, batch)| batch.num_rows() as u64).sum()
    }
}

/// The queue in front of a task that is started later: writers hold its front, and the task a writer.
pub struct GroupTask(pub(super) mpsc::Receiver<Pending>);

impl GroupCommitter {
    pub fn new() -> (Self, GroupTask) {
        let (queue, waiting) = mpsc::channel::<Pending>(GROUP_QUEUE_MAX);
        (Self { queue }, GroupTask(waiting))
    }

    /// Commits the rows together with those of other statements.
    pub async fn write(&self, rows: RowsToWrite, operation: &'static str) -> Result<Written> {
        let (reply, answer) = oneshot::channel();
        let gone = |_| Error::unavailable("the node is stopping");
        let pending = Pending { rows, operation, since: Instant::now(), reply };
        self.queue.send(pending).await.map_err(|e| gone(e.to_string()))?;
        answer.await.map_err(|e| gone(e.to_string()))?
    }
}
