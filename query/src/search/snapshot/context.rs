//! What a node brings to every search that it runs.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use plexus_model::{NodeId, Result};
use plexus_storage::SegmentReader;

use super::caches::SearchCaches;

/// Carries search requests to other nodes.
#[async_trait]
pub trait SearchTransport: Send + Sync + 'static {
    /// Sends an encoded request to `node` and returns its encoded response.
    ///
    /// # Errors
    /// `Unavailable` when the node cannot be reached, otherwise the error that it answered with.
    async fn send(&self, node: NodeId, request: Vec<u8>) -> Result<Vec<u8>>;
}

/// The node's segment reader, its search caches, and the way to the other nodes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SearchContext {
    /// Reads segments, from the local disk or from a replica.
    pub reader: SegmentReader,
    /// What earlier searches read.
    pub caches: SearchCaches,
    /// Reaches the replicas that hold a segment which this node lacks.
    pub transport: Arc<dyn SearchTransport>,
}

impl fmt::Debug for SearchContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SearchContext").field("reader", &self.reader).finish_non_exhaustive()
    }
}
