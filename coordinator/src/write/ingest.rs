//! One write: from batches of rows to one commit.
//!
//! Batches are checked against the schema that the statement pinned, routed to shards, encoded once, and
//! uploaded to all replicas as buffers fill. One commit at the end makes all rows visible, or none. Small
//! writes have no uploads: their rows travel in the log, in a group commit.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow_schema::SchemaRef;
use futures::FutureExt;
use plexus_memory::inherit;
use plexus_model::limits::{
    INLINE_BYTES_MAX, INLINE_TABLE_BYTES_MAX, INLINE_TOTAL_BYTES_MAX, PROPOSAL_BYTES_MAX,
};
use plexus_model::{
    ChangeKind, Error, ErrorKind, Manifest, NewSegment, Result, SegmentId, Table, TableChange,
};
use plexus_query::RowChecks;
use plexus_storage::{Router, rows_bytes, types};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::limits::{
    READ_INDEX_TIMEOUT, SEGMENT_BYTES_TARGET, UPLOADS_MAX, WRITE_ATTEMPTS_MAX, WRITE_TIME_MAX,
};
use crate::write::coerce::coerce;
use crate::write::group_queue::{RowsToWrite, WriteResult};
use crate::write::keys::OnDuplicate;
use crate::write::row_changes::RowChanges;
use crate::write::writer::{Writer, current_with_schema_of};

/// The name of bulk ingests in the commit history.
pub(crate) const LOAD: &str = "ingest";

/// Rows of one shard that are not encoded yet.
#[derive(Default)]
struct ShardBuffer {
    batches: Vec<RecordBatch>,
    /// Bytes of the batches in memory.
    bytes: usize,
}

/// A write in progress. Dropping it abandons the write.
pub struct Ingest {
    table: Arc<Table>,
    /// The Arrow schema of the table.
    schema: SchemaRef,
    checks: RowChecks,
    on_duplicate: OnDuplicate,
    operation: &'static str,
    router: Router,
    /// By shard.
    buffers: Vec<ShardBuffer>,
    uploads: JoinSet<Result<NewSegment>>,
    /// Bounds the uploads in progress.
    upload_permits: Arc<Semaphore>,
    /// Held once the write is too large for the log.
    load_permit: Option<OwnedSemaphorePermit>,
    /// Uploaded segments.
    segments: Vec<NewSegment>,
    /// Bytes of the records of `segments` in the log entry of the commit.
    segments_weight: usize,
    rows: u64,
    started: Instant,
    writer: Writer,
}

