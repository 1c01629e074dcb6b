//! The status of the cluster, which `plexus status` shows. One node assembles it from its manifest and the
//! reports of all nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use plexus_coordinator::{Attempts, NodeReport, Peers, TaskMetrics};
use plexus_flight::peer::NodeState;
use plexus_model::{Error, Manifest, NodeId, Result, SegmentId, Table};
use plexus_raft::Meta;
use plexus_storage::DiskSpace;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

/// How long the readiness of a node may take to be known.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// Age of the last sign of a quorum from which a node says that there is none.
const QUORUM_AGE_MAX: Duration = Duration::from_secs(3);

/// The parts of a node that its status and metrics are read from.
pub(crate) struct StatusSource {
    /// Id of this node.
    pub(crate) node: NodeId,
    pub(crate) meta: Arc<Meta>,
    /// Access to the reports of other nodes.
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) state: Arc<NodeState>,
    /// Counters of the background tasks of this node.
    pub(crate) task_metrics: TaskMetrics,
    /// The disk of the data directory.
    pub(crate) space: DiskSpace,
    /// Background work that ended the process before.
    pub(crate) attempts: Arc<Attempts>,
    /// Set once the client port is served.
    pub(crate) serving: Arc<AtomicBool>,
}

/// The status of a cluster. Field names are the keys of the JSON at `/status`.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct ClusterStatus {
    /// Id of the cluster.
    pub cluster: String,
    /// Manifest version of the node that made this status.
    pub version: u64,
    /// Id of the Raft leader of the metadata group, if one is known.
    pub leader: Option<u64>,
    /// Raft term.
    pub term: u64,
    /// Index of the last Raft log entry on the node that made this status.
    pub log_index: u64,
    /// Index of the last Raft log entry that this node has applied.
    pub applied: u64,
    /// All nodes of the cluster, by id.
    pub nodes: Vec<NodeStatus>,
    /// All tables, by name.
    pub tables: Vec<TableStatus>,
    /// Visible segments that lack a replica, because its node does not answer or has not received it yet.
    pub segments_under_replicated: u64,
}

/// The status of a node.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct NodeStatus {
    /// Id of the node.
    pub id: u64,
    /// Roles of the node, separated by commas.
    pub roles: String,
    /// Whether the leader receives its heartbeats.
    pub live: bool,
    /// Whether it leads the metadata group.
    pub leader: bool,
    /// Whether it votes in the metadata group.
    pub voter: bool,
    /// Advertised address for clients.
    pub flight: String,
    /// Advertised address for other nodes.
    pub peer: String,
    /// Advertised address for HTTP.
    pub http: String,
    /// Index of the last Raft log entry that it has applied. Absent if the node did not answer.
    pub applied: Option<u64>,
    /// Segment files on its disk. Absent if the node did not answer.
    pub segments: Option<u64>,
    /// Segments that it should hold and does not. Absent if the node did not answer or has not checked yet.
    pub segments_missing: Option<u64>,
}

/// The status of a table.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct TableStatus {
    /// Schema of the table.
    pub schema: String,
    /// Name of the table.
    pub name: String,
    /// Visible rows.
    pub rows: u64,
    /// Bytes of the visible segments.
    pub bytes: u64,
    /// Visible segments.
    pub segments: u64,
    /// Configured replicas of each shard.
    pub replicas: u32,
    /// The shards, by number.
    pub shards: Vec<ShardStatus>,
}

/// The status of a shard.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct ShardStatus {
    /// Number of the shard within its table, from 0.
    pub shard: u32,
    /// Visible rows.
    pub rows: u64,
    /// Visible segments.
    pub segments: u64,
    /// Ids of the nodes that hold the shard.
    pub replicas: Vec<u64>,
    /// How many of these nodes are live.
    pub live_replicas: u32,
}

/// Number of visible segments that lack a replica.
///
/// A node names only some of its missing segments if there are many. The number is exact as long as all are
/// named; beyond that it is an upper bound, since segments that are not named are counted once per node.
fn under_replicated(manifest: &Manifest, reports: &BTreeMap<NodeId, Option<NodeReport>>) -> u64 {
    let mut lacking: BTreeSet<SegmentId> = BTreeSet::new();
    let mut unnamed = 0;
    for report in reports.values().flatten() {
        unnamed += report.segments_missing.saturating_sub(report.missing.len() as u64);
        lacking.extend(&report.missing);
    }
    // A node that does not report cannot serve its segments either.
    let answers = |node: &NodeId| reports.get(node).is_some_and(Option::is_some);
    for table in manifest.tables.values().filter(|t| t.dropped.is_none()) {
        let degraded: Vec<bool> = table.shards.iter().map(|s| !s.replicas.iter().all(answers)).collect();
        let of_degraded_shards = table
            .visible(manifest.version)
            .filter(|s| !s.is_inline() && degraded.get(s.shard as usize).copied().unwrap_or(false));
        lacking.extend(of_degraded_shards.map(|s| s.id));
    }
    lacking.len() as u64 + unnamed
}

