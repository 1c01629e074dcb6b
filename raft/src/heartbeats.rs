//! Heartbeats of nodes to the leader, from which the leader's background work derives their liveness.
//!
//! These are not Raft's heartbeats, which run from the leader to its followers.

use std::collections::HashMap;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use plexus_model::{NodeId, Result};

use crate::limits::HEARTBEAT_TIMEOUT;
use crate::meta::{Meta, no_leader};
use crate::network::call;
use crate::wire::Request;

impl Meta {
    /// Tells the leader that this node is alive.
    ///
    /// # Errors
    /// `Unavailable` when there is no leader or it cannot be reached.
    pub async fn heartbeat(&self) -> Result<()> {
        match self.leader() {
            Some((leader, _)) if leader == self.node => {
                self.record_heartbeat(self.node);
                Ok(())
            }
            Some((_, address)) => {
                let request = Request::Heartbeat { node: self.node.0 };
                call(&*self.transport, &address, &request, HEARTBEAT_TIMEOUT).await.map(|_| ())
            }
            None => Err(no_leader()),
        }
    }

    pub(crate) fn record_heartbeat(&self, node: NodeId) {
        self.lock_heartbeats().insert(node, Instant::now());
    }

    /// Time since the last heartbeat of a node; `None` if none has arrived. Only meaningful on the leader.
    pub fn heartbeat_age(&self, node: NodeId) -> Option<Duration> {
        self.lock_heartbeats().get(&node).map(Instant::elapsed)
    }

    /// Forgets all heartbeats. Called when this member becomes the leader: ages from an earlier term would
    /// make live nodes look dead.
    pub fn clear_heartbeats(&self) {
        self.lock_heartbeats().clear();
    }

    fn lock_heartbeats(&self) -> MutexGuard<'_, HashMap<NodeId, Instant>> {
        self.last_heartbeats.lock().expect("no code panics while it holds this lock")
    }
}
