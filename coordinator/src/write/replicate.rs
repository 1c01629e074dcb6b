//! Replication: sends one file to the replicas of its shard.

use std::sync::Arc;

use plexus_model::placement::majority;
use plexus_model::{Error, ErrorKind, NodeId, Result, SegmentId};
use plexus_storage::SegmentStore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::limits::{STRAGGLER_TIMEOUT, UPLOAD_TIMEOUT};
use crate::peers::{Peers, SegmentUpload};

/// Sends files to replicas and counts the replicas on which they are durable. Cheap to clone.
#[derive(Clone)]
pub struct Replicator {
    node: NodeId,
    /// `None` on a node without the data role.
    store: Option<Arc<SegmentStore>>,
    peers: Arc<dyn Peers>,
}

impl Replicator {
    /// A replicator on `node`, with its own `store`, that reaches other nodes through `peers`.
    pub fn new(node: NodeId, store: Option<Arc<SegmentStore>>, peers: Arc<dyn Peers>) -> Self {
        Self { node, store, peers }
    }

    /// Sends the same bytes to all `replicas` concurrently. Returns the replicas on which they are durable:
    /// at least a majority, and slower replicas that confirm within [`STRAGGLER_TIMEOUT`].
    ///
    /// # Errors
    /// `Unavailable` when a majority cannot be reached, `ResourceExhausted` when their disks are full. The
    /// message names the failed nodes and their errors.
    pub(crate) async fn replicate(&self, upload: SegmentUpload, replicas: &[NodeId]) -> Result<Vec<NodeId>> {
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
            record_result(joined, id, &mut durable, &mut failures);
        }
        if durable.len() < needed {
            return Err(no_majority(id, durable.len(), needed, replicas.len(), &failures));
        }
        let stragglers = async {
            while let Some(joined) = sends.join_next().await {
                record_result(joined, id, &mut durable, &mut failures);
            }
        };
        // A later replica finds the file in the manifest and repairs it.
        let _ = timeout(STRAGGLER_TIMEOUT, stragglers).await;
        durable.sort_unstable();
        Ok(durable)
    }

    /// Makes the file durable on one node, which may be this one.
    async fn send(&self, node: NodeId, upload: SegmentUpload) -> Result<()> {
        if node != self.node {
            return self.peers.put_segment(node, upload, UPLOAD_TIMEOUT).await;
        }
        let store = self
            .store
            .clone()
            .ok_or_else(|| Error::internal("this node is a replica but does not have the data role"))?;
        tokio::task::spawn_blocking(move || store.put(upload.id, &upload.bytes, &upload.checksum))
            .await
            .map_err(|e| Error::internal(format!("writing a segment: {e}")))?
            .map_err(|e| e.context(format!("node {node}")))
    }
}

/// Adds the result of one send to the nodes that have the file, or to the failures.
fn record_result(
    joined: Result<(NodeId, Result<()>), tokio::task::JoinError>,
    id: SegmentId,
    durable: &mut Vec<NodeId>,
    failures: &mut Vec<Error>,
) {
    match joined {
        Ok((node, Ok(()))) => durable.push(node),
        Ok((node, Err(error))) => {
            tracing::warn!(segment = %id, replica = %node, %error, "a replica did not store the segment");
            failures.push(error);
        }
        Err(error) => failures.push(Error::internal(error.to_string())),
    }
}

/// The error for a file that is durable on too few replicas.
fn no_majority(id: SegmentId, durable: usize, needed: usize, replicas: usize, failures: &[Error]) -> Error {
    // Trying again does not help as long as disks are full.
    let is_full = |error: &Error| error.kind() == ErrorKind::ResourceExhausted;
    let kind = match !failures.is_empty() && failures.iter().all(is_full) {
        true => ErrorKind::ResourceExhausted,
        false => ErrorKind::Unavailable,
    };
    let reasons: Vec<&str> = failures.iter().map(Error::message).collect();
    Error::new(
        kind,
        format!(
            "segment {id} is durable on {durable} of {replicas} replicas, {needed} are needed; {}",
            reasons.join("; ")
        ),
    )
}
