//! Commands that change the name or the schema of a table.

use std::sync::Arc;

use plexus_model::schema::validate_name;
use plexus_model::{
    AlterTable, Error, Manifest, Result, SegmentId, Table, TableHistory, TableId, TableName, TableSchema,
    Version,
};

use super::tables::{check_schema_exists, mark_dropped};
use crate::commit::checks;

pub(super) fn rename_table(
    manifest: &mut Manifest,
    version: Version,
    from: &TableName,
    to: TableName,
    replace: bool,
) -> Result<TableId> {
    let id =
        *manifest.names.get(from).ok_or_else(|| Error::not_found(format!("table {from} does not exist")))?;
    check_schema_exists(manifest, &to)?;
    validate_name("table", &to.table)?;
    match manifest.names.get(&to).copied() {
        Some(other) if other == id => return Ok(id),
        Some(other) if replace => mark_dropped(manifest, version, other),
        Some(_) => return Err(Error::already_exists(format!("table {to} exists already"))),
        None => {}
    }
    if let Some(table) = manifest.tables.get_mut(&id) {
        let table = Arc::make_mut(table);
        match from.is_staging() {
            // Nobody could read a staging table. Its history begins when a load publishes it.
            true => (table.created, table.oldest) = (version, version),
            false => record_history(table, version),
        }
        table.name = to.clone();
    }
    manifest.names.remove(from);
    manifest.names.insert(to, id);
    Ok(id)
}

/// Replaces the schema of a table. Segments stay as they are; readers adapt old segments to the new schema.
pub(crate) fn alter_table(manifest: &mut Manifest, version: Version, alter: AlterTable) -> Result<TableId> {
    let AlterTable { table: id, schema_version, schema, base } = alter;
    let table = checks::live_table(manifest, id, schema_version)?;
    if let Some(base) = base {
        checks::check_unchanged(manifest, id, base)?;
    }
    schema.validate()?;
    if table.schema.has_key() != schema.has_key() {
        return Err(Error::internal(format!(
            "table {}: the new schema adds or drops the primary key",
            table.name
        )));
    }
    check_index_names(manifest, table, &schema)?;
    if let Some(table) = manifest.tables.get_mut(&id) {
        let table = Arc::make_mut(table);
        record_history(table, version);
        detach_dropped_indexes(table, &schema);
        table.schema = Arc::new(schema);
        table.schema_version += 1;
        table.changed = version;
    }
    Ok(id)
}

/// Records the name and schema of a table for reads of versions before `version`.
fn record_history(table: &mut Table, version: Version) {
    let (name, schema) = (table.name.clone(), (*table.schema).clone());
    table.history.push(TableHistory { until: version, name, schema, schema_version: table.schema_version });
}

/// Checks that no other table of the same SQL schema has an index of the same name: `DROP INDEX` finds an
/// index by its name alone.
fn check_index_names(manifest: &Manifest, table: &Table, schema: &TableSchema) -> Result<()> {
    let added = || schema.indexes.iter().filter(|i| table.schema.index_by_name(&i.name).is_none());
    let other_tables =
        manifest.names.iter().filter(|(name, id)| name.schema == table.name.schema && **id != table.id);
    for other in other_tables.filter_map(|(_, id)| manifest.tables.get(id)) {
        if let Some(index) = added().find(|i| other.schema.index_by_name(&i.name).is_some()) {
            return Err(Error::already_exists(format!(
                "index {:?} exists already, on table {}",
                index.name, other.name
            )));
        }
    }
    Ok(())
}

/// Detaches from all segments the indexes that the new schema no longer defines. Searches of older versions
/// then run without them.
fn detach_dropped_indexes(table: &mut Table, schema: &TableSchema) {
    let defined = |id: u32| schema.indexes.iter().any(|index| index.id == id);
    if table.schema.indexes.iter().all(|index| defined(index.id)) {
        return;
    }
    let affected: Vec<SegmentId> = table
        .segments
        .values()
        .filter(|s| s.indexes.iter().any(|i| !defined(i.index)))
        .map(|s| s.id)
        .collect();
    for id in affected {
        if let Some(segment) = table.segments.get_mut(&id) {
            Arc::make_mut(segment).indexes.retain(|i| defined(i.index));
        }
    }
}
