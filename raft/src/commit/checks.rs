//! Checks of a change against the table as it is now. They read the manifest and change nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plexus_model::limits::{INLINE_TABLE_BYTES_MAX, INLINE_TOTAL_BYTES_MAX, inline_rows_max};
use plexus_model::placement::majority;
use plexus_model::{
    ChangeKind, Commit, Error, Manifest, NodeId, Result, Segment, SegmentData, SegmentId, Shard, Table,
    TableChange, TableId, Version,
};

use super::{deletions, flush, relocations};

/// The table with this id, if it exists and has this schema version.
///
/// # Errors
/// `Conflict` when it was dropped or altered.
pub(crate) fn live_table(manifest: &Manifest, id: TableId, schema_version: u32) -> Result<&Arc<Table>> {
    let table = existing_table(manifest, id)?;
    if table.schema_version != schema_version {
        return Err(Error::conflict(format!(
            "table {}: its schema changed concurrently, from version {schema_version} to {}",
            table.name, table.schema_version
        )));
    }
    Ok(table)
}

/// Checks that a table has not changed since version `base`.
///
/// # Errors
/// `Conflict` when it was dropped, altered or written.
pub(crate) fn check_unchanged(manifest: &Manifest, id: TableId, base: Version) -> Result<()> {
    let table = existing_table(manifest, id)?;
    if table.changed > base {
        return Err(Error::conflict(format!(
            "table {} was read at version {base} and changed by version {}",
            table.name, table.changed
        )));
    }
    Ok(())
}

fn existing_table(manifest: &Manifest, id: TableId) -> Result<&Arc<Table>> {
    manifest
        .tables
        .get(&id)
        .filter(|t| t.dropped.is_none())
        .ok_or_else(|| Error::conflict(format!("table with id {id} was dropped concurrently")))
}

/// Checks that the inline rows of all tables stay within their limit: every node holds them in memory.
pub(super) fn check_inline_total(manifest: &Manifest, commit: &Commit) -> Result<()> {
    let inline = commit.changes.iter().flat_map(|c| &c.add).filter(|s| s.0.is_inline());
    let added: u64 = inline.map(|s| s.0.bytes()).sum();
    if added == 0 {
        return Ok(());
    }
    let total = manifest.inline_bytes() + added;
    if total > INLINE_TOTAL_BYTES_MAX as u64 {
        return Err(Error::exhausted(format!(
            "{total} bytes of inline rows exceed the limit of {INLINE_TOTAL_BYTES_MAX} for all tables"
        )));
    }
    Ok(())
}

/// Checks everything about one change, except for what concerns the commit as a whole.
pub(super) fn check_change(manifest: &Manifest, change: &TableChange) -> Result<()> {
    let keeps_rows = change.add.is_empty() && change.remove.is_empty() && change.delete.is_empty();
    if keeps_rows && let Some(table) = manifest.tables.get(&change.table) {
        // Flushes and index builds change no rows. They are accepted for dropped tables and for any schema
        // version: inline rows must leave the manifest in every case.
        flush::check_flushes(table, change)?;
        return check_indexes(table, change);
    }
    let table = live_table(manifest, change.table, change.schema_version)?;
    flush::check_flushes(table, change)?;
    check_indexes(table, change)?;
    check_added_segments(table, change)?;
    for id in &change.remove {
        let segment = live_segment(table, *id)?;
        if segment.last_deletion() > change.base && !relocations::can_carry_over_deletions(change, segment) {
            return Err(Error::conflict(format!(
                "table {}: rows of segment {id} were deleted concurrently, by version {}",
                table.name,
                segment.last_deletion()
            )));
        }
    }
    for (id, deletion) in &change.delete {
        let segment = live_segment(table, *id)?;
        deletions::check_deletion(table, segment, deletion)?;
        deletions::check_disjoint(table, segment, deletion, change.base)?;
    }
    if change.kind == ChangeKind::Write && table.schema.has_key() {
        check_keys(table, change)?;
    }
    Ok(())
}

fn check_added_segments(table: &Table, change: &TableChange) -> Result<()> {
    let mut ids = BTreeSet::new();
    let mut inline_bytes = table.inline_bytes;
    for segment in change.add.iter().map(|s| &s.0) {
        if !ids.insert(segment.id) {
            return Err(Error::internal(format!("segment id {} is used twice", segment.id)));
        }
        check_new_segment(table, segment)?;
        if segment.is_inline() {
            inline_bytes += segment.bytes();
        }
        for deletion in &segment.deletions {
            deletions::check_deletion(table, segment, deletion)?;
        }
    }
    if inline_bytes > INLINE_TABLE_BYTES_MAX as u64 && inline_bytes > table.inline_bytes {
        return Err(Error::exhausted(format!(
            "table {}: {inline_bytes} bytes of inline rows exceed the limit of {INLINE_TABLE_BYTES_MAX}",
            table.name
        )));
    }
    Ok(())
}

