//! `apply`: the pure function from a manifest and one log entry to the next manifest and its answers.
//!
//! No clock, no randomness, no I/O: every node that applies the same entries holds the same bytes.
//! Within one entry proposals are applied in order and share its version; each is all or nothing.

use std::sync::Arc;

use plexus_model::limits::{
    CLOCK_SECONDS_MAX, COMMIT_HISTORY_MAX, REPLICAS_MAX, SHARDS_MAX, TOKEN_TTL_US, TOKENS_MAX, TOKENS_MIN,
};
use plexus_model::placement::rendezvous;
use plexus_model::{
    AlterTable, Command, CreateTable, Error, Manifest, NodeId, NodeRecord, Outcome, Proposal, Result,
    SegmentId, Shard, Table, TableHistory, TableId, TableName, TableSchema, TokenRecord, Version,
};

use crate::commit;

/// Applies the proposals of the log entry at `index` and answers each. `time_us` is the clock of the leader
/// that made the entry; commit time follows it, but never falls.
///
/// # Panics
/// When `index` is not above the manifest's version: an entry applied twice would break every invariant.
pub fn apply(
    manifest: &mut Manifest,
    index: Version,
    time_us: u64,
    proposals: Vec<Proposal>,
) -> Vec<Outcome> {
    assert!(index > manifest.version, "entry {index} applied to a manifest at version {}", manifest.version);
    manifest.version = index;
    manifest.time_us = time_us.max(manifest.time_us.saturating_add(1));
    let outcomes = proposals.into_iter().map(|p| apply_one(manifest, index, p)).collect();
    expire_tokens(manifest);
    trim_history(manifest);
    manifest.clock.insert(manifest.time_us / 1_000_000, index);
    while manifest.clock.len() > CLOCK_SECONDS_MAX
        && let Some(oldest) = manifest.clock.get_min().map(|(second, _)| *second)
    {
        manifest.clock.remove(&oldest);
    }
    outcomes
}

fn apply_one(manifest: &mut Manifest, index: Version, proposal: Proposal) -> Outcome {
    if let Some(record) = manifest.tokens.get(&proposal.token) {
        return record.outcome.clone();
    }
    let time_us = manifest.time_us;
    let outcome = match execute(manifest, index, proposal.command) {
        Ok(table) => Outcome::Applied { version: index, time_us, table },
        Err(error) => Outcome::rejected(&error),
    };
    manifest.tokens.insert(proposal.token, TokenRecord { time_us, outcome: outcome.clone() });
    manifest.token_times.insert((time_us, proposal.token), ());
    outcome
}

fn expire_tokens(manifest: &mut Manifest) {
    let until = manifest.time_us.saturating_sub(TOKEN_TTL_US);
    while manifest.tokens.len() > TOKENS_MIN
        && let Some(((time_us, token), ())) = manifest.token_times.get_min().cloned()
        && (time_us <= until || manifest.tokens.len() > TOKENS_MAX)
    {
        manifest.token_times.remove(&(time_us, token));
        manifest.tokens.remove(&token);
    }
}

fn trim_history(manifest: &mut Manifest) {
    while manifest.commits.len() > COMMIT_HISTORY_MAX {
        let Some(oldest) = manifest.commits.get_min().map(|(version, _)| *version) else {
            return;
        };
        manifest.commits.remove(&oldest);
    }
}

