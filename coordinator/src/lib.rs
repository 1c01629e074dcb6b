//! Decisions: what a statement means, where its rows go, when they become visible, and what is done in
//! the background to keep it so.
//!
//! [`Coordinator`] runs statements for sessions. Reads pin a manifest and run through the query engine,
//! again on other replicas when a node fails. Writes go through [`Writer`]: segments to the replicas, then
//! one commit. [`Maintenance`] tends what a node keeps. Knows no wire format: rows come in and go out as
//! Arrow batches, other nodes are reached through [`Peers`].

mod alter;
mod call;
mod change;
mod changes;
mod conform;
mod coordinator;
mod copy;
mod ddl;
mod definition;
mod dialect;
mod errors;
mod group;
mod indexing;
mod ingest;
mod keys;
pub mod limits;
mod load;
mod maintenance;
mod merge_policy;
mod merging;
mod parse;
mod peers;
mod plans;
mod pull;
mod removal;
mod replicate;
mod rewrite;
mod run;
mod scrub;
mod search;
mod session;
mod statement;
mod transaction;
mod upkeep;
mod versions;
mod write_out;

pub use coordinator::{Coordinator, CoordinatorOptions, Described, Executed};
pub use errors::{WORKER_UNAVAILABLE, from_datafusion};
pub use group::GroupCommitter;
pub use ingest::{Ingest, Writer, Written};
pub use keys::{KeyIndexes, OnDuplicate};
pub use load::{IngestMode, IngestTarget};
pub use maintenance::Maintenance;
pub use peers::{Checked, Missing, NodeReport, Peers, SegmentUpload};
pub use pull::Repairer;
pub use replicate::Replicator;
pub use run::{RowStream, Suspects, worker_url};
pub use session::Session;
pub use transaction::{Isolation, LEASE, TransactionId};
