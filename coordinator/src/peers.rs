//! What the coordinator asks of other nodes. The transport is given by the node that assembles the parts.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use plexus_model::{NodeId, Result, SegmentId};

/// A segment's identity and bytes on their way to a replica.
#[derive(Clone)]
pub struct SegmentUpload {
    pub id: SegmentId,
    pub checksum: [u8; 32],
    pub bytes: Bytes,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeReport {
    /// Last entry that it has applied.
    pub applied: u64,
    /// Segments that it should keep and does not have yet.
    pub segments_missing: u64,
    /// Segments on its disk.
    pub segments: u64,
}

/// Bulk transfer to other nodes, and questions to them.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Returns once `node` has the segment durably.
    async fn put_segment(&self, node: NodeId, upload: SegmentUpload, timeout: Duration) -> Result<()>;

    /// Asks a node for its state.
    async fn report(&self, node: NodeId) -> Result<NodeReport>;
}