/// Checks a command against the manifest, then changes it. Whatever can fail comes before the change.
fn execute(manifest: &mut Manifest, index: Version, command: Command) -> Result<Option<TableId>> {
    match command {
        Command::Bootstrap { cluster } => {
            if manifest.cluster != Default::default() {
                return Err(Error::already_exists(format!(
                    "the log belongs to cluster {}",
                    manifest.cluster
                )));
            }
            manifest.cluster = cluster;
            manifest.schemas.insert("public".to_owned(), index);
            Ok(None)
        }
        Command::RegisterNode(record) => register_node(manifest, record).map(|()| None),
        Command::DrainNode(node) => drain_node(manifest, node).map(|()| None),
        Command::RemoveNode(node) => remove_node(manifest, node).map(|()| None),
        Command::SetLiveness { node, live } => {
            let record = manifest.nodes.get(&node).ok_or_else(|| Error::not_found(format!("node {node}")))?;
            let record = NodeRecord { live, ..(**record).clone() };
            manifest.nodes.insert(node, Arc::new(record));
            Ok(None)
        }
        Command::CreateSchema { name, if_not_exists } => {
            plexus_model::schema::validate_name("schema", &name)?;
            if manifest.schemas.contains_key(&name) {
                return if if_not_exists {
                    Ok(None)
                } else {
                    Err(Error::already_exists(format!("schema {name:?} exists already")))
                };
            }
            manifest.schemas.insert(name, index);
            Ok(None)
        }
        Command::DropSchema { name, if_exists } => drop_schema(manifest, &name, if_exists).map(|()| None),
        Command::CreateTable(create) => create_table(manifest, index, create).map(Some),
        Command::DropTable { name, if_exists } => drop_table(manifest, index, &name, if_exists),
        Command::RenameTable { from, to, replace } => {
            rename_table(manifest, index, &from, to, replace).map(Some)
        }
        Command::AlterTable(alter) => alter_table(manifest, index, alter).map(Some),
        Command::Commit(commit) => commit::apply_commit(manifest, index, commit).map(|()| None),
        Command::Vacuum { table, until } => vacuum(manifest, table, until).map(|()| None),
    }
}

fn register_node(manifest: &mut Manifest, record: NodeRecord) -> Result<()> {
    if let Some(other) =
        manifest.nodes.values().find(|n| n.peer == record.peer && n.id != record.id && n.live)
    {
        return Err(Error::already_exists(format!(
            "peer address {} belongs to live node {}",
            record.peer, other.id
        )));
    }
    manifest.nodes.insert(record.id, Arc::new(record));
    Ok(())
}

/// Adds replicas on other nodes to every shard that `node` keeps, until there are enough that live without
/// it. They come last, since they have yet to pull what the shard holds.
fn drain_node(manifest: &mut Manifest, node: NodeId) -> Result<()> {
    if !manifest.nodes.contains_key(&node) {
        return Err(not_a_member(node));
    }
    let others: Vec<NodeId> = manifest.live_data_nodes().into_iter().filter(|n| *n != node).collect();
    change_shards(manifest, |table, index, shard| {
        if !shard.replicas.contains(&node) {
            return Ok(());
        }
        let (kept, free): (Vec<NodeId>, Vec<NodeId>) =
            others.iter().partition(|n| shard.replicas.contains(n));
        let wanted = (table.replicas as usize).saturating_sub(kept.len());
        if free.len() < wanted {
            return Err(Error::conflict(format!(
                "node {node} keeps one of {} replicas of shard {index} of table {}, and no other live data node \
                 could take it: add a node first, or drop the table",
                table.replicas, table.name
            )));
        }
        shard.replicas.extend(rendezvous(table.id.0, index, &free, wanted));
        Ok(())
    })
}

fn remove_node(manifest: &mut Manifest, node: NodeId) -> Result<()> {
    if !manifest.nodes.contains_key(&node) {
        return Err(not_a_member(node));
    }
    let live = manifest.live_data_nodes();
    change_shards(manifest, |table, index, shard| {
        if !shard.replicas.contains(&node) {
            return Ok(());
        }
        shard.replicas.retain(|n| *n != node);
        let kept = shard.replicas.iter().filter(|n| live.contains(n)).count();
        if kept < table.replicas as usize {
            return Err(Error::conflict(format!(
                "without node {node} shard {index} of table {} would have {kept} of {} live replicas",
                table.name, table.replicas
            )));
        }
        Ok(())
    })?;
    manifest.nodes.remove(&node);
    Ok(())
}

fn not_a_member(node: NodeId) -> Error {
    Error::not_found(format!("node {node} is not in the cluster"))
}

