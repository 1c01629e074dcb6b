//! The choice of voters: which members of the group vote, so that a commit needs few disks and survives
//! failures.

use std::collections::BTreeSet;

use openraft::ChangeMembers;
use plexus_model::{Manifest, NodeId, Result};

use crate::limits::{MEMBER_CHANGE_TIMEOUT, VOTER_LAG_ENTRIES_MAX, VOTERS_MAX};
use crate::meta::Meta;
use crate::types::LogId;

impl Meta {
    /// Promotes members to voters where that helps, and completes a joint consensus that was interrupted
    /// between its two steps. The leader's background work calls this periodically; on other members it does
    /// nothing.
    ///
    /// # Errors
    /// `Unavailable` or `Unknown` when the quorum does not answer. The next call tries again.
    pub async fn reconcile_voters(&self) -> Result<()> {
        let Ok(_guard) = self.membership_lock.try_lock() else {
            return Ok(());
        };
        if !self.is_leader() || self.voters_to_change_to(&self.manifest()).is_none() {
            return Ok(());
        }
        // The local manifest may be old. A voter whose node it does not list yet must not be demoted.
        let manifest = self.read(MEMBER_CHANGE_TIMEOUT).await?;
        if let Some(voters) = self.voters_to_change_to(&manifest) {
            tracing::info!(?voters, "changing the voters of the metadata group");
            self.change_membership(ChangeMembers::ReplaceAllVoters(voters)).await?;
        }
        Ok(())
    }

    /// The desired voters, if they differ from the current ones or if a joint consensus is incomplete.
    fn voters_to_change_to(&self, manifest: &Manifest) -> Option<BTreeSet<u64>> {
        let (membership, caught_up) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let last = metrics.last_log_index.unwrap_or(0);
            let replication = metrics.replication.clone().unwrap_or_default();
            let near = |log: Option<LogId>| log.is_some_and(|log| log.index + VOTER_LAG_ENTRIES_MAX >= last);
            let caught_up: BTreeSet<u64> =
                replication.into_iter().filter(|(_, log)| near(*log)).map(|(node, _)| node).collect();
            (metrics.membership_config.membership().clone(), caught_up)
        };
        let current: BTreeSet<u64> = membership.voter_ids().collect();
        let registered =
            current.iter().copied().filter(|voter| manifest.nodes.contains_key(&NodeId(*voter))).collect();
        let ready = manifest.nodes.values().filter(|n| n.roles.meta && n.live && caught_up.contains(&n.id.0));
        let desired = desired_voters(&registered, ready.map(|n| n.id.0));
        let joint = membership.get_joint_config().len() > 1;
        (joint || desired != current).then_some(desired)
    }
}

/// The current voters, and as many ready members as make their number odd, at most [`VOTERS_MAX`].
///
/// No voter is demoted: two voters survive no more failures than one, but keep acknowledged entries on two
/// disks.
fn desired_voters(current: &BTreeSet<u64>, ready: impl Iterator<Item = u64>) -> BTreeSet<u64> {
    let candidates: Vec<u64> = ready.filter(|n| !current.contains(n)).collect();
    let possible = (current.len() + candidates.len()).min(VOTERS_MAX);
    let count = if possible.is_multiple_of(2) { possible.saturating_sub(1) } else { possible };
    current.iter().copied().chain(candidates.into_iter().take(count.saturating_sub(current.len()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_of_voters_becomes_odd_and_no_voter_is_demoted() {
        let desired = |current: &[u64], ready: &[u64]| -> Vec<u64> {
            let current = current.iter().copied().collect();
            desired_voters(&current, ready.iter().copied()).into_iter().collect()
        };
        assert_eq!(desired(&[1], &[1]), [1]);
        assert_eq!(desired(&[1], &[1, 2]), [1]);
        assert_eq!(desired(&[1], &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(desired(&[1, 2, 3], &[1, 2, 3, 4]), [1, 2, 3]);
        assert_eq!(desired(&[1, 2, 3], &[1, 2, 3, 4, 5]), [1, 2, 3, 4, 5]);
        assert_eq!(desired(&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5, 6, 7]), [1, 2, 3, 4, 5]);
        // One of three voters was removed. A ready member takes its place.
        assert_eq!(desired(&[2, 3], &[2, 3, 4]), [2, 3, 4]);
        assert_eq!(desired(&[2, 3], &[2, 3]), [2, 3]);
        assert_eq!(desired(&[2, 3], &[]), [2, 3]);
    }
}
