//! The types that `openraft` is instantiated with.

use std::fmt;
use std::io::Cursor;

use bytes::Bytes;
use plexus_model::{Outcome, Proposal, Result};
use rkyv::{Archive, Deserialize, Serialize};

openraft::declare_raft_types!(
    /// The metadata group as `openraft` sees it: entries carry encoded batches of proposals, members are
    /// identified by a node id and a peer address.
    pub TypeConfig:
        D = EncodedBatch,
        R = Outcomes,
        NodeId = u64,
        Node = Address,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Address>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, Address>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, Address>;
pub(crate) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(crate) type StorageError = openraft::StorageError<u64>;

/// Where a member listens for its peers, as `host:port`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Address(pub String);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The proposals that share one log entry.
#[derive(Archive, Serialize, Deserialize)]
pub(crate) struct Batch {
    /// The leader's clock when it made the entry, in microseconds since the Unix epoch. The commit time is
    /// derived from it; order and visibility are not.
    pub(crate) time_us: u64,
    /// In the order in which `apply` executes them.
    pub(crate) proposals: Vec<Proposal>,
}

/// An encoded [`Batch`]. It is encoded once; the same bytes go to the log and to every follower.
#[derive(Clone)]
pub struct EncodedBatch(pub(crate) Bytes);

impl EncodedBatch {
    pub(crate) fn new(batch: &Batch) -> Self {
        Self(plexus_model::encode(batch).into())
    }

    pub(crate) fn decode(&self) -> Result<Batch> {
        plexus_model::decode("log entry", &self.0)
    }
}

impl fmt::Debug for EncodedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncodedBatch({} bytes)", self.0.len())
    }
}

/// The result of applying one log entry: one outcome for each proposal, in their order. Empty for blank and
/// membership entries.
#[derive(Clone, Debug, Default)]
pub struct Outcomes(pub Vec<Outcome>);
