//! Writing rows: from batches to one commit.
//!
//! Batches are checked against the schema that the statement pinned, routed to shards, encoded once and
//! sent to all replicas as they fill. One commit at the end makes all of it visible, or none: segments
//! of a load that fails are unreachable and become garbage.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow_schema::SchemaRef;
use plexus_model::limits::{
    INLINE_BYTES_MAX, INLINE_TABLE_BYTES_MAX, INLINE_TOTAL_BYTES_MAX, PROPOSAL_BYTES_MAX,
};
use plexus_model::{ChangeKind, Error, ErrorKind, NewSegment, Result, SegmentId, Table, TableChange};
use plexus_query::RowChecks;
use plexus_storage::{Router, rows_bytes, types};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::Instrument;

use crate::limits::{
    LOAD_BUFFER_BYTES_MAX, LOAD_WAIT_MAX, LOADS_MAX, READ_INDEX_TIMEOUT, SEGMENT_BYTES_TARGET, UPLOADS_MAX,
    WRITE_ATTEMPTS_MAX, WRITE_TIME_MAX,
};
use crate::write::coerce::coerce;
use crate::write::group_queue::{RowsToWrite, Written};
use crate::write::keys::OnDuplicate;
use crate::write::row_changes::RowChanges;
use crate::write::writer::{Writer, current};

#[derive(Default)]
pub struct Buffer {
    batches: Vec<RecordBatch>,
    bytes: usize,
}

/// One write in progress. Dropping it abandons it.
pub struct Ingest {
    table: Arc<Table>,
    schema: SchemaRef,
    checks: RowChecks,
    on_duplicate: OnDuplicate,
    operation: &'static str,
    router: Router,
    buffers: Vec<Buffer>,
    uploads: JoinSet<Result<NewSegment>>,
    permits: Arc<Semaphore>,
    /// Held once there is more than fits in the log.
    permit: Option<OwnedSemaphorePermit>,
    segments: Vec<NewSegment>,
    /// Of the segments, in the entry of the log.
    weight: usize,
    rows: u64,
    started: Instant,
    writer: Writer,
}

impl Writer {
    /// Begins a write to `table` as the statement pinned it.
    pub fn begin(
        &self,
        table: Arc<Table>,
        on_duplicate: OnDuplicate,
        operation: &'static str,
    ) -> Result<Ingest> {
        let shards = table.shards.len();
        let first = (SegmentId::generate().0 & 0xffff) as u32;
        Ok(Ingest {
            schema: types::to_arrow(&table.schema),
            checks: self.engine.row_checks(&table.schema)?,
            router: Router::new(&table.schema.primary_key, shards as u32, first),
            buffers: (0..shards).map(|_| Buffer::default()).collect(),
            uploads: JoinSet::new(),
            permits: Arc::new(Semaphore::new(UPLOADS_MAX)),
            permit: None,
            segments: Vec::new(),
            weight: 0,
            rows: 0,
            started: Instant::now(),
            writer: self.clone(),
            table,
            on_duplicate,
            operation,
        })
    }
}

