//! Deletion vectors: checks of a new one, and conflicts between two that were computed concurrently.

use plexus_model::{DeletionVector, DeletionVectorData, Error, Result, Segment, Table, Version};

use super::checks::check_quorum;

/// Checks that a deletion vector has the announced number of rows, that the segment has these rows, and that
/// a file of it is durable on a majority.
pub(super) fn check_deletion(table: &Table, segment: &Segment, deletion: &DeletionVector) -> Result<()> {
    let invalid = |reason: String| {
        Error::internal(format!("table {}, deletion from segment {}: {reason}", table.name, segment.id))
    };
    if let Some(rows) = deletion.inline_rows()? {
        if rows.len() != deletion.count {
            return Err(invalid(format!("{} rows, but {} were announced", rows.len(), deletion.count)));
        }
        if rows.max().is_some_and(|row| u64::from(row) >= segment.rows) {
            return Err(invalid(format!("row {:?} of {}", rows.max(), segment.rows)));
        }
    }
    match (&deletion.rows, table.shards.get(segment.shard as usize)) {
        // A flush copies the deletions of its inline segments, so it must be able to read them.
        (DeletionVectorData::File { .. }, _) if segment.is_inline() => {
            Err(invalid("a file cannot hold the deletions of an inline segment".to_owned()))
        }
        (DeletionVectorData::File { id, acknowledged, .. }, Some(shard)) => {
            check_quorum(table, segment.shard, shard, *id, acknowledged)
        }
        _ => Ok(()),
    }
}

/// Checks that no commit after `base` deleted one of the rows. A set of rows in a file cannot be compared and
/// counts as a conflict.
pub(super) fn check_disjoint(
    table: &Table,
    segment: &Segment,
    deletion: &DeletionVector,
    base: Version,
) -> Result<()> {
    let newer: Vec<&DeletionVector> = segment.deletions.iter().filter(|d| d.added > base).collect();
    if newer.is_empty() {
        return Ok(());
    }
    let Some(rows) = deletion.inline_rows()? else {
        return Err(deleted_concurrently(table, segment, newer[newer.len() - 1]));
    };
    for other in newer {
        match other.inline_rows()? {
            Some(other_rows) if other_rows.is_disjoint(&rows) => {}
            _ => return Err(deleted_concurrently(table, segment, other)),
        }
    }
    Ok(())
}

fn deleted_concurrently(table: &Table, segment: &Segment, other: &DeletionVector) -> Error {
    Error::conflict(format!(
        "table {}: rows of segment {} were changed concurrently, by version {}",
        table.name, segment.id, other.added
    ))
}

/// Stamps a deletion vector with the version that commits it. The acknowledgements have served their purpose:
/// from here on the placement says which nodes hold the file.
pub(super) fn mark_committed(deletion: &mut DeletionVector, version: Version) {
    deletion.added = version;
    if let DeletionVectorData::File { acknowledged, .. } = &mut deletion.rows {
        acknowledged.clear();
    }
}
