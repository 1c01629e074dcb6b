//! Changes that name rows where they were: segments are merged and leave the log while statements run, and
//! what a statement deletes is found where it went.

use plexus_model::{DeletionVector, Error, Result, RowSet, SegmentId, Table, TableChange, decode_row_set};

/// What of a segment goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Removal {
    /// Rows that the statement deletes: whoever deleted one of them before it, wins.
    Rows,
    /// A segment as a whole: rows that are gone already need not go again.
    Whole,
}

/// Rewrites a change of rows for the segments that there are now.
pub fn rebase(table: &Table, change: &mut TableChange) -> Result<()> {
    let moved = |id: &SegmentId| table.relocations.contains_key(id);
    let (gone, kept): (Vec<_>, Vec<_>) =
        std::mem::take(&mut change.delete).into_iter().partition(|(id, _)| moved(id));
    change.delete = kept;
    for (id, deletion) in gone {
        let rows = deletion.inline_rows()?.ok_or_else(|| moved_meanwhile(table, id))?;
        follow(table, id, rows, Removal::Rows, change)?;
    }
    let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut change.remove).into_iter().partition(moved);
    change.remove = kept;
    for id in gone {
        let mut all = RowSet::new();
        for place in table.relocations.get(&id).into_iter().flat_map(|m| &m.places) {
            all |= decode_row_set(&place.rows)?;
        }
        if let Some(segment) = table.segments.get(&id) {
            all.insert_range(0..segment.rows as u32);
        }
        follow(table, id, all, Removal::Whole, change)?;
    }
    Ok(())
}

fn follow(
    table: &Table,
    from: SegmentId,
    mut rows: RowSet,
    wanted: Removal,
    change: &mut TableChange,
) -> Result<()> {
    if wanted == Removal::Whole {
        // Rows that were gone when the statement looked need not go; it may not take what went since.
        for deletion in table.segments.get(&from).into_iter().flat_map(|s| &s.deletions) {
            let gone = deletion.inline_rows()?.ok_or_else(|| moved_meanwhile(table, from))?;
            if deletion.added > change.base && !gone.is_disjoint(&rows) {
                return Err(moved_meanwhile(table, from));
            }
            rows -= gone;
        }
    }
    let Some(moved) = table.relocations.get(&from) else {
        return delete(table, from, rows, change);
    };
    let mut left = rows;
    for place in &moved.places {
        let here = decode_row_set(&place.rows)?;
        let there: RowSet =
            (&left & &here).iter().map(|row| place.offset + here.rank(row) as u32 - 1).collect();
        left -= here;
        if !there.is_empty() {
            follow(table, place.to, there, wanted, change)?;
        }
    }
    // What did not move was deleted before.
    if left.is_empty() { Ok(()) } else { Err(moved_meanwhile(table, from)) }
}

fn delete(table: &Table, id: SegmentId, rows: RowSet, change: &mut TableChange) -> Result<()> {
    match change.delete.iter_mut().find(|(other, _)| *other == id) {
        _ if rows.is_empty() => {}
        Some((_, deletion)) => {
            let both = deletion.inline_rows()?.ok_or_else(|| moved_meanwhile(table, id))? | rows;
            *deletion = DeletionVector::inline(&both);
        }
        None => change.delete.push((id, DeletionVector::inline(&rows))),
    }
    Ok(())
}

fn moved_meanwhile(table: &Table, id: SegmentId) -> Error {
    Error::conflict(format!("table {}: rows of segment {id} were changed or moved meanwhile", table.name))
}
