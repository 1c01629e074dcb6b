//! The metadata protocol between nodes.
//!
//! Each exchange is one [`Request`] and one [`Response`], encoded as `rkyv` archives. The transport only
//! moves bytes. The types mirror those of `openraft`, which have no archive format; `convert` translates
//! between them. The log and the snapshot file store some of them too.

mod convert;

use plexus_model::{ErrorKind, NodeRecord, Outcome, Proposal};
use rkyv::{Archive, Deserialize, Serialize};

pub(crate) use self::convert::{snapshot_request, snapshot_response, vote_request, vote_response};

/// A request to another member.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub(crate) enum Request {
    /// A Raft message for member `to`. Another node may have taken over the address by now; it must reject
    /// the message, since its vote or acknowledgement would count as that of `to`.
    Raft { to: u64, request: RaftRequest },
    /// To the leader: commit this proposal.
    Propose(Proposal),
    /// To the leader: which log index must a linearizable read that starts now have applied?
    ReadIndex,
    /// A membership change. A member that does not lead forwards it to the leader, unless it was `forwarded`
    /// already.
    Change { change: MemberChange, forwarded: bool },
    /// To the leader: this node is alive.
    Heartbeat { node: u64 },
    /// To a voter: does it lead, or hear a leader?
    HasLeader,
    /// From the leader to a voter: stand for election, since the leader stops.
    Stand,
    /// Is the member at this address this one?
    IsMember { node: u64 },
}

/// A message of the Raft protocol.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub(crate) enum RaftRequest {
    Append(Append),
    /// A candidate asks for a vote; `last` is the last entry of its log.
    Vote {
        vote: WireVote,
        last: Option<WireLogId>,
    },
    /// One chunk of a snapshot, which begins at byte `offset`; `done` marks the last chunk.
    Snapshot {
        vote: WireVote,
        meta: WireSnapshotMeta,
        offset: u64,
        data: Vec<u8>,
        done: bool,
    },
}

/// A change of the group's members.
#[derive(Archive, Serialize, Deserialize, Clone, Debug)]
pub(crate) enum MemberChange {
    /// A new node joins.
    Join(NodeRecord),
    /// A member has restarted, perhaps under other addresses.
    Rejoin(NodeRecord),
    /// A node leaves for good.
    Remove(u64),
}

/// The response to a [`Request`].
#[derive(Archive, Serialize, Deserialize, Debug)]
pub(crate) enum Response {
    Append(AppendReply),
    Vote {
        vote: WireVote,
        granted: bool,
        last: Option<WireLogId>,
    },
    Snapshot {
        vote: WireVote,
    },
    /// The proposal was applied or rejected.
    Outcome(Outcome),
    /// The log index that the read must have applied.
    ReadIndex(u64),
    HasLeader(bool),
    /// The request succeeded and has no result.
    Done,
    /// This member does not lead. `leader` leads as far as it knows.
    NotLeader {
        leader: Option<u64>,
    },
    Failed {
        kind: ErrorKind,
        message: String,
    },
}

/// `AppendEntries`: the entries that follow `previous`, and the leader's commit index.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub(crate) struct Append {
    pub(crate) vote: WireVote,
    pub(crate) previous: Option<WireLogId>,
    pub(crate) entries: Vec<WireEntry>,
    pub(crate) committed: Option<WireLogId>,
}

/// The response to [`Append`].
#[derive(Archive, Serialize, Deserialize, Debug)]
pub(crate) enum AppendReply {
    Success,
    /// Only the entries up to this one were appended.
    Partial(Option<WireLogId>),
    /// The follower's log does not have the previous entry.
    Conflict,
    /// The follower has seen a newer term.
    HigherVote(WireVote),
}

/// The position of a log entry, and the leader that created it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct WireLogId {
    pub(crate) term: u64,
    pub(crate) leader: u64,
    pub(crate) index: u64,
}

/// A vote for `node` in `term`; `committed` once a quorum has granted it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(crate) struct WireVote {
    pub(crate) term: u64,
    pub(crate) node: u64,
    pub(crate) committed: bool,
}

/// A log entry.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub(crate) struct WireEntry {
    pub(crate) id: WireLogId,
    pub(crate) payload: WirePayload,
}

/// What a log entry carries.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub(crate) enum WirePayload {
    /// Nothing. A new leader appends one to commit the entries of earlier terms.
    Blank,
    /// An encoded [`Batch`](crate::types::Batch).
    Batch(Vec<u8>),
    Membership(WireMembership),
}

/// The membership of the group: one set of voters, or two during joint consensus, and the peer addresses of
/// all members.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub(crate) struct WireMembership {
    pub(crate) configs: Vec<Vec<u64>>,
    pub(crate) nodes: Vec<(u64, String)>,
}

/// What a snapshot covers: the last entry, and the membership at that entry.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub(crate) struct WireSnapshotMeta {
    pub(crate) last: Option<WireLogId>,
    /// The log entry that set the membership.
    pub(crate) membership_id: Option<WireLogId>,
    pub(crate) membership: WireMembership,
    pub(crate) id: String,
}
