//! Sets of rows of one segment, by their position in it.

use roaring::RoaringBitmap;

use crate::{Error, Result};

/// Positions of rows in a segment, which holds fewer than 2^32.
pub type Rows = RoaringBitmap;

/// The portable form of the Roaring specification: the same set always gives the same bytes.
pub fn encode_rows(rows: &Rows) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rows.serialized_size());
    rows.serialize_into(&mut bytes).expect("writing to memory does not fail");
    bytes
}

/// # Errors
/// `Corrupt` when the bytes are not such a set.
pub fn decode_rows(bytes: &[u8]) -> Result<Rows> {
    Rows::deserialize_from(bytes)
        .map_err(|e| Error::corrupt(format!("a set of rows of {} bytes: {e}", bytes.len())).with_source(e))
}
