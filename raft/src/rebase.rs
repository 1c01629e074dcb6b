//! Rebasing a write: rewrites a change that names rows by segments that have since been compacted or flushed.
//!
//! Compaction and flushes move rows to other segments while statements run. The table remembers for a while
//! where the rows went (its relocations), so a statement that started earlier does not conflict with a move:
//! its deletions are applied where the rows are now.

use plexus_model::{DeletionVector, Error, Result, RowSet, SegmentId, Table, TableChange, decode_row_set};

/// What a change takes out of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scope {
    /// Named rows. A row that is already deleted is a conflict: the first deletion wins.
    Rows,
    /// The whole segment. Rows that the statement already saw as deleted are skipped.
    Segment,
}

/// Rewrites the deletions and removals of a change so that they name the segments that hold the rows now.
///
/// # Errors
/// `Conflict` when a row was deleted after the change's base, or when rows cannot be followed because their
/// set is in a file. The change is then only partly rewritten and must be discarded.
pub(crate) fn rebase(table: &Table, change: &mut TableChange) -> Result<()> {
    let relocated = |id: &SegmentId| table.relocations.contains_key(id);
    let (moved, in_place): (Vec<_>, Vec<_>) =
        std::mem::take(&mut change.delete).into_iter().partition(|(id, _)| relocated(id));
    change.delete = in_place;
    for (id, deletion) in moved {
        let rows = deletion.inline_rows()?.ok_or_else(|| conflict(table, id))?;
        rebase_rows(table, id, rows, Scope::Rows, change)?;
    }
    let (moved, in_place): (Vec<_>, Vec<_>) =
        std::mem::take(&mut change.remove).into_iter().partition(relocated);
    change.remove = in_place;
    for id in moved {
        let mut all = RowSet::new();
        for place in table.relocations.get(&id).into_iter().flat_map(|m| &m.places) {
            all |= decode_row_set(&place.rows)?;
        }
        if let Some(segment) = table.segments.get(&id) {
            all.insert_range(0..segment.rows as u32);
        }
        rebase_rows(table, id, all, Scope::Segment, change)?;
    }
    Ok(())
}

/// Adds to `change` the deletion of `rows` of segment `from`, wherever these rows are now. Recursive, since
/// rows may have moved several times.
fn rebase_rows(
    table: &Table,
    from: SegmentId,
    mut rows: RowSet,
    scope: Scope,
    change: &mut TableChange,
) -> Result<()> {
    if scope == Scope::Segment {
        // Skip rows that were deleted up to the base; a deletion after it is a conflict.
        for deletion in table.segments.get(&from).into_iter().flat_map(|s| &s.deletions) {
            let deleted = deletion.inline_rows()?.ok_or_else(|| conflict(table, from))?;
            if deletion.added > change.base && !deleted.is_disjoint(&rows) {
                return Err(conflict(table, from));
            }
            rows -= deleted;
        }
    }
    let Some(relocation) = table.relocations.get(&from) else {
        return add_deletion(table, from, rows, change);
    };
    let mut remaining = rows;
    for place in &relocation.places {
        let source_rows = decode_row_set(&place.rows)?;
        // Moved rows are consecutive in the target, in their order in the source.
        let target_rows: RowSet = (&remaining & &source_rows)
            .iter()
            .map(|row| place.offset + source_rows.rank(row) as u32 - 1)
            .collect();
        remaining -= source_rows;
        if !target_rows.is_empty() {
            rebase_rows(table, place.to, target_rows, scope, change)?;
        }
    }
    // Rows that were not moved had been deleted before the move.
    if remaining.is_empty() { Ok(()) } else { Err(conflict(table, from)) }
}

/// Adds the deletion of `rows` of segment `id` to the change.
fn add_deletion(table: &Table, id: SegmentId, rows: RowSet, change: &mut TableChange) -> Result<()> {
    match change.delete.iter_mut().find(|(other, _)| *other == id) {
        _ if rows.is_empty() => {}
        Some((_, deletion)) => {
            let union = deletion.inline_rows()?.ok_or_else(|| conflict(table, id))? | rows;
            *deletion = DeletionVector::inline(&union);
        }
        None => change.delete.push((id, DeletionVector::inline(&rows))),
    }
    Ok(())
}

fn conflict(table: &Table, id: SegmentId) -> Error {
    Error::conflict(format!("table {}: rows of segment {id} were changed or moved concurrently", table.name))
}
