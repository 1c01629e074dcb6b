//! Segments: immutable sets of rows, and their records in the manifest.

use rkyv::{Archive, Deserialize, Serialize};

use crate::{NodeId, Result, RowSet, SegmentId, SegmentIndex, Statistics, Version, decode_row_set};

/// Where the rows of a segment are stored.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub enum SegmentData {
    /// In the manifest itself, as an Arrow IPC stream of about
    /// [`INLINE_BYTES_MAX`](crate::limits::INLINE_BYTES_MAX) at most.
    Inline(Vec<u8>),
    /// In a Vortex file on the replicas of the shard.
    File(FileData),
}

/// Size and checksum of a file on the replicas of a shard.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileData {
    /// Length of the file.
    pub bytes: u64,
    /// BLAKE3 hash of the whole file.
    pub checksum: [u8; 32],
    /// Length of the Vortex file with the columns, which comes first. The index of the primary keys follows.
    pub column_bytes: u64,
}

/// A deletion vector: the rows of a segment that one commit deleted. It is a delta, so the deleted rows at a
/// version are the union of all deletion vectors up to that version.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct DeletionVector {
    /// Version that deleted the rows. Zero until the commit is applied.
    pub added: Version,
    /// Number of rows.
    pub count: u64,
    /// Positions of the rows.
    pub rows: DeletionVectorData,
}

/// Where a deletion vector is stored. The bytes are those of [`encode_row_set`](crate::encode_row_set).
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub enum DeletionVectorData {
    /// In the manifest itself, where `apply` can compare it with concurrent deletions.
    Inline(Vec<u8>),
    /// In a file of its own on the replicas of the shard.
    File {
        /// Id of the file.
        id: SegmentId,
        /// Size and checksum of the file.
        data: FileData,
        /// Nodes that have made the file durable, at the time of the proposal.
        acknowledged: Vec<NodeId>,
    },
}

impl DeletionVector {
    /// An inline deletion vector that is not committed yet.
    pub fn inline(rows: &RowSet) -> Self {
        Self {
            added: Version(0),
            count: rows.len(),
            rows: DeletionVectorData::Inline(crate::encode_row_set(rows)),
        }
    }

    /// Encoded size in bytes.
    pub fn bytes(&self) -> u64 {
        match &self.rows {
            DeletionVectorData::Inline(bytes) => bytes.len() as u64,
            DeletionVectorData::File { data, .. } => data.bytes,
        }
    }

    /// The rows of an inline deletion vector; `None` for one in a file.
    ///
    /// # Errors
    /// `Corrupt` when the bytes are not a valid set.
    pub fn inline_rows(&self) -> Result<Option<RowSet>> {
        match &self.rows {
            DeletionVectorData::Inline(bytes) => decode_row_set(bytes).map(Some),
            DeletionVectorData::File { .. } => Ok(None),
        }
    }
}

/// The record of a segment in the manifest.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Segment {
    /// Also the name of its file.
    pub id: SegmentId,
    /// The shard that all its rows belong to.
    pub shard: u32,
    /// Number of rows, including deleted ones.
    pub rows: u64,
    /// Level in compaction: 0 for a segment as it was written.
    pub level: u8,
    /// Version of the schema with which it was written.
    pub schema_version: u32,
    /// Version that made its first row visible. Zero until the commit is applied.
    pub added: Version,
    /// Version that wrote its newest row. It is before `added` when compaction moved the rows here. It is
    /// after `added` when a flush put rows of several commits into one file. Such a file has the version of
    /// each row in the column [`VERSION_COLUMN`], in ascending order.
    pub newest: Version,
    /// Version that made it invisible.
    pub removed: Option<Version>,
    /// Commit time of `removed`, in microseconds since 1970. Decides when the segment is vacuumed.
    pub removed_time_us: u64,
    /// Where the rows are stored.
    pub data: SegmentData,
    /// Statistics of the columns, for pruning and planning.
    pub statistics: Statistics,
    /// Hashes of the primary keys of an inline segment, in row order. A file has its own key index instead.
    pub keys: Vec<u64>,
    /// Deletion vectors, oldest first.
    pub deletions: Vec<DeletionVector>,
    /// Index files, at most one per definition. A segment without one is searched without its index file.
    pub indexes: Vec<SegmentIndex>,
    /// Nodes that have made the file durable, at the time of the proposal. Empty once it is committed: from
    /// then on the placement of the shard names the nodes.
    pub acknowledged: Vec<NodeId>,
}

/// Name of the `UInt64` column with the version that wrote each row. It cannot collide with table columns,
/// which are named by their ids inside segments.
pub const VERSION_COLUMN: &str = "version";

impl Segment {
    /// Whether the rows became visible at different versions, which [`VERSION_COLUMN`] holds.
    pub fn has_versions(&self) -> bool {
        self.newest > self.added
    }

    /// The deletion vectors up to `version`, oldest first.
    pub fn deletions_at(&self, version: Version) -> impl Iterator<Item = &DeletionVector> {
        self.deletions.iter().take_while(move |d| d.added <= version)
    }

    /// Version of the latest deletion vector. Zero when there is none.
    pub fn last_deletion(&self) -> Version {
        self.deletions.last().map_or(Version(0), |d| d.added)
    }

    /// Number of rows that are not deleted at `version`. Rows that are newer than `version` are counted.
    pub fn live_rows(&self, version: Version) -> u64 {
        self.rows.saturating_sub(self.deletions_at(version).map(|d| d.count).sum())
    }

    /// Whether a read at `version` sees the segment.
    pub fn is_visible_at(&self, version: Version) -> bool {
        self.added <= version && self.removed.is_none_or(|removed| removed > version)
    }

    /// Size in bytes, inline or as a file.
    pub fn bytes(&self) -> u64 {
        match &self.data {
            SegmentData::Inline(bytes) => bytes.len() as u64,
            SegmentData::File(file) => file.bytes,
        }
    }

    /// Whether the rows are in the manifest itself.
    pub fn is_inline(&self) -> bool {
        matches!(self.data, SegmentData::Inline(_))
    }
}