impl Writer {
    /// Begins a write to `table` as the statement pinned it. `operation` is its name in the commit history.
    ///
    /// # Errors
    /// `InvalidArgument` when a `CHECK` constraint of the table cannot be evaluated.
    pub(crate) fn begin(
        &self,
        table: Arc<Table>,
        on_duplicate: OnDuplicate,
        operation: &'static str,
    ) -> Result<Ingest> {
        let shards = table.shards.len();
        // Tables without a key are filled round-robin. A random start spreads small writes over the shards.
        let first_shard = (SegmentId::generate().0 & 0xffff) as u32;
        Ok(Ingest {
            schema: types::to_arrow(&table.schema),
            checks: self.engine.row_checks(&table.schema)?,
            router: Router::new(&table.schema.primary_key, shards as u32, first_shard),
            buffers: (0..shards).map(|_| ShardBuffer::default()).collect(),
            uploads: JoinSet::new(),
            upload_permits: Arc::new(Semaphore::new(UPLOADS_MAX)),
            load_permit: None,
            segments: Vec::new(),
            segments_weight: 0,
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
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Number of rows so far.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds rows. Waits while too many segments are being encoded or sent.
    ///
    /// # Errors
    /// `InvalidArgument` when a row does not fit the table. `ResourceExhausted` when too many loads are in
    /// progress on this node, or when one commit cannot hold the segments. `Unavailable` when an upload
    /// failed.
    pub(crate) async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let batch = self.prepare(batch.clone()).map_err(|error| self.locate(&batch, error))?;
        self.rows += batch.num_rows() as u64;
        if self.load_permit.is_none() && self.buffered_bytes() + rows_bytes(&batch) > INLINE_BYTES_MAX {
            self.load_permit = Some(self.writer.loads.load().await?);
        }
        for (shard, part) in self.router.route(batch)? {
            let buffer = &mut self.buffers[shard as usize];
            buffer.bytes += rows_bytes(&part);
            buffer.batches.push(part);
            if buffer.bytes >= SEGMENT_BYTES_TARGET {
                self.start_upload(shard as usize).await?;
            }
        }
        while self.buffered_bytes() > self.writer.loads.buffer_bytes() {
            let largest = (0..self.buffers.len()).max_by_key(|&s| self.buffers[s].bytes).unwrap_or_default();
            self.start_upload(largest).await?;
        }
        Ok(())
    }

    /// The rows as the table stores them, checked.
    fn prepare(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let batch = coerce(batch, &self.schema, &self.table)?;
        self.checks.check(&batch).map_err(|e| e.context(format!("table {}", self.table.name)))?;
        Ok(batch)
    }

    /// The error of the first bad row of a batch of a load, with its number. Rows of statements have none.
    fn locate(&self, batch: &RecordBatch, error: Error) -> Error {
        // What fails without rows is not the fault of a row: a type that cannot be converted.
        if self.operation != LOAD || self.prepare(batch.slice(0, 0)).is_err() {
            return error;
        }
        let (mut good, mut end) = (0, batch.num_rows());
        while good < end {
            let middle = good.midpoint(end);
            match self.prepare(batch.slice(0, middle + 1)) {
                Ok(_) => good = middle + 1,
                Err(_) => end = middle,
            }
        }
        if good == batch.num_rows() {
            return error;
        }
        error.context(format!("row {}", self.rows + good as u64 + 1))
    }

    fn buffered_bytes(&self) -> usize {
        self.buffers.iter().map(|b| b.bytes).sum()
    }

    /// Encodes and uploads the buffered rows of a shard in the background. Waits for a free upload slot.
    async fn start_upload(&mut self, shard: usize) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffers[shard]);
        if buffer.batches.is_empty() {
            return Ok(());
        }
        while let Some(done) = self.uploads.try_join_next() {
            self.add_segment(upload_result(done)?)?;
        }
        let permit = self
            .upload_permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| Error::internal("the upload semaphore is closed"))?;
        let of_node = self.writer.loads.upload().await?;
        let writer = self.writer.clone();
        let table = self.table.clone();
        let upload = async move {
            let _permits = (permit, of_node);
            writer.upload(&table, shard as u32, 0, table.schema.clone(), buffer.batches.into()).await
        };
        self.uploads.spawn(inherit(upload.in_current_span().boxed()));
        Ok(())
    }

    /// Adds an uploaded segment to the commit.
    ///
    /// # Errors
    /// `ResourceExhausted` when the commit does not fit into a log entry.
    fn add_segment(&mut self, segment: NewSegment) -> Result<()> {
        self.segments_weight += segment.weight();
        self.segments.push(segment);
        if self.segments_weight + INLINE_BYTES_MAX > PROPOSAL_BYTES_MAX {
            return Err(Error::exhausted(format!(
                "{} segments of table {} are more than one commit can hold: load less at once",
                self.segments.len(),
                self.table.name
            )));
        }
        Ok(())
    }

    /// Makes all rows visible in one commit.
    ///
    /// # Errors
    /// `AlreadyExists` or `InvalidArgument` for a rejected primary key. `Conflict` when concurrent commits
    /// interfere. Otherwise those of [`Self::write`] and of the commit.
    pub(crate) async fn finish(mut self) -> Result<WriteResult> {
        if self.rows == 0 {
            return Ok(WriteResult { rows: 0, version: None });
        }
        let bytes = self.buffered_bytes();
        if self.uploads.is_empty() && self.segments.is_empty() && self.fits_inline(bytes) {
            match self.finish_inline(bytes).await {
                // The inline bytes of the log have reached their limit in the meantime, or the schema has
                // changed: write files.
                Err(e) if matches!(e.kind(), ErrorKind::ResourceExhausted | ErrorKind::Conflict) => {}
                other => return other,
            }
        }
        let segments = self.finish_uploads().await?;
        if self.table.schema.has_key() {
            return self.commit_keyed(segments).await;
        }
        let mut attempt = 1;
        let applied = loop {
            let change = self.change(&self.writer.meta.manifest(), segments.clone())?;
            match self.writer.commit(vec![change], self.operation, self.started).await {
                // An index may have been added or dropped meanwhile.
                Err(e) if e.kind() == ErrorKind::Conflict && attempt < WRITE_ATTEMPTS_MAX => {
                    self.writer.meta.read(READ_INDEX_TIMEOUT).await?;
                    attempt += 1;
                }
                applied => break applied?,
            }
        };
        Ok(WriteResult { rows: self.rows, version: Some(applied.version) })
    }

    /// Uploads the remaining rows and waits until all segments are durable.
    async fn finish_uploads(&mut self) -> Result<Vec<NewSegment>> {
        for shard in 0..self.buffers.len() {
            self.start_upload(shard).await?;
        }
        while let Some(done) = self.uploads.join_next().await {
            self.add_segment(upload_result(done)?)?;
        }
        if self.started.elapsed() > WRITE_TIME_MAX {
            return Err(Error::exhausted(format!(
                "the write took {:?}, longer than {WRITE_TIME_MAX:?}: its first segments may be \
                 collected as garbage",
                self.started.elapsed()
            )));
        }
        Ok(std::mem::take(&mut self.segments))
    }

    /// The change that adds segments to the table.
    ///
    /// # Errors
    /// Those of [`current_with_schema_of`].
    fn change(&self, manifest: &Manifest, add: Vec<NewSegment>) -> Result<TableChange> {
        let table = current_with_schema_of(manifest, &self.table)?;
        let change = TableChange::new(table.id, table.schema_version, manifest.version, ChangeKind::Write);
        Ok(TableChange { add, ..change })
    }

    /// Commits segments of a table with a primary key. While concurrent commits write the same keys, resolves
    /// duplicates again at a newer version.
    async fn commit_keyed(&self, segments: Vec<NewSegment>) -> Result<WriteResult> {
        let mut attempt = 1;
        loop {
            let manifest = self.writer.meta.read(READ_INDEX_TIMEOUT).await?;
            let table = current_with_schema_of(&manifest, &self.table)?;
            let mut changes = RowChanges::new(table.clone());
            changes.add(segments.clone());
            let rows =
                changes.resolve_keys(&self.writer, &table, manifest.version, self.on_duplicate).await?;
            if rows == 0 {
                return Ok(WriteResult { rows, version: None });
            }
            let change = changes.into_change(&self.writer, &table, manifest.version).await?;
            match self.writer.commit(vec![change], self.operation, self.started).await {
                Err(e) if e.kind() == ErrorKind::Conflict && attempt < WRITE_ATTEMPTS_MAX => attempt += 1,
                applied => return Ok(WriteResult { rows, version: Some(applied?.version) }),
            }
        }
    }

    /// Returns the rows as segments that are not committed, for a transaction that commits them. Segments in
    /// files are durable.
    ///
    /// # Errors
    /// Those of [`Self::write`].
    pub(crate) async fn stage(mut self) -> Result<Vec<NewSegment>> {
        let bytes = self.buffered_bytes();
        if self.uploads.is_empty() && self.segments.is_empty() && bytes <= INLINE_BYTES_MAX {
            let filled = self.buffers.iter().zip(0..).filter(|(b, _)| !b.batches.is_empty());
            return filled
                .map(|(buffer, shard)| {
                    self.writer.inline_segment(&self.table, shard, &buffer.batches.iter().collect::<Vec<_>>())
                })
                .collect();
        }
        self.finish_uploads().await
    }

    /// Whether rows of so many bytes may travel in the log, by the inline bytes in the local manifest.
    /// `apply` makes the final decision.
    fn fits_inline(&self, bytes: usize) -> bool {
        let manifest = self.writer.meta.manifest();
        let table_bytes = manifest.tables.get(&self.table.id).map_or(0, |t| t.inline_bytes);
        bytes <= INLINE_BYTES_MAX
            && table_bytes + bytes as u64 <= INLINE_TABLE_BYTES_MAX as u64
            && manifest.inline_bytes() + bytes as u64 <= INLINE_TOTAL_BYTES_MAX as u64
    }

    /// Commits the buffered rows in a group commit.
    async fn finish_inline(&self, bytes: usize) -> Result<WriteResult> {
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

/// The segment of an upload, or its error.
fn upload_result(done: Result<Result<NewSegment>, tokio::task::JoinError>) -> Result<NewSegment> {
    done.map_err(|e| Error::internal(format!("uploading a segment: {e}")))?
}
