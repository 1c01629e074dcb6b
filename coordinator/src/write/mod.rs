//! From batches to one commit: coercion, routing, replication, group commit, keys.

pub mod coerce;
pub mod group_commit;
pub mod group_queue;
pub mod ingest;
pub mod keys;
pub mod replicate;
pub mod row_changes;
pub mod writer;
