//! Flushes: one file replaces inline segments at every version, so time travel keeps working.

use std::collections::BTreeMap;
use std::sync::Arc;

use plexus_model::{
    DeletionVector, Error, Flush, Result, RowRelocation, RowSet, Segment, SegmentRelocation, Table,
    TableChange, Version, encode_row_set,
};

use super::{checks, relocations};

/// Checks that the file of each flush holds as many rows as its inline segments, which must all still exist
/// in one shard.
pub(super) fn check_flushes(table: &Table, change: &TableChange) -> Result<()> {
    for Flush { from, segment } in &change.flush {
        checks::check_new_segment(table, &segment.0)?;
        let mut rows = 0;
        for id in from {
            let Some(source) = table.segments.get(id).filter(|s| s.is_inline()) else {
                return Err(Error::conflict(format!(
                    "table {}: inline segment {id} was flushed or deleted concurrently",
                    table.name
                )));
            };
            if source.shard != segment.0.shard {
                return Err(Error::internal(format!("table {}: segment {id} of another shard", table.name)));
            }
            if !source.deletions.iter().all(|d| matches!(d.inline_rows(), Ok(Some(_)))) {
                return Err(Error::internal(format!("table {}: deletions of {id} in a file", table.name)));
            }
            rows += source.rows;
        }
        if from.is_empty() || rows != segment.0.rows || segment.0.is_inline() {
            return Err(Error::internal(format!(
                "table {}: a flush of {rows} rows into a file of {}",
                table.name, segment.0.rows
            )));
        }
    }
    Ok(())
}

/// Replaces inline segments by the file of a flush, at every version.
///
/// The deletions of the inline segments become deletions of the file, each at its version. A segment that was
/// removed as a whole becomes a deletion of its remaining rows, at the version that removed it.
pub(super) fn apply_flush(table: &mut Table, flush: Flush, time_us: u64) {
    let mut segment = flush.segment.0;
    let sources: Vec<Arc<Segment>> = flush.from.iter().filter_map(|id| table.segments.remove(id)).collect();
    let mut deleted: BTreeMap<Version, RowSet> = BTreeMap::new();
    let mut offset = 0;
    for source in &sources {
        table.inline_bytes -= source.bytes();
        let end = offset + source.rows as u32;
        let mut live = RowSet::new();
        live.insert_range(offset..end);
        let place = RowRelocation {
            from: source.id,
            to: segment.id,
            offset,
            rows: encode_row_set(&all_rows(source)),
        };
        let relocation = SegmentRelocation { from: source.id, time_us, places: vec![place] };
        relocations::add_relocation(table, relocation);
        for deletion in &source.deletions {
            if let Ok(Some(rows)) = deletion.inline_rows() {
                let rows: RowSet = rows.iter().map(|row| row + offset).collect();
                live -= &rows;
                *deleted.entry(deletion.added).or_default() |= rows;
            }
        }
        if let Some(removed) = source.removed {
            *deleted.entry(removed).or_default() |= live;
        }
        offset = end;
    }
    segment.acknowledged = vec![];
    segment.added = sources.iter().map(|s| s.added).min().unwrap_or_default();
    segment.newest = sources.iter().map(|s| s.newest).max().unwrap_or_default();
    // When every source was removed, so is the file, by the version that removed the last of them.
    let last = sources.iter().max_by_key(|s| s.removed);
    if sources.iter().all(|s| s.removed.is_some())
        && let Some(last) = last
    {
        (segment.removed, segment.removed_time_us) = (last.removed, last.removed_time_us);
        deleted.retain(|version, _| Some(*version) < last.removed);
    }
    deleted.retain(|_, rows| !rows.is_empty());
    segment.deletions = deleted
        .into_iter()
        .map(|(added, rows)| DeletionVector { added, ..DeletionVector::inline(&rows) })
        .collect();
    table.segments.insert(segment.id, Arc::new(segment));
}

fn all_rows(segment: &Segment) -> RowSet {
    let mut rows = RowSet::new();
    rows.insert_range(0..segment.rows as u32);
    rows.optimize();
    rows
}
