//! Table scans: their leaves, pruning, statistics, and distribution over nodes.

pub(crate) mod bounds;
pub(crate) mod distinct;
pub(crate) mod distribution;
pub(crate) mod files;
pub(crate) mod key_lookup;
pub(crate) mod leaf;
pub(crate) mod pruning;
pub(crate) mod push_down;
pub(crate) mod schema_adapter;
