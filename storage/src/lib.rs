//! Segments on disk: how rows become immutable files, how a node stores them, and how they are read.
//!
//! Four types are central. [`SegmentEncoder`] turns batches into the bytes of a segment. [`SegmentStore`]
//! makes these bytes durable on the local disk and verifies them. [`SegmentReader`] reads segments from the
//! local disk or from another replica. [`Router`] assigns rows to shards.
//!
//! This crate does not know SQL, and it does not decide which segments are visible: the manifest does. It
//! does not know addresses of nodes either: remote bytes come through a [`RemoteSegments`].
//!
//! ```
//! use std::sync::Arc;
//!
//! use arrow::array::{ArrayRef, Int64Array, RecordBatch};
//! use plexus_model::{Result, SegmentId};
//! use plexus_storage::{ReferenceSource, SegmentEncoder, SegmentStore, types};
//!
//! # fn main() -> Result<()> {
//! let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
//! let batch = RecordBatch::try_from_iter([("id", ids)]).expect("one column");
//! let schema = types::from_arrow(&batch.schema())?;
//! let segment = SegmentEncoder.encode(&schema, vec![batch])?;
//! assert_eq!(segment.rows, 3);
//!
//! let id = SegmentId::generate();
//! let directory = std::env::temp_dir().join(format!("plexus-{id}"));
//! let store = SegmentStore::open(&directory)?;
//! store.put(id, &segment.bytes, &segment.data.checksum)?;
//! let file = store.segment(id, segment.data.bytes, &segment.data.checksum, ReferenceSource::Manifest)?;
//! let mut magic = [0; 4];
//! file.read_exact_at(&mut magic, 0)?;
//! assert_eq!(&magic, b"VTXF");
//! # std::fs::remove_dir_all(&directory).expect("the directory exists");
//! # Ok(())
//! # }
//! ```

mod blocks;
mod canonical_floats;
mod decimal_doubles;
mod deletion_vectors;
mod disk_space;
mod distinct;
mod encode;
mod hidden_values;
pub mod inline;
mod inventory;
pub mod ipc_check;
mod ipc_layout;
mod ipc_schema;
mod mapped;
mod point_lookup;
mod read;
mod routing;
mod scan;
mod schema_evolution;
mod single_flight;
mod size;
mod statistics;
mod store;
mod struct_fields;
mod type_names;
pub mod types;
mod vortex_runtime;

pub use canonical_floats::canonical_floats;
pub use decimal_doubles::decimals_as_floats;
pub use disk_space::DiskSpace;
pub use encode::{EncodedSegment, SegmentEncoder, SegmentRows, primary_keys};
pub use hidden_values::without_hidden_values;
pub use mapped::on_mapped;
pub use read::{LOST_SEGMENT, RemoteSegments, SegmentReader, SegmentRef, UNREADABLE_SEGMENT};
pub use routing::{CanonicalKeys, Router, shard_of_key};
pub use scan::{PositionedRows, to_roaring_treemap};
pub use schema_evolution::{decode_inline, evolve, project, take_rows};
pub use single_flight::SingleFlightCache;
pub use size::rows_bytes;
pub use store::{ReferenceSource, SegmentCondition, SegmentFile, SegmentStore, sync_directory};
pub use struct_fields::{dropped_field, with_fields_of};
pub use type_names::sql_name;
pub use vortex_runtime::vortex_session;
