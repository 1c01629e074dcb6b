//! The handle to this node's member of the metadata group: start, propose, read, status, shutdown.
//!
//! Membership changes are in [`crate::membership`], the choice of voters in [`crate::voters`], heartbeats of
//! nodes in [`crate::heartbeats`], and requests of other members in [`crate::requests`].

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use openraft::{Config, Raft, ServerState};
use plexus_model::limits::PROPOSAL_BYTES_MAX;
use plexus_model::{
    Applied, Command, Error, ErrorKind, Manifest, NodeId, Outcome, Proposal, Result, Token, Version,
};
use tokio::sync::watch;
use tokio::time::{sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::batcher::{Batcher, ProposalHandler, ReadIndexHandler};
use crate::elections::{Heard, permit_elections};
use crate::limits::{FORWARD_TIMEOUT, LOG_END_SYNC_INTERVAL, RETRY_PAUSE, SHUTDOWN_TIMEOUT, raft_config};
use crate::log::LogEnd;
use crate::network::{Network, Transport, call};
use crate::recovery::{self, Stores};
use crate::state_machine::Published;
use crate::types::{LogId, TypeConfig};
use crate::wire::{Request, Response};

/// What is written to the disk of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpaceUse {
    /// A commit that a client asks for.
    Commit,
    /// Entries of the log that the leader sends, and that others have perhaps written.
    Log,
}

/// Fails with `ResourceExhausted` when there is no room for so many bytes.
pub type SpaceCheck = Box<dyn Fn(SpaceUse, u64) -> Result<()> + Send + Sync>;

/// What a member of the metadata group needs to start.
pub struct MetaOptions {
    /// Id of this node, which is also its id as a member of the group.
    pub node: NodeId,
    /// Directory of the log and the snapshots. It is created if it does not exist.
    pub directory: PathBuf,
    /// How requests reach other members.
    pub transport: Arc<dyn Transport>,
    /// Number of log entries between two snapshots, normally [`SNAPSHOT_ENTRIES`](crate::SNAPSHOT_ENTRIES).
    pub snapshot_entries: u64,
    /// Checks that the disk has room for so many bytes beside what the log itself needs.
    pub check_space: SpaceCheck,
}

/// This node's member of the metadata group. All parts of a node share one handle.
pub struct Meta {
    pub(crate) node: NodeId,
    pub(crate) raft: Raft<TypeConfig>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) proposals: Batcher<Proposal, Outcome>,
    pub(crate) reads: Batcher<(), u64>,
    /// When the last heartbeat of each node arrived. Only meaningful on the leader.
    pub(crate) last_heartbeats: Mutex<HashMap<NodeId, Instant>>,
    /// Held during a membership change, so that only one runs at a time. An async lock, since a change has
    /// several steps that wait for the quorum.
    pub(crate) membership_lock: tokio::sync::Mutex<()>,
    published: watch::Receiver<Published>,
    pristine: bool,
    /// Whether this member lacks entries that it has acknowledged.
    lacks_entries: AtomicBool,
    /// Whether this leader takes no more proposals, since another member is about to lead.
    pub(crate) hands_over: AtomicBool,
    /// Cancelled when the leader says that this node was removed from the cluster.
    pub(crate) removal: CancellationToken,
    pub(crate) check_space: SpaceCheck,
    pub(crate) heard: Mutex<Heard>,
    pub(crate) stop: CancellationToken,
}

/// The metadata group as this member sees it.
#[derive(Clone, Debug)]
pub struct MetaStatus {
    /// The current leader, if this member knows it.
    pub leader: Option<NodeId>,
    /// The current Raft term.
    pub term: u64,
    /// Index of the last entry in this member's log.
    pub last_log: u64,
    /// Index of the last entry that this member has applied.
    pub applied: u64,
    /// Index of the last entry that was removed from this member's log because a snapshot covers it; 0 if
    /// none.
    pub purged: u64,
    /// Members that vote.
    pub voters: Vec<NodeId>,
    /// Members that receive the log and do not vote.
    pub learners: Vec<NodeId>,
}

