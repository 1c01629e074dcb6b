//! Relocations: where the rows of compacted and flushed segments went.
//!
//! They serve two directions. A compaction carries over deletions that were committed while it ran, and a
//! write that started before the compaction is rebased onto the new segments (see [`crate::rebase`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use plexus_model::limits::{RELOCATION_BYTES_MAX, RELOCATION_TTL_US};
use plexus_model::{
    ChangeKind, RowSet, Segment, SegmentId, SegmentRelocation, Table, TableChange, decode_row_set,
};

/// Whether the deletions from a removed segment that are newer than the change's base can be applied to the
/// segments that its rows moved to.
pub(super) fn can_carry_over_deletions(change: &TableChange, segment: &Segment) -> bool {
    let mut newer = segment.deletions.iter().filter(|d| d.added > change.base);
    change.kind == ChangeKind::Relocate
        && change.relocations.iter().any(|m| m.from == segment.id)
        && newer.all(|d| matches!(d.inline_rows(), Ok(Some(_))))
        && change.relocations.iter().all(|m| decode_row_set(&m.rows).is_ok())
}

/// Rows of added segments that were deleted from their source segments after the change's base.
pub(super) fn carried_over_deletions(table: &Table, change: &TableChange) -> BTreeMap<SegmentId, RowSet> {
    let mut deleted: BTreeMap<SegmentId, RowSet> = BTreeMap::new();
    for relocation in &change.relocations {
        let (Some(source), Ok(moved_rows)) =
            (table.segments.get(&relocation.from), decode_row_set(&relocation.rows))
        else {
            continue;
        };
        for deletion in source.deletions.iter().filter(|d| d.added > change.base) {
            let Ok(Some(source_rows)) = deletion.inline_rows() else {
                continue;
            };
            // Moved rows are consecutive in the target, in their order in the source.
            let target_rows = source_rows
                .iter()
                .filter(|row| moved_rows.contains(*row))
                .map(|row| relocation.offset + moved_rows.rank(row) as u32 - 1);
            deleted.entry(relocation.to).or_default().extend(target_rows);
        }
    }
    deleted.retain(|_, rows| !rows.is_empty());
    deleted
}

/// Records a relocation for statements that started before it. One that takes too many bytes is not recorded;
/// such statements then get a conflict.
pub(super) fn add_relocation(table: &mut Table, relocation: SegmentRelocation) {
    if relocation.places.iter().map(|p| p.rows.len()).sum::<usize>() <= RELOCATION_BYTES_MAX {
        table.relocations.insert(relocation.from, Arc::new(relocation));
    }
}

/// Drops the relocations that are older than [`RELOCATION_TTL_US`] at the commit time `time_us`.
pub(crate) fn expire_relocations(table: &mut Table, time_us: u64) {
    let until = time_us.saturating_sub(RELOCATION_TTL_US);
    // Segment ids begin with their creation time, so this order is roughly the order of age.
    while let Some((id, relocation)) = table.relocations.get_min()
        && relocation.time_us <= until
    {
        let id = *id;
        table.relocations.remove(&id);
    }
}
