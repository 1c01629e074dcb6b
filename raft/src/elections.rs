//! Elections only where a majority could elect: the pre-vote of Raft (Ongaro, "Consensus: Bridging Theory and
//! Practice", section 9.6), around `openraft`, which has none.
//!
//! A member that is cut off would stand for election again and again, each time in a higher term. When it
//! comes back, its term would depose a leader that everybody else follows. So a member first asks the voters
//! whether they miss their leader, too.

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::ServerState;
use plexus_model::NodeId;
use tokio::time::sleep;

use crate::limits::{
    FULL_PATIENCE, LEADER_LEASE, PRE_VOTE_INTERVAL, PRE_VOTE_TIMEOUT, YIELD_INTERVAL, YIELD_TIME,
};
use crate::meta::{Meta, SpaceUse};
use crate::network::call;
use crate::wire::{Request, Response};

/// What a member has heard of its leader.
#[derive(Default)]
pub(crate) struct Heard {
    /// When the last message arrived, and the index of the last entry that was committed then.
    last: Option<(Instant, u64)>,
    /// When the last message arrived that said no more than this member has applied.
    current: Option<Instant>,
}

impl Meta {
    /// Records that a leader was heard, which had committed the log up to an entry.
    pub(crate) fn heard_leader(&self, committed: u64) {
        let applied = self.applied();
        let mut heard = self.lock_heard();
        if let Some((at, _)) = heard.last.filter(|(_, committed)| *committed <= applied) {
            heard.current = Some(at);
        }
        heard.last = Some((Instant::now(), committed));
    }

    /// Whether this member leads, or has heard a leader within its lease.
    pub(crate) fn has_leader(&self) -> bool {
        let is_leader = self.raft.metrics().borrow().state == ServerState::Leader;
        is_leader || self.lock_heard().last.is_some_and(|(heard, _)| heard.elapsed() < LEADER_LEASE)
    }

    /// For how long the manifest of this member may have been behind the group's: the time since a quorum
    /// answered this leader, or since the leader of this follower said that there is nothing newer. `None` if
    /// it is not known.
    pub fn staleness(&self) -> Option<Duration> {
        let metrics = self.raft.metrics();
        if let Some(millis) = metrics.borrow().millis_since_quorum_ack {
            return Some(Duration::from_millis(millis));
        }
        let applied = self.applied();
        let heard = self.lock_heard();
        let current = heard.last.filter(|(_, committed)| *committed <= applied).map(|(at, _)| at);
        current.or(heard.current).map(|at| at.elapsed())
    }

    /// Whether this member has no room for commits, and another one may come to lead.
    fn lets_others_lead(&self) -> bool {
        let waits = self.lock_heard().last.is_some_and(|(heard, _)| heard.elapsed() < FULL_PATIENCE);
        waits && self.is_full()
    }

    pub(crate) fn is_full(&self) -> bool {
        (self.check_space)(SpaceUse::Commit, 0).is_err()
    }

    /// Whether this member leads, has no room for commits, and another one could lead.
    fn should_yield(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let has_others = metrics.membership_config.membership().voter_ids().count() > 1;
        has_others && metrics.state == ServerState::Leader && self.is_full()
    }

    /// Whether a majority of the voters, this member among them, would elect a leader now.
    async fn is_election_due(&self) -> bool {
        if self.lacks_entries() || self.has_leader() || self.lets_others_lead() {
            return false;
        }
        let voters: Vec<(NodeId, String)> = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            let address = |id: u64| Some((NodeId(id), membership.get_node(&id)?.0.clone()));
            membership.voter_ids().filter_map(address).collect()
        };
        let needed = voters.len() / 2 + 1;
        let mut agreed = usize::from(voters.iter().any(|(voter, _)| *voter == self.node));
        let others = voters.iter().filter(|(voter, _)| *voter != self.node);
        let mut answers: FuturesUnordered<_> = others
            .map(|(_, address)| call(&*self.transport, address, &Request::HasLeader, PRE_VOTE_TIMEOUT))
            .collect();
        while agreed < needed
            && let Some(answer) = answers.next().await
        {
            agreed += usize::from(matches!(answer, Ok(Response::HasLeader(false))));
        }
        agreed >= needed
    }

    fn lock_heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("no code panics while it holds this lock")
    }
}

/// Lets `openraft` hold elections while they are due.
pub(crate) async fn permit_elections(meta: Arc<Meta>) {
    let mut permitted = false;
    let mut yielded: Option<Instant> = None;
    loop {
        if yielded.is_none_or(|at| at.elapsed() > YIELD_INTERVAL) && meta.should_yield() {
            tracing::warn!("the disk of this node is full: letting another node lead the metadata group");
            yielded = Some(Instant::now());
            meta.raft.runtime_config().heartbeat(false);
        }
        if yielded.is_some_and(|at| at.elapsed() > YIELD_TIME) {
            meta.raft.runtime_config().heartbeat(true);
        }
        let is_due = meta.is_election_due().await;
        if is_due != permitted {
            meta.raft.runtime_config().elect(is_due);
            permitted = is_due;
        }
        if meta.stop.run_until_cancelled(sleep(PRE_VOTE_INTERVAL)).await.is_none() {
            return;
        }
    }
}
