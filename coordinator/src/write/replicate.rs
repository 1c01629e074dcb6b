//! Sending one segment to the replicas of its shard.

use std::sync::Arc;

use plexus_model::placement::majority;
use plexus_model::{Error, NodeId, Result, SegmentId};
use plexus_storage::SegmentStore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::limits::{STRAGGLER_TIMEOUT, UPLOAD_TIMEOUT};
use crate::peers::{Peers, SegmentUpload};

/// Sends segments to replicas and counts who has them durably.
#[derive(Clone)]
pub struct Replicator {
    node: NodeId,
    /// Absent on a node without the data role.
    store: Option<Arc<SegmentStore>>,
    peers: Arc<dyn Peers>,
}

impl Replicator {
    pub fn new(node: NodeId, store: Option<Arc<SegmentStore>>, peers: Arc<dyn Peers>) -> Self {
        Self { node, store, peers }
    }

    /// Sends the same bytes to all `replicas` at once and returns those that have them durably: at least
    /// a majority, and more when they answer soon after.
    ///
    /// # Errors
    /// `Unavailable` when a majority cannot be reached; the message names who failed and why.
    pub async fn replicate(&self, upload: SegmentUpload, replicas: &[NodeId]) -> Result<Vec<NodeId>> {
        let needed = majority(replicas.len());
        let id = upload.id;
        let mut sends = JoinSet::new();
        for &node in replicas {
            let this = self.clone();
            let upload = upload.clone();
            sends.spawn(async move { (node, this.send(node, upload).await) });
        }
        let mut durable = Vec::new();
        let mut failures = Vec::new();
        while durable.len() < needed && replicas.len() - failures.len() >= needed {
            let Some(joined) = sends.join_next().await else {
                break;
            };
            collect(joined, id, &mut durable, &mut failures);
        }
        if durable.len() < needed {
            return Err(not_enough(id, durable.len(), needed, replicas.len(), &failures));
        }
        let rest = async {
            while let Some(joined) = sends.join_next().await {
                collect(joined, id, &mut durable, &mut failures);
            }
        };
        // Those that are late see the segment in the manifest and pull it.
        let _ = timeout(STRAGGLER_TIMEOUT, rest).await;
        durable.sort_unstable();
        Ok(durable)
    }

    async fn send(&self, node: NodeId, upload: SegmentUpload) -> Result<()> {
        if node != self.node {
            return self.peers.put_segment(node, upload, UPLOAD_TIMEOUT).await;
        }
        let store = self
            .store
            .clone()
            .ok_or_else(|| Error::internal("this node keeps a replica without the data role"))?;
        tokio::task::spawn_blocking(move || store.put(upload.id, &upload.bytes, &upload.checksum))
            .await
            .map_err(|e| Error::internal(format!("writing a segment: {e}")))?
    }
}

pub fn collect(
    joined: Result<(NodeId, Result<()>), tokio::task::JoinError>,
    id: SegmentId,
    durable: &mut Vec<NodeId>,
    failures: &mut Vec<String>,
) {
    match joined {
        Ok((node, Ok(()))) => durable.push(node),
        Ok((node, Err(error))) => {
            tracing::warn!(segment = %id, replica = %node, %error, "replica did not take the segment");
            failures.push(format!("node {node}: {error}"));
        }
        Err(error) => failures.push(error.to_string()),
    }
}

pub fn not_enough(
    id: SegmentId,
    durable: usize,
    needed: usize,
    replicas: usize,
    failures: &[String],
) -> Error {
    Error::unavailable(format!(
        "segment {id} is durable on {durable} of {replicas} replicas, {needed} are needed; {}",
        failures.join("; ")
    ))
}
