//! Writing rows: from batches to one commit.
//!
//! Batches are checked against the schema that the statement pinned, routed to shards, encoded once and
//! sent to all replicas as they fill. One commit at the end makes all of it visible, or none: segments
//! of a load that fails are unreachable and become garbage.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use bytes::Bytes;
use plexus_model::{
    Applied, Command, Commit, DeletionVector, DeletionVectorData, Error, FileData, Manifest, NewSegment,
    NodeId, Result, RowSet, Segment, SegmentData, SegmentId, Statistics, Table, TableChange, TableSchema,
    Version, failpoint,
};
use plexus_query::Engine;
use plexus_raft::Meta;
use plexus_storage::{EncodedSegment, SegmentEncoder, SegmentReader, SegmentRows, inline};
use tokio::sync::Semaphore;

use crate::limits::COMMIT_TIMEOUT;
use crate::peers::SegmentUpload;
use crate::write::group_queue::GroupCommitter;
use crate::write::keys::KeyIndexes;
use crate::write::replicate::Replicator;

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

impl Writer {
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
pub fn new_segment(table: &Table, id: SegmentId, shard: u32, rows: u64) -> Segment {
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

/// The table as `manifest` has it, as long as its schema is still the one that rows were made for.
pub fn current(manifest: &Manifest, table: &Table) -> Result<Arc<Table>> {
    let found = manifest.tables.get(&table.id).filter(|t| t.dropped.is_none());
    found.filter(|t| t.schema_version == table.schema_version).cloned().ok_or_else(|| {
        Error::conflict(format!("table {} was dropped, or its schema changed, meanwhile", table.name))
    })
}
