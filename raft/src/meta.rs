//! This node's member of the metadata group.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use openraft::error::{ClientWriteError, InitializeError, RaftError};
use openraft::raft::{AppendEntriesRequest, InstallSnapshotRequest, VoteRequest};
use openraft::{ChangeMembers, Config, Raft, ServerState, SnapshotPolicy};
use plexus_model::limits::PROPOSAL_BYTES_MAX;
use plexus_model::{
    Applied, ClusterId, Command, Error, ErrorKind, Manifest, NodeId, NodeRecord, Outcome, Proposal, Result,
    Token, Version,
};
use tokio::sync::watch;
use tokio::time::{sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::batcher::{Batcher, ConfirmRead, ProposeError, WriteEntry};
use crate::log::LogStore;
use crate::network::{Network, Transport, call};
use crate::state_machine::{Published, StateMachine};
use crate::types::{Address, LogId, Membership, TypeConfig};
use crate::wire::{MemberChange, RaftRequest, Request, Response, snapshot_response, vote_response};

/// Leader to followers. A follower's sync must fit in one interval.
const HEARTBEAT_MS: u64 = 250;
/// At least ten times the time of an append; with the lease a failover takes two to three seconds.
const ELECTION_MIN_MS: u64 = 1_000;
const ELECTION_MAX_MS: u64 = 1_500;
/// Entries after which a snapshot is taken, unless the options say otherwise; half of them are kept for
/// followers that lag a little.
pub const SNAPSHOT_ENTRIES: u64 = 10_000;
const SNAPSHOT_CHUNK_BYTES: u64 = 1024 * 1024;
const SNAPSHOT_CHUNK_TIMEOUT_MS: u64 = 10_000;
/// Between attempts to find or reach the leader.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// For one request to the leader; longer than a round takes there.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(6);
/// For the end of a snapshot or a sync that is under way when the node stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// Entries by which a member may lag and still become a voter.
const LAG_MAX: u64 = 1_000;
/// For each step of a change of members; longer than a leader change.
const MEMBER_CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// More voters make commits slower and survive no likely failure.
const VOTERS_MAX: usize = 5;

pub struct MetaOptions {
    pub node: NodeId,
    /// Where log and snapshots are kept.
    pub directory: PathBuf,
    pub transport: Arc<dyn Transport>,
    /// Entries after which a snapshot is taken.
    pub snapshot_entries: u64,
}

/// A handle to the metadata group. Shared by everything on a node.
pub struct Meta {
    node: NodeId,
    raft: Raft<TypeConfig>,
    published: watch::Receiver<Published>,
    transport: Arc<dyn Transport>,
    proposals: Batcher<Proposal, Outcome>,
    reads: Batcher<(), u64>,
    /// When the leader last last_heartbeat of each node. Only meaningful on the leader.
    last_heartbeat: Mutex<HashMap<NodeId, Instant>>,
    pristine: bool,
    /// Held while the members are changed, which takes several steps. An async lock, since it is held across
    /// them.
    changing: tokio::sync::Mutex<()>,
    stop: CancellationToken,
}

/// The group as this member sees it.
#[derive(Clone, Debug)]
pub struct MetaStatus {
    pub leader: Option<NodeId>,
    pub term: u64,
    pub last_log: u64,
    pub applied: u64,
    /// Last entry that is no longer in this member's log, since a snapshot covers it.
    pub purged: u64,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
}

impl Meta {
    /// Opens log and snapshot and takes part again. A pristine node waits to be bootstrapped or let in.
    ///
    /// # Errors
    /// `Corrupt` when the snapshot is damaged or does not cover what was removed from the log.
    pub async fn start(options: MetaOptions) -> Result<Arc<Self>> {
        let MetaOptions { node, directory, transport, snapshot_entries } = options;
        let machine = StateMachine::open(&directory.join("snapshot"))?;
        let log = LogStore::open(&directory.join("log"), Some(machine.durable()))?;
        let covered = *machine.durable().borrow();
        if log.purged() > covered {
            // openraft would go on with an empty state machine.
            return Err(Error::corrupt(format!(
                "{}: the log begins after {:?} but the snapshot ends at {covered:?}",
                directory.display(),
                log.purged()
            )));
        }
        let pristine = log.is_pristine();
        let published = machine.subscribe();
        let network = Network { transport: transport.clone() };
        let raft = Raft::new(node.0, Arc::new(config(snapshot_entries)?), network, log, machine)
            .await
            .map_err(|e| Error::internal(format!("starting the metadata group: {e}")).with_source(e))?;
        let stop = CancellationToken::new();
        Ok(Arc::new(Self {
            node,
            published,
            transport,
            proposals: Batcher::start(stop.clone(), WriteEntry(raft.clone())),
            reads: Batcher::start(stop.clone(), ConfirmRead(raft.clone())),
            last_heartbeat: Mutex::default(),
            pristine,
            changing: tokio::sync::Mutex::default(),
            stop,
            raft,
        }))
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Whether this member had never been part of a group when it started.
    pub fn is_pristine(&self) -> bool {
        self.pristine
    }

    /// Founds a new cluster with this node as its only member.
    pub async fn bootstrap(&self, cluster: ClusterId, record: NodeRecord) -> Result<()> {
        let members = BTreeMap::from([(self.node.0, Address(record.peer.clone()))]);
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(e) => return Err(Error::internal(format!("bootstrap: {e}")).with_source(e)),
        }
        let deadline = Duration::from_secs(10);
        match self.propose(Command::Bootstrap { cluster }, deadline).await {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        self.propose(Command::RegisterNode(record), deadline).await.map(|_| ())
    }

    /// Asks the cluster of the node at `seed` to let this node in, until it does or `timeout` passes.
    pub async fn join(&self, seed: &str, record: NodeRecord, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let request = Request::Change { change: MemberChange::Join(record), forwarded: false };
        loop {
            match done(seed, call(&*self.transport, seed, &request, FORWARD_TIMEOUT).await) {
                Err(e) if e.is_retryable() && Instant::now() < deadline => sleep(RETRY_PAUSE * 4).await,
                result => return result.map_err(|e| e.context(format!("joining by way of {seed}"))),
            }
        }
    }

    /// Tells the cluster that this member is back, perhaps under other addresses. Any member that answers
    /// will do: nobody may know this one's new address, so it may not record_heartbeat who leads.
    ///
    /// # Errors
    /// `NotFound` when it is a member no longer.
    pub async fn rejoin(&self, record: NodeRecord) -> Result<()> {
        let change = MemberChange::Return(record);
        let mut result = self.change(change.clone(), false).await;
        let others: Vec<Address> =
            self.membership().nodes().filter(|(id, _)| **id != self.node.0).map(|(_, a)| a.clone()).collect();
        for Address(address) in others {
            if !result.as_ref().is_err_and(Error::is_retryable) {
                break;
            }
            let request = Request::Change { change: change.clone(), forwarded: false };
            result = done(&address, call(&*self.transport, &address, &request, FORWARD_TIMEOUT).await);
        }
        result
    }

    /// Takes a node out of the cluster for good, once it was drained and others have what it had.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` with what is in the way.
    pub async fn remove(&self, node: NodeId) -> Result<()> {
        self.change(MemberChange::Remove(node.0), false).await
    }

    /// The manifest as far as this node has applied the log.
    pub fn manifest(&self) -> Arc<Manifest> {
        self.published.borrow().manifest.clone()
    }

    /// Every manifest from now on; intermediate ones may be skipped.
    pub fn watch(&self) -> watch::Receiver<Published> {
        self.published.clone()
    }

    /// Commits a command and returns what `apply` answered. Retried under one token, on whichever node
    /// leads, until the outcome is known or `limit` passes.
    ///
    /// # Errors
    /// `Unknown` when the command may or may not have been committed; `Unavailable` when it was not.
    pub async fn propose(&self, command: Command, limit: Duration) -> Result<Applied> {
        let proposal = Proposal { token: Token::generate(), command };
        if proposal.weight() > PROPOSAL_BYTES_MAX {
            return Err(Error::exhausted(format!(
                "a commit of about {} bytes is above the bound of {PROPOSAL_BYTES_MAX} for one entry of the log: \
                 write less at once",
                proposal.weight()
            )));
        }
        let deadline = Instant::now() + limit;
        let mut sent = false;
        loop {
            let refusal = match self.leader() {
                Some((leader, _)) if leader == self.node => {
                    sent = true;
                    match timeout_at(deadline.into(), self.proposals.submit(proposal.clone())).await {
                        Ok(Ok(outcome)) => return outcome.into_result(),
                        Ok(Err(refusal)) => refusal.into_error(),
                        Err(_) => Error::unknown("the leader has not answered"),
                    }
                }
                Some((_, address)) => {
                    sent = true;
                    match call(
                        &*self.transport,
                        &address,
                        &Request::Propose(proposal.clone()),
                        FORWARD_TIMEOUT,
                    )
                    .await
                    {
                        Ok(Response::Outcome(outcome)) => return outcome.into_result(),
                        Ok(Response::Failed { kind, message }) => Error::new(kind, message),
                        Ok(other) => Error::unavailable(format!("{address} answered {other:?}")),
                        Err(e) => e,
                    }
                }
                None => Error::unavailable("the metadata group has no leader"),
            };
            // Once it was sent, only an outcome says what became of it.
            if !sent && !refusal.is_retryable() {
                return Err(refusal);
            }
            if Instant::now() + RETRY_PAUSE >= deadline {
                let kind = if sent { ErrorKind::Unknown } else { ErrorKind::Unavailable };
                return Err(Error::new(kind, format!("no commit within {limit:?}: {refusal}")));
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// The manifest that a strict read pins: at least as new as everything acknowledged before the call.
    pub async fn read(&self, limit: Duration) -> Result<Arc<Manifest>> {
        let index = self.read_index(limit).await?;
        self.wait_applied(index, limit).await
    }

    async fn read_index(&self, limit: Duration) -> Result<u64> {
        let deadline = Instant::now() + limit;
        loop {
            let error = match self.leader() {
                Some((leader, _)) if leader == self.node => {
                    match timeout_at(deadline.into(), self.reads.submit(())).await {
                        Ok(Ok(index)) => return Ok(index),
                        Ok(Err(refusal)) => refusal.into_error(),
                        Err(_) => Error::unavailable("the leader has not answered"),
                    }
                }
                Some((_, address)) => {
                    match call(&*self.transport, &address, &Request::ReadIndex, FORWARD_TIMEOUT).await {
                        Ok(Response::ReadIndex(index)) => return Ok(index),
                        Ok(Response::Failed { kind, message }) => Error::new(kind, message),
                        Ok(other) => Error::unavailable(format!("{address} answered {other:?}")),
                        Err(e) => e,
                    }
                }
                None => Error::unavailable("the metadata group has no leader"),
            };
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(Error::unavailable(format!("no read index within {limit:?}: {error}")));
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Waits until this node has applied the log up to `index`.
    pub async fn wait_applied(&self, index: u64, limit: Duration) -> Result<Arc<Manifest>> {
        let mut published = self.published.clone();
        let reached = timeout(limit, published.wait_for(|p| p.applied >= index)).await;
        match reached {
            Ok(Ok(published)) => Ok(published.manifest.clone()),
            Ok(Err(_)) => Err(Error::unavailable("the metadata group has stopped on this node")),
            Err(_) => Err(Error::unavailable(format!(
                "this node has applied the log up to {}, not yet to {index}, after {limit:?}",
                self.published.borrow().applied
            ))),
        }
    }

    /// Waits until `version` is applied here.
    pub async fn wait_version(&self, version: Version, limit: Duration) -> Result<Arc<Manifest>> {
        self.wait_applied(version.0, limit).await
    }

    /// The leader and its address, if this member knows one.
    pub fn leader(&self) -> Option<(NodeId, String)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let leader = metrics.current_leader?;
        let address = metrics.membership_config.membership().get_node(&leader)?.0.clone();
        Some((NodeId(leader), address))
    }

    pub fn is_leader(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.state == ServerState::Leader && metrics.current_leader == Some(self.node.0)
    }

    pub fn status(&self) -> MetaStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        MetaStatus {
            leader: metrics.current_leader.map(NodeId),
            term: metrics.current_term,
            last_log: metrics.last_log_index.unwrap_or(0),
            applied: self.published.borrow().applied,
            purged: metrics.purged.map_or(0, |id| id.index),
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
        }
    }

    /// Tells the leader that this node is alive.
    pub async fn heartbeat(&self) -> Result<()> {
        match self.leader() {
            Some((leader, _)) if leader == self.node => {
                self.record_heartbeat(self.node);
                Ok(())
            }
            Some((_, address)) => {
                let request = Request::Heartbeat { node: self.node.0 };
                call(&*self.transport, &address, &request, Duration::from_secs(2)).await.map(|_| ())
            }
            None => Err(Error::unavailable("the metadata group has no leader")),
        }
    }

    fn record_heartbeat(&self, node: NodeId) {
        self.last_heartbeat
            .lock()
            .expect("no code panics while it holds this lock")
            .insert(node, Instant::now());
    }

    /// How long ago the leader last_heartbeat of a node; `None` when it never did.
    pub fn heartbeat_age(&self, node: NodeId) -> Option<Duration> {
        self.last_heartbeat
            .lock()
            .expect("no code panics while it holds this lock")
            .get(&node)
            .map(Instant::elapsed)
    }

    /// Forgets who was last_heartbeat of, when this member begins to lead.
    pub fn forget_heartbeats(&self) {
        self.last_heartbeat.lock().expect("no code panics while it holds this lock").clear();
    }

    /// Answers one request of another member.
    pub async fn handle(&self, request: &[u8]) -> Vec<u8> {
        let response = match plexus_model::decode::<Request>("metadata request", request) {
            Ok(request) => self.answer(request).await,
            Err(e) => failed(&e),
        };
        plexus_model::encode(&response)
    }

    async fn answer_raft(&self, request: RaftRequest) -> Response {
        match request {
            RaftRequest::Append(append) => {
                match self.raft.append_entries(AppendEntriesRequest::from(append)).await {
                    Ok(reply) => Response::Append(reply.into()),
                    Err(e) => stopped(&e),
                }
            }
            RaftRequest::Vote { vote, last } => {
                let request = VoteRequest { vote: vote.into(), last_log_id: last.map(Into::into) };
                match self.raft.vote(request).await {
                    Ok(reply) => vote_response(reply),
                    Err(e) => stopped(&e),
                }
            }
            RaftRequest::Snapshot { vote, meta, offset, data, done } => {
                let request =
                    InstallSnapshotRequest { vote: vote.into(), meta: meta.into(), offset, data, done };
                match self.raft.install_snapshot(request).await {
                    Ok(reply) => snapshot_response(reply),
                    Err(e) => stopped(&e),
                }
            }
        }
    }

    async fn answer(&self, request: Request) -> Response {
        match request {
            Request::Raft { to, request } if to == self.node.0 => self.answer_raft(request).await,
            Request::Raft { to, .. } => {
                failed(&Error::unavailable(format!("this is node {}, not node {to}", self.node)))
            }
            Request::Propose(proposal) => match self.proposals.submit(proposal).await {
                Ok(outcome) => Response::Outcome(outcome),
                Err(refusal) => refused(refusal),
            },
            Request::ReadIndex => match self.reads.submit(()).await {
                Ok(index) => Response::ReadIndex(index),
                Err(refusal) => refused(refusal),
            },
            Request::Heartbeat { node } => {
                self.record_heartbeat(NodeId(node));
                Response::Done
            }
            Request::Change { change, forwarded } => match self.change(change, forwarded).await {
                Ok(()) => Response::Done,
                Err(e) => failed(&e),
            },
        }
    }

    /// Changes who is a member. A node that is not the leader passes the request on.
    async fn change(&self, change: MemberChange, forwarded: bool) -> Result<()> {
        match self.leader() {
            Some((leader, _)) if leader == self.node => match change {
                MemberChange::Join(record) => self.admit(record).await,
                MemberChange::Return(record) => self.readmit(record).await,
                MemberChange::Remove(node) => self.remove_member(NodeId(node)).await,
            },
            Some(_) if forwarded => Err(Error::unavailable("the metadata group is changing its leader")),
            Some((_, address)) => {
                let request = Request::Change { change, forwarded: true };
                done(&address, call(&*self.transport, &address, &request, FORWARD_TIMEOUT).await)
            }
            None => Err(Error::unavailable("the metadata group has no leader")),
        }
    }

    /// Lets a new node in: as a learner, which gets the log, and as a node that others know. It may become
    /// a voter later, when it has the log.
    async fn admit(&self, record: NodeRecord) -> Result<()> {
        let _one_at_a_time = self.changing.lock().await;
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
            // It may have promised a vote or kept an entry in the log that it has lost.
            return Err(Error::already_exists(format!(
                "node {id} is a voting member, and the new node has none of its log: give it another id, and remove \
                 the old one"
            )));
        }
        if manifest.nodes.get(&id).is_some_and(|known| known.peer != record.peer) {
            return Err(Error::already_exists(format!(
                "node {id} is a member with another peer address; a new node cannot join as {id} from {}",
                record.peer
            )));
        }
        if membership.get_node(&id.0).is_some() {
            // Its log is empty, whatever was sent to it before: replication must begin anew.
            self.change_members(ChangeMembers::RemoveNodes(BTreeSet::from([id.0]))).await?;
        }
        let learner = self.raft.add_learner(id.0, Address(record.peer.clone()), false);
        changed(timeout(MEMBER_CHANGE_TIMEOUT, learner).await)?;
        self.propose(Command::RegisterNode(record), MEMBER_CHANGE_TIMEOUT).await?;
        self.record_heartbeat(id);
        Ok(())
    }

    /// Takes note of a member's addresses and roles.
    async fn readmit(&self, record: NodeRecord) -> Result<()> {
        let _one_at_a_time = self.changing.lock().await;
        let id = record.id;
        // By the quorum: a leader that was deposed, or is only catching up, does not know every member.
        if !self.read(MEMBER_CHANGE_TIMEOUT).await?.nodes.contains_key(&id) {
            return Err(Error::not_found(format!(
                "node {id} is no member of the cluster (any more): it can join with an empty data directory"
            )));
        }
        let address = Address(record.peer.clone());
        self.propose(Command::RegisterNode(record), MEMBER_CHANGE_TIMEOUT).await?;
        if self.membership().get_node(&id.0).is_some_and(|known| *known != address) {
            // Safe, since it is the member itself that says so and others cannot take its address.
            self.change_members(ChangeMembers::SetNodes(BTreeMap::from([(id.0, address)]))).await?;
        }
        self.record_heartbeat(id);
        Ok(())
    }

    async fn remove_member(&self, node: NodeId) -> Result<()> {
        let _one_at_a_time = self.changing.lock().await;
        if node == self.node {
            return Err(Error::conflict(format!(
                "node {node} leads the metadata group: stop it, and remove it when another node leads"
            )));
        }
        match self.propose(Command::RemoveNode(node), MEMBER_CHANGE_TIMEOUT).await {
            // An earlier attempt that was interrupted came as far as this.
            Err(e) if e.kind() == ErrorKind::NotFound && self.membership().get_node(&node.0).is_some() => {}
            removed => drop(removed?),
        }
        if self.membership().voter_ids().any(|voter| voter == node.0) {
            self.change_members(ChangeMembers::RemoveVoters(BTreeSet::from([node.0]))).await?;
        }
        if self.membership().get_node(&node.0).is_some() {
            self.change_members(ChangeMembers::RemoveNodes(BTreeSet::from([node.0]))).await?;
        }
        Ok(())
    }

    async fn change_members(&self, change: ChangeMembers<u64, Address>) -> Result<()> {
        changed(timeout(MEMBER_CHANGE_TIMEOUT, self.raft.change_membership(change, true)).await)
    }

    fn membership(&self) -> Membership {
        self.raft.metrics().borrow().membership_config.membership().clone()
    }

    /// Makes voters of members that are ready for it, and finishes a change of voters that was interrupted
    /// between its two steps. Called from time to time on the leader; does nothing elsewhere.
    pub async fn reconcile_voters(&self) -> Result<()> {
        let Ok(_one_at_a_time) = self.changing.try_lock() else {
            return Ok(());
        };
        if !self.is_leader() || self.target_voters(&self.manifest()).is_none() {
            return Ok(());
        }
        // What this member has applied may be old: a voter that it does not know yet must not be dropped.
        let manifest = self.read(MEMBER_CHANGE_TIMEOUT).await?;
        if let Some(wanted) = self.target_voters(&manifest) {
            tracing::info!(?wanted, "changing the voters of the metadata group");
            self.change_members(ChangeMembers::ReplaceAllVoters(wanted)).await?;
        }
        Ok(())
    }

    /// The voters that there should be, if these are others, or if a change of voters is half done.
    fn target_voters(&self, manifest: &Manifest) -> Option<BTreeSet<u64>> {
        let (membership, caught_up) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let last = metrics.last_log_index.unwrap_or(0);
            let replication = metrics.replication.clone().unwrap_or_default();
            let near = |log: Option<LogId>| log.is_some_and(|log| log.index + LAG_MAX >= last);
            let caught_up: BTreeSet<u64> =
                replication.into_iter().filter(|(_, log)| near(*log)).map(|(node, _)| node).collect();
            (metrics.membership_config.membership().clone(), caught_up)
        };
        let present: BTreeSet<u64> = membership.voter_ids().collect();
        let current = present.iter().copied().filter(|voter| manifest.nodes.contains_key(&NodeId(*voter)));
        let ready = manifest.nodes.values().filter(|n| n.roles.meta && n.live && caught_up.contains(&n.id.0));
        let wanted = odd_voters(&current.collect(), ready.map(|n| n.id.0));
        let half_done = membership.get_joint_config().len() > 1;
        (half_done || wanted != present).then_some(wanted)
    }

    /// Resolves when this member can take part no longer: its log or its state machine has failed.
    pub async fn failed(&self) -> Error {
        let mut metrics = self.raft.metrics();
        let fatal = metrics.wait_for(|m| m.running_state.is_err()).await;
        let reason = match &fatal {
            Ok(metrics) => metrics.running_state.as_ref().err().map(ToString::to_string),
            Err(_) => None,
        };
        Error::internal(format!(
            "the metadata group has stopped on this node: {}",
            reason.as_deref().unwrap_or("it was shut down")
        ))
    }

    /// Stops taking part. Entries that were acknowledged are on disk.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        match timeout(SHUTDOWN_TIMEOUT, self.raft.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the metadata group did not stop cleanly"),
            Err(_) => tracing::warn!("the metadata group did not stop within {SHUTDOWN_TIMEOUT:?}"),
        }
    }
}

/// The present voters, and as many that are ready as make an odd number, at most [`VOTERS_MAX`]. Two are
/// never made one: they survive no more failures, but keep what was acknowledged on two disks.
fn odd_voters(current: &BTreeSet<u64>, ready: impl Iterator<Item = u64>) -> BTreeSet<u64> {
    let more: Vec<u64> = ready.filter(|n| !current.contains(n)).collect();
    let most = (current.len() + more.len()).min(VOTERS_MAX);
    let count = if most.is_multiple_of(2) { most.saturating_sub(1) } else { most };
    current.iter().copied().chain(more.into_iter().take(count.saturating_sub(current.len()))).collect()
}

type ClientWrite<T> = Result<T, RaftError<u64, ClientWriteError<u64, Address>>>;

fn changed<T>(result: Result<ClientWrite<T>, tokio::time::error::Elapsed>) -> Result<()> {
    match result {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(Error::unavailable(format!("changing the metadata group: {e}"))),
        Err(_) => Err(Error::unknown("changing the metadata group: no answer from the quorum")),
    }
}

/// The answer to a request that has none but that it was done.
fn done(address: &str, answer: Result<Response>) -> Result<()> {
    match answer? {
        Response::Done => Ok(()),
        Response::Failed { kind, message } => Err(Error::new(kind, message)),
        other => Err(Error::unavailable(format!("{address} answered {other:?}"))),
    }
}

fn failed(error: &Error) -> Response {
    Response::Failed { kind: error.kind(), message: error.message().to_owned() }
}

fn stopped(error: &impl std::fmt::Display) -> Response {
    Response::Failed { kind: ErrorKind::Unavailable, message: error.to_string() }
}

fn refused(refusal: ProposeError) -> Response {
    match refusal {
        ProposeError::NotLeader(leader) => Response::NotLeader { leader },
        ProposeError::Failed(kind, message) => Response::Failed { kind, message },
    }
}

fn config(snapshot_entries: u64) -> Result<Config> {
    Config {
        cluster_name: "plexus".into(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MIN_MS,
        election_timeout_max: ELECTION_MAX_MS,
        install_snapshot_timeout: SNAPSHOT_CHUNK_TIMEOUT_MS,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_entries),
        replication_lag_threshold: snapshot_entries * 2,
        max_in_snapshot_log_to_keep: snapshot_entries / 2,
        snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES,
        purge_batch_size: (snapshot_entries / 4).clamp(1, 256),
        ..Default::default()
    }
    .validate()
    .map_err(|e| Error::internal(format!("metadata group configuration: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_become_an_odd_number_and_none_is_dropped() {
        let wanted = |current: &[u64], ready: &[u64]| -> Vec<u64> {
            let current = current.iter().copied().collect();
            odd_voters(&current, ready.iter().copied()).into_iter().collect()
        };
        assert_eq!(wanted(&[1], &[1]), [1]);
        assert_eq!(wanted(&[1], &[1, 2]), [1]);
        assert_eq!(wanted(&[1], &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(wanted(&[1, 2, 3], &[1, 2, 3, 4]), [1, 2, 3]);
        assert_eq!(wanted(&[1, 2, 3], &[1, 2, 3, 4, 5]), [1, 2, 3, 4, 5]);
        assert_eq!(wanted(&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5, 6, 7]), [1, 2, 3, 4, 5]);
        // One of three is gone: its place is filled when there is somebody to fill it.
        assert_eq!(wanted(&[2, 3], &[2, 3, 4]), [2, 3, 4]);
        assert_eq!(wanted(&[2, 3], &[2, 3]), [2, 3]);
        assert_eq!(wanted(&[2, 3], &[]), [2, 3]);
    }
}
