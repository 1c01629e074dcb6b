//! Commits: the part of `apply` that changes the rows of tables.
//!
//! Two commits that started from the same version go together as long as neither undoes what the other
//! relied on: inserts always do, except of one primary key; deletions do when no row is in both. What
//! cannot be compared here, because it is in a file, is a conflict; whoever proposed it looks again and
//! proposes anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plexus_model::limits::{
    INLINE_TABLE_BYTES_MAX, INLINE_TOTAL_BYTES_MAX, RELOCATION_BYTES_MAX, RELOCATION_TTL_US,
};
use plexus_model::placement::majority;
use plexus_model::{
    ChangeKind, Commit, CommitRecord, DeletionVector, DeletionVectorData, Error, Flush, Manifest, NodeId,
    Result, RowRelocation, RowSet, Segment, SegmentId, SegmentIndex, SegmentRelocation, Shard, Table,
    TableChange, TableId, Version, decode_row_set, encode_row_set,
};

use crate::apply::alter_table;
use crate::rebase::rebase;

pub fn apply_commit(manifest: &mut Manifest, index: Version, mut commit: Commit) -> Result<()> {
    for (id, base) in &commit.unchanged {
        check_unchanged(manifest, *id, *base)?;
    }
    if commit.alter.is_empty() {
        return apply_changes(manifest, index, commit);
    }
    // The rows may be refused after the schemas were changed: then nothing is.
    let mut altered = manifest.clone();
    for alter in std::mem::take(&mut commit.alter) {
        alter_table(&mut altered, index, alter)?;
    }
    apply_changes(&mut altered, index, commit)?;
    *manifest = altered;
    Ok(())
}

fn apply_changes(manifest: &mut Manifest, index: Version, mut commit: Commit) -> Result<()> {
    for change in commit.changes.iter_mut().filter(|c| c.kind == ChangeKind::Write) {
        if let Some(table) = manifest.tables.get(&change.table) {
            rebase(table, change)?;
        }
    }
    for change in &commit.changes {
        check_change(manifest, change)?;
    }
    check_inline_total(manifest, &commit)?;
    let changes = || commit.changes.iter();
    let record = CommitRecord {
        version: index,
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
            .map(|c| (c.remove.len() + c.flush.iter().map(|e| e.from.len()).sum::<usize>()) as u32)
            .sum(),
        duration_us: commit.duration_us,
    };
    for change in commit.changes {
        apply_change_rows(manifest, index, change);
    }
    let record = match manifest.commits.get(&index) {
        Some(earlier) => merge_records(earlier, record),
        None => record,
    };
    manifest.commits.insert(index, Arc::new(record));
    Ok(())
}

/// Rows that a change takes out of sight, one by one or with their segment.
fn rows_deleted(manifest: &Manifest, change: &TableChange) -> u64 {
    let whole = change.remove.iter().filter_map(|id| {
        let segment = manifest.tables.get(&change.table)?.segments.get(id)?;
        Some(segment.live_rows(manifest.version))
    });
    match change.kind {
        ChangeKind::Write => whole.sum::<u64>() + change.delete.iter().map(|(_, d)| d.count).sum::<u64>(),
        ChangeKind::Move => 0,
    }
}

/// Commits that share an entry share its version, and so its line of the history.
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

fn check_inline_total(manifest: &Manifest, commit: &Commit) -> Result<()> {
    let inline = commit.changes.iter().flat_map(|c| &c.add).filter(|s| s.0.is_inline());
    let added: u64 = inline.map(|s| s.0.bytes()).sum();
    if added == 0 {
        return Ok(());
    }
    let total = manifest.inline_bytes() + added;
    if total > INLINE_TOTAL_BYTES_MAX as u64 {
        return Err(Error::exhausted(format!(
            "{total} bytes of rows in the log are above the bound of {INLINE_TOTAL_BYTES_MAX} for all tables"
        )));
    }
    Ok(())
}

