//! SQL over a pinned manifest, on one node or many.
//!
//! An [`Engine`] makes sessions; each is pinned to one manifest, so everything it plans and scans is a
//! function of that version. Tables are scanned segment by segment with leaves of Vortex files, which
//! [`distribute`] spreads over the nodes that hold the data. Writing is not done here: the coordinator
//! takes the plan of what is to be written and stores its rows itself.
//!
//! This crate knows no sockets. Workers are reached through the `ChannelResolver` that is handed in.

mod checks;
mod codec;
mod context;
mod engine;
mod explain;
mod scan;
pub mod search;
mod tables;

pub use checks::RowChecks;
pub use context::QueryContext;
pub use engine::{Engine, EngineOptions, Pin};
pub use explain::explain;
pub use scan::distribution::{Placement, Worker as PlacedWorker};
pub use tables::catalog::{PinnedCatalog, Relations, STATEMENT_SCHEMA, as_of_schema};
pub use tables::dml_target::{ROW_COLUMN, SEGMENT_COLUMN, target_schema};
pub use tables::system::{ClusterView, SYSTEM_SCHEMA, system_tables};

/// The one database of a cluster.
pub const CATALOG: &str = "plexus";
/// Where unqualified names are looked for.
pub const DEFAULT_SCHEMA: &str = "public";
