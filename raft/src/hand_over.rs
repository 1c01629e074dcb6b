//! A leader that stops hands its leadership over, so that nobody waits until it is missed.
//!
//! `openraft` 0.9 has no transfer of leadership, and a follower grants no vote for as long as the lease of
//! its leader lasts. That holds for a follower only: one that stands for election itself has a vote of a
//! newer term, by which the lease of the old one is over. So the leader asks all voters to stand, and the one
//! that shall lead last: of votes of one term the higher node wins, and each further attempt begins a newer
//! term. Votes are counted as always. If it fails, the group elects when the lease is over.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::join_all;
use plexus_model::{Error, NodeId, Result};
use tokio::time::{sleep, timeout};

use crate::limits::{HAND_OVER_ASK, HAND_OVER_ATTEMPT, HAND_OVER_MAX, HAND_OVER_POLL, PRE_VOTE_TIMEOUT};
use crate::meta::{Meta, no_leader};
use crate::network::call;
use crate::wire::{Request, Response};

/// Another voter, as the leader sees it.
struct Voter {
    id: u64,
    address: String,
    /// Index of the last entry that its log is known to hold.
    matched: u64,
}

impl Meta {
    /// Lets another voter lead, if this member leads. Returns when another one does, or none did in time.
    pub async fn hand_over(&self) {
        if !self.is_leader() || self.voters_by_log().is_empty() {
            return;
        }
        let began = Instant::now();
        // From here on, whoever proposes waits for the next leader.
        self.hands_over.store(true, Ordering::Release);
        match timeout(HAND_OVER_MAX, self.let_another_lead()).await {
            Ok(leader) => tracing::info!(leader, elapsed = ?began.elapsed(), "handed the leadership over"),
            Err(_) => tracing::warn!("no other node came to lead the metadata group in {HAND_OVER_MAX:?}"),
        }
        self.hands_over.store(false, Ordering::Release);
    }

    /// Asks voters to stand for election until one of them leads. Returns which.
    async fn let_another_lead(&self) -> u64 {
        loop {
            let mut voters = self.voters_by_log();
            let last = self.raft.metrics().borrow().last_log_index.unwrap_or(0);
            // What is in progress must be in the log of the next leader.
            if voters.first().is_none_or(|voter| voter.matched < last) {
                sleep(HAND_OVER_POLL).await;
                continue;
            }
            let next = voters.remove(0);
            join_all(voters.iter().map(|voter| self.ask_to_stand(voter, HAND_OVER_ASK))).await;
            self.ask_to_stand(&next, PRE_VOTE_TIMEOUT).await;
            let mut metrics = self.raft.metrics();
            let replaced = metrics.wait_for(|m| m.current_leader.is_some_and(|leader| leader != self.node.0));
            if let Ok(Ok(metrics)) = timeout(HAND_OVER_ATTEMPT, replaced).await
                && let Some(leader) = metrics.current_leader
            {
                return leader;
            }
        }
    }

    /// The other voters, those first whose logs are the longest.
    fn voters_by_log(&self) -> Vec<Voter> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let matched = |id: u64| {
            let matched = metrics.replication.as_ref().and_then(|replication| *replication.get(&id)?);
            matched.map_or(0, |entry| entry.index)
        };
        let others = membership.voter_ids().filter(|id| *id != self.node.0);
        let voter =
            |id| Some(Voter { id, address: membership.get_node(&id)?.0.clone(), matched: matched(id) });
        let mut voters: Vec<Voter> = others.filter_map(voter).collect();
        voters.sort_by_key(|voter| std::cmp::Reverse((voter.matched, voter.id)));
        voters
    }

    async fn ask_to_stand(&self, voter: &Voter, limit: Duration) {
        match call(&*self.transport, &voter.address, &Request::Stand, limit).await {
            Ok(Response::Done) => {}
            Ok(other) => {
                tracing::debug!(voter = voter.id, answer = ?other, "a voter does not stand for election");
            }
            Err(error) => tracing::debug!(voter = voter.id, %error, "a voter does not stand for election"),
        }
    }

    /// Stands for election because `from`, which leads, is about to stop.
    ///
    /// # Errors
    /// `InvalidArgument` when it does not lead, `Unavailable` when this member must not.
    pub(crate) async fn stand(&self, from: NodeId) -> Result<()> {
        let (leader, is_voter) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let mut voters = metrics.membership_config.membership().voter_ids();
            (metrics.current_leader, voters.any(|voter| voter == from.0))
        };
        // Once it has stood, it knows of no leader.
        if !is_voter || leader.is_some_and(|leader| leader != from.0) {
            return Err(Error::invalid(format!("node {from} does not lead the metadata group")));
        }
        if self.lacks_entries() || self.is_full() {
            return Err(Error::unavailable(format!("node {} cannot lead now", self.node)));
        }
        let stood = self.raft.trigger().elect().await;
        stood.map_err(|e| Error::unavailable(format!("standing for election: {e}")))
    }

    /// Fails while this leader hands over.
    pub(crate) fn check_leads_on(&self) -> Result<()> {
        match self.hands_over.load(Ordering::Acquire) {
            true => Err(no_leader()),
            false => Ok(()),
        }
    }
}
