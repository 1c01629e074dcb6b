//! What `plexus status` shows: assembled by one node from the manifest and its peers' reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use plexus_coordinator::{NodeReport, Peers};
use plexus_flight::peer::PeerHandler;
use plexus_model::{Manifest, NodeId, SegmentId};
use plexus_raft::Meta;
use serde::{Deserialize, Serialize};

/// Where the answer comes from.
pub struct StatusSource {
    pub node: NodeId,
    pub meta: Arc<Meta>,
    pub peers: Arc<dyn Peers>,
    pub handler: Arc<PeerHandler>,
    /// Set once clients are served.
    pub serving: Arc<AtomicBool>,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct ClusterStatus {
    pub cluster: String,
    pub version: u64,
    pub leader: Option<u64>,
    pub term: u64,
    pub log_index: u64,
    pub applied: u64,
    pub nodes: Vec<NodeStatus>,
    pub tables: Vec<TableStatus>,
    /// Visible segments of which a replica is missing: on a node that is dead, or not there yet.
    pub segments_under_replicated: u64,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct NodeStatus {
    pub id: u64,
    pub roles: String,
    pub live: bool,
    pub leader: bool,
    pub voter: bool,
    pub flight: String,
    pub peer: String,
    pub http: String,
    /// Absent when the node did not answer; what is missing also until it has looked.
    pub applied: Option<u64>,
    pub segments: Option<u64>,
    pub segments_missing: Option<u64>,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct TableStatus {
    pub schema: String,
    pub name: String,
    pub rows: u64,
    pub bytes: u64,
    pub segments: u64,
    pub replicas: u32,
    pub shards: Vec<ShardStatus>,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct ShardStatus {
    pub shard: u32,
    pub rows: u64,
    pub segments: u64,
    pub replicas: Vec<u64>,
    pub live_replicas: u32,
}

/// Exact as long as every node names all that it lacks; beyond, the unnamed are counted as different ones.
fn under_replicated(manifest: &Manifest, reports: &BTreeMap<NodeId, Option<NodeReport>>) -> u64 {
    let mut lacking: BTreeSet<SegmentId> = BTreeSet::new();
    let mut unnamed = 0;
    for report in reports.values().flatten() {
        unnamed += report.segments_missing.saturating_sub(report.missing.len() as u64);
        lacking.extend(&report.missing);
    }
    // Who gives no report cannot serve what it keeps.
    let answers = |node: &NodeId| reports.get(node).is_some_and(Option::is_some);
    for table in manifest.tables.values().filter(|t| t.dropped.is_none()) {
        let degraded: Vec<bool> = table.shards.iter().map(|s| !s.replicas.iter().all(answers)).collect();
        let of_degraded = table
            .visible(manifest.version)
            .filter(|s| !s.is_inline() && degraded.get(s.shard as usize).copied().unwrap_or(false));
        lacking.extend(of_degraded.map(|s| s.id));
    }
    lacking.len() as u64 + unnamed
}

impl StatusSource {
    /// Whether statements can run here: clients are served, there is a leader, and this node is in the
    /// cluster.
    pub fn is_ready(&self) -> bool {
        self.serving.load(Ordering::Acquire)
            && self.meta.leader().is_some()
            && self.meta.manifest().nodes.contains_key(&self.node)
    }

    pub async fn collect(&self) -> ClusterStatus {
        let manifest = self.meta.manifest();
        let group = self.meta.status();
        let reports = join_all(manifest.nodes.keys().map(|&node| async move {
            let report =
                if node == self.node { self.handler.report() } else { self.peers.report(node).await };
            (node, report.ok())
        }));
        let reports: BTreeMap<NodeId, Option<NodeReport>> = reports.await.into_iter().collect();
        let nodes: Vec<NodeStatus> = manifest
            .nodes
            .values()
            .map(|n| {
                let report = reports.get(&n.id).and_then(Option::as_ref);
                NodeStatus {
                    id: n.id.0,
                    roles: n.roles.to_string(),
                    live: n.live,
                    leader: group.leader == Some(n.id),
                    voter: group.voters.contains(&n.id),
                    flight: n.flight.clone(),
                    peer: n.peer.clone(),
                    http: n.http.clone(),
                    applied: report.map(|r| r.applied),
                    segments: report.map(|r| r.segments),
                    segments_missing: report.filter(|r| r.checked.0 > 0).map(|r| r.segments_missing),
                }
            })
            .collect();
        let version = manifest.version;
        let live = |node: &NodeId| manifest.nodes.get(node).is_some_and(|n| n.live);
        let named = manifest.names.iter().filter(|(name, _)| !name.is_staging());
        let tables = named
            .filter_map(|(_, id)| manifest.tables.get(id))
            .map(|t| TableStatus {
                schema: t.name.schema.clone(),
                name: t.name.table.clone(),
                rows: t.rows(version),
                bytes: t.visible(version).map(|s| s.bytes()).sum(),
                segments: t.visible(version).count() as u64,
                replicas: t.replicas,
                shards: t
                    .shards
                    .iter()
                    .enumerate()
                    .map(|(shard, s)| {
                        let of_shard = || t.visible(version).filter(|s| s.shard == shard as u32);
                        ShardStatus {
                            shard: shard as u32,
                            rows: of_shard().map(|s| s.rows).sum(),
                            segments: of_shard().count() as u64,
                            replicas: s.replicas.iter().map(|n| n.0).collect(),
                            live_replicas: s.replicas.iter().filter(|n| live(n)).count() as u32,
                        }
                    })
                    .collect(),
            })
            .collect();
        ClusterStatus {
            cluster: manifest.cluster.to_string(),
            version: version.0,
            leader: group.leader.map(|n| n.0),
            term: group.term,
            log_index: group.last_log,
            applied: group.applied,
            segments_under_replicated: under_replicated(&manifest, &reports),
            nodes,
            tables,
        }
    }
}
