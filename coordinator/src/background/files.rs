//! Which files the tables of a manifest refer to.

use plexus_model::{NodeId, Table};
use plexus_storage::SegmentRef;

/// Files of a table of which `node` holds a replica, with those of segments that only older versions see.
pub(crate) fn files_held_by(table: &Table, node: NodeId) -> impl Iterator<Item = SegmentRef> {
    files_of(table).filter(move |file| file.replicas.contains(&node))
}

/// All files of a table, with those of segments that only older versions see.
pub(crate) fn files_of(table: &Table) -> impl Iterator<Item = SegmentRef> {
    table.segments.values().flat_map(move |segment| SegmentRef::all_files(table, segment))
}
