//! Heartbeats of nodes to the leader, from which the leader's background work derives their liveness.
//!
//! These are not Raft's heartbeats, which run from the leader to its followers.

use std::collections::HashMap;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use plexus_model::{Error, ErrorKind, NodeId, Result};

use crate::limits::{HEARTBEAT_TIMEOUT, MEMBER_CHANGE_TIMEOUT};
use crate::meta::{Meta, no_leader};
use crate::network::call;
use crate::wire::{Request, Response};

impl Meta {
    /// Tells the leader that this node is alive.
    ///
    /// # Errors
    /// `Unavailable` when there is no leader or it cannot be reached; `NotFound` when this node was removed
    /// from the cluster, which [`removed`](Self::removed) reports, too.
    pub async fn heartbeat(&self) -> Result<()> {
        match self.leader() {
            Some((leader, _)) if leader == self.node => {
                self.record_heartbeat(self.node);
                Ok(())
            }
            Some((_, address)) => {
                let request = Request::Heartbeat { node: self.node.0 };
                match call(&*self.transport, &address, &request, HEARTBEAT_TIMEOUT).await? {
                    Response::Done => Ok(()),
                    other => {
                        let error = other.into_error(&address);
                        if error.kind() == ErrorKind::NotFound {
                            self.removal.cancel();
                        }
                        Err(error)
                    }
                }
            }
            None => Err(no_leader()),
        }
    }

    /// Records the heartbeat of another node.
    ///
    /// # Errors
    /// `NotFound` when the node is not in the cluster.
    pub(crate) async fn accept_heartbeat(&self, node: NodeId) -> Result<()> {
        // A leader that was deposed, or has just been elected, may not know every node yet.
        let is_known = self.manifest().nodes.contains_key(&node)
            || self.read(MEMBER_CHANGE_TIMEOUT).await?.nodes.contains_key(&node);
        if !is_known {
            return Err(not_a_member(node));
        }
        self.record_heartbeat(node);
        Ok(())
    }

    /// Waits until this node has been removed from the cluster, and returns that as an error. Only the leader
    /// knows: a node that catches up with the log also applies the removal of an earlier node of its id.
    pub async fn removed(&self) -> Error {
        self.removal.cancelled().await;
        not_a_member(self.node)
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

/// The error for a node that is not in the cluster.
pub(crate) fn not_a_member(node: NodeId) -> Error {
    Error::not_found(format!(
        "node {node} is no member of the cluster (any more): it can join with an empty data directory"
    ))
}
