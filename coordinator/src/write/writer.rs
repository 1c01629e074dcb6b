//! The components and basic steps of the write path.
//!
//! A write uploads segments first and then commits them. Segments of a write that fails before its commit are
//! unreachable, and garbage collection removes them.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::FutureExt;
use plexus_memory::inherit_in;
use plexus_model::{
    Applied, Command, Commit, DeletionVector, DeletionVectorData, Error, FileData, Manifest, NewSegment,
    NodeId, Result, RowSet, Segment, SegmentData, SegmentId, Statistics, Table, TableChange, TableSchema,
    Version, failpoint,
};
use plexus_query::Engine;
use plexus_raft::Meta;
use plexus_storage::{EncodedSegment, SegmentEncoder, SegmentReader, SegmentRows, inline};

use crate::limits::COMMIT_TIMEOUT;
use crate::peers::SegmentUpload;
use crate::running::committing;
use crate::write::group_queue::GroupCommitter;
use crate::write::keys::KeyIndexes;
use crate::write::load_slots::LoadSlots;
use crate::write::replicate::Replicator;

/// The components of the write path. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    /// The metadata group, which commits changes.
    pub meta: Arc<Meta>,
    /// Sends files to the replicas.
    pub replicator: Replicator,
    /// Encodes rows as segment files.
    pub encoder: SegmentEncoder,
    /// Commits small writes in groups.
    pub group: GroupCommitter,
    /// Reads existing segments.
    pub reader: SegmentReader,
    /// Finds rows by primary key.
    pub keys: Arc<KeyIndexes>,
    /// Evaluates `CHECK` constraints and predicates, and reads segments for index builds.
    pub engine: Arc<Engine>,
    /// Bounds the writes that are too large for the log.
    pub loads: LoadSlots,
}

impl Writer {
    /// Commits changes without grouping them with other writes. The commit history records the time since
    /// `started`.
    ///
    /// # Errors
    /// `Conflict` when a concurrent commit interferes. Otherwise those of [`Meta::propose`].
    pub(crate) async fn commit(
        &self,
        changes: Vec<TableChange>,
        operation: &str,
        started: Instant,
    ) -> Result<Applied> {
        let duration_us = started.elapsed().as_micros() as u64;
        let operation = operation.to_owned();
        self.propose(Commit { changes, operation, duration_us, ..Commit::default() }).await
    }

    /// Proposes a commit and waits for its outcome. Repeated proposals use the same token, so it is applied
    /// once.
    ///
    /// # Errors
    /// Those of [`Meta::propose`].
    pub(crate) async fn propose(&self, commit: Commit) -> Result<Applied> {
        failpoint::crash_if_armed("commit.propose");
        let applied = committing(self.meta.propose(Command::Commit(commit), COMMIT_TIMEOUT).boxed()).await;
        failpoint::crash_if_armed("commit.answered");
        applied
    }

    /// Encodes rows of one shard as a segment file and makes it durable on the replicas.
    ///
    /// # Errors
    /// `Unavailable` when a majority of the replicas cannot be reached.
    #[tracing::instrument(level = "info", skip_all, fields(table = %table.name, shard = shard))]
    pub(crate) async fn upload(
        &self,
        table: &Table,
        shard: u32,
        level: u8,
        schema: Arc<TableSchema>,
        rows: SegmentRows,
    ) -> Result<NewSegment> {
        let encoder = self.encoder;
        let encoded = tokio::task::spawn_blocking(inherit_in(move || encoder.encode(&schema, rows)))
            .await
            .map_err(|e| Error::internal(format!("encoding a segment: {e}")))??;
        let EncodedSegment { bytes, data, rows, statistics } = encoded;
        let (id, acknowledged) = self.replicate(table, shard, bytes, data.checksum).await?;
        failpoint::crash_if_armed("segment.durable");
        let replicas = acknowledged.len();
        tracing::debug!(segment = %id, rows, bytes = data.bytes, replicas, "segment is durable");
        let segment = Segment { level, statistics, acknowledged, ..new_segment(table, id, shard, rows) };
        Ok(NewSegment(Segment { data: SegmentData::File(data), ..segment }))
    }

    /// Makes a file durable on the replicas of a shard. Returns its new id and the replicas that confirmed.
    ///
    /// # Errors
    /// `Unavailable` when a majority of the replicas cannot be reached.
    pub(crate) async fn replicate(
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

    /// A deletion vector for rows of a segment of a shard. It travels in the log, or is written to a file
    /// when it has more than `inline_max` bytes.
    ///
    /// # Errors
    /// `Unavailable` when a majority of the replicas cannot be reached.
    pub(crate) async fn deletion_vector(
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

    /// Encodes rows of a shard as an inline segment, which travels in the log.
    ///
    /// # Errors
    /// When the rows cannot be encoded.
    pub(crate) fn inline_segment(
        &self,
        table: &Table,
        shard: u32,
        batches: &[&RecordBatch],
    ) -> Result<NewSegment> {
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

/// The record of a segment without data.
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

/// The table as `manifest` has it, for rows that were prepared for the schema of `table`. Its indexes may be
/// others.
///
/// # Errors
/// `Conflict` when the table was dropped, or what its rows have to be has changed.
pub(crate) fn current_with_schema_of(manifest: &Manifest, table: &Table) -> Result<Arc<Table>> {
    let found = manifest.tables.get(&table.id).filter(|t| t.dropped.is_none());
    let of_rows = |table: &Table| {
        let TableSchema {
            columns,
            primary_key,
            defaults,
            initial_defaults,
            checks,
            last_column,
            retention_us: _,
            cluster_by: _,
            indexes: _,
            last_index: _,
        } = table.schema.as_ref().clone();
        (columns, primary_key, defaults, initial_defaults, checks, last_column)
    };
    let is_same =
        |found: &Table| found.schema_version == table.schema_version || of_rows(found) == of_rows(table);
    found.filter(|found| is_same(found)).cloned().ok_or_else(|| {
        Error::conflict(format!(
            "table {} was dropped or its schema was changed by a concurrent commit",
            table.name
        ))
    })
}
