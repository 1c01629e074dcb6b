//! The coordinator of a node: decides what a statement means, where its rows go, when they become visible,
//! and which background work keeps the cluster healthy.
//!
//! It does not know any wire format: rows come in and go out as Arrow batches, and other nodes are reached
//! through the [`Peers`] trait. It does not know how segments are encoded, how queries execute, or how the
//! metadata log replicates its entries: those are `plexus_storage`, `plexus_query` and `plexus_raft`.
//!
//! Central types:
//! - [`Coordinator`] runs the statements of a [`Session`]. Reads pin a manifest and run on the query engine,
//!   again on other replicas when a worker fails. Its results are [`Executed`].
//! - [`Writer`] commits rows: segments go to their replicas first, then one entry of the metadata log makes
//!   them visible.
//! - [`Maintenance`] runs the background work of a node.
//!
//! Folders, each above those that it uses; `coordinator.rs` dispatches to them:
//! - `table_ops`: maintenance statements and procedures, such as `OPTIMIZE`, `VACUUM` and `RESTORE`.
//! - `ddl`: definitions of tables, schemas and indexes.
//! - `exec`: sessions, transactions, planning, queries, DML, `COPY` and bulk ingest.
//! - `sql`: parsing, classification and rewriting of SQL text. No I/O.
//! - `background`: flush, compaction, index builds, repair, scrubbing, garbage collection and liveness.
//! - `write`: from rows to a commit: coercion, key checks, replication, group commit.

mod background;
mod coordinator;
mod ddl;
mod engine_text;
mod errors;
mod exec;
#[doc(hidden)]
pub mod fuzzing;
pub mod limits;
mod peers;
mod running;
mod sql;
mod suggestions;
mod table_ops;
mod write;

pub use background::attempts::Attempts;
pub use background::context::TaskContext;
pub use background::maintenance::Maintenance;
pub use background::repair::Repairer;
pub use background::runner::{TaskMetrics, TaskStatistics};
pub use coordinator::{Coordinator, CoordinatorOptions};
pub use errors::{WorkerUnavailable, from_datafusion};
pub use exec::context::Executed;
pub use exec::csv_export::CsvOptions;
pub use exec::described::Described;
pub use exec::json_encoding::ExactValues;
pub use exec::load::{IngestMode, IngestTarget};
pub use exec::retry::{Suspects, worker_url};
pub use exec::row_stream::RowStream;
pub use exec::session::Session;
pub use exec::transaction::Isolation;
pub use exec::transactions::{IDLE_TIMEOUT_DEFAULT, TransactionId};
pub use peers::{CheckResult, MissingSegments, NodeReport, Peers, SegmentUpload};
pub use running::RunningStatements;
pub use sql::conditions::EXPRESSION_PARSERS;
pub use sql::split::split_statements;
pub use write::group_queue::{GroupCommitter, WriteResult};
pub use write::ingest::Ingest;
pub use write::keys::{KeyIndexes, OnDuplicate};
pub use write::load_slots::LoadSlots;
pub use write::replicate::Replicator;
pub use write::writer::Writer;
