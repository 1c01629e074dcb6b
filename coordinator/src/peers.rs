//! What the coordinator requests from other nodes. The transport is supplied by the node that assembles the
//! components.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use plexus_model::{NodeId, Result, SegmentId, Version};
use plexus_query::RunningQuery;
use plexus_storage::SegmentRef;

/// A file that is sent to a replica.
#[derive(Clone)]
pub struct SegmentUpload {
    /// Id of the file.
    pub id: SegmentId,
    /// BLAKE3 checksum of the bytes.
    pub checksum: [u8; 32],
    /// The whole content.
    pub bytes: Bytes,
}

/// Maximum number of missing segments that a node lists in its report. It counts the rest.
pub(crate) const MISSING_LISTED_MAX: usize = 10_000;

/// Segments that this node should hold and lacked at the last check. [`crate::Maintenance`] updates it.
#[derive(Default, Debug)]
pub struct MissingSegments(Mutex<MissingCheck>);

/// The result of one check for missing segments.
#[derive(Default, Debug)]
struct MissingCheck {
    /// Version of the manifest that was checked; zero before the first check.
    version: Version,
    missing: BTreeSet<SegmentId>,
}

impl MissingSegments {
    /// Replaces the result by that of a check of `version`.
    pub(crate) fn set(&self, version: Version, segments: impl Iterator<Item = SegmentId>) {
        *self.lock() = MissingCheck { version, missing: segments.collect() };
    }

    /// Removes a segment that has been repaired.
    pub(crate) fn remove(&self, segment: SegmentId) {
        self.lock().missing.remove(&segment);
    }

    /// The last check: the version of its manifest (zero before the first check), the number of missing
    /// segments, and the first 10,000 of them.
    pub fn last(&self) -> (Version, u64, Vec<SegmentId>) {
        let check = self.lock();
        let first = check.missing.iter().copied().take(MISSING_LISTED_MAX).collect();
        (check.version, check.missing.len() as u64, first)
    }

    fn lock(&self) -> MutexGuard<'_, MissingCheck> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// The state that a node reports about itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeReport {
    /// Index of the last log entry that it has applied.
    pub applied: u64,
    /// Version of the manifest of its last check for missing segments; zero before the first check.
    pub checked: Version,
    /// Number of segments that it should hold and lacks.
    pub segments_missing: u64,
    /// Ids of the missing segments, up to the first 10,000.
    pub missing: Vec<SegmentId>,
    /// Number of segments on its disk.
    pub segments: u64,
}

/// Result of verifying the local replicas of files.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CheckResult {
    /// Files that did not match their checksum. They are in quarantine.
    pub damaged: Vec<SegmentId>,
    /// Files that the node does not have, or not yet.
    pub missing: Vec<SegmentId>,
}

/// The other nodes of the cluster.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Sends a file to `node`. Returns once it is durable there.
    ///
    /// # Errors
    /// `Unavailable` when the node does not confirm within `timeout`. Otherwise the error of its store.
    async fn put_segment(&self, node: NodeId, upload: SegmentUpload, timeout: Duration) -> Result<()>;

    /// Requests the state of a node.
    ///
    /// # Errors
    /// `Unavailable` when the node does not answer.
    async fn report(&self, node: NodeId) -> Result<NodeReport>;

    /// Makes a node read its replicas of files and verify their checksums.
    ///
    /// # Errors
    /// `Unavailable` when the node does not answer in time. Otherwise the error of its store.
    async fn check(&self, node: NodeId, files: &[SegmentRef]) -> Result<CheckResult>;

    /// The statements that a node runs for its clients.
    ///
    /// # Errors
    /// `Unavailable` when the node does not answer.
    async fn running(&self, node: NodeId) -> Result<Vec<RunningQuery>>;

    /// Ends a statement that a node runs for a client. Returns whether there was one.
    ///
    /// # Errors
    /// `Unavailable` when the node does not answer.
    async fn kill(&self, node: NodeId, query: &str) -> Result<bool>;

    /// Ends the parts of a query that a node runs for another node.
    ///
    /// # Errors
    /// `Unavailable` when the node does not answer.
    async fn interrupt(&self, node: NodeId, query_id: &str) -> Result<()>;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// No node answers.
    pub(crate) struct NoPeers;

    fn unavailable<T>(node: NodeId) -> Result<T> {
        Err(plexus_model::Error::unavailable(format!("node {node} does not answer")))
    }

    #[async_trait]
    impl Peers for NoPeers {
        async fn put_segment(&self, node: NodeId, _: SegmentUpload, _: Duration) -> Result<()> {
            unavailable(node)
        }

        async fn report(&self, node: NodeId) -> Result<NodeReport> {
            unavailable(node)
        }

        async fn check(&self, node: NodeId, _: &[SegmentRef]) -> Result<CheckResult> {
            unavailable(node)
        }

        async fn running(&self, node: NodeId) -> Result<Vec<RunningQuery>> {
            unavailable(node)
        }

        async fn kill(&self, node: NodeId, _: &str) -> Result<bool> {
            unavailable(node)
        }

        async fn interrupt(&self, node: NodeId, _: &str) -> Result<()> {
            unavailable(node)
        }
    }
}