impl Ingest {
    /// The schema that batches must have.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds rows. Waits while too much is being encoded or sent.
    pub async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let batch = coerce(batch, &self.schema, &self.table)?;
        self.checks.check(&batch).map_err(|e| e.context(format!("table {}", self.table.name)))?;
        self.rows += batch.num_rows() as u64;
        if self.permit.is_none() && self.buffered() + rows_bytes(&batch) > INLINE_BYTES_MAX {
            let permit = timeout(LOAD_WAIT_MAX, self.writer.loads.clone().acquire_owned()).await.map_err(|_| {
                Error::exhausted(format!(
                    "{LOADS_MAX} loads are in progress on this node, and none has ended in {LOAD_WAIT_MAX:?}"
                ))
            })?;
            self.permit = Some(permit.map_err(|_| Error::unavailable("the node is stopping"))?);
        }
        for (shard, part) in self.router.route(batch)? {
            let buffer = &mut self.buffers[shard as usize];
            buffer.bytes += rows_bytes(&part);
            buffer.batches.push(part);
            if buffer.bytes >= SEGMENT_BYTES_TARGET {
                self.flush(shard as usize).await?;
            }
        }
        while self.buffered() > LOAD_BUFFER_BYTES_MAX {
            let largest = (0..self.buffers.len()).max_by_key(|&s| self.buffers[s].bytes).unwrap_or_default();
            self.flush(largest).await?;
        }
        Ok(())
    }

    fn buffered(&self) -> usize {
        self.buffers.iter().map(|b| b.bytes).sum()
    }

    async fn flush(&mut self, shard: usize) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffers[shard]);
        if buffer.batches.is_empty() {
            return Ok(());
        }
        while let Some(done) = self.uploads.try_join_next() {
            self.uploaded(joined(done)?)?;
        }
        let permit =
            self.permits.clone().acquire_owned().await.map_err(|_| Error::internal("uploads were closed"))?;
        let writer = self.writer.clone();
        let table = self.table.clone();
        let upload = async move {
            let _permit = permit;
            writer.upload(&table, shard as u32, 0, table.schema.clone(), buffer.batches.into()).await
        };
        self.uploads.spawn(upload.in_current_span());
        Ok(())
    }

    /// Keeps a segment for the commit, as long as the commit fits in an entry of the log.
    fn uploaded(&mut self, segment: NewSegment) -> Result<()> {
        self.weight += segment.weight();
        self.segments.push(segment);
        if self.weight + INLINE_BYTES_MAX > PROPOSAL_BYTES_MAX {
            return Err(Error::exhausted(format!(
                "{} segments of table {} are more than one commit can hold: load less at once",
                self.segments.len(),
                self.table.name
            )));
        }
        Ok(())
    }

    /// Makes all rows visible in one commit.
    pub async fn finish(mut self) -> Result<Written> {
        if self.rows == 0 {
            return Ok(Written { rows: 0, version: None });
        }
        let buffered = self.buffered();
        if self.uploads.is_empty() && self.segments.is_empty() && self.goes_inline(buffered) {
            match self.finish_inline(buffered).await {
                // The log has been filled meanwhile: take the file path.
                Err(e) if e.kind() == ErrorKind::ResourceExhausted => {}
                other => return other,
            }
        }
        let segments = self.upload_rest().await?;
        if self.table.schema.has_key() {
            return self.commit_keyed(segments).await;
        }
        let applied = self.writer.commit(vec![self.change(segments)], self.operation, self.started).await?;
        Ok(Written { rows: self.rows, version: Some(applied.version) })
    }

    /// Encodes the rest and waits until all segments are durable.
    async fn upload_rest(&mut self) -> Result<Vec<NewSegment>> {
        for shard in 0..self.buffers.len() {
            self.flush(shard).await?;
        }
        while let Some(done) = self.uploads.join_next().await {
            self.uploaded(joined(done)?)?;
        }
        if self.started.elapsed() > WRITE_TIME_MAX {
            return Err(Error::exhausted(format!(
                "the write took {:?}, longer than {WRITE_TIME_MAX:?}: its first segments may be collected as garbage",
                self.started.elapsed()
            )));
        }
        Ok(std::mem::take(&mut self.segments))
    }

    fn change(&self, add: Vec<NewSegment>) -> TableChange {
        let base = self.writer.meta.manifest().version;
        let change = TableChange::new(self.table.id, self.table.schema_version, base, ChangeKind::Write);
        TableChange { add, ..change }
    }

    /// Commits segments of a table with a primary key: again at a newer version as long as somebody else
    /// writes to the same keys.
    async fn commit_keyed(&self, segments: Vec<NewSegment>) -> Result<Written> {
        let mut attempt = 1;
        loop {
            let manifest = self.writer.meta.read(READ_INDEX_TIMEOUT).await?;
            let mut changes = RowChanges::new(self.table.clone());
            changes.add(segments.clone());
            let table = current(&manifest, &self.table)?;
            let rows =
                changes.resolve_keys(&self.writer, &table, manifest.version, self.on_duplicate).await?;
            if rows == 0 {
                return Ok(Written { rows, version: None });
            }
            let change = changes.into_change(&self.writer, &table, manifest.version).await?;
            match self.writer.commit(vec![change], self.operation, self.started).await {
                Err(e) if e.kind() == ErrorKind::Conflict && attempt < WRITE_ATTEMPTS_MAX => attempt += 1,
                applied => return Ok(Written { rows, version: Some(applied?.version) }),
            }
        }
    }

    /// The rows as segments that are durable but not committed, for a transaction that will.
    pub async fn stage(mut self) -> Result<Vec<NewSegment>> {
        let buffered = self.buffered();
        if self.uploads.is_empty() && self.segments.is_empty() && buffered <= INLINE_BYTES_MAX {
            let full = self.buffers.iter().zip(0..).filter(|(b, _)| !b.batches.is_empty());
            return full
                .map(|(buffer, shard)| {
                    self.writer.inline(&self.table, shard, &buffer.batches.iter().collect::<Vec<_>>())
                })
                .collect();
        }
        self.upload_rest().await
    }

    /// Whether so few bytes should ride in the log, as far as this node knows how many do already.
    fn goes_inline(&self, bytes: usize) -> bool {
        let manifest = self.writer.meta.manifest();
        let of_table = manifest.tables.get(&self.table.id).map_or(0, |t| t.inline_bytes);
        bytes <= INLINE_BYTES_MAX
            && of_table + bytes as u64 <= INLINE_TABLE_BYTES_MAX as u64
            && manifest.inline_bytes() + bytes as u64 <= INLINE_TOTAL_BYTES_MAX as u64
    }

    async fn finish_inline(&self, bytes: usize) -> Result<Written> {
        let parts: Vec<(u32, RecordBatch)> = self
            .buffers
            .iter()
            .enumerate()
            .flat_map(|(shard, buffer)| buffer.batches.iter().map(move |b| (shard as u32, b.clone())))
            .collect();
        let rows = RowsToWrite { table: self.table.clone(), parts, bytes, on_duplicate: self.on_duplicate };
        self.writer.group.write(rows, self.operation).await
    }
}

pub fn joined(done: Result<Result<NewSegment>, tokio::task::JoinError>) -> Result<NewSegment> {
    done.map_err(|e| Error::internal(format!("writing a segment: {e}")))?
}
