//! Decisions: what a statement means, where its rows go, when they become visible, and what is done in
//! the background to keep it so.
//!
//! [`Coordinator`] runs statements for sessions. Reads pin a manifest and run through the query engine,
//! again on other replicas when a node fails. Writes go through [`Writer`]: segments to the replicas, then
//! one commit. [`Maintenance`] tends what a node keeps. Knows no wire format: rows come in and go out as
//! Arrow batches, other nodes are reached through [`Peers`].

mod background;
mod ddl;
mod errors;
mod exec;
pub mod limits;
mod peers;
mod sql;
mod table_ops;
mod write;

pub use background::context::TaskContext;
pub use background::maintenance::Maintenance;
pub use background::repair::Repairer;
pub use background::runner::{TaskMetrics, TaskStatistics};
pub use errors::{WORKER_UNAVAILABLE, from_datafusion};
pub use exec::context::Executed;
pub use exec::coordinator::{Coordinator, CoordinatorOptions, Described};
pub use exec::load::{IngestMode, IngestTarget};
pub use exec::retry::{RowStream, Suspects, worker_url};
pub use exec::session::Session;
pub use exec::transaction::Isolation;
pub use exec::transactions::{LEASE, TransactionId};
pub use peers::{Checked, Missing, NodeReport, Peers, SegmentUpload};
pub use write::group_queue::{GroupCommitter, Written};
pub use write::ingest::Ingest;
pub use write::keys::{KeyIndexes, OnDuplicate};
pub use write::replicate::Replicator;
pub use write::writer::Writer;