fn live_segment(table: &Table, id: SegmentId) -> Result<&Arc<Segment>> {
    table.segments.get(&id).filter(|s| s.removed.is_none()).ok_or_else(|| {
        Error::conflict(format!("table {}: segment {id} was removed concurrently", table.name))
    })
}

/// Checks that a segment has an unused id and an existing shard, and that its file is durable on a majority.
pub(super) fn check_new_segment(table: &Table, segment: &Segment) -> Result<()> {
    if table.segments.contains_key(&segment.id) {
        return Err(Error::internal(format!("segment id {} is used twice", segment.id)));
    }
    let shard = table.shards.get(segment.shard as usize).ok_or_else(|| {
        Error::internal(format!(
            "table {} has no shard {} for segment {}",
            table.name, segment.shard, segment.id
        ))
    })?;
    match &segment.data {
        SegmentData::Inline(bytes) => check_inline_rows(table, segment, bytes.len()),
        SegmentData::File(_) => check_quorum(table, segment.shard, shard, segment.id, &segment.acknowledged),
    }
}

/// Checks that an inline segment announces no more rows than its bytes may hold. Every node allocates by that
/// number when it reads them.
fn check_inline_rows(table: &Table, segment: &Segment, bytes: usize) -> Result<()> {
    match segment.rows <= inline_rows_max(bytes) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "table {}: an inline segment of {bytes} bytes announces {} rows",
            table.name, segment.rows
        ))),
    }
}

/// Checks that a file is durable on a majority of the shard's replicas. The placement at this position of the
/// log counts, not the one that the writer saw: otherwise a commit could rest on nodes that lost the shard.
pub(super) fn check_quorum(
    table: &Table,
    shard_index: u32,
    shard: &Shard,
    file: SegmentId,
    acknowledged: &[NodeId],
) -> Result<()> {
    let durable: BTreeSet<NodeId> =
        acknowledged.iter().copied().filter(|node| shard.replicas.contains(node)).collect();
    let needed = majority(shard.replicas.len());
    if durable.len() < needed {
        return Err(Error::conflict(format!(
            "table {}, shard {shard_index}: file {file} is durable on {} of {} replicas, {needed} are needed",
            table.name,
            durable.len(),
            shard.replicas.len()
        )));
    }
    Ok(())
}

/// Checks that no commit after `base` wrote one of the change's primary keys, by the hashes of the keys. Two
/// equal hashes count as equal keys. Segments in files list no hashes here, so a newer one in the same shard
/// is a conflict.
fn check_keys(table: &Table, change: &TableChange) -> Result<()> {
    let added: BTreeMap<u32, Vec<&Segment>> =
        change.add.iter().map(|s| &s.0).fold(BTreeMap::new(), |mut shards, segment| {
            shards.entry(segment.shard).or_insert_with(Vec::new).push(segment);
            shards
        });
    if added.is_empty() {
        return Ok(());
    }
    let newer = |s: &&Arc<Segment>| s.newest > change.base && s.removed.is_none();
    for other in table.segments.values().filter(newer) {
        let Some(added) = added.get(&other.shard) else {
            continue;
        };
        let all_inline = other.is_inline() && added.iter().all(|s| s.is_inline());
        let other_keys: BTreeSet<u64> = other.keys.iter().copied().collect();
        if !all_inline || added.iter().flat_map(|s| &s.keys).any(|hash| other_keys.contains(hash)) {
            return Err(Error::conflict(format!(
                "table {}, shard {}: keys were written concurrently, by version {}",
                table.name, other.shard, other.newest
            )));
        }
    }
    Ok(())
}

/// Checks that each new index belongs to a segment file that lacks it, has a definition in the schema, and is
/// durable on a majority.
fn check_indexes(table: &Table, change: &TableChange) -> Result<()> {
    let mut files = BTreeSet::new();
    for (id, index) in &change.index {
        if !files.insert(index.file) || table.segments.contains_key(&index.file) {
            return Err(Error::internal(format!("file {} of an index is used twice", index.file)));
        }
        let segment = table.segments.get(id).ok_or_else(|| {
            Error::conflict(format!("table {}: segment {id} of a new index does not exist", table.name))
        })?;
        if !table.schema.indexes.iter().any(|definition| definition.id == index.index) {
            return Err(Error::conflict(format!("table {}: the index was dropped concurrently", table.name)));
        }
        if segment.is_inline() {
            return Err(Error::internal(format!("segment {id} is inline and cannot have an index")));
        }
        let twice_in_change =
            change.index.iter().filter(|(other, i)| other == id && i.index == index.index).count() > 1;
        if twice_in_change || segment.indexes.iter().any(|existing| existing.index == index.index) {
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
