//! Sets of rows of one segment. A row is identified by its position in the segment.

use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::{Error, Result};

/// Positions of rows in a segment. A segment holds fewer than 2^32 rows.
pub type RowSet = RoaringBitmap;

/// Which rows of one segment an operation covers.
#[derive(Clone, PartialEq, Debug)]
pub enum RowSelection {
    /// All rows except these.
    AllExcept(Arc<RowSet>),
    /// Only these rows.
    Only(Arc<RowSet>),
}

impl RowSelection {
    /// Every row of the segment.
    pub fn all() -> Self {
        Self::AllExcept(Arc::default())
    }

    /// Whether the selection covers `row`.
    pub fn contains(&self, row: u32) -> bool {
        match self {
            Self::AllExcept(rows) => !rows.contains(row),
            Self::Only(rows) => rows.contains(row),
        }
    }

    /// Number of selected rows in a segment of `segment_rows` rows.
    pub fn len(&self, segment_rows: u64) -> u64 {
        match self {
            Self::AllExcept(rows) => segment_rows.saturating_sub(rows.len()),
            Self::Only(rows) => rows.len().min(segment_rows),
        }
    }

    /// Whether a segment of `segment_rows` rows has no selected row.
    pub fn is_empty(&self, segment_rows: u64) -> bool {
        self.len(segment_rows) == 0
    }
}

/// Encodes a set in the portable format of the Roaring specification
/// (<https://github.com/RoaringBitmap/RoaringFormatSpec>).
pub fn encode_row_set(rows: &RowSet) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rows.serialized_size());
    rows.serialize_into(&mut bytes).expect("writing to memory does not fail");
    bytes
}

/// Decodes a set that [`encode_row_set`] wrote.
///
/// # Errors
/// `Corrupt` when the bytes are not a valid set.
pub fn decode_row_set(bytes: &[u8]) -> Result<RowSet> {
    RowSet::deserialize_from(bytes)
        .map_err(|e| Error::corrupt(format!("row set of {} bytes: {e}", bytes.len())).with_source(e))
}
