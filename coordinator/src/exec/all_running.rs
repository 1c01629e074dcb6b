//! The statements that run on all nodes: `plexus.queries` and `KILL QUERY`.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use plexus_model::{NodeId, Result};
use plexus_query::{RunningQueries, RunningQuery};
use plexus_raft::Meta;

use crate::peers::Peers;
use crate::running::RunningStatements;

/// The statements of this node and of the others.
pub(crate) struct AllRunning {
    meta: Arc<Meta>,
    here: Arc<RunningStatements>,
    peers: Arc<dyn Peers>,
}

impl AllRunning {
    pub(crate) fn new(meta: Arc<Meta>, here: Arc<RunningStatements>, peers: Arc<dyn Peers>) -> Self {
        Self { meta, here, peers }
    }

    /// The nodes but this that are live.
    fn others(&self) -> Vec<NodeId> {
        let manifest = self.meta.manifest();
        manifest.nodes.values().filter(|n| n.live && n.id != self.meta.node()).map(|n| n.id).collect()
    }

    /// Ends a statement of any node. Returns whether it was found.
    ///
    /// # Errors
    /// `Unavailable` when it was not found and a node did not answer.
    pub(crate) async fn kill(&self, query: &str) -> Result<bool> {
        if self.here.kill(query) {
            return Ok(true);
        }
        let others = self.others();
        let found = join_all(others.iter().map(|node| self.peers.kill(*node, query))).await;
        match found.iter().any(|found| matches!(found, Ok(true))) {
            true => Ok(true),
            false => found.into_iter().collect::<Result<Vec<bool>>>().map(|_| false),
        }
    }
}

impl std::fmt::Debug for AllRunning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AllRunning").finish_non_exhaustive()
    }
}

#[async_trait]
impl RunningQueries for AllRunning {
    /// Nodes that do not answer are left out, since what they run is about to end.
    async fn all(&self) -> Vec<RunningQuery> {
        let others = self.others();
        let there = join_all(others.iter().map(|node| self.peers.running(*node))).await;
        let there = there.into_iter().filter_map(|running| {
            running.inspect_err(|error| tracing::debug!(%error, "a node did not say what it runs")).ok()
        });
        self.here.list().into_iter().chain(there.flatten()).collect()
    }
}