/// The table, as long as it is there and has that schema.
pub fn live_table(manifest: &Manifest, id: TableId, schema_version: u32) -> Result<&Arc<Table>> {
    let table = manifest
        .tables
        .get(&id)
        .filter(|t| t.dropped.is_none())
        .ok_or_else(|| Error::conflict(format!("table with id {id} was dropped meanwhile")))?;
    if table.schema_version != schema_version {
        return Err(Error::conflict(format!(
            "table {}: its schema changed from version {schema_version} to {} meanwhile",
            table.name, table.schema_version
        )));
    }
    Ok(table)
}

pub fn check_unchanged(manifest: &Manifest, id: TableId, base: Version) -> Result<()> {
    let table = manifest.tables.get(&id).filter(|t| t.dropped.is_none());
    let table = table.ok_or_else(|| Error::conflict(format!("table with id {id} was dropped meanwhile")))?;
    if table.changed > base {
        return Err(Error::conflict(format!(
            "table {} was read at version {base} and changed by version {}",
            table.name, table.changed
        )));
    }
    Ok(())
}

fn check_change(manifest: &Manifest, change: &TableChange) -> Result<()> {
    let same_rows = change.add.is_empty() && change.remove.is_empty() && change.delete.is_empty();
    if same_rows && let Some(table) = manifest.tables.get(&change.table) {
        // Rows leave the log of dropped tables as well, and whatever their schema has become.
        check_flushes(table, change)?;
        return check_indexes(table, change);
    }
    let table = live_table(manifest, change.table, change.schema_version)?;
    check_flushes(table, change)?;
    check_indexes(table, change)?;
    let mut ids = BTreeSet::new();
    let mut inline_bytes = table.inline_bytes;
    for segment in change.add.iter().map(|s| &s.0) {
        if !ids.insert(segment.id) {
            return Err(Error::internal(format!("segment id {} is used twice", segment.id)));
        }
        check_new(table, segment)?;
        if segment.is_inline() {
            inline_bytes += segment.bytes();
        }
        for deletion in &segment.deletions {
            check_deletion(table, segment, deletion)?;
        }
    }
    if inline_bytes > INLINE_TABLE_BYTES_MAX as u64 && inline_bytes > table.inline_bytes {
        return Err(Error::exhausted(format!(
            "table {}: {inline_bytes} bytes of rows in the log are above the bound of {INLINE_TABLE_BYTES_MAX}",
            table.name
        )));
    }
    for id in &change.remove {
        let segment = still_there(table, *id)?;
        if segment.last_deletion() > change.base && !can_follow(change, segment) {
            return Err(Error::conflict(format!(
                "table {}: rows of segment {id} were deleted meanwhile, by version {}",
                table.name,
                segment.last_deletion()
            )));
        }
    }
    for (id, deletion) in &change.delete {
        let segment = still_there(table, *id)?;
        check_deletion(table, segment, deletion)?;
        check_disjoint(table, segment, deletion, change.base)?;
    }
    if change.kind == ChangeKind::Write && table.schema.has_key() {
        check_keys(table, change)?;
    }
    Ok(())
}

/// Whether what was deleted from a removed segment after `base` can be deleted where its rows went.
fn can_follow(change: &TableChange, segment: &Segment) -> bool {
    let mut newer = segment.deletions.iter().filter(|d| d.added > change.base);
    change.kind == ChangeKind::Move
        && change.relocations.iter().any(|m| m.from == segment.id)
        && newer.all(|d| matches!(d.inline_rows(), Ok(Some(_))))
        && change.relocations.iter().all(|m| decode_row_set(&m.rows).is_ok())
}

