//! Segments: how rows become immutable files, and how those are kept and read on a node's disk.
//!
//! [`SegmentEncoder`] makes the bytes, [`SegmentStore`] makes them durable and checks them, and
//! [`SegmentReads`] reads them from wherever they are. [`Router`] decides the shard of a row. Nothing
//! here knows SQL, visibility or other nodes' addresses: what is visible is the manifest's to say, and
//! remote bytes come through the [`RemoteSegments`] that is handed in.

mod deletion_vectors;
mod distinct;
mod encode;
pub mod inline;
mod inventory;
mod point_lookup;
mod read;
mod routing;
mod scan;
mod schema_evolution;
mod size;
mod statistics;
mod store;
pub mod types;

pub use encode::{EncodedSegment, SegmentEncoder, Unencoded, key_hashes, keys_of};
pub use read::{RemoteSegments, SegmentReads, SegmentRef};
pub use routing::{Keys, Router, shard_of_key};
pub use scan::{PositionedRows, to_tree};
pub use schema_evolution::{decode_inline, evolve, initial_value, project, take_rows};
pub use size::rows_bytes;
pub use store::{Condition, Reference, SegmentFile, SegmentStore, sync_directory, verify};