impl Meta {
    /// Opens the log and the snapshot, and takes part in the group again. A new member waits until
    /// [`bootstrap`](Self::bootstrap) or [`join`](Self::join).
    ///
    /// # Errors
    /// `Corrupt` when the log or the snapshot is damaged and no other member has a copy.
    pub async fn start(options: MetaOptions) -> Result<Arc<Self>> {
        let MetaOptions { node, directory, transport, snapshot_entries, check_space } = options;
        let Stores { machine, log, lost_until } = recovery::open(&directory)?;
        let (pristine, end) = (log.is_pristine(), log.end_file());
        let published = machine.subscribe();
        let network = Network { transport: transport.clone() };
        // Elections are permitted when they are due.
        let config = Config { enable_elect: false, ..raft_config(snapshot_entries)? };
        let raft = Raft::new(node.0, Arc::new(config), network, log, machine)
            .await
            .map_err(|e| Error::internal(format!("starting the metadata group: {e}")).with_source(e))?;
        let stop = CancellationToken::new();
        tokio::spawn(keep_end(end, stop.clone()));
        let this = Arc::new(Self {
            node,
            transport,
            proposals: Batcher::start(stop.clone(), ProposalHandler(raft.clone())),
            reads: Batcher::start(stop.clone(), ReadIndexHandler(raft.clone())),
            last_heartbeats: Mutex::default(),
            membership_lock: tokio::sync::Mutex::default(),
            published,
            pristine,
            lacks_entries: AtomicBool::new(lost_until.is_some()),
            hands_over: AtomicBool::default(),
            removal: CancellationToken::new(),
            check_space,
            heard: Mutex::default(),
            stop,
            raft,
        });
        tokio::spawn(permit_elections(this.clone()));
        if let Some(lost_until) = lost_until {
            tokio::spawn(catch_up(this.clone(), lost_until));
        }
        Ok(this)
    }

    /// Whether this member lacks entries of the log that it has acknowledged, since its disk has lost them.
    /// It then neither votes nor leads.
    pub fn lacks_entries(&self) -> bool {
        self.lacks_entries.load(Ordering::Acquire)
    }

    /// Id of this node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Whether this member had never been part of a group when it started.
    pub fn is_pristine(&self) -> bool {
        self.pristine
    }

    /// The manifest after the last entry that this node has applied. It may lag behind the leader; see
    /// [`read`](Self::read).
    pub fn manifest(&self) -> Arc<Manifest> {
        self.published.borrow().manifest.clone()
    }

    /// Index of the last entry that this member has applied.
    pub(crate) fn applied(&self) -> u64 {
        self.published.borrow().applied
    }