/// Rows of added segments that were deleted, after `base`, from the segments that they were in.
fn followed(table: &Table, change: &TableChange) -> BTreeMap<SegmentId, RowSet> {
    let mut deleted: BTreeMap<SegmentId, RowSet> = BTreeMap::new();
    for moved in &change.relocations {
        let (Some(source), Ok(rows)) = (table.segments.get(&moved.from), decode_row_set(&moved.rows)) else {
            continue;
        };
        for deletion in source.deletions.iter().filter(|d| d.added > change.base) {
            let Ok(Some(gone)) = deletion.inline_rows() else {
                continue;
            };
            let there = gone.iter().filter(|row| rows.contains(*row));
            let places = there.map(|row| moved.offset + rows.rank(row) as u32 - 1);
            deleted.entry(moved.to).or_default().extend(places);
        }
    }
    deleted.retain(|_, rows| !rows.is_empty());
    deleted
}

fn still_there(table: &Table, id: SegmentId) -> Result<&Arc<Segment>> {
    table
        .segments
        .get(&id)
        .filter(|s| s.removed.is_none())
        .ok_or_else(|| Error::conflict(format!("table {}: segment {id} was removed meanwhile", table.name)))
}

fn check_new(table: &Table, segment: &Segment) -> Result<()> {
    if table.segments.contains_key(&segment.id) {
        return Err(Error::internal(format!("segment id {} is used twice", segment.id)));
    }
    let shard = table.shards.get(segment.shard as usize).ok_or_else(|| {
        Error::internal(format!(
            "table {} has no shard {} for segment {}",
            table.name, segment.shard, segment.id
        ))
    })?;
    match segment.is_inline() {
        true => Ok(()),
        false => check_quorum(table, segment.shard, shard, segment.id, &segment.acknowledged),
    }
}

/// Invariant 3: a majority of the replicas, by the placement that holds at this point of the log.
fn check_quorum(
    table: &Table,
    index: u32,
    shard: &Shard,
    file: SegmentId,
    acknowledged: &[NodeId],
) -> Result<()> {
    let durable: BTreeSet<NodeId> =
        acknowledged.iter().copied().filter(|node| shard.replicas.contains(node)).collect();
    let needed = majority(shard.replicas.len());
    if durable.len() < needed {
        return Err(Error::conflict(format!(
            "table {}, shard {index}: file {file} is durable on {} of {} replicas, {needed} are needed",
            table.name,
            durable.len(),
            shard.replicas.len()
        )));
    }
    Ok(())
}

/// That a set of rows is one, of this segment, and there.
fn check_deletion(table: &Table, segment: &Segment, deletion: &DeletionVector) -> Result<()> {
    let wrong = |what: String| {
        Error::internal(format!("table {}, deletion from segment {}: {what}", table.name, segment.id))
    };
    if let Some(rows) = deletion.inline_rows()? {
        if rows.len() != deletion.count {
            return Err(wrong(format!("{} rows, {} were announced", rows.len(), deletion.count)));
        }
        if rows.max().is_some_and(|row| u64::from(row) >= segment.rows) {
            return Err(wrong(format!("row {:?} of {}", rows.max(), segment.rows)));
        }
    }
    match (&deletion.rows, table.shards.get(segment.shard as usize)) {
        (DeletionVectorData::File { .. }, _) if segment.is_inline() => {
            Err(wrong("a file, of a segment in the log".to_owned()))
        }
        (DeletionVectorData::File { id, acknowledged, .. }, Some(shard)) => {
            check_quorum(table, segment.shard, shard, *id, acknowledged)
        }
        _ => Ok(()),
    }
}

fn check_disjoint(table: &Table, segment: &Segment, deletion: &DeletionVector, base: Version) -> Result<()> {
    let newer: Vec<&DeletionVector> = segment.deletions.iter().filter(|d| d.added > base).collect();
    if newer.is_empty() {
        return Ok(());
    }
    let Some(rows) = deletion.inline_rows()? else {
        return Err(deleted_meanwhile(table, segment, newer[newer.len() - 1]));
    };
    for other in newer {
        match other.inline_rows()? {
            Some(others) if others.is_disjoint(&rows) => {}
            _ => return Err(deleted_meanwhile(table, segment, other)),
        }
    }
    Ok(())
}

