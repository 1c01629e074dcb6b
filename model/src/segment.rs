//! Segments: immutable sets of rows, and what the manifest records of each.

use rkyv::{Archive, Deserialize, Serialize};

use crate::{NodeId, SegmentId, Version};

/// Smallest or largest value of a column, for pruning. Only types that are ordered and small.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
pub enum Bound {
    /// Integers, dates, times, timestamps; the column's own unit.
    Int(i64),
    UInt(u64),
    /// Never NaN: a column that holds one has no bounds.
    Float(f64),
    /// Decimals that fit, at the column's scale.
    Decimal(i128),
}

/// Statistics of one column of one segment.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct ColumnStatistics {
    pub column: u32,
    pub nulls: u64,
    /// Smallest and largest value that is not null.
    pub bounds: Option<(Bound, Bound)>,
}

/// Where the bytes of a segment are.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub enum SegmentData {
    /// In the manifest itself: an Arrow IPC stream, at most `INLINE_BYTES_MAX` or so.
    Inline(Vec<u8>),
    /// In a file of this length and BLAKE3 checksum on the replicas of the shard.
    File { bytes: u64, checksum: [u8; 32] },
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
    /// Version that made it visible; zero until it is committed.
    pub added: Version,
    /// Version that took it out of sight.
    pub removed: Option<Version>,
    /// Commit time of `removed`, which decides how long the record is kept.
    pub removed_time_us: u64,
    pub data: SegmentData,
    pub columns: Vec<ColumnStatistics>,
    /// Who had it durably when it was committed. Others pull it.
    pub acknowledged: Vec<NodeId>,
}

impl Segment {
    /// Whether a read at `version` sees it.
    pub fn is_visible_at(&self, version: Version) -> bool {
        self.added <= version && self.removed.is_none_or(|removed| removed > version)
    }

    pub fn bytes(&self) -> u64 {
        match &self.data {
            SegmentData::Inline(bytes) => bytes.len() as u64,
            SegmentData::File { bytes, .. } => *bytes,
        }
    }

    pub fn is_inline(&self) -> bool {
        matches!(self.data, SegmentData::Inline(_))
    }
}
