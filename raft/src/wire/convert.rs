//! Conversions between wire types and the types of `openraft`.

use std::collections::{BTreeMap, BTreeSet};

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{CommittedLeaderId, EntryPayload};

use super::{
    Append, AppendReply, RaftRequest, Response, WireEntry, WireLogId, WireMembership, WirePayload,
    WireSnapshotMeta, WireVote,
};
use crate::types::{
    Address, EncodedBatch, Entry, LogId, Membership, SnapshotMeta, StoredMembership, TypeConfig, Vote,
};

impl From<LogId> for WireLogId {
    fn from(id: LogId) -> Self {
        Self { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
    }
}

impl From<WireLogId> for LogId {
    fn from(id: WireLogId) -> Self {
        Self::new(CommittedLeaderId::new(id.term, id.leader), id.index)
    }
}

impl From<Vote> for WireVote {
    fn from(vote: Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<WireVote> for Vote {
    fn from(vote: WireVote) -> Self {
        if vote.committed {
            Self::new_committed(vote.term, vote.node)
        } else {
            Self::new(vote.term, vote.node)
        }
    }
}

impl From<&EntryPayload<TypeConfig>> for WirePayload {
    fn from(payload: &EntryPayload<TypeConfig>) -> Self {
        match payload {
            EntryPayload::Blank => Self::Blank,
            EntryPayload::Normal(batch) => Self::Batch(batch.0.to_vec()),
            EntryPayload::Membership(membership) => Self::Membership(membership.into()),
        }
    }
}

impl From<WirePayload> for EntryPayload<TypeConfig> {
    fn from(payload: WirePayload) -> Self {
        match payload {
            WirePayload::Blank => Self::Blank,
            WirePayload::Batch(bytes) => Self::Normal(EncodedBatch(bytes.into())),
            WirePayload::Membership(membership) => Self::Membership(membership.into()),
        }
    }
}

impl From<&Membership> for WireMembership {
    fn from(m: &Membership) -> Self {
        Self {
            configs: m.get_joint_config().iter().map(|c| c.iter().copied().collect()).collect(),
            nodes: m.nodes().map(|(id, address)| (*id, address.0.clone())).collect(),
        }
    }
}

impl From<WireMembership> for Membership {
    fn from(m: WireMembership) -> Self {
        let configs: Vec<BTreeSet<u64>> = m.configs.into_iter().map(|c| c.into_iter().collect()).collect();
        let nodes: BTreeMap<u64, Address> =
            m.nodes.into_iter().map(|(id, address)| (id, Address(address))).collect();
        Self::new(configs, nodes)
    }
}

impl From<&SnapshotMeta> for WireSnapshotMeta {
    fn from(meta: &SnapshotMeta) -> Self {
        Self {
            last: meta.last_log_id.map(Into::into),
            membership_id: meta.last_membership.log_id().map(Into::into),
            membership: meta.last_membership.membership().into(),
            id: meta.snapshot_id.clone(),
        }
    }
}

impl From<WireSnapshotMeta> for SnapshotMeta {
    fn from(meta: WireSnapshotMeta) -> Self {
        Self {
            last_log_id: meta.last.map(Into::into),
            last_membership: StoredMembership::new(
                meta.membership_id.map(Into::into),
                meta.membership.into(),
            ),
            snapshot_id: meta.id,
        }
    }
}

impl From<AppendEntriesRequest<TypeConfig>> for RaftRequest {
    fn from(r: AppendEntriesRequest<TypeConfig>) -> Self {
        Self::Append(Append {
            vote: r.vote.into(),
            previous: r.prev_log_id.map(Into::into),
            entries: r
                .entries
                .iter()
                .map(|e| WireEntry { id: e.log_id.into(), payload: (&e.payload).into() })
                .collect(),
            committed: r.leader_commit.map(Into::into),
        })
    }
}

impl From<Append> for AppendEntriesRequest<TypeConfig> {
    fn from(a: Append) -> Self {
        Self {
            vote: a.vote.into(),
            prev_log_id: a.previous.map(Into::into),
            entries: a
                .entries
                .into_iter()
                .map(|e| Entry { log_id: e.id.into(), payload: e.payload.into() })
                .collect(),
            leader_commit: a.committed.map(Into::into),
        }
    }
}

impl From<AppendEntriesResponse<u64>> for AppendReply {
    fn from(r: AppendEntriesResponse<u64>) -> Self {
        match r {
            AppendEntriesResponse::Success => Self::Success,
            AppendEntriesResponse::PartialSuccess(id) => Self::Partial(id.map(Into::into)),
            AppendEntriesResponse::Conflict => Self::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<AppendReply> for AppendEntriesResponse<u64> {
    fn from(r: AppendReply) -> Self {
        match r {
            AppendReply::Success => Self::Success,
            AppendReply::Partial(id) => Self::PartialSuccess(id.map(Into::into)),
            AppendReply::Conflict => Self::Conflict,
            AppendReply::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

pub(crate) fn vote_request(r: VoteRequest<u64>) -> RaftRequest {
    RaftRequest::Vote { vote: r.vote.into(), last: r.last_log_id.map(Into::into) }
}

pub(crate) fn vote_response(r: VoteResponse<u64>) -> Response {
    Response::Vote { vote: r.vote.into(), granted: r.vote_granted, last: r.last_log_id.map(Into::into) }
}

pub(crate) fn snapshot_request(r: InstallSnapshotRequest<TypeConfig>) -> RaftRequest {
    RaftRequest::Snapshot {
        vote: r.vote.into(),
        meta: (&r.meta).into(),
        offset: r.offset,
        data: r.data,
        done: r.done,
    }
}

pub(crate) fn snapshot_response(r: InstallSnapshotResponse<u64>) -> Response {
    Response::Snapshot { vote: r.vote.into() }
}
