//! Taking a node out of the cluster without losing what it keeps.

use std::collections::BTreeMap;
use std::time::Instant;

use plexus_model::{Command, Error, ErrorKind, Manifest, NodeId, Result, SegmentId, Version};
use plexus_raft::Meta;
use tokio::time::sleep;

use crate::limits::{COMMIT_TIMEOUT, DRAIN_POLL, DRAIN_TIMEOUT, READ_INDEX_TIMEOUT};
use crate::peers::Peers;

/// Has others take over what a node keeps, waits until they have it, and takes the node out. When it is
/// interrupted the same call goes on where it was.
pub async fn remove_node(meta: &Meta, peers: &dyn Peers, node: NodeId) -> Result<()> {
    if meta.leader().is_some_and(|(leader, _)| leader == node) {
        return Err(Error::invalid(format!(
            "node {node} leads the metadata group: stop it, and remove it when another node leads"
        )));
    }
    match meta.propose(Command::DrainNode(node), COMMIT_TIMEOUT).await {
        Ok(drained) => wait_drained(meta, peers, node, drained.version).await?,
        // Perhaps an earlier call has taken it out of the manifest, but not out of the group.
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    meta.remove(node).await
}

/// Waits until the other replicas of the shards that `node` keeps lack none of their segments, by the
/// placement of `version` or a newer one.
pub async fn wait_drained(meta: &Meta, peers: &dyn Peers, node: NodeId, version: Version) -> Result<()> {
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    meta.wait_version(version, READ_INDEX_TIMEOUT).await?;
    loop {
        let manifest = meta.manifest();
        let others: Vec<NodeId> = manifest.live_data_nodes().into_iter().filter(|n| *n != node).collect();
        let Lacking { segments, unknown } = Lacking::ask(peers, &others, version).await;
        let on_its_way = first_lacking(&manifest, node, &others, &segments, unknown.is_none())?;
        let Some(waits_for) = on_its_way.or(unknown) else {
            return Ok(());
        };
        if Instant::now() > deadline {
            return Err(Error::unavailable(format!(
                "others have not yet taken over what node {node} keeps: {waits_for}; call again"
            )));
        }
        sleep(DRAIN_POLL).await;
    }
}

/// What nodes say that they lack.
pub struct Lacking {
    /// How many of them lack a segment.
    segments: BTreeMap<SegmentId, usize>,
    /// Why that is not all there is to know.
    unknown: Option<String>,
}

impl Lacking {
    async fn ask(peers: &dyn Peers, nodes: &[NodeId], version: Version) -> Self {
        let mut lacking = Self { segments: BTreeMap::new(), unknown: None };
        for &node in nodes {
            match peers.report(node).await {
                Ok(report) if report.checked < version => {
                    lacking.unknown = Some(format!("node {node} has not yet looked at what it should keep"));
                }
                Ok(report) => {
                    if report.segments_missing > report.missing.len() as u64 {
                        lacking.unknown = Some(format!("node {node} lacks {}", report.segments_missing));
                    }
                    report.missing.into_iter().for_each(|id| *lacking.segments.entry(id).or_default() += 1);
                }
                Err(e) => lacking.unknown = Some(format!("node {node}: {e}")),
            }
        }
        lacking
    }
}

/// A segment of the node's shards that somebody lacks.
///
/// # Errors
/// `Corrupt` when the node is dead and nobody else can have the segment, by reports that are `complete`.
pub fn first_lacking(
    manifest: &Manifest,
    node: NodeId,
    others: &[NodeId],
    lacking: &BTreeMap<SegmentId, usize>,
    complete: bool,
) -> Result<Option<String>> {
    let is_live = manifest.nodes.get(&node).is_some_and(|n| n.live);
    let mut first = None;
    for table in manifest.tables.values().filter(|t| t.dropped.is_none()) {
        for segment in table.visible(manifest.version) {
            let replicas = &table.shards[segment.shard as usize].replicas;
            let Some(lack) = lacking.get(&segment.id).filter(|_| replicas.contains(&node)) else {
                continue;
            };
            let able = replicas.iter().filter(|n| others.contains(n)).count();
            if complete && !is_live && *lack >= able {
                return Err(Error::corrupt(format!(
                    "node {node} is dead, and no live node has segment {} of table {}: bring the node back, or \
                     drop the table",
                    segment.id, table.name
                )));
            }
            first.get_or_insert_with(|| {
                format!("segment {} of table {} is on its way", segment.id, table.name)
            });
        }
    }
    Ok(first)
}
