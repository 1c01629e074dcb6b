//! Decommission: removes a node from the cluster without losing the replicas that it holds.

use std::collections::BTreeMap;
use std::time::Instant;

use plexus_model::{Command, Error, ErrorKind, Manifest, NodeId, Result, SegmentId, Version};
use plexus_raft::Meta;
use tokio::time::sleep;

use crate::limits::{COMMIT_TIMEOUT, DRAIN_POLL, DRAIN_TIMEOUT, READ_INDEX_TIMEOUT};
use crate::peers::Peers;

/// Assigns the replicas of a node to other nodes, waits until these have all segments, and removes the node.
/// The call can be repeated after an interruption.
///
/// # Errors
/// `InvalidArgument` when the node leads the metadata group. `Corrupt` when the node is dead and holds the
/// last replica of a segment. `Unavailable` when the other nodes do not have all segments in time.
pub(crate) async fn remove_node(meta: &Meta, peers: &dyn Peers, node: NodeId) -> Result<()> {
    if meta.leader().is_some_and(|(leader, _)| leader == node) {
        return Err(Error::invalid(format!(
            "node {node} leads the metadata group: stop it, and remove it when another node leads"
        )));
    }
    match meta.propose(Command::DrainNode(node), COMMIT_TIMEOUT).await {
        Ok(drained) => wait_drained(meta, peers, node, drained.version).await?,
        // An earlier call may have removed the node from the manifest, but not from the Raft group.
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    meta.remove(node).await
}

/// Waits until the other replicas of the shards of `node` have all segments, by the placement of `version` or
/// a newer one.
async fn wait_drained(meta: &Meta, peers: &dyn Peers, node: NodeId, version: Version) -> Result<()> {
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    meta.wait_version(version, READ_INDEX_TIMEOUT).await?;
    loop {
        let manifest = meta.manifest();
        let others: Vec<NodeId> = manifest.live_data_nodes().into_iter().filter(|n| *n != node).collect();
        let MissingSegments { replicas_missing, incomplete } =
            MissingSegments::collect(peers, &others, version).await;
        let pending = first_missing(&manifest, node, &others, &replicas_missing, incomplete.is_none())?;
        let Some(waits_for) = pending.or(incomplete) else {
            return Ok(());
        };
        if Instant::now() > deadline {
            return Err(Error::unavailable(format!(
                "the segments of node {node} are not yet complete on other nodes: {waits_for}; call again"
            )));
        }
        sleep(DRAIN_POLL).await;
    }
}

/// The segments that nodes report as missing.
struct MissingSegments {
    /// How many of the nodes lack each segment.
    replicas_missing: BTreeMap<SegmentId, usize>,
    /// Why the reports may not list all missing segments.
    incomplete: Option<String>,
}

impl MissingSegments {
    /// Collects the reports of nodes. A report about a manifest older than `version` does not count.
    async fn collect(peers: &dyn Peers, nodes: &[NodeId], version: Version) -> Self {
        let mut result = Self { replicas_missing: BTreeMap::new(), incomplete: None };
        for &node in nodes {
            match peers.report(node).await {
                Ok(report) if report.checked < version => {
                    let reason = format!("node {node} has not yet checked which segments it lacks");
                    result.incomplete = Some(reason);
                }
                Ok(report) => {
                    if report.segments_missing > report.missing.len() as u64 {
                        let reason = format!("node {node} lacks {} segments", report.segments_missing);
                        result.incomplete = Some(reason);
                    }
                    for id in report.missing {
                        *result.replicas_missing.entry(id).or_default() += 1;
                    }
                }
                Err(e) => result.incomplete = Some(format!("node {node}: {e}")),
            }
        }
        result
    }
}

/// Describes a segment of the node's shards that another replica lacks.
///
/// # Errors
/// `Corrupt` when the reports are `complete`, the node is dead, and all live replicas lack the segment.
fn first_missing(
    manifest: &Manifest,
    node: NodeId,
    others: &[NodeId],
    replicas_missing: &BTreeMap<SegmentId, usize>,
    complete: bool,
) -> Result<Option<String>> {
    let is_live = manifest.nodes.get(&node).is_some_and(|n| n.live);
    let mut first = None;
    for table in manifest.tables.values().filter(|t| t.dropped.is_none()) {
        for segment in table.visible(manifest.version) {
            let replicas = &table.shards[segment.shard as usize].replicas;
            let missing = replicas_missing.get(&segment.id).filter(|_| replicas.contains(&node));
            let Some(missing) = missing else {
                continue;
            };
            let live_replicas = replicas.iter().filter(|n| others.contains(n)).count();
            if complete && !is_live && *missing >= live_replicas {
                return Err(Error::corrupt(format!(
                    "node {node} is dead, and no live node has segment {} of table {}: bring the node back, \
                     or drop the table",
                    segment.id, table.name
                )));
            }
            first.get_or_insert_with(|| {
                format!("segment {} of table {} is being copied", segment.id, table.name)
            });
        }
    }
    Ok(first)
}
