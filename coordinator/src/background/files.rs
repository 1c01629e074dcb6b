//! Background work of a node.
//!
//! - every node tells the leader that it lives;
//! - the leader writes down who does not, and forgets what was removed long ago;
//! - a data node pulls segments that it should keep and does not have, writes inline rows of its shards
//!   out as files, merges segments, indexes them, removes those that nothing refers to, and reads what it keeps again and
//!   again to find what the disk has damaged.
//!
//! Each round looks at one pinned manifest. All of it may be interrupted at any point: what is half done
//! is found again by the next round.

use plexus_model::{NodeId, Table};
use plexus_storage::SegmentRef;

/// Files of the shards of a table that `node` keeps, also of segments that only older versions see.
pub fn kept_by(table: &Table, node: NodeId) -> impl Iterator<Item = SegmentRef> {
    files_of(table).filter(move |file| file.replicas.contains(&node))
}

/// All files of a table.
pub fn files_of(table: &Table) -> impl Iterator<Item = SegmentRef> {
    table.segments.values().flat_map(move |segment| SegmentRef::all_files(table, segment))
}