fn deleted_meanwhile(table: &Table, segment: &Segment, other: &DeletionVector) -> Error {
    Error::conflict(format!(
        "table {}: rows of segment {} were changed meanwhile, by version {}",
        table.name, segment.id, other.added
    ))
}

/// That nobody has written one of the keys since `base`, after which the writer has not looked.
fn check_keys(table: &Table, change: &TableChange) -> Result<()> {
    let written: BTreeMap<u32, Vec<&Segment>> =
        change.add.iter().map(|s| &s.0).fold(BTreeMap::new(), |mut shards, segment| {
            shards.entry(segment.shard).or_insert_with(Vec::new).push(segment);
            shards
        });
    if written.is_empty() {
        return Ok(());
    }
    let newer = |s: &&Arc<Segment>| s.newest > change.base && s.removed.is_none();
    for other in table.segments.values().filter(newer) {
        let Some(mine) = written.get(&other.shard) else {
            continue;
        };
        let all_inline = other.is_inline() && mine.iter().all(|s| s.is_inline());
        let theirs: BTreeSet<u64> = other.keys.iter().copied().collect();
        if !all_inline || mine.iter().flat_map(|s| &s.keys).any(|hash| theirs.contains(hash)) {
            return Err(Error::conflict(format!(
                "table {}, shard {}: keys were written meanwhile, by version {}",
                table.name, other.shard, other.newest
            )));
        }
    }
    Ok(())
}

/// That segments get indexes that they lack, of definitions that are there.
fn check_indexes(table: &Table, change: &TableChange) -> Result<()> {
    let mut files = BTreeSet::new();
    for (id, index) in &change.index {
        if !files.insert(index.file) || table.segments.contains_key(&index.file) {
            return Err(Error::internal(format!("file {} of an index is used twice", index.file)));
        }
        let segment = table.segments.get(id).ok_or_else(|| {
            Error::conflict(format!("table {}: segment {id} is gone, and was to get an index", table.name))
        })?;
        if !table.schema.indexes.iter().any(|definition| definition.id == index.index) {
            return Err(Error::conflict(format!("table {}: the index was dropped meanwhile", table.name)));
        }
        if segment.is_inline() {
            return Err(Error::internal(format!("segment {id} is in the log, and was to get an index")));
        }
        let again =
            change.index.iter().filter(|(other, i)| other == id && i.index == index.index).count() > 1;
        if again || segment.indexes.iter().any(|there| there.index == index.index) {
            return Err(Error::conflict(format!("table {}: segment {id} has its index already", table.name)));
        }
        let shard = table
            .shards
            .get(segment.shard as usize)
            .ok_or_else(|| Error::internal(format!("table {} has no shard {}", table.name, segment.shard)))?;
        check_quorum(table, segment.shard, shard, index.file, &index.acknowledged)?;
    }
    Ok(())
}

