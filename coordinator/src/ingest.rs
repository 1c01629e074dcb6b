//! Writing rows: from batches to one commit.
//!
//! Batches are checked against the schema that the statement pinned, routed to shards, encoded once and
//! sent to all replicas as they fill. One commit at the end makes all of it visible, or none: segments
//! of a load that fails are unreachable and become garbage.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use plexus_model::limits::{
    INLINE_BYTES_MAX, INLINE_TABLE_BYTES_MAX, INLINE_TOTAL_BYTES_MAX, PROPOSAL_BYTES_MAX,
};
use plexus_model::{
    Applied, ChangeKind, Command, Commit, DeletionVector, DeletionVectorData, Error, ErrorKind, FileData,
    Manifest, NewSegment, NodeId, Result, RowSet, Segment, SegmentData, SegmentId, Statistics, Table,
    TableChange, TableSchema, Version, failpoint,
};
use plexus_query::{Engine, RowChecks};
use plexus_raft::Meta;
use plexus_storage::{
    EncodedSegment, Router, SegmentEncoder, SegmentReader, SegmentRows, inline, rows_bytes, types,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::Instrument;

use crate::changes::RowChanges;
use crate::conform::conform;
use crate::group::{GroupCommitter, RowsToWrite};
use crate::keys::{KeyIndexes, OnDuplicate};
use crate::limits::{
    COMMIT_TIMEOUT, LOAD_BUFFER_BYTES_MAX, LOAD_WAIT_MAX, LOADS_MAX, READ_INDEX_TIMEOUT,
    SEGMENT_BYTES_TARGET, UPLOADS_MAX, WRITE_ATTEMPTS_MAX, WRITE_TIME_MAX,
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
    pub reader: SegmentReader,
    pub keys: Arc<KeyIndexes>,
    pub engine: Arc<Engine>,
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
            checks: self.engine.checks(&table.schema)?,
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

    /// Commits changes at once.
    pub async fn commit(
        &self,
        changes: Vec<TableChange>,
        operation: &str,
        started: Instant,
    ) -> Result<Applied> {
        let duration_us = started.elapsed().as_micros() as u64;
        let operation = operation.to_owned();
        self.propose(Commit { changes, operation, duration_us, ..Commit::default() }).await
    }

    /// Commits, under a token that is repeated until the outcome is known.
    pub async fn propose(&self, commit: Commit) -> Result<Applied> {
        failpoint::crash_if_armed("commit.propose");
        let applied = self.meta.propose(Command::Commit(commit), COMMIT_TIMEOUT).await;
        failpoint::crash_if_armed("commit.answered");
        applied
    }

    /// Encodes the batches of one shard and makes them durable on its replicas.
    #[tracing::instrument(level = "info", skip_all, fields(table = %table.name, shard = shard))]
    pub async fn upload(
        &self,
        table: &Table,
        shard: u32,
        level: u8,
        schema: Arc<TableSchema>,
        rows: SegmentRows,
    ) -> Result<NewSegment> {
        let encoder = self.encoder;
        let encoded = tokio::task::spawn_blocking(move || encoder.encode(&schema, rows))
            .await
            .map_err(|e| Error::internal(format!("encoding a segment: {e}")))??;
        let EncodedSegment { bytes, data, rows, statistics } = encoded;
        let (id, acknowledged) = self.replicate(table, shard, bytes, data.checksum).await?;
        failpoint::crash_if_armed("segment.durable");
        tracing::debug!(segment = %id, rows, bytes = data.bytes, replicas = acknowledged.len(), "segment is durable");
        let segment = Segment { level, statistics, acknowledged, ..new_segment(table, id, shard, rows) };
        Ok(NewSegment(Segment { data: SegmentData::File(data), ..segment }))
    }

    /// Makes bytes durable on the replicas of a shard, under a new id.
    pub async fn replicate(
        &self,
        table: &Table,
        shard: u32,
        bytes: Bytes,
        checksum: [u8; 32],
    ) -> Result<(SegmentId, Vec<NodeId>)> {
        let id = SegmentId::generate();
        let replicas = &table.shards[shard as usize].replicas;
        let acknowledged = self.replicator.replicate(SegmentUpload { id, checksum, bytes }, replicas).await?;
        Ok((id, acknowledged))
    }

    /// The deletion of rows from a segment of a shard: in the log, or in a file when they take more than
    /// `inline_max` bytes.
    pub async fn deletion(
        &self,
        table: &Table,
        shard: u32,
        rows: &RowSet,
        inline_max: usize,
    ) -> Result<DeletionVector> {
        let deletion = DeletionVector::inline(rows);
        let DeletionVectorData::Inline(bytes) = &deletion.rows else {
            return Ok(deletion);
        };
        if bytes.len() <= inline_max {
            return Ok(deletion);
        }
        let bytes = Bytes::from(bytes.clone());
        let checksum = *blake3::hash(&bytes).as_bytes();
        let data = FileData { bytes: bytes.len() as u64, checksum, column_bytes: 0 };
        let (id, acknowledged) = self.replicate(table, shard, bytes, checksum).await?;
        Ok(DeletionVector { rows: DeletionVectorData::File { id, data, acknowledged }, ..deletion })
    }

    /// Rows of a shard as a segment that rides in the log.
    pub fn inline(&self, table: &Table, shard: u32, batches: &[&RecordBatch]) -> Result<NewSegment> {
        let encoded = inline::encode(&table.schema, batches)?;
        let segment = new_segment(table, SegmentId::generate(), shard, encoded.rows);
        Ok(NewSegment(Segment {
            data: SegmentData::Inline(encoded.bytes),
            statistics: encoded.statistics,
            keys: encoded.keys,
            ..segment
        }))
    }
}

/// A record of a segment without its data.
fn new_segment(table: &Table, id: SegmentId, shard: u32, rows: u64) -> Segment {
    Segment {
        id,
        shard,
        rows,
        level: 0,
        schema_version: table.schema_version,
        added: Version(0),
        newest: Version(0),
        removed: None,
        removed_time_us: 0,
        data: SegmentData::Inline(vec![]),
        statistics: Statistics::default(),
        keys: vec![],
        deletions: vec![],
        indexes: vec![],
        acknowledged: vec![],
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

/// The table as `manifest` has it, as long as its schema is still the one that rows were made for.
pub fn current(manifest: &Manifest, table: &Table) -> Result<Arc<Table>> {
    let found = manifest.tables.get(&table.id).filter(|t| t.dropped.is_none());
    found.filter(|t| t.schema_version == table.schema_version).cloned().ok_or_else(|| {
        Error::conflict(format!("table {} was dropped, or its schema changed, meanwhile", table.name))
    })
}

fn joined(done: Result<Result<NewSegment>, tokio::task::JoinError>) -> Result<NewSegment> {
    done.map_err(|e| Error::internal(format!("writing a segment: {e}")))?
}
