//! The vocabulary of Plexus, without I/O: ids, table schemas, segments, the manifest, the commands of the
//! metadata log and the error kinds.
//!
//! Three types are central. The [`Manifest`] records which segments make up every table at every version.
//! A [`Command`] is one change of the manifest that can be proposed to the metadata log. An [`Error`] has a
//! kind that tells the caller what to do next.
//!
//! This crate knows neither Arrow nor Raft, and it reads no disk or network. Times come in as
//! arguments; only new ids read a clock. It also does not apply commands to the manifest; `plexus-raft` does.
//!
//! ```
//! use plexus_model::{Column, ColumnType, ErrorKind, Manifest, TableName, TableSchema, Version};
//!
//! let id = Column { id: 1, name: "id".into(), data_type: ColumnType::Int64, nullable: false };
//! let schema = TableSchema {
//!     columns: vec![id],
//!     primary_key: vec![0],
//!     last_column: 1,
//!     ..TableSchema::default()
//! };
//! schema.validate()?;
//!
//! // The same manifest always has the same encoding.
//! let manifest = Manifest { version: Version(7), ..Manifest::default() };
//! let restored = Manifest::from_bytes(&manifest.to_bytes())?;
//! assert_eq!(restored, manifest);
//! assert!(restored.table(&TableName::new("public", "items")).is_none());
//!
//! // Versions after the latest one cannot be read.
//! let error = restored.as_of(Version(8)).unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::InvalidArgument);
//! # Ok::<(), plexus_model::Error>(())
//! ```

mod column;
mod command;
mod error;
pub mod failpoint;
mod ids;
mod index;
pub mod limits;
mod manifest;
mod manifest_snapshot;
pub mod placement;
mod row_set;
pub mod schema;
mod segment;
mod statistics;
mod table;

pub use column::{Column, ColumnType, TimeUnit};
pub use command::{
    AlterTable, Applied, ChangeKind, Command, Commit, CreateTable, Flush, NewSegment, Outcome, Proposal,
    RowRelocation, TableChange,
};
pub use error::{Error, ErrorKind, Result, cut};
pub use ids::{ClusterId, NodeId, Secret, SegmentId, TableId, Token, Version};
pub use index::{IndexDefinition, IndexKind, Metric, SegmentIndex};
pub use manifest::{CommitRecord, Manifest, NodeRecord, Roles, TokenRecord};
pub use row_set::{RowSelection, RowSet, decode_row_set, encode_row_set};
pub use schema::{Check, TableSchema};
pub use segment::{DeletionVector, DeletionVectorData, FileData, Segment, SegmentData, VERSION_COLUMN};
pub use statistics::{Bound, ColumnStatistics, Statistics};
pub use table::{STAGING_SCHEMA, SegmentRelocation, Shard, Table, TableHistory, TableName};

/// Encodes a value in the rkyv archive format of log entries, snapshots and messages between nodes.
///
/// # Panics
/// Never for the types of this workspace: they are plain data, and encoding plain data into memory cannot
/// fail.
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
        .expect("encoding plain data into memory cannot fail")
        .into_vec()
}

/// Validates bytes that [`encode`] wrote.
///
/// # Errors
/// `Corrupt` when the bytes are damaged or hold another type. The message contains `what`.
pub fn validate<T>(what: &str, bytes: &[u8]) -> Result<()>
where
    T: rkyv::Archive,
    T::Archived: for<'a> rkyv::bytecheck::CheckBytes<rkyv::api::high::HighValidator<'a, rkyv::rancor::Error>>
        + rkyv::Portable,
{
    let mut aligned = rkyv::util::AlignedVec::<16>::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    rkyv::access::<T::Archived, rkyv::rancor::Error>(&aligned)
        .map(|_| ())
        .map_err(|e| Error::corrupt(format!("{what}: cannot decode {} bytes: {e}", bytes.len())))
}

/// Validates and decodes bytes that [`encode`] wrote.
///
/// # Errors
/// `Corrupt` when the bytes are damaged or hold another type. The message contains `what`.
pub fn decode<T>(what: &str, bytes: &[u8]) -> Result<T>
where
    T: rkyv::Archive,
    T::Archived: for<'a> rkyv::bytecheck::CheckBytes<rkyv::api::high::HighValidator<'a, rkyv::rancor::Error>>
        + rkyv::Deserialize<T, rkyv::api::high::HighDeserializer<rkyv::rancor::Error>>,
{
    // rkyv accesses the archive in place, which requires alignment. Bytes from a socket or a log have none.
    let mut aligned = rkyv::util::AlignedVec::<16>::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    rkyv::from_bytes::<T, rkyv::rancor::Error>(&aligned)
        .map_err(|e| Error::corrupt(format!("{what}: cannot decode {} bytes: {e}", bytes.len())))
}
