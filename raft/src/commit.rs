//! Commits: the part of `apply` that changes the rows of tables.
//!
//! Concurrency control is optimistic. A commit names the version that it was computed from, its base, and is
//! accepted unless a later commit conflicts with it. Inserts conflict only when they write the same primary
//! key, deletions only when they delete the same row. Sets of rows that are in files cannot be compared here
//! and count as a conflict; the proposer then computes the change again from a newer version.
//!
//! [`checks`] and [`deletions`] decide whether a change is accepted. [`relocations`] and [`flush`] keep
//! deletions correct while rows move between segments.

pub(crate) mod checks;
mod deletions;
mod flush;
mod history;
pub(crate) mod relocations;

use std::sync::Arc;

use plexus_model::{
    ChangeKind, Commit, DeletionVector, Manifest, Result, SegmentIndex, SegmentRelocation, TableChange,
    Version,
};

use self::checks::check_unchanged;
use self::relocations::expire_relocations;
use crate::apply::alter_table;
use crate::rebase::rebase;

/// Applies a commit to all of its tables, or to none.
pub(crate) fn apply_commit(manifest: &mut Manifest, version: Version, mut commit: Commit) -> Result<()> {
    for (id, base) in &commit.unchanged {
        check_unchanged(manifest, *id, *base)?;
    }
    if commit.alter.is_empty() {
        return apply_changes(manifest, version, commit);
    }
    // The row changes are checked against the new schemas and may still be rejected, so this works on a copy.
    let mut altered = manifest.clone();
    for alter in std::mem::take(&mut commit.alter) {
        alter_table(&mut altered, version, alter)?;
    }
    apply_changes(&mut altered, version, commit)?;
    *manifest = altered;
    Ok(())
}

fn apply_changes(manifest: &mut Manifest, version: Version, mut commit: Commit) -> Result<()> {
    for change in commit.changes.iter_mut().filter(|c| c.kind == ChangeKind::Write) {
        if let Some(table) = manifest.tables.get(&change.table) {
            rebase(table, change)?;
        }
    }
    for change in &commit.changes {
        checks::check_change(manifest, change)?;
    }
    checks::check_inline_total(manifest, &commit)?;
    let record = history::commit_record(manifest, version, &commit);
    for change in commit.changes {
        apply_change(manifest, version, change);
    }
    history::add_record(manifest, record);
    Ok(())
}

/// Applies a change that passed its checks.
fn apply_change(manifest: &mut Manifest, version: Version, change: TableChange) {
    let time_us = manifest.time_us;
    let Some(table) = manifest.tables.get_mut(&change.table) else {
        return;
    };
    let table = Arc::make_mut(table);
    let carried_over = relocations::carried_over_deletions(table, &change);
    let newest_source = change.remove.iter().filter_map(|id| Some(table.segments.get(id)?.newest)).max();
    let newest = match change.kind {
        ChangeKind::Write => version,
        ChangeKind::Relocate => newest_source.unwrap_or(version),
    };
    for mut segment in change.add.into_iter().map(|s| s.0) {
        segment.added = version;
        segment.newest = newest;
        segment.removed = None;
        segment.acknowledged = vec![];
        segment.deletions.extend(carried_over.get(&segment.id).map(DeletionVector::inline));
        segment.deletions.iter_mut().for_each(|d| deletions::mark_committed(d, version));
        if segment.is_inline() {
            table.inline_bytes += segment.bytes();
        }
        table.segments.insert(segment.id, Arc::new(segment));
    }
    expire_relocations(table, time_us);
    if change.kind == ChangeKind::Relocate {
        for id in &change.remove {
            let places = change.relocations.iter().filter(|m| m.from == *id).cloned().collect();
            relocations::add_relocation(table, SegmentRelocation { from: *id, time_us, places });
        }
    }
    for id in &change.remove {
        if let Some(segment) = table.segments.get_mut(id) {
            let segment = Arc::make_mut(segment);
            segment.removed = Some(version);
            segment.removed_time_us = time_us;
        }
    }
    for (id, mut deletion) in change.delete {
        if let Some(segment) = table.segments.get_mut(&id) {
            deletions::mark_committed(&mut deletion, version);
            Arc::make_mut(segment).deletions.push(deletion);
        }
    }
    for flush in change.flush {
        flush::apply_flush(table, flush, time_us);
    }
    for (id, index) in change.index {
        if let Some(segment) = table.segments.get_mut(&id) {
            let index = SegmentIndex { acknowledged: vec![], ..index };
            Arc::make_mut(segment).indexes.push(index);
        }
    }
    if change.kind == ChangeKind::Write {
        table.changed = version;
    }
}
