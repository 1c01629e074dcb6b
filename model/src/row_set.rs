//! Sets of rows of one segment, by their position in it.

use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::{Error, Result};

/// Positions of rows in a segment, which holds fewer than 2^32.
pub type RowSet = RoaringBitmap;

/// Which rows of one segment an operation covers.
#[derive(Clone, PartialEq, Debug)]
pub enum RowSelection {
    /// Every row of the segment but these.
    AllExcept(Arc<RowSet>),
    /// These rows.
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

/// The portable form of the Roaring specification: the same set always gives the same bytes.
pub fn encode_row_set(rows: &RowSet) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rows.serialized_size());
    rows.serialize_into(&mut bytes).expect("writing to memory does not fail");
    bytes
}

/// # Errors
/// `Corrupt` when the bytes are not such a set.
pub fn decode_row_set(bytes: &[u8]) -> Result<RowSet> {
    RowSet::deserialize_from(bytes)
        .map_err(|e| Error::corrupt(format!("a set of rows of {} bytes: {e}", bytes.len())).with_source(e))
}
