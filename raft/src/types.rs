//! The types that `openraft` is instantiated with.

use std::fmt;
use std::io::Cursor;

use bytes::Bytes;
use plexus_model::{Outcome, Proposal, Result};
use rkyv::{Archive, Deserialize, Serialize};

openraft::declare_raft_types!(
    /// The metadata group.
    pub TypeConfig:
        D = Batch,
        R = Answers,
        NodeId = u64,
        Node = Address,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

pub type LogId = openraft::LogId<u64>;
pub type Vote = openraft::Vote<u64>;
pub type Entry = openraft::Entry<TypeConfig>;
pub type Membership = openraft::Membership<u64, Address>;
pub type StoredMembership = openraft::StoredMembership<u64, Address>;
pub type SnapshotMeta = openraft::SnapshotMeta<u64, Address>;
pub type Snapshot = openraft::Snapshot<TypeConfig>;
pub type StorageError = openraft::StorageError<u64>;

/// Where a member listens for its peers, as `host:port`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Address(pub String);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What one entry carries.
#[derive(Archive, Serialize, Deserialize)]
pub struct Round {
    /// The leader's clock when it made the entry, in microseconds since the epoch. It informs the commit
    /// time, never order or visibility.
    pub time_us: u64,
    pub proposals: Vec<Proposal>,
}

/// A [`Round`], encoded once: the same bytes go to the log and to every follower.
#[derive(Clone)]
pub struct Batch(pub Bytes);

impl Batch {
    pub fn new(round: &Round) -> Self {
        Self(plexus_model::encode(round).into())
    }

    pub fn round(&self) -> Result<Round> {
        plexus_model::decode("log entry", &self.0)
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes)", self.0.len())
    }
}

/// What `apply` answered, one outcome a proposal; empty for entries of Raft itself.
#[derive(Clone, Debug, Default)]
pub struct Answers(pub Vec<Outcome>);