    /// Commits a command and returns what `apply` made of it.
    ///
    /// The command gets a token and is sent to the current leader until an outcome is known or `limit`
    /// passes. The token makes sure that it is applied once, however often it is sent.
    ///
    /// # Errors
    /// `ResourceExhausted` when the command is too large for a log entry. `Unknown` when it may or may not
    /// have been committed, `Unavailable` when it was not. Otherwise the error with which `apply` rejected
    /// the command.
    pub async fn propose(&self, command: Command, limit: Duration) -> Result<Applied> {
        let proposal = Proposal { token: Token::generate(), command };
        check_weight(&proposal)?;
        let deadline = Instant::now() + limit;
        // Whether an earlier attempt may still be committed.
        let mut sent = false;
        loop {
            let leader = self.leader();
            let error = match self.while_leading(&leader, self.propose_to(&leader, &proposal, deadline)).await
            {
                Ok(outcome) => return outcome.into_result(),
                Err(error) => error,
            };
            // A leader without room refuses before it writes. Any other error does not tell whether a
            // proposal that was sent will be committed. Only an outcome does.
            let is_refused = error.kind() == ErrorKind::ResourceExhausted;
            sent |= leader.is_some() && !is_refused;
            if !sent && !error.is_retryable() {
                return Err(error);
            }
            if Instant::now() + RETRY_PAUSE >= deadline {
                let kind = if sent { ErrorKind::Unknown } else { ErrorKind::Unavailable };
                let message = match sent {
                    true => "it is not known whether the commit took place, or still will",
                    false => "no commit",
                };
                return Err(Error::new(kind, format!("{message}: within {limit:?}, {}", error.message())));
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Waits for an answer of `leader`, until another member leads: whoever asked then asks that one, and
    /// does not wait until the connection to a dead one is given up.
    async fn while_leading<T>(
        &self,
        leader: &Option<(NodeId, String)>,
        answer: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let (mut metrics, known) = (self.raft.metrics(), leader.as_ref().map(|(leader, _)| leader.0));
        let replaced = metrics.wait_for(|m| m.current_leader.is_some() && m.current_leader != known);
        tokio::select! {
            biased;
            answer = answer => answer,
            Ok(_) = replaced => Err(Error::unavailable("another member leads the metadata group now")),
        }
    }

    /// On the leader: checks that the disk has room for what a proposal adds. What only removes something is
    /// never refused.
    pub(crate) fn check_room(&self, proposal: &Proposal) -> Result<()> {
        match &proposal.command {
            Command::Commit(commit) if commit.only_removes() => Ok(()),
            Command::Commit(_) | Command::CreateTable(_) | Command::AlterTable(_) => {
                (self.check_space)(SpaceUse::Commit, proposal.weight() as u64)
            }
            _ => Ok(()),
        }
    }

    /// Sends a proposal to the leader once. An error says only that no outcome arrived.
    async fn propose_to(
        &self,
        leader: &Option<(NodeId, String)>,
        proposal: &Proposal,
        deadline: Instant,
    ) -> Result<Outcome> {
        match leader {
            Some((leader, _)) if *leader == self.node => {
                self.check_leads_on()?;
                self.check_room(proposal)?;
                match timeout_at(deadline.into(), self.proposals.submit(proposal.clone())).await {
                    Ok(Ok(outcome)) => Ok(outcome),
                    Ok(Err(error)) => Err(error.into_error()),
                    Err(_) => Err(Error::unknown("the leader has not answered")),
                }
            }
            Some((_, address)) => {
                let request = Request::Propose(proposal.clone());
                match call(&*self.transport, address, &request, FORWARD_TIMEOUT).await? {
                    Response::Outcome(outcome) => Ok(outcome),
                    other => Err(other.into_error(address)),
                }
            }
            None => Err(no_leader()),
        }
    }

    /// Returns a manifest for a linearizable read: at least as new as every commit that was acknowledged
    /// before this call, by any node.
    ///
    /// # Errors
    /// `Unavailable` when no leader confirms the read within `limit`, or this node has not applied the log
    /// that far.
    pub async fn read(&self, limit: Duration) -> Result<Arc<Manifest>> {
        let index = self.read_index(limit).await?;
        self.wait_applied(index, limit).await
    }

    /// Obtains a read index from the leader, which first confirms with a quorum that it still leads.
    async fn read_index(&self, limit: Duration) -> Result<u64> {
        let deadline = Instant::now() + limit;
        loop {
            let leader = self.leader();
            let error = match self.while_leading(&leader, self.read_index_from(&leader, deadline)).await {
                Ok(index) => return Ok(index),
                Err(error) => error,
            };
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(Error::unavailable(format!(
                    "no read index within {limit:?}: {}",
                    error.message()
                )));
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn read_index_from(&self, leader: &Option<(NodeId, String)>, deadline: Instant) -> Result<u64> {
        match leader {
            Some((leader, _)) if *leader == self.node => {
                match timeout_at(deadline.into(), self.reads.submit(())).await {
                    Ok(Ok(index)) => Ok(index),
                    Ok(Err(error)) => Err(error.into_error()),
                    Err(_) => Err(Error::unavailable("the leader has not answered")),
                }
            }
            Some((_, address)) => {
                match call(&*self.transport, address, &Request::ReadIndex, FORWARD_TIMEOUT).await? {
                    Response::ReadIndex(index) => Ok(index),
                    other => Err(other.into_error(address)),
                }
            }
            None => Err(no_leader()),
        }
    }

    /// Waits until this node has applied the log up to `index`, and returns the manifest.
    ///
    /// # Errors
    /// `Unavailable` when that takes longer than `limit`, or the group has stopped on this node.
    async fn wait_applied(&self, index: u64, limit: Duration) -> Result<Arc<Manifest>> {
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

    /// Waits until this node has applied `version`, and returns the manifest, which may be newer.
    ///
    /// # Errors
    /// `Unavailable` when that takes longer than `limit`, or the group has stopped on this node.
    pub async fn wait_version(&self, version: Version, limit: Duration) -> Result<Arc<Manifest>> {
        self.wait_applied(version.0, limit).await
    }

    /// The leader and its peer address, if this member knows one.
    pub fn leader(&self) -> Option<(NodeId, String)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let leader = metrics.current_leader?;
        let address = metrics.membership_config.membership().get_node(&leader)?.0.clone();
        Some((NodeId(leader), address))
    }

    /// Whether this member leads, as far as it knows. A leader that was deposed may not know it yet.
    pub fn is_leader(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.state == ServerState::Leader && metrics.current_leader == Some(self.node.0)
    }

    /// The state of the group as this member sees it.
    pub fn status(&self) -> MetaStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        MetaStatus {
            leader: metrics.current_leader.map(NodeId),
            term: metrics.current_term,
            last_log: metrics.last_log_index.unwrap_or(0),
            applied: self.applied(),
            purged: metrics.purged.map_or(0, |id| id.index),
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
        }
    }

    /// Waits until this member has failed or was shut down, and returns the reason. A member fails when its
    /// log or its state machine does.
    pub async fn failed(&self) -> Error {
        let mut metrics = self.raft.metrics();
        let stopped = metrics.wait_for(|m| m.running_state.is_err()).await;
        let reason = match &stopped {
            Ok(metrics) => metrics.running_state.as_ref().err().map(ToString::to_string),
            Err(_) => None,
        };
        Error::internal(format!(
            "the metadata group has stopped on this node: {}",
            reason.as_deref().unwrap_or("it was shut down")
        ))
    }

    /// Stops this member. Acknowledged entries are already on disk.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        match timeout(SHUTDOWN_TIMEOUT, self.raft.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the metadata group did not stop cleanly"),
            Err(_) => tracing::warn!("the metadata group did not stop within {SHUTDOWN_TIMEOUT:?}"),
        }
    }
}

/// Makes the end of the log durable from time to time.
async fn keep_end(end: Arc<LogEnd>, stop: CancellationToken) {
    loop {
        let is_last = stop.run_until_cancelled(sleep(LOG_END_SYNC_INTERVAL)).await.is_none();
        let end = end.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || end.sync()).await {
            tracing::warn!(%error, "the end of the metadata log could not be synced");
        }
        if is_last {
            return;
        }
    }
}

/// Lets a member vote again when it has the entries that it had lost.
async fn catch_up(meta: Arc<Meta>, lost_until: LogId) {
    let mut metrics = meta.raft.metrics();
    let caught_up = metrics.wait_for(|metrics| metrics.last_applied >= Some(lost_until));
    if meta.stop.run_until_cancelled(caught_up).await.is_some_and(|reached| reached.is_ok()) {
        meta.lacks_entries.store(false, Ordering::Release);
        tracing::info!(entry = lost_until.index, "got the lost entries of the metadata log from other nodes");
    }
}

/// Checks that a proposal is small enough for the log.
pub(crate) fn check_weight(proposal: &Proposal) -> Result<()> {
    match proposal.weight() {
        0..=PROPOSAL_BYTES_MAX => Ok(()),
        bytes => Err(Error::exhausted(format!(
            "a commit of {bytes} bytes exceeds the limit of {PROPOSAL_BYTES_MAX} for one log entry: write \
             less at once"
        ))),
    }
}

pub(crate) fn no_leader() -> Error {
    Error::unavailable("the metadata group has no leader")
}
