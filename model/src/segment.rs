//! Segments: immutable sets of rows, and what the manifest records of each.

use rkyv::{Archive, Deserialize, Serialize};

use crate::{NodeId, Result, RowSet, SegmentId, SegmentIndex, Statistics, Version, decode_row_set};

/// Where the bytes of a segment are.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub enum SegmentData {
    /// In the manifest itself: an Arrow IPC stream, at most `INLINE_BYTES_MAX` or so.
    Inline(Vec<u8>),
    /// In a file of this length and BLAKE3 checksum on the replicas of the shard.
    File(FileData),
}

/// A file on the replicas of a shard.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileData {
    pub bytes: u64,
    /// BLAKE3 of all of them.
    pub checksum: [u8; 32],
    /// How many of the bytes, from the beginning on, are the columns; indexes follow.
    pub column_bytes: u64,
}

/// Rows of a segment that one commit deleted. The rows that a version does not see are those of all
/// deletions up to it.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct DeletionVector {
    /// Version that deleted them; zero until it is committed.
    pub added: Version,
    /// How many.
    pub count: u64,
    pub rows: DeletionVectorData,
}

/// Where a set of deleted rows is: as bytes of [`crate::encode_row_set`].
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub enum DeletionVectorData {
    /// In the manifest itself, where `apply` can compare it with others.
    Inline(Vec<u8>),
    /// In a file of its own on the replicas of the shard, of which these have it durably when it is proposed.
    File { id: SegmentId, data: FileData, acknowledged: Vec<NodeId> },
}

impl DeletionVector {
    pub fn inline(rows: &RowSet) -> Self {
        Self {
            added: Version(0),
            count: rows.len(),
            rows: DeletionVectorData::Inline(crate::encode_row_set(rows)),
        }
    }

    /// Bytes of the set, wherever it is.
    pub fn bytes(&self) -> u64 {
        match &self.rows {
            DeletionVectorData::Inline(bytes) => bytes.len() as u64,
            DeletionVectorData::File { data, .. } => data.bytes,
        }
    }

    /// The rows, where they are in the manifest.
    pub fn inline_rows(&self) -> Result<Option<RowSet>> {
        match &self.rows {
            DeletionVectorData::Inline(bytes) => decode_row_set(bytes).map(Some),
            DeletionVectorData::File { .. } => Ok(None),
        }
    }
}

/// One record of the manifest.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Segment {
    pub id: SegmentId,
    pub shard: u32,
    pub rows: u64,
    /// How often its rows were merged: 0 as written.
    pub level: u8,
    /// The schema of the table when it was written.
    pub schema_version: u32,
    /// Version that made its first row visible; zero until it is committed.
    pub added: Version,
    /// Version that wrote its newest row: before `added` where rows were moved here by a merge, after it
    /// where rows of several commits left the log together. Those carry the version of each row in the
    /// column [`VERSION_COLUMN`], in ascending order.
    pub newest: Version,
    /// Version that took it out of sight.
    pub removed: Option<Version>,
    /// Commit time of `removed`, which decides how long the record is kept.
    pub removed_time_us: u64,
    pub data: SegmentData,
    pub statistics: Statistics,
    /// Hashes of the primary keys of its rows, in their order, as long as the rows are in the log.
    pub keys: Vec<u64>,
    /// Oldest first.
    pub deletions: Vec<DeletionVector>,
    /// At most one for each definition. What has none is searched without.
    pub indexes: Vec<SegmentIndex>,
    /// Who has it durably when it is proposed; empty once it is committed, since the placement says who keeps it.
    pub acknowledged: Vec<NodeId>,
}

/// Beside the columns, whose names in a segment are their ids: the version that wrote a row, as `UInt64`.
pub const VERSION_COLUMN: &str = "version";

impl Segment {
    /// Whether its rows became visible one after the other, each at the version beside it.
    pub fn has_versions(&self) -> bool {
        self.newest > self.added
    }

    /// Deletions that a read at `version` respects.
    pub fn deletions_at(&self, version: Version) -> impl Iterator<Item = &DeletionVector> {
        self.deletions.iter().take_while(move |d| d.added <= version)
    }

    /// Version of its latest deletion; zero when there is none.
    pub fn last_deletion(&self) -> Version {
        self.deletions.last().map_or(Version(0), |d| d.added)
    }

    /// Rows that a read at `version` sees, when all were written by then.
    pub fn live_rows(&self, version: Version) -> u64 {
        self.rows.saturating_sub(self.deletions_at(version).map(|d| d.count).sum())
    }

    /// Whether a read at `version` sees it.
    pub fn is_visible_at(&self, version: Version) -> bool {
        self.added <= version && self.removed.is_none_or(|removed| removed > version)
    }

    pub fn bytes(&self) -> u64 {
        match &self.data {
            SegmentData::Inline(bytes) => bytes.len() as u64,
            SegmentData::File(file) => file.bytes,
        }
    }

    pub fn is_inline(&self) -> bool {
        matches!(self.data, SegmentData::Inline(_))
    }
}
