//! The write path, from batches of rows to one commit: coercion, routing, primary keys, replication, group
//! commit.

pub(crate) mod arrange;
pub(crate) mod assign;
pub(crate) mod coerce;
pub(crate) mod expansion;
pub(crate) mod group_commit;
pub(crate) mod group_queue;
pub(crate) mod ingest;
pub(crate) mod keys;
pub(crate) mod load_slots;
pub(crate) mod replicate;
pub(crate) mod row_changes;
pub(crate) mod valid_values;
pub(crate) mod writer;