/// Changes the shards of all tables, or of none.
fn change_shards(
    manifest: &mut Manifest,
    mut change: impl FnMut(&Table, u32, &mut Shard) -> Result<()>,
) -> Result<()> {
    let mut changed: Vec<(TableId, Vec<Shard>)> = Vec::new();
    for table in manifest.tables.values().filter(|t| t.dropped.is_none()) {
        let mut shards = (*table.shards).clone();
        for (index, shard) in (0..).zip(&mut shards) {
            change(table, index, shard)?;
        }
        if shards != *table.shards {
            changed.push((table.id, shards));
        }
    }
    for (id, shards) in changed {
        if let Some(table) = manifest.tables.get_mut(&id) {
            Arc::make_mut(table).shards = Arc::new(shards);
        }
    }
    Ok(())
}

fn drop_schema(manifest: &mut Manifest, name: &str, if_exists: bool) -> Result<()> {
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

fn create_table(manifest: &mut Manifest, index: Version, create: CreateTable) -> Result<TableId> {
    let CreateTable { name, schema, shards, replicas, if_not_exists, or_replace } = create;
    check_schema(manifest, &name)?;
    let existing = manifest.names.get(&name).copied();
    if let (Some(id), false) = (existing, or_replace) {
        return if if_not_exists {
            Ok(id)
        } else {
            Err(Error::already_exists(format!("table {name} exists already")))
        };
    }
    plexus_model::schema::validate_name("table", &name.table)?;
    schema.validate()?;
    if !(1..=SHARDS_MAX).contains(&shards) {
        return Err(Error::invalid(format!("shards = {shards}: must be from 1 to {SHARDS_MAX}")));
    }
    if !(1..=REPLICAS_MAX).contains(&replicas) {
        return Err(Error::invalid(format!("replicas = {replicas}: must be from 1 to {REPLICAS_MAX}")));
    }
    let nodes = manifest.live_data_nodes();
    if nodes.len() < replicas as usize {
        return Err(Error::invalid(format!(
            "replicas = {replicas}: the cluster has {} live data node(s), and each replica needs its own",
            nodes.len()
        )));
    }
    // Several tables may be created in one entry, so the id is the index made unique by counting on.
    let mut id = TableId(index.0);
    while manifest.tables.contains_key(&id) {
        id.0 += 1 << 48;
    }
    if let Some(old) = existing {
        mark_dropped(manifest, index, old);
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
        created: index,
        created_time_us: manifest.time_us,
        dropped: None,
        dropped_time_us: 0,
        segments: Default::default(),
        inline_bytes: 0,
        history: vec![],
        oldest: index,
        changed: index,
        relocations: Default::default(),
    };
    manifest.tables.insert(id, Arc::new(table));
    manifest.names.insert(name, id);
    Ok(id)
}

fn drop_table(
    manifest: &mut Manifest,
    index: Version,
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
    mark_dropped(manifest, index, id);
    Ok(Some(id))
}

fn check_schema(manifest: &Manifest, name: &TableName) -> Result<()> {
    if !name.is_staging() && !manifest.schemas.contains_key(&name.schema) {
        return Err(Error::not_found(format!("schema {:?} does not exist", name.schema)));
    }
    Ok(())
}

fn rename_table(
    manifest: &mut Manifest,
    index: Version,
    from: &TableName,
    to: TableName,
    replace: bool,
) -> Result<TableId> {
    let id =
        *manifest.names.get(from).ok_or_else(|| Error::not_found(format!("table {from} does not exist")))?;
    check_schema(manifest, &to)?;
    plexus_model::schema::validate_name("table", &to.table)?;
    match manifest.names.get(&to).copied() {
        Some(other) if other == id => return Ok(id),
        Some(other) if replace => mark_dropped(manifest, index, other),
        Some(_) => return Err(Error::already_exists(format!("table {to} exists already"))),
        None => {}
    }
    if let Some(table) = manifest.tables.get_mut(&id) {
        let table = Arc::make_mut(table);
        match from.is_staging() {
            // What a load gathered out of sight was there for nobody.
            true => (table.created, table.oldest) = (index, index),
            false => remember(table, index),
        }
        table.name = to.clone();
    }
    manifest.names.remove(from);
    manifest.names.insert(to, id);
    Ok(id)
}

/// Keeps what a table is called and made of, for reads of versions before `index`.
fn remember(table: &mut Table, index: Version) {
    let (name, schema) = (table.name.clone(), (*table.schema).clone());
    table.history.push(TableHistory { until: index, name, schema, schema_version: table.schema_version });
}

pub fn alter_table(manifest: &mut Manifest, index: Version, alter: AlterTable) -> Result<TableId> {
    let AlterTable { table: id, schema_version, schema, base } = alter;
    let table = commit::live_table(manifest, id, schema_version)?;
    if let Some(base) = base {
        commit::check_unchanged(manifest, id, base)?;
    }
    schema.validate()?;
    if table.schema.has_key() != schema.has_key() {
        return Err(Error::internal(format!("table {}: a schema that changes the primary key", table.name)));
    }
    check_index_names(manifest, table, &schema)?;
    if let Some(table) = manifest.tables.get_mut(&id) {
        let table = Arc::make_mut(table);
        remember(table, index);
        forget_indexes(table, &schema);
        table.schema = Arc::new(schema);
        table.schema_version += 1;
        table.changed = index;
    }
    Ok(id)
}

/// That no other table of the schema has an index of the same name: they are dropped by their names.
fn check_index_names(manifest: &Manifest, table: &Table, schema: &TableSchema) -> Result<()> {
    let added = || schema.indexes.iter().filter(|i| table.schema.index_named(&i.name).is_none());
    let beside =
        manifest.names.iter().filter(|(name, id)| name.schema == table.name.schema && **id != table.id);
    for other in beside.filter_map(|(_, id)| manifest.tables.get(id)) {
        if let Some(index) = added().find(|i| other.schema.index_named(&i.name).is_some()) {
            return Err(Error::already_exists(format!(
                "index {:?} exists already, on table {}",
                index.name, other.name
            )));
        }
    }
    Ok(())
}

/// Takes indexes off the segments whose definitions are gone from the schema. Older versions are searched without.
fn forget_indexes(table: &mut Table, schema: &TableSchema) {
    let kept = |id: u32| schema.indexes.iter().any(|index| index.id == id);
    if table.schema.indexes.iter().all(|index| kept(index.id)) {
        return;
    }
    let with_gone: Vec<SegmentId> =
        table.segments.values().filter(|s| s.indexes.iter().any(|i| !kept(i.index))).map(|s| s.id).collect();
    for id in with_gone {
        if let Some(segment) = table.segments.get_mut(&id) {
            Arc::make_mut(segment).indexes.retain(|i| kept(i.index));
        }
    }
}

fn mark_dropped(manifest: &mut Manifest, index: Version, id: TableId) {
    if let Some(table) = manifest.tables.get_mut(&id) {
        let table = Arc::make_mut(table);
        table.dropped = Some(index);
        table.dropped_time_us = manifest.time_us;
        manifest.names.remove(&table.name);
    }
}

fn vacuum(manifest: &mut Manifest, id: TableId, until: Version) -> Result<()> {
    let (latest, time_us) = (manifest.version, manifest.time_us);
    let table =
        manifest.tables.get_mut(&id).ok_or_else(|| Error::not_found(format!("table with id {id}")))?;
    if until > latest {
        return Err(Error::invalid(format!("version {until} is yet to come: the latest is {latest}")));
    }
    if table.dropped.is_some_and(|dropped| dropped <= until) {
        manifest.tables.remove(&id);
        return Ok(());
    }
    let table = Arc::make_mut(table);
    let gone: Vec<_> = table.garbage(until).map(|s| s.id).collect();
    for id in gone {
        // Without it nobody can tell what was deleted from it last, so nobody may follow its rows.
        table.relocations.remove(&id);
        if let Some(segment) = table.segments.remove(&id).filter(|s| s.is_inline()) {
            table.inline_bytes -= segment.bytes();
        }
    }
    commit::forget_relocations(table, time_us);
    table.history.retain(|history| history.until > until);
    table.oldest = table.oldest.max(until);
    Ok(())
}