impl StatusSource {
    /// Checks that this node can run statements: the client port is served, a quorum answers, and the node is
    /// in the cluster and has the entries of the log that it should have.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) async fn check_ready(&self) -> Result<()> {
        if !self.serving.load(Ordering::Acquire) {
            return Err(Error::unavailable(
                "the node is starting and not yet in the cluster, or it is stopping",
            ));
        }
        if self.meta.lacks_entries() {
            return Err(Error::unavailable("the metadata log has lost entries, which other nodes replace"));
        }
        // A leader that is cut off does not know it, and neither does a follower: only a quorum tells.
        let read = timeout(READY_TIMEOUT, self.meta.read(READY_TIMEOUT)).await;
        let Ok(Ok(manifest)) = read else {
            return Err(Error::unavailable("no quorum of the metadata group answers"));
        };
        match manifest.nodes.contains_key(&self.node) {
            true => Ok(()),
            false => Err(Error::unavailable("the node is not in the cluster")),
        }
    }

    /// Whether the leader of the metadata group and a quorum were heard of lately, as far as this node knows.
    pub(crate) fn has_quorum(&self) -> bool {
        self.meta.staleness().is_some_and(|staleness| staleness < QUORUM_AGE_MAX)
    }

    /// Collects the status. Asks all nodes for their reports at the same time.
    pub(crate) async fn collect(&self) -> ClusterStatus {
        let manifest = self.meta.manifest();
        let group = self.meta.status();
        let leader = group.leader.filter(|_| self.has_quorum());
        let reports = join_all(manifest.nodes.keys().map(|&node| async move {
            let report = if node == self.node { self.state.report() } else { self.peers.report(node).await };
            (node, report.ok())
        }));
        let reports: BTreeMap<NodeId, Option<NodeReport>> = reports.await.into_iter().collect();
        let nodes = manifest.nodes.values().map(|n| {
            let report = reports.get(&n.id).and_then(Option::as_ref);
            NodeStatus {
                id: n.id.0,
                roles: n.roles.to_string(),
                live: n.live && report.is_some(),
                leader: leader == Some(n.id),
                voter: group.voters.contains(&n.id),
                flight: n.flight.clone(),
                peer: n.peer.clone(),
                http: n.http.clone(),
                applied: report.map(|r| r.applied),
                segments: report.map(|r| r.segments),
                segments_missing: report.filter(|r| r.checked.0 > 0).map(|r| r.segments_missing),
            }
        });
        let visible_names = manifest.names.iter().filter(|(name, _)| !name.is_staging());
        let tables = visible_names
            .filter_map(|(_, id)| manifest.tables.get(id))
            .map(|table| table_status(table, &manifest));
        ClusterStatus {
            cluster: manifest.cluster.to_string(),
            version: manifest.version.0,
            leader: leader.map(|n| n.0),
            term: group.term,
            log_index: group.last_log,
            applied: group.applied,
            nodes: nodes.collect(),
            tables: tables.collect(),
            segments_under_replicated: under_replicated(&manifest, &reports),
        }
    }
}

fn table_status(table: &Table, manifest: &Manifest) -> TableStatus {
    let version = manifest.version;
    let is_live = |node: &NodeId| manifest.nodes.get(node).is_some_and(|n| n.live);
    let shards = table.shards.iter().zip(0u32..).map(|(shard, number)| {
        let of_shard = || table.visible(version).filter(|s| s.shard == number);
        ShardStatus {
            shard: number,
            rows: of_shard().map(|s| s.rows).sum(),
            segments: of_shard().count() as u64,
            replicas: shard.replicas.iter().map(|n| n.0).collect(),
            live_replicas: shard.replicas.iter().filter(|n| is_live(n)).count() as u32,
        }
    });
    TableStatus {
        schema: table.name.schema.clone(),
        name: table.name.table.clone(),
        rows: table.rows(version),
        bytes: table.visible(version).map(|s| s.bytes()).sum(),
        segments: table.visible(version).count() as u64,
        replicas: table.replicas,
        shards: shards.collect(),
    }
}
