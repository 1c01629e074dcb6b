//! SQL and search over a pinned manifest, on one node or on several.
//!
//! An [`Engine`] makes sessions. Each session is pinned to one version of the manifest by a [`Pin`], so what
//! it plans and reads depends on that version alone. A table is scanned as a set of segments: Vortex files
//! and rows that are inline in the manifest. Large scans are split over the nodes that hold replicas, as the
//! [`WorkerSlots`] of the query say. The [`search`] module ranks rows by full text and by vectors.
//!
//! This crate opens no sockets and commits nothing. The network comes in as a `ChannelResolver` for the
//! workers of a distributed plan and as a [`search::SearchTransport`] for searches. The coordinator plans DML
//! as a query over the [`dml_target_schema`] and stores the rows itself.
//!
//! Some schema names have a meaning to a session only:
//!
//! ```
//! use plexus_model::Version;
//! use plexus_query::{as_of_schema, dml_target_schema};
//!
//! // The tables of `public` as they were at version 7, for time travel.
//! assert_eq!(as_of_schema(Version(7), "public"), "$as_of:7:public");
//! // The tables of `public` with the position of each row, for UPDATE and DELETE.
//! assert_eq!(dml_target_schema("public"), "$target:public");
//! ```

mod accounts;
mod adjusted_functions;
mod analysis;
mod batch_rows;
mod bounded_functions;
mod canonical_float;
mod checks;
mod clock_texts;
mod codec;
mod conditions;
mod constants;
mod context;
mod depth;
mod engine;
mod explain;
mod inner_function;
mod interrupts;
mod interval_products;
mod lane;
mod list_functions;
mod logical_rules;
mod named_value;
mod nested_keys;
mod physical_rules;
mod plain_errors;
mod pool;
mod scan;
pub mod search;
mod tables;
mod time_zones;
mod type_limits;
mod visit;

pub use analysis::literals::{make_doubles, make_doubles_in};
pub use analysis::opaque_operators::BITWISE_NOT;
pub use analysis::similar_patterns::SIMILAR_PATTERN;
pub use analysis::typed::TYPED;
pub use analysis::unknown_items::HAS_UNKNOWN_ITEM;
pub use batch_rows::task_context;
pub use checks::{ColumnDefaults, RowChecks};
pub use clock_texts::completed;
pub use conditions::balance;
pub use context::ExpressionParsers;
pub use depth::check_depth;
pub use engine::{Engine, EngineOptions, Pin};
pub use explain::explain;
pub use interrupts::Interrupts;
pub use interval_products::INTERVAL_TIMES;
pub use lane::{LongLane, is_long};
pub use logical_rules::{optimize, physical_plan};
pub use named_value::NAMED_VALUE;
pub use plain_errors::{plain, plain_text};
pub use scan::distribution::{Worker as PlacedWorker, WorkerSlots};
pub use tables::catalog::{Relations, STATEMENT_SCHEMA, as_of_schema};
pub use tables::dml_target::{ROW_COLUMN, SEGMENT_COLUMN, dml_target_schema};
pub use tables::queries::{RunningQueries, RunningQuery};
pub use tables::system::{ClusterView, SYSTEM_SCHEMA, system_tables};
pub use time_zones::{AT_TIME_ZONE, DEFAULT_ZONE, clocks_of, follow_settings, instants_of};
pub use visit::{visit, visit_expressions, visit_expressions_mut, visit_mut};

/// The only catalog of a cluster.
pub const CATALOG: &str = "plexus";
/// The schema in which unqualified names are resolved.
pub const DEFAULT_SCHEMA: &str = "public";
