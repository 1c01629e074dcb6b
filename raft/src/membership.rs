//! Membership of the metadata group: founding it, joining, rejoining, removal.
//!
//! Every node of the cluster is a member of the group. A new node joins as a learner, which receives the log
//! and does not vote; [`crate::voters`] promotes it later. The leader carries out all membership changes, one
//! at a time, and other members forward requests to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use openraft::ChangeMembers;
use openraft::error::{ClientWriteError, InitializeError, RaftError};
use plexus_model::{ClusterId, Command, Error, ErrorKind, NodeId, NodeRecord, Result, Secret};
use tokio::time::{error::Elapsed, sleep, timeout};

use crate::heartbeats::not_a_member;
use crate::limits::{
    BOOTSTRAP_TIMEOUT, FORWARD_TIMEOUT, JOIN_RETRY_PAUSE, MEMBER_CHANGE_TIMEOUT, REJOIN_PATIENCE,
};
use crate::meta::{Meta, no_leader};
use crate::network::call;
use crate::types::{Address, Membership};
use crate::wire::{MemberChange, Request, Response};

impl Meta {
    /// Founds a new cluster with this node as its only member. Repeating an interrupted bootstrap is safe.
    ///
    /// # Errors
    /// `Internal` when Raft cannot be initialized, otherwise as [`propose`](Self::propose).
    pub async fn bootstrap(&self, cluster: ClusterId, record: NodeRecord) -> Result<()> {
        let members = BTreeMap::from([(self.node.0, Address(record.peer.clone()))]);
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(e) => return Err(Error::internal(format!("bootstrap: {e}")).with_source(e)),
        }
        let bootstrap = Command::Bootstrap { cluster, secret: Secret::generate() };
        match self.propose(bootstrap, BOOTSTRAP_TIMEOUT).await {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        self.propose(Command::RegisterNode(record), BOOTSTRAP_TIMEOUT).await.map(|_| ())
    }

    /// Joins the cluster that the node at peer address `seed` belongs to. Retries until `timeout` passes.
    ///
    /// # Errors
    /// `AlreadyExists` when the node id or the peer address belongs to another member. `Unavailable` or
    /// `Unknown` when the cluster does not answer in time.
    pub async fn join(&self, seed: &str, record: NodeRecord, timeout: Duration) -> Result<()> {
        let started = Instant::now();
        let deadline = started + timeout;
        let change = MemberChange::Join(record);
        let mut reported = None;
        loop {
            match self.request_change(seed, change.clone(), false).await {
                // A node that has lost its directory counts as live until its heartbeats are missed.
                Err(e)
                    if Instant::now() < deadline
                        && (e.is_retryable()
                            || (e.kind() == ErrorKind::AlreadyExists
                                && started.elapsed() < REJOIN_PATIENCE)) =>
                {
                    if reported.as_deref() != Some(e.message()) {
                        tracing::warn!(seed, error = %e, "could not join the cluster yet");
                        reported = Some(e.message().to_owned());
                    }
                    sleep(JOIN_RETRY_PAUSE).await;
                }
                result => {
                    return result.map_err(|e| e.context(format!("joining the cluster through {seed}")));
                }
            }
        }
    }

    /// Tells the cluster that this member is back, perhaps under other addresses.
    ///
    /// It tries all members that it knows until one answers: if its peer address has changed, the leader
    /// cannot reach it, so it may not know who leads.
    ///
    /// # Errors
    /// `NotFound` when this node is no longer a member. `Unavailable` or `Unknown` when no member can help.
    pub async fn rejoin(&self, record: NodeRecord) -> Result<()> {
        let change = MemberChange::Rejoin(record);
        let mut result = self.change_member(change.clone(), false).await;
        let others: Vec<Address> =
            self.membership().nodes().filter(|(id, _)| **id != self.node.0).map(|(_, a)| a.clone()).collect();
        for Address(address) in others {
            if !result.as_ref().is_err_and(Error::is_retryable) {
                break;
            }
            result = self.request_change(&address, change.clone(), false).await;
        }
        result
    }

    /// Removes a node from the cluster for good. It must have been drained, so that other nodes hold its
    /// shards.
    ///
    /// # Errors
    /// `NotFound` when it is not a member. `Conflict` when it leads the group, or when a shard would have too
    /// few live replicas without it.
    pub async fn remove(&self, node: NodeId) -> Result<()> {
        self.change_member(MemberChange::Remove(node.0), false).await
    }

    /// Carries out a membership change if this member leads; otherwise forwards it to the leader, but only
    /// once, so that two members that each take the other for the leader do not pass a request back and
    /// forth.
    pub(crate) async fn change_member(&self, change: MemberChange, forwarded: bool) -> Result<()> {
        match self.leader() {
            Some((leader, _)) if leader == self.node => match change {
                MemberChange::Join(record) => self.handle_join(record).await,
                MemberChange::Rejoin(record) => self.handle_rejoin(record).await,
                MemberChange::Remove(node) => self.handle_remove(NodeId(node)).await,
            },
            Some(_) if forwarded => Err(Error::unavailable("the metadata group is changing its leader")),
            Some((_, address)) => self.request_change(&address, change, true).await,
            None => Err(no_leader()),
        }
    }

    /// Asks the member at `address` for a membership change.
    async fn request_change(&self, address: &str, change: MemberChange, forwarded: bool) -> Result<()> {
        let request = Request::Change { change, forwarded };
        match call(&*self.transport, address, &request, FORWARD_TIMEOUT).await? {
            Response::Done => Ok(()),
            other => Err(other.into_error(address)),
        }
    }

