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
use plexus_model::{
    Applied, Command, Commit, Error, ErrorKind, NewSegment, Result, Segment, SegmentData, SegmentId, Table,
    TableChange, Version,
};
use plexus_raft::Meta;
use plexus_storage::{EncodedSegment, Router, SegmentEncoder, rows_bytes, types};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::Instrument;

use crate::conform::conform;
use crate::group::GroupCommitter;
use crate::limits::{
    COMMIT_TIMEOUT, LOAD_BUFFER_BYTES_MAX, LOAD_WAIT_MAX, LOADS_MAX, SEGMENT_BYTES_TARGET, UPLOADS_MAX,
    WRITE_TIME_MAX,
};
use crate::peers::SegmentUpload;
use crate::replicate::Replicator;

/// What every write needs.
#[derive(Clone)]
pub struct Writer {
    pub meta: Arc<Meta>,
    pub replicator: Replicator,
    pub encoder: SegmentEncoder,
    pub group: GroupCommitter,
    /// One permit a write that is too large for the log.
    pub loads: Arc<Semaphore>,
}

/// The result of a write.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    pub rows: u64,
    /// Version from which the rows are visible; `None` when there were none.
    pub version: Option<Version>,
}

impl Writer {
    /// Begins a write to `table` as pinned by the statement.
    pub fn begin(&self, table: Arc<Table>, operation: &'static str) -> Ingest {
        let shards = table.shards.len();
        let first = (SegmentId::generate().0 & 0xffff) as u32;
        Ingest {
            schema: types::to_arrow(&table.schema),
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
            operation,
        }
    }

    /// Commits one change, under a token that is repeated until the outcome is known.
    pub async fn commit(&self, changes: Vec<TableChange>, operation: &str) -> Result<Applied> {
        let commit = Commit { changes, operation: operation.to_owned() };
        self.meta.propose(Command::Commit(commit), COMMIT_TIMEOUT).await
    }

    /// Encodes the batches of one shard and makes them durable on its replicas.
    #[tracing::instrument(level = "info", skip_all, fields(table = %table.name, shard = shard))]
    pub async fn upload(
        &self,
        table: &Table,
        shard: u32,
        level: u8,
        batches: Vec<RecordBatch>,
    ) -> Result<NewSegment> {
        let encoder = self.encoder;
        let schema = table.schema.clone();
        let encoded = tokio::task::spawn_blocking(move || encoder.encode(&schema, batches))
            .await
            .map_err(|e| Error::internal(format!("encoding a segment: {e}")))??;
        let EncodedSegment { bytes, checksum, rows, columns } = encoded;
        let id = SegmentId::generate();
        let length = bytes.len() as u64;
        let replicas = &table.shards[shard as usize].replicas;
        let acknowledged = self.replicator.replicate(SegmentUpload { id, checksum, bytes }, replicas).await?;
        tracing::debug!(segment = %id, rows, bytes = length, replicas = acknowledged.len(), "segment is durable");
        let data = SegmentData::File { bytes: length, checksum };
        Ok(NewSegment(new_segment(table, id, shard, rows, level, data, columns, acknowledged)))
    }
}

#[allow(clippy::too_many_arguments)] // one argument a field of the record
pub(crate) fn new_segment(
    table: &Table,
    id: SegmentId,
    shard: u32,
    rows: u64,
    level: u8,
    data: SegmentData,
    columns: Vec<plexus_model::ColumnStatistics>,
    acknowledged: Vec<plexus_model::NodeId>,
) -> Segment {
    Segment {
        id,
        shard,
        rows,
        level,
        schema_version: table.schema_version,
        added: Version(0),
        removed: None,
        removed_time_us: 0,
        data,
        columns,
        acknowledged,
    }
}

#[derive(Default)]
struct Buffer {
    batches: Vec<RecordBatch>,
    bytes: usize,
}

/// One write in progress. Dropping it abandons it.
pub struct Ingest {
    table: Arc<Table>,
    schema: SchemaRef,
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
        let batch = conform(batch, &self.schema, &self.table)?;
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
            writer.upload(&table, shard as u32, 0, buffer.batches).await
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
        let change = TableChange {
            table: self.table.id,
            schema_version: self.table.schema_version,
            add: std::mem::take(&mut self.segments),
            remove: vec![],
        };
        let applied = self.writer.commit(vec![change], self.operation).await?;
        Ok(Written { rows: self.rows, version: Some(applied.version) })
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
        let applied = self.writer.group.insert(self.table.clone(), parts, bytes, self.operation).await?;
        Ok(Written { rows: self.rows, version: Some(applied.version) })
    }
}

fn joined(done: Result<Result<NewSegment>, tokio::task::JoinError>) -> Result<NewSegment> {
    done.map_err(|e| Error::internal(format!("writing a segment: {e}")))?
}
