//! What the coordinator asks of other nodes. The transport is given by the node that assembles the parts.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use plexus_model::{NodeId, Result, SegmentId, Version};
use plexus_storage::SegmentRef;

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
pub struct Missing(Mutex<Look>);

/// One look at what is there.
#[derive(Default, Debug)]
struct Look {
    /// Version of the manifest that was looked at; zero before the first look.
    version: Version,
    missing: BTreeSet<SegmentId>,
}

impl Missing {
    pub fn set(&self, version: Version, segments: impl Iterator<Item = SegmentId>) {
        *self.lock() = Look { version, missing: segments.collect() };
    }

    pub fn found(&self, segment: SegmentId) {
        self.lock().missing.remove(&segment);
    }

    /// Version looked at, how many were missing, and the first of them.
    pub fn last(&self) -> (Version, u64, Vec<SegmentId>) {
        let look = self.lock();
        let first = look.missing.iter().copied().take(MISSING_NAMED_MAX).collect();
        (look.version, look.missing.len() as u64, first)
    }

    fn lock(&self) -> MutexGuard<'_, Look> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeReport {
    /// Last entry that it has applied.
    pub applied: u64,
    /// Version of the manifest by which it last looked for missing segments; zero when it has not yet.
    pub checked: Version,
    /// Segments that it should keep and does not have yet.
    pub segments_missing: u64,
    /// Which ones: the first [`MISSING_NAMED_MAX`].
    pub missing: Vec<SegmentId>,
    /// Segments on its disk.
    pub segments: u64,
}

/// What a look at copies of files found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Checked {
    /// Those that did not match their checksum, and were set aside.
    pub damaged: Vec<SegmentId>,
    /// Those that the node does not have, or not yet.
    pub missing: Vec<SegmentId>,
}

/// Bulk transfer to other nodes, and questions to them.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Returns once `node` has the segment durably.
    async fn put_segment(&self, node: NodeId, upload: SegmentUpload, timeout: Duration) -> Result<()>;

    /// Asks a node for its state.
    async fn report(&self, node: NodeId) -> Result<NodeReport>;

    /// Has a node read its copies of files and compare them with their checksums.
    async fn check(&self, node: NodeId, files: &[SegmentRef]) -> Result<Checked>;
}
