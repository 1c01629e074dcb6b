//! Writing rows: from batches to one commit.
//!
//! Batches are checked against the schema that the statement pinned, routed to shards, encoded once and
//! sent to all replicas as they fill. One commit at the end makes all of it visible, or none: segments
//! of a load that fails are unreachable and become garbage.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute;
use arrow_schema::{DataType, SchemaRef};
use plexus_model::limits::INLINE_BYTES_MAX;
use plexus_model::{
    Applied, Command, Commit, Error, ErrorKind, NewSegment, Result, Segment, SegmentData, SegmentId, Table,
    TableChange, Version,
};
use plexus_raft::Meta;
use plexus_storage::{EncodedSegment, Router, SegmentEncoder, types};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::group::GroupCommitter;
use crate::limits::{
    COMMIT_TIMEOUT, LOAD_BUFFER_BYTES_MAX, SEGMENT_BYTES_TARGET, UPLOADS_MAX, WRITE_TIME_MAX,
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
            segments: Vec::new(),
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
    segments: Vec<NewSegment>,
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
        for (shard, part) in self.router.route(batch)? {
            let buffer = &mut self.buffers[shard as usize];
            buffer.bytes += rows_bytes(&part);
            buffer.batches.push(part);
            if buffer.bytes >= SEGMENT_BYTES_TARGET {
                self.flush(shard as usize).await?;
            }
        }
        while self.buffers.iter().map(|b| b.bytes).sum::<usize>() > LOAD_BUFFER_BYTES_MAX {
            let largest = (0..self.buffers.len()).max_by_key(|&s| self.buffers[s].bytes).unwrap_or_default();
            self.flush(largest).await?;
        }
        Ok(())
    }

    async fn flush(&mut self, shard: usize) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffers[shard]);
        if buffer.batches.is_empty() {
            return Ok(());
        }
        while let Some(done) = self.uploads.try_join_next() {
            self.segments.push(joined(done)?);
        }
        let permit =
            self.permits.clone().acquire_owned().await.map_err(|_| Error::internal("uploads were closed"))?;
        let writer = self.writer.clone();
        let table = self.table.clone();
        self.uploads.spawn(async move {
            let _permit = permit;
            writer.upload(&table, shard as u32, 0, buffer.batches).await
        });
        Ok(())
    }

    /// Makes all rows visible in one commit.
    pub async fn finish(mut self) -> Result<Written> {
        if self.rows == 0 {
            return Ok(Written { rows: 0, version: None });
        }
        let buffered: usize = self.buffers.iter().map(|b| b.bytes).sum();
        if self.uploads.is_empty() && self.segments.is_empty() && buffered <= INLINE_BYTES_MAX {
            match self.finish_inline().await {
                // The log holds enough rows of this table for now: take the file path.
                Err(e) if e.kind() == ErrorKind::ResourceExhausted => {}
                other => return other,
            }
        }
        for shard in 0..self.buffers.len() {
            self.flush(shard).await?;
        }
        while let Some(done) = self.uploads.join_next().await {
            self.segments.push(joined(done)?);
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

    async fn finish_inline(&self) -> Result<Written> {
        let parts: Vec<(u32, RecordBatch)> = self
            .buffers
            .iter()
            .enumerate()
            .flat_map(|(shard, buffer)| buffer.batches.iter().map(move |b| (shard as u32, b.clone())))
            .collect();
        let applied = self.writer.group.insert(self.table.clone(), parts, self.operation).await?;
        Ok(Written { rows: self.rows, version: Some(applied.version) })
    }
}

/// Bytes that the rows of a batch take, however large the buffers are that they are part of: batches that
/// came in one message share its buffer.
fn rows_bytes(batch: &RecordBatch) -> usize {
    let of = |array: &arrow::array::ArrayRef| {
        let views: usize = match array.data_type() {
            DataType::Utf8View => array.as_string_view().total_bytes_len(),
            DataType::BinaryView => array.as_binary_view().total_bytes_len(),
            _ => 0,
        };
        views + array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size())
    };
    batch.columns().iter().map(of).sum()
}

fn joined(done: Result<Result<NewSegment>, tokio::task::JoinError>) -> Result<NewSegment> {
    done.map_err(|e| Error::internal(format!("writing a segment: {e}")))?
}

/// Checks that a batch has the columns of the table and casts nothing but representation: names, order
/// and nullability are the caller's to get right, and an offending value is named.
fn conform(batch: RecordBatch, schema: &SchemaRef, table: &Table) -> Result<RecordBatch> {
    if batch.num_columns() != schema.fields().len() {
        return Err(Error::invalid(format!(
            "table {} has {} columns, the rows have {}",
            table.name,
            schema.fields().len(),
            batch.num_columns()
        )));
    }
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (array, field) in batch.columns().iter().zip(schema.fields()) {
        if !field.is_nullable() && array.null_count() > 0 {
            return Err(Error::invalid(format!(
                "column {:?} of table {} must not be null",
                field.name(),
                table.name
            )));
        }
        let array = if array.data_type() == field.data_type() {
            array.clone()
        } else {
            cast_exactly(array, field.data_type())
                .map_err(|e| e.context(format!("column {:?} of table {}", field.name(), table.name)))?
        };
        columns.push(array);
    }
    RecordBatch::try_new(schema.clone(), columns)
        .map_err(|e| Error::invalid(format!("rows for table {}: {e}", table.name)).with_source(e))
}

/// Casts between representations of the same kind of value, and fails on a value that does not fit instead
/// of making it null or cutting it.
fn cast_exactly(array: &arrow::array::ArrayRef, to: &DataType) -> Result<arrow::array::ArrayRef> {
    let from = array.data_type();
    if !keeps_values(from, to) {
        return Err(Error::invalid(format!("the rows have type {from}, the table has {to}")));
    }
    let options = compute::CastOptions { safe: false, ..Default::default() };
    compute::cast_with_options(array, to, &options)
        .map_err(|e| Error::invalid(format!("{from} does not fit {to}: {e}")).with_source(e))
}

/// Whether a cast either keeps a value or fails on it.
fn keeps_values(from: &DataType, to: &DataType) -> bool {
    use DataType::*;
    let text = |t: &DataType| matches!(t, Utf8 | LargeUtf8 | Utf8View);
    let bytes = |t: &DataType| matches!(t, Binary | LargeBinary | BinaryView);
    match (from, to) {
        (Null, _) => true,
        (Dictionary(_, values), _) => keeps_values(values, to) || values.as_ref() == to,
        (List(a) | LargeList(a) | FixedSizeList(a, _), List(b) | LargeList(b) | FixedSizeList(b, _)) => {
            a.data_type() == b.data_type() || keeps_values(a.data_type(), b.data_type())
        }
        (Struct(a), Struct(b)) => {
            a.len() == b.len()
                && a.iter().zip(b).all(|(a, b)| {
                    a.name() == b.name()
                        && (a.data_type() == b.data_type() || keeps_values(a.data_type(), b.data_type()))
                })
        }
        // A float that is written as a narrower one is rounded, as every database does.
        (a, b) if a.is_floating() && b.is_floating() => true,
        (a, b) if a.is_integer() => b.is_numeric(),
        (Decimal128(_, a) | Decimal256(_, a), Decimal128(_, b) | Decimal256(_, b)) => a <= b,
        (a, b) => (text(a) && text(b)) || (bytes(a) && bytes(b)),
    }
}