    /// Adds a new node as a learner, and registers it in the manifest. It may become a voter once it has the
    /// log.
    async fn handle_join(&self, record: NodeRecord) -> Result<()> {
        let _guard = self.membership_lock.lock().await;
        let id = record.id;
        let manifest = self.read(MEMBER_CHANGE_TIMEOUT).await?;
        if let Some(other) = manifest.nodes.values().find(|n| n.peer == record.peer && n.id != id && n.live) {
            return Err(Error::already_exists(format!(
                "peer address {} belongs to live node {}",
                record.peer, other.id
            )));
        }
        let membership = self.membership();
        if membership.voter_ids().any(|voter| voter == id.0) {
            // The voter's vote and its acknowledged entries are lost with its log. Admitting an empty log
            // under its id could elect a leader without committed entries.
            return Err(Error::already_exists(format!(
                "node {id} is a voting member, and the new node has none of its log: give it another id, and \
                 remove the old one"
            )));
        }
        if manifest.nodes.get(&id).is_some_and(|known| known.peer != record.peer) {
            return Err(Error::already_exists(format!(
                "node {id} is a member with another peer address; a new node cannot join as {id} from {}",
                record.peer
            )));
        }
        if membership.get_node(&id.0).is_some() {
            // Its log is empty, whatever the leader replicated to it before: replication must start over.
            self.change_membership(ChangeMembers::RemoveNodes(BTreeSet::from([id.0]))).await?;
        }
        let learner = self.raft.add_learner(id.0, Address(record.peer.clone()), false);
        change_result(timeout(MEMBER_CHANGE_TIMEOUT, learner).await)?;
        self.propose(Command::RegisterNode(record), MEMBER_CHANGE_TIMEOUT).await?;
        self.record_heartbeat(id);
        Ok(())
    }

    /// Updates the addresses and roles of a member that has restarted.
    async fn handle_rejoin(&self, record: NodeRecord) -> Result<()> {
        let (id, address) = (record.id, Address(record.peer.clone()));
        // Not under the lock, which a node that nobody reaches would hold for long.
        self.check_address(id, &address).await?;
        let _guard = self.membership_lock.lock().await;
        // A linearizable read: a deposed leader, or one that is still catching up, may not know every member.
        if !self.read(MEMBER_CHANGE_TIMEOUT).await?.nodes.contains_key(&id) {
            return Err(not_a_member(id));
        }
        self.propose(Command::RegisterNode(record), MEMBER_CHANGE_TIMEOUT).await?;
        if self.membership().get_node(&id.0).is_some_and(|known| *known != address) {
            // openraft warns that SetNodes can split a group if an address reaches another node. Here the
            // member itself names its address, and registration rejects the address of another live node. It
            // may have moved again while the proposal waited for a quorum.
            self.check_address(id, &address).await?;
            self.change_membership(ChangeMembers::SetNodes(BTreeMap::from([(id.0, address)]))).await?;
        }
        self.record_heartbeat(id);
        Ok(())
    }

    /// Fails unless a member answers at an address.
    async fn check_address(&self, id: NodeId, address: &Address) -> Result<()> {
        if id == self.node {
            return Ok(());
        }
        match call(&*self.transport, &address.0, &Request::IsMember { node: id.0 }, FORWARD_TIMEOUT).await? {
            Response::Done => Ok(()),
            other => Err(Error::unavailable(other.into_error(&address.0).message().to_owned())),
        }
    }

    async fn handle_remove(&self, node: NodeId) -> Result<()> {
        let _guard = self.membership_lock.lock().await;
        if node == self.node {
            return Err(Error::conflict(format!(
                "node {node} leads the metadata group: stop it, and remove it when another node leads"
            )));
        }
        match self.propose(Command::RemoveNode(node), MEMBER_CHANGE_TIMEOUT).await {
            // An earlier attempt removed it from the manifest and was interrupted after that.
            Err(e) if e.kind() == ErrorKind::NotFound && self.membership().get_node(&node.0).is_some() => {}
            removed => drop(removed?),
        }
        if self.membership().voter_ids().any(|voter| voter == node.0) {
            self.change_membership(ChangeMembers::RemoveVoters(BTreeSet::from([node.0]))).await?;
        }
        if self.membership().get_node(&node.0).is_some() {
            self.change_membership(ChangeMembers::RemoveNodes(BTreeSet::from([node.0]))).await?;
        }
        Ok(())
    }

    /// Changes the membership by joint consensus. Voters that are dropped stay as learners.
    pub(crate) async fn change_membership(&self, change: ChangeMembers<u64, Address>) -> Result<()> {
        change_result(timeout(MEMBER_CHANGE_TIMEOUT, self.raft.change_membership(change, true)).await)
    }

    fn membership(&self) -> Membership {
        self.raft.metrics().borrow().membership_config.membership().clone()
    }
}

type ClientWriteResult<T> = Result<T, RaftError<u64, ClientWriteError<u64, Address>>>;

fn change_result<T>(result: Result<ClientWriteResult<T>, Elapsed>) -> Result<()> {
    match result {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(Error::unavailable(format!("changing the metadata group: {e}"))),
        Err(_) => Err(Error::unknown("changing the metadata group: no answer from the quorum")),
    }
}
