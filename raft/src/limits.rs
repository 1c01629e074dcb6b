//! Limits and timeouts of the metadata group, each with its reason, and the `openraft` configuration.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use plexus_model::{Error, Result};

// --- Raft timing ---

/// Interval between the leader's heartbeats. A follower's sync must fit in one interval.
const HEARTBEAT_INTERVAL_MS: u64 = 200;
/// Shortest election timeout. At least ten times the duration of an append, so that a slow sync does not
/// start an election. A follower waits for the longest timeout, and then for its own: a failover takes 1.8 to
/// 2.2 seconds.
const ELECTION_TIMEOUT_MIN_MS: u64 = 750;
/// Longest election timeout. Each member draws its timeout at random between the bounds, which makes split
/// votes rare.
const ELECTION_TIMEOUT_MAX_MS: u64 = 1_100;
/// How long a member takes its leader for alive after it has heard it. As long as in `openraft`.
pub(crate) const LEADER_LEASE: Duration = Duration::from_millis(ELECTION_TIMEOUT_MAX_MS);
/// How long a member whose disk is full lets others stand for election. A leader that takes no commits is
/// better than none.
pub(crate) const FULL_PATIENCE: Duration = Duration::from_secs(8);
/// How long a leader that yields sends no heartbeats: others miss it after the lease, and elect.
pub(crate) const YIELD_TIME: Duration = Duration::from_secs(4);
/// Least time between two attempts to yield. If all disks are full, none of them helps.
pub(crate) const YIELD_INTERVAL: Duration = Duration::from_secs(60);
/// Pause between two rounds of questions whether other members miss their leader. Several fit between the end
/// of the lease and an election.
pub(crate) const PRE_VOTE_INTERVAL: Duration = Duration::from_millis(100);
/// Time for the answer to such a question.
pub(crate) const PRE_VOTE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a leader that stops tries to hand over. Longer than the lease, after which others elect anyway.
pub(crate) const HAND_OVER_MAX: Duration = Duration::from_millis(3 * ELECTION_TIMEOUT_MAX_MS);
/// Time for one attempt: some round trips and syncs.
pub(crate) const HAND_OVER_ATTEMPT: Duration = Duration::from_millis(400);
/// Time in which the voters that shall not lead are to stand. One that is not there must not delay the
/// others.
pub(crate) const HAND_OVER_ASK: Duration = Duration::from_millis(150);
/// Pause between two looks at how far the logs of others are.
pub(crate) const HAND_OVER_POLL: Duration = Duration::from_millis(5);
/// By how much the term of another member may be ahead: more than it can count by itself in a hundred years.
/// Terms end at the largest number, and the group with them.
pub(crate) const TERM_JUMP_MAX: u64 = 1 << 32;
/// Pause before `openraft` contacts an unreachable member again.
pub(crate) const UNREACHABLE_BACKOFF: Duration = Duration::from_millis(200);

// --- Snapshots ---

/// Default number of log entries between two snapshots. Half as many entries stay in the log after a
/// snapshot, so that a follower that lags a little does not need the snapshot.
pub const SNAPSHOT_ENTRIES: u64 = 10_000;
/// Bytes of one message of a snapshot transfer.
const SNAPSHOT_CHUNK_BYTES: u64 = 1024 * 1024;
/// Time for one message of a snapshot transfer.
const SNAPSHOT_CHUNK_TIMEOUT_MS: u64 = 10_000;

// --- Requests ---

/// Pause between attempts to find or reach the leader.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Pause between attempts to join a cluster. Longer than [`RETRY_PAUSE`], since an attempt may change the
/// membership.
pub(crate) const JOIN_RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How long a new node waits for its address to be free. Longer than a node without heartbeats counts as
/// live.
pub(crate) const REJOIN_PATIENCE: Duration = Duration::from_secs(8);
/// Time for one request to the leader. Longer than [`QUORUM_TIMEOUT`], so that the leader's answer arrives
/// before the sender gives up.
pub(crate) const FORWARD_TIMEOUT: Duration = Duration::from_secs(6);
/// Time for one heartbeat to the leader. The next one follows anyway.
pub(crate) const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for each command that founds a cluster.
pub(crate) const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that a snapshot or a sync in progress has to finish when the node stops.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

// --- Batches ---

/// Requests that may wait for a batch. Further callers block until there is room.
pub(crate) const QUEUE_REQUESTS_MAX: usize = 8_192;
/// Requests that share a batch.
pub(crate) const BATCH_REQUESTS_MAX: usize = 1_024;
/// Weight at which a batch is closed, so that an entry reaches a follower within a heartbeat interval. A
/// larger proposal goes alone.
pub(crate) const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Time for the quorum to answer a batch. `openraft` may never answer when the leader is deposed; after this
/// time the outcome of a write is unknown.
pub(crate) const QUORUM_TIMEOUT: Duration = Duration::from_secs(5);

// --- Membership ---

/// Log entries by which a member may lag and still become a voter. A voter far behind would delay commits as
/// soon as another voter fails.
pub(crate) const VOTER_LAG_ENTRIES_MAX: u64 = 1_000;
/// Voters at most. Five survive two failures; more make each commit wait for more disks.
pub(crate) const VOTERS_MAX: usize = 5;
/// Time for each step of a membership change. Longer than an election takes.
pub(crate) const MEMBER_CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

// --- Log on disk ---

/// Bytes of recent entries that stay in memory for followers that lag a little.
pub(crate) const LOG_CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Number of recent entries that stay in memory; [`LOG_CACHE_BYTES`] applies as well.
pub(crate) const LOG_CACHE_ENTRIES: usize = 100_000;
/// Time between two syncs of the file that holds the end of the log.
pub(crate) const LOG_END_SYNC_INTERVAL: Duration = Duration::from_millis(200);
/// Bytes of one file of the log. A file is deleted as a whole, once snapshots cover all of its entries.
pub(crate) const LOG_CHUNK_BYTES: usize = 64 * 1024 * 1024;
/// Buffer through which the log is read at every start.
pub(crate) const LOG_REPLAY_BUFFER_BYTES: usize = 1024 * 1024;
/// Largest payload that the log decodes. Without it, a damaged length could make the decoder allocate
/// gigabytes.
pub(crate) const LOG_PAYLOAD_BYTES_MAX: u32 = 256 * 1024 * 1024;
/// Bytes of the entries in one message to a follower, which must arrive within a heartbeat interval. The
/// first entry is sent whatever its size.
pub(crate) const APPEND_BYTES_MAX: usize = 1024 * 1024;

/// The configuration of `openraft`, with a snapshot after every `snapshot_entries` log entries.
pub(crate) fn raft_config(snapshot_entries: u64) -> Result<Config> {
    Config {
        cluster_name: "plexus".into(),
        heartbeat_interval: HEARTBEAT_INTERVAL_MS,
        election_timeout_min: ELECTION_TIMEOUT_MIN_MS,
        election_timeout_max: ELECTION_TIMEOUT_MAX_MS,
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
