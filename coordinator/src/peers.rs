//! What the coordinator asks of other nodes. The transport is given by the node that assembles the parts.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};
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

/// Missing segments that a node names in its report; of more it tells the number.
pub const MISSING_NAMED_MAX: usize = 10_000;

/// Segments that this node should keep and lacked at the last look. Written by [`crate::Maintenance`].
#[derive(Default, Debug)]
pub struct Missing(Mutex<BTreeSet<SegmentId>>);

impl Missing {
    pub fn set(&self, segments: impl Iterator<Item = SegmentId>) {
        *self.lock() = segments.collect();
    }

    pub fn found(&self, segment: SegmentId) {
        self.lock().remove(&segment);
    }

    pub fn count(&self) -> u64 {
        self.lock().len() as u64
    }

    pub fn first(&self, count: usize) -> Vec<SegmentId> {
        self.lock().iter().copied().take(count).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<SegmentId>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeReport {
    /// Last entry that it has applied.
    pub applied: u64,
    /// Segments that it should keep and does not have yet.
    pub segments_missing: u64,
    /// Which ones: the first [`MISSING_NAMED_MAX`].
    pub missing: Vec<SegmentId>,
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