fn check_flushes(table: &Table, change: &TableChange) -> Result<()> {
    for Flush { from, segment } in &change.flush {
        check_new(table, &segment.0)?;
        let mut rows = 0;
        for id in from {
            let Some(source) = table.segments.get(id).filter(|s| s.is_inline()) else {
                return Err(Error::conflict(format!(
                    "table {}: segment {id} has left the log meanwhile",
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
                "table {}: {} rows in the place of {rows}",
                table.name, segment.0.rows
            )));
        }
    }
    Ok(())
}

fn apply_change_rows(manifest: &mut Manifest, index: Version, change: TableChange) {
    let time_us = manifest.time_us;
    let Some(table) = manifest.tables.get_mut(&change.table) else {
        return;
    };
    let table = Arc::make_mut(table);
    let followed = followed(table, &change);
    let moved = change.remove.iter().filter_map(|id| Some(table.segments.get(id)?.newest)).max();
    let newest = match change.kind {
        ChangeKind::Write => index,
        ChangeKind::Move => moved.unwrap_or(index),
    };
    for mut segment in change.add.into_iter().map(|s| s.0) {
        segment.added = index;
        segment.newest = newest;
        segment.removed = None;
        segment.acknowledged = vec![];
        segment.deletions.extend(followed.get(&segment.id).map(DeletionVector::inline));
        segment.deletions.iter_mut().for_each(|d| commit_deletion(d, index));
        if segment.is_inline() {
            table.inline_bytes += segment.bytes();
        }
        table.segments.insert(segment.id, Arc::new(segment));
    }
    forget_relocations(table, time_us);
    if change.kind == ChangeKind::Move {
        for id in &change.remove {
            let places = change.relocations.iter().filter(|m| m.from == *id).cloned().collect();
            remember_relocation(table, SegmentRelocation { from: *id, time_us, places });
        }
    }
    for id in &change.remove {
        if let Some(segment) = table.segments.get_mut(id) {
            let segment = Arc::make_mut(segment);
            segment.removed = Some(index);
            segment.removed_time_us = time_us;
        }
    }
    for (id, mut deletion) in change.delete {
        if let Some(segment) = table.segments.get_mut(&id) {
            commit_deletion(&mut deletion, index);
            Arc::make_mut(segment).deletions.push(deletion);
        }
    }
    for flush in change.flush {
        apply_flush(table, flush, time_us);
    }
    for (id, index) in change.index {
        if let Some(segment) = table.segments.get_mut(&id) {
            let index = SegmentIndex { acknowledged: vec![], ..index };
            Arc::make_mut(segment).indexes.push(index);
        }
    }
    if change.kind == ChangeKind::Write {
        table.changed = index;
    }
}

fn commit_deletion(deletion: &mut DeletionVector, index: Version) {
    deletion.added = index;
    if let DeletionVectorData::File { acknowledged, .. } = &mut deletion.rows {
        acknowledged.clear();
    }
}

/// Notes where rows went, for statements that began before; a note that is too large is none.
fn remember_relocation(table: &mut Table, relocation: SegmentRelocation) {
    if relocation.places.iter().map(|p| p.rows.len()).sum::<usize>() <= RELOCATION_BYTES_MAX {
        table.relocations.insert(relocation.from, Arc::new(relocation));
    }
}

pub fn forget_relocations(table: &mut Table, time_us: u64) {
    let until = time_us.saturating_sub(RELOCATION_TTL_US);
    // Ids begin with their time, so what is old comes first, more or less.
    while let Some((id, moved)) = table.relocations.get_min()
        && moved.time_us <= until
    {
        let id = *id;
        table.relocations.remove(&id);
    }
}

/// Puts a file in the place of inline segments, at every version: what was deleted from them goes along, and
/// those that were removed as a whole are deleted in it.
fn apply_flush(table: &mut Table, flush: Flush, time_us: u64) {
    let mut segment = flush.segment.0;
    let sources: Vec<Arc<Segment>> = flush.from.iter().filter_map(|id| table.segments.remove(id)).collect();
    let mut deleted: BTreeMap<Version, RowSet> = BTreeMap::new();
    let mut offset = 0;
    for source in &sources {
        table.inline_bytes -= source.bytes();
        let end = offset + source.rows as u32;
        let mut left = RowSet::new();
        left.insert_range(offset..end);
        let place = RowRelocation {
            from: source.id,
            to: segment.id,
            offset,
            rows: encode_row_set(&all_rows(source)),
        };
        remember_relocation(table, SegmentRelocation { from: source.id, time_us, places: vec![place] });
        for deletion in &source.deletions {
            if let Ok(Some(rows)) = deletion.inline_rows() {
                let rows: RowSet = rows.iter().map(|row| row + offset).collect();
                left -= &rows;
                *deleted.entry(deletion.added).or_default() |= rows;
            }
        }
        if let Some(removed) = source.removed {
            *deleted.entry(removed).or_default() |= left;
        }
        offset = end;
    }
    segment.acknowledged = vec![];
    segment.added = sources.iter().map(|s| s.added).min().unwrap_or_default();
    segment.newest = sources.iter().map(|s| s.newest).max().unwrap_or_default();
    // Gone as soon as the last of them is.
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
