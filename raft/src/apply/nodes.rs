//! Commands that change the nodes of the cluster and the placement of shards on them.

use std::sync::Arc;

use plexus_model::placement::rendezvous;
use plexus_model::{Error, Manifest, NodeId, NodeRecord, Result, Shard, Table, TableId};

/// Adds a node, or replaces its record.
pub(super) fn register_node(manifest: &mut Manifest, record: NodeRecord) -> Result<()> {
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

pub(super) fn set_liveness(manifest: &mut Manifest, node: NodeId, live: bool) -> Result<()> {
    let record = manifest.nodes.get(&node).ok_or_else(|| Error::not_found(format!("node {node}")))?;
    let record = NodeRecord { live, ..(**record).clone() };
    manifest.nodes.insert(node, Arc::new(record));
    Ok(())
}

/// Adds replicas on other nodes to every shard of `node`, until enough live nodes hold the shard without it.
///
/// The new replicas come last in the shard's order of preference, since they have no data yet.
pub(super) fn drain_node(manifest: &mut Manifest, node: NodeId) -> Result<()> {
    if !manifest.nodes.contains_key(&node) {
        return Err(unknown_node(node));
    }
    let others: Vec<NodeId> = manifest.live_data_nodes().into_iter().filter(|n| *n != node).collect();
    update_shards(manifest, |table, shard_index, shard| {
        if !shard.replicas.contains(&node) {
            return Ok(());
        }
        let (holders, free): (Vec<NodeId>, Vec<NodeId>) =
            others.iter().partition(|n| shard.replicas.contains(n));
        let missing = (table.replicas as usize).saturating_sub(holders.len());
        if free.len() < missing {
            return Err(Error::conflict(format!(
                "node {node} holds one of {} replicas of shard {shard_index} of table {}, and no other live \
                 data node can take it: add a node first, or drop the table",
                table.replicas, table.name
            )));
        }
        shard.replicas.extend(rendezvous(table.id.0, shard_index, &free, missing));
        Ok(())
    })
}

/// Removes a node from all shards and from the cluster.
pub(super) fn remove_node(manifest: &mut Manifest, node: NodeId) -> Result<()> {
    if !manifest.nodes.contains_key(&node) {
        return Err(unknown_node(node));
    }
    let live = manifest.live_data_nodes();
    update_shards(manifest, |table, shard_index, shard| {
        if !shard.replicas.contains(&node) {
            return Ok(());
        }
        shard.replicas.retain(|n| *n != node);
        let live_replicas = shard.replicas.iter().filter(|n| live.contains(n)).count();
        if live_replicas < table.replicas as usize {
            return Err(Error::conflict(format!(
                "without node {node}, shard {shard_index} of table {} would have {live_replicas} of {} live \
                 replicas",
                table.name, table.replicas
            )));
        }
        Ok(())
    })?;
    manifest.nodes.remove(&node);
    Ok(())
}

fn unknown_node(node: NodeId) -> Error {
    Error::not_found(format!("node {node} is not in the cluster"))
}

/// Updates the shards of all tables, or of none if `update` fails for one.
fn update_shards(
    manifest: &mut Manifest,
    mut update: impl FnMut(&Table, u32, &mut Shard) -> Result<()>,
) -> Result<()> {
    let mut updated: Vec<(TableId, Vec<Shard>)> = Vec::new();
    for table in manifest.tables.values().filter(|t| t.dropped.is_none()) {
        let mut shards = (*table.shards).clone();
        for (shard_index, shard) in (0..).zip(&mut shards) {
            update(table, shard_index, shard)?;
        }
        if shards != *table.shards {
            updated.push((table.id, shards));
        }
    }
    for (id, shards) in updated {
        if let Some(table) = manifest.tables.get_mut(&id) {
            Arc::make_mut(table).shards = Arc::new(shards);
        }
    }
    Ok(())
}
