//! What the background tasks of a node share.

use std::sync::Arc;

use plexus_model::{Manifest, NodeId, Table};
use plexus_raft::Meta;
use plexus_storage::SegmentStore;

use crate::background::attempts::Attempts;
use crate::background::repair::Repairer;
use crate::peers::MissingSegments;
use crate::write::writer::Writer;

/// The components of a node that background tasks work with. Cheap to clone.
#[derive(Clone)]
pub struct TaskContext {
    /// This node.
    pub node: NodeId,
    /// This node's member of the metadata group.
    pub meta: Arc<Meta>,
    /// Uploads and commits the results of tasks.
    pub writer: Writer,
    /// The segments on this node's disk; `None` without the data role.
    pub store: Option<Arc<SegmentStore>>,
    /// Fetches segments from other replicas.
    pub repairer: Arc<Repairer>,
    /// Runs work that may end the process.
    pub attempts: Arc<Attempts>,
    /// Segments that this node should hold and lacks.
    pub missing: Arc<MissingSegments>,
}

impl TaskContext {
    /// Whether this node is the first live replica of a shard. At most one node is by the same manifest, so
    /// it does the work of a shard that should be done once.
    pub(crate) fn is_first_live_replica(&self, manifest: &Manifest, table: &Table, shard: u32) -> bool {
        let live = |node: &&NodeId| manifest.nodes.get(node).is_some_and(|n| n.live);
        table.shards[shard as usize].replicas.iter().find(live) == Some(&self.node)
    }
}
