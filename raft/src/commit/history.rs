//! The history of commits: one record for each version that changed rows.

use std::collections::BTreeSet;
use std::sync::Arc;

use plexus_model::{ChangeKind, Commit, CommitRecord, Manifest, TableChange, TableId, Version};

/// The record of a commit that has been checked but not applied.
pub(super) fn commit_record(manifest: &Manifest, version: Version, commit: &Commit) -> CommitRecord {
    let changes = || commit.changes.iter();
    CommitRecord {
        version,
        time_us: manifest.time_us,
        operation: commit.operation.clone(),
        tables: changes().map(|c| c.table).collect(),
        rows_added: changes()
            .filter(|c| c.kind == ChangeKind::Write)
            .flat_map(|c| &c.add)
            .map(|s| s.0.rows)
            .sum(),
        rows_deleted: changes().map(|c| rows_deleted(manifest, c)).sum(),
        segments_added: changes().map(|c| (c.add.len() + c.flush.len()) as u32).sum(),
        segments_removed: changes()
            .map(|c| (c.remove.len() + c.flush.iter().map(|f| f.from.len()).sum::<usize>()) as u32)
            .sum(),
        duration_us: commit.duration_us,
    }
}

/// Adds a record to the history. Commits in one log entry share its version, and so their record.
pub(super) fn add_record(manifest: &mut Manifest, record: CommitRecord) {
    let version = record.version;
    let record = match manifest.commits.get(&version) {
        Some(earlier) => merge_records(earlier, record),
        None => record,
    };
    manifest.commits.insert(version, Arc::new(record));
}

/// Rows that a change deletes, one by one or with their segment.
fn rows_deleted(manifest: &Manifest, change: &TableChange) -> u64 {
    let in_removed_segments = change.remove.iter().filter_map(|id| {
        let segment = manifest.tables.get(&change.table)?.segments.get(id)?;
        Some(segment.live_rows(manifest.version))
    });
    match change.kind {
        ChangeKind::Write => {
            in_removed_segments.sum::<u64>() + change.delete.iter().map(|(_, d)| d.count).sum::<u64>()
        }
        ChangeKind::Relocate => 0,
    }
}

fn merge_records(earlier: &CommitRecord, mut record: CommitRecord) -> CommitRecord {
    let tables: BTreeSet<TableId> = earlier.tables.iter().chain(&record.tables).copied().collect();
    record.tables = tables.into_iter().collect();
    record.rows_added += earlier.rows_added;
    record.rows_deleted += earlier.rows_deleted;
    record.segments_added += earlier.segments_added;
    record.segments_removed += earlier.segments_removed;
    record.duration_us = record.duration_us.max(earlier.duration_us);
    if !earlier.operation.split(", ").any(|o| o == record.operation) {
        record.operation = format!("{}, {}", earlier.operation, record.operation);
    } else {
        record.operation = earlier.operation.clone();
    }
    record
}
