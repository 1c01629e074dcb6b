//! The vocabulary of Plexus, without I/O.
//!
//! What every other crate speaks of: ids, table schemas, segments, the [`Manifest`] that says what is
//! visible, the [`Command`]s that change it, and the [`Error`] kinds that tell a caller what to do.
//! This crate knows neither Arrow nor Raft nor the disk; values such as the clock come in as arguments.

mod command;
mod error;
pub mod failpoint;
mod ids;
mod index;
pub mod limits;
mod manifest;
pub mod placement;
mod row_set;
pub mod schema;
mod segment;
mod statistics;

pub use command::{
    AlterTable, Applied, ChangeKind, Command, Commit, CreateTable, Flush, NewSegment, Outcome, Proposal,
    RowRelocation, TableChange,
};
pub use error::{Error, ErrorKind, Result, cut};
pub use ids::{ClusterId, NodeId, SegmentId, TableId, Token, Version};
pub use index::{IndexDefinition, IndexKind, Metric, SegmentIndex};
pub use manifest::{
    CommitRecord, Manifest, NodeRecord, Roles, STAGING_SCHEMA, SegmentRelocation, Shard, Table, TableHistory,
    TableName, TokenRecord,
};
pub use row_set::{RowSelection, RowSet, decode_row_set, encode_row_set};
pub use schema::{Check, Column, ColumnType, TableSchema, TimeUnit};
pub use segment::{DeletionVector, DeletionVectorData, FileData, Segment, SegmentData, VERSION_COLUMN};
pub use statistics::{Bound, ColumnStatistics, Statistics};

/// Encodes a value in the archive format used for log entries, snapshots and peer messages.
///
/// # Panics
/// Never for the types of this workspace: they hold no pointers that could fail to serialise.
pub fn encode<T>(value: &T) -> Vec<u8>
where
    T: for<'a> rkyv::Serialize<
            rkyv::api::high::HighSerializer<
                rkyv::util::AlignedVec,
                rkyv::ser::allocator::ArenaHandle<'a>,
                rkyv::rancor::Error,
            >,
        >,
{
    rkyv::to_bytes::<rkyv::rancor::Error>(value)
        .expect("archiving plain data into memory has no failing step")
        .into_vec()
}

/// Decodes and validates what [`encode`] wrote. Bytes that are damaged or of another type give an
/// [`ErrorKind::Corrupt`] error that names `what`.
pub fn decode<T>(what: &str, bytes: &[u8]) -> Result<T>
where
    T: rkyv::Archive,
    T::Archived: for<'a> rkyv::bytecheck::CheckBytes<rkyv::api::high::HighValidator<'a, rkyv::rancor::Error>>
        + rkyv::Deserialize<T, rkyv::api::high::HighDeserializer<rkyv::rancor::Error>>,
{
    // Archives are read in place and must be aligned; bytes from a socket or a log are not.
    let mut aligned = rkyv::util::AlignedVec::<16>::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    rkyv::from_bytes::<T, rkyv::rancor::Error>(&aligned)
        .map_err(|e| Error::corrupt(format!("{what}: {} bytes do not decode: {e}", bytes.len())))
}
