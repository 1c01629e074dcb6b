//! Commands that create and drop schemas and tables, and `VACUUM`, which deletes old versions for good.

use std::sync::Arc;

use plexus_model::limits::{REPLICAS_MAX, SHARDS_MAX};
use plexus_model::placement::rendezvous;
use plexus_model::schema::validate_name;
use plexus_model::{
    CreateTable, Error, ErrorKind, Manifest, Result, Shard, Table, TableId, TableName, Version,
};

use crate::commit::relocations;

pub(super) fn create_schema(
    manifest: &mut Manifest,
    version: Version,
    name: String,
    if_not_exists: bool,
) -> Result<()> {
    validate_name("schema", &name)?;
    if manifest.schemas.contains_key(&name) {
        return if if_not_exists {
            Ok(())
        } else {
            Err(Error::already_exists(format!("schema {name:?} exists already")))
        };
    }
    manifest.schemas.insert(name, version);
    Ok(())
}

pub(super) fn drop_schema(manifest: &mut Manifest, name: &str, if_exists: bool) -> Result<()> {
    if !manifest.schemas.contains_key(name) {
        return if if_exists {
            Ok(())
        } else {
            Err(Error::not_found(format!("schema {name:?} does not exist")))
        };
    }
    if let Some(table) = manifest.names.keys().find(|table| table.schema == name) {
        return Err(Error::invalid(format!("schema {name:?} is not empty: it holds table {table}")));
    }
    manifest.schemas.remove(name);
    Ok(())
}

pub(super) fn create_table(
    manifest: &mut Manifest,
    version: Version,
    create: CreateTable,
) -> Result<TableId> {
    let CreateTable { name, schema, shards, replicas, if_not_exists, or_replace } = create;
    check_schema_exists(manifest, &name)?;
    let existing = manifest.names.get(&name).copied();
    if let (Some(id), false) = (existing, or_replace) {
        return if if_not_exists {
            Ok(id)
        } else {
            Err(Error::already_exists(format!("table {name} exists already")))
        };
    }
    validate_name("table", &name.table)?;
    schema.validate()?;
    if !(1..=SHARDS_MAX).contains(&shards) {
        return Err(Error::invalid(format!("shards = {shards}: must be from 1 to {SHARDS_MAX}")));
    }
    if !(1..=REPLICAS_MAX).contains(&replicas) {
        return Err(Error::invalid(format!("replicas = {replicas}: must be from 1 to {REPLICAS_MAX}")));
    }
    let nodes = manifest.live_data_nodes();
    if nodes.len() < replicas as usize {
        let all = manifest.nodes.values().filter(|node| node.roles.data).count();
        // Those that are missing may come back.
        let kind = match all < replicas as usize {
            true => ErrorKind::InvalidArgument,
            false => ErrorKind::Unavailable,
        };
        return Err(Error::new(
            kind,
            format!(
                "replicas = {replicas}: the cluster has {} live data node(s) of {all}, and each replica \
                 needs its own",
                nodes.len()
            ),
        ));
    }
    // The id is the log index. When one entry creates several tables, the high bits tell them apart.
    let mut id = TableId(version.0);
    while manifest.tables.contains_key(&id) {
        id.0 += 1 << 48;
    }
    if let Some(replaced) = existing {
        mark_dropped(manifest, version, replaced);
    }
    let shards: Vec<Shard> = (0..shards)
        .map(|shard| Shard { replicas: rendezvous(id.0, shard, &nodes, replicas as usize) })
        .collect();
    let table = Table {
        id,
        name: name.clone(),
        schema: Arc::new(schema),
        schema_version: 1,
        replicas,
        shards: Arc::new(shards),
        created: version,
        created_time_us: manifest.time_us,
        dropped: None,
        dropped_time_us: 0,
        segments: Default::default(),
        inline_bytes: 0,
        history: vec![],
        oldest: version,
        changed: version,
        relocations: Default::default(),
    };
    manifest.tables.insert(id, Arc::new(table));
    manifest.names.insert(name, id);
    Ok(id)
}

/// Drops a table. Its record stays for time travel until it is vacuumed.
pub(super) fn drop_table(
    manifest: &mut Manifest,
    version: Version,
    name: &TableName,
    if_exists: bool,
) -> Result<Option<TableId>> {
    let Some(&id) = manifest.names.get(name) else {
        return if if_exists {
            Ok(None)
        } else {
            Err(Error::not_found(format!("table {name} does not exist")))
        };
    };
    mark_dropped(manifest, version, id);
    Ok(Some(id))
}

/// Checks that the schema of a table name exists. Staging tables need none.
pub(super) fn check_schema_exists(manifest: &Manifest, name: &TableName) -> Result<()> {
    if !name.is_staging() && !manifest.schemas.contains_key(&name.schema) {
        return Err(Error::not_found(format!("schema {:?} does not exist", name.schema)));
    }
    Ok(())
}

pub(super) fn mark_dropped(manifest: &mut Manifest, version: Version, id: TableId) {
    if let Some(table) = manifest.tables.get_mut(&id) {
        let table = Arc::make_mut(table);
        table.dropped = Some(version);
        table.dropped_time_us = manifest.time_us;
        manifest.names.remove(&table.name);
    }
}

/// Deletes the records that no version from `until` on needs: removed segments, old schemas, or the whole
/// table if it was dropped by then. Versions before `until` can no longer be read.
pub(super) fn vacuum(manifest: &mut Manifest, id: TableId, until: Version) -> Result<()> {
    let (latest, time_us) = (manifest.version, manifest.time_us);
    let table =
        manifest.tables.get_mut(&id).ok_or_else(|| Error::not_found(format!("table with id {id}")))?;
    if until > latest {
        return Err(Error::invalid(format!("version {until} does not exist yet: the latest is {latest}")));
    }
    if table.dropped.is_some_and(|dropped| dropped <= until) {
        manifest.tables.remove(&id);
        return Ok(());
    }
    let table = Arc::make_mut(table);
    let garbage: Vec<_> = table.garbage(until).map(|s| s.id).collect();
    for id in garbage {
        // Rebasing needs the segment's deletions; without its record, its relocation must not be used.
        table.relocations.remove(&id);
        if let Some(segment) = table.segments.remove(&id).filter(|s| s.is_inline()) {
            table.inline_bytes -= segment.bytes();
        }
    }
    relocations::expire_relocations(table, time_us);
    table.history.retain(|history| history.until > until);
    table.oldest = table.oldest.max(until);
    Ok(())
}
