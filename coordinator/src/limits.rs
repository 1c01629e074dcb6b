//! Limits and tunables of the coordinator, each with its reason. Units are in the names or the types.

use std::time::Duration;

/// Default number of replicas of a table, limited by the number of data nodes.
pub(crate) const REPLICAS_DEFAULT: u32 = 3;

/// Default number of shards of a table per data node. More than one, so that the work of a node has parts.
pub(crate) const SHARDS_PER_NODE: u32 = 2;

/// Arrow bytes of one shard that are encoded into one segment. Large enough for wide zones and few files.
/// Small enough to send, verify and hold in memory as a whole: the encoded segment has about a quarter of
/// these bytes.
pub const SEGMENT_BYTES_TARGET: usize = 64 * 1024 * 1024;

/// Arrow bytes that one load buffers for all shards together. Above that, it encodes the largest buffer
/// early.
pub(crate) const LOAD_BUFFER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The same while many loads are in progress. Less would make segments that are too small.
pub(crate) const LOAD_BUFFER_BYTES_MIN: usize = 1024 * 1024;

/// Arrow bytes that all loads of a node buffer together.
pub(crate) const LOADS_BYTES_MAX: usize = 8 * LOAD_BUFFER_BYTES_MAX;

/// Concurrent loads on one node, where a load is a write that is too large for the log. So many that clients
/// which send slowly do not keep others out, and few enough for the memory of their buffers.
pub(crate) const LOADS_MAX: usize = 256;

/// How long a load waits for a slot of [`LOADS_MAX`].
pub(crate) const LOAD_WAIT_MAX: Duration = Duration::from_secs(60);

/// How long a load waits for the next rows of its client.
pub(crate) const LOAD_IDLE_MAX: Duration = Duration::from_secs(120);

/// Segments of one load that are encoded or sent at the same time.
pub(crate) const UPLOADS_MAX: usize = 4;

/// How long a replica may take to make a segment durable before it counts as failed.
pub(crate) const UPLOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a write waits for slower replicas after a majority has confirmed. Late replicas are repaired.
pub(crate) const STRAGGLER_TIMEOUT: Duration = Duration::from_secs(2);

/// Small writes in the queue of the group committer. A full queue blocks writers.
pub(crate) const GROUP_QUEUE_MAX: usize = 4_096;

/// Maximum number of small writes that share one commit.
pub(crate) const GROUP_SIZE_MAX: usize = 1_024;

/// Bytes of rows that share one commit. A log entry must reach the followers within a heartbeat interval.
pub(crate) const GROUP_BYTES_MAX: usize = 512 * 1024;

/// How long a statement waits for a quorum before it fails with an unknown outcome or as unavailable.
pub(crate) const COMMIT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a read waits for the Raft read index and for the local manifest to reach it.
pub(crate) const READ_INDEX_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a decommission waits for other nodes to copy the segments of a node. After that, the call fails
/// and can be repeated.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);

/// Time between checks of the progress of a decommission.
pub(crate) const DRAIN_POLL: Duration = Duration::from_millis(200);

/// How often a query is planned again after a node failed during its execution.
pub(crate) const QUERY_ATTEMPTS_MAX: usize = 8;

/// Bytes of a result that are held back before the first row is sent. A query that fails before that is
/// retried.
pub(crate) const HOLD_BACK_BYTES: usize = 4 * 1024 * 1024;

/// How long a node that failed during a query gets no work.
pub(crate) const SUSPECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Inline bytes of a shard above which its inline segments are flushed to a file.
pub(crate) const FLUSH_BYTES: u64 = 256 * 1024;

/// Inline segments of a shard above which they are flushed. Each one adds to the cost of a scan.
pub(crate) const FLUSH_SEGMENTS: usize = 256;

/// Age above which inline segments are flushed, however small they are.
pub(crate) const FLUSH_AGE: Duration = Duration::from_secs(30);

/// Interval of most background tasks.
pub(crate) const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// Interval of garbage collection and of the vacuum by retention.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Missing segments that a node fetches at the same time.
pub(crate) const REPAIRS_MAX: usize = 2;

/// Bytes of one request of a repair. A failed repair resumes at this granularity.
pub(crate) const REPAIR_CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Failed repairs whose bytes so far stay in memory. Each may hold nearly a whole segment.
pub(crate) const PARTIAL_REPAIRS_MAX: usize = 8;

/// Maximum time between the first segment of a write and its commit.
pub(crate) const WRITE_TIME_MAX: Duration = Duration::from_secs(12 * 60 * 60);

/// Age below which a segment that the manifest does not refer to is not garbage, because its commit may be in
/// progress. Twice [`WRITE_TIME_MAX`], so that no commit can refer to a segment that was collected.
pub(crate) const GARBAGE_AGE_MIN: Duration = Duration::from_secs(24 * 60 * 60);

/// Attempts to commit a write while concurrent commits write the same rows or keys.
pub(crate) const WRITE_ATTEMPTS_MAX: usize = 30;

/// Open transactions on one node.
pub(crate) const TRANSACTIONS_MAX: usize = 10_000;

/// Inline bytes that a transaction has for one table. Above that, it writes them to files.
pub(crate) const TRANSACTION_INLINE_BYTES_MAX: u64 = 128 * 1024;

/// Bytes of all deletion vectors of one change of a table. Up to that, each of them may travel in the log.
pub(crate) const DELETIONS_INLINE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Bytes of a deletion vector that may travel in the log even when all of them together exceed
/// [`DELETIONS_INLINE_BYTES_MAX`].
pub(crate) const MANY_DELETIONS_INLINE_BYTES_MAX: usize = 256;

/// Bytes of the rows of `RETURNING`. They stay in memory until the client fetches them.
pub(crate) const RETURNING_BYTES_MAX: usize = 1024 * 1024;

/// Attempts of `OPTIMIZE` to sort the rows of a shard while concurrent commits write to it.
pub(crate) const OPTIMIZE_ATTEMPTS_MAX: usize = 5;

/// Approximate number of sampled rows from which a z-order computes the quantiles of its columns.
pub(crate) const ZORDER_SAMPLE_ROWS: usize = 65_536;

/// Bytes of files in one check request to a node. Bounds the time until its response.
pub(crate) const CHECK_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Files in one check request to a node.
pub(crate) const CHECK_FILES_MAX: usize = 10_000;

/// How long the file of a vacuumed segment stays on disk. A query that reads it for longer fails.
pub(crate) const VACUUMED_AGE_MIN: Duration = Duration::from_secs(10 * 60);

/// Bytes per second that a node scrubs: one terabyte in a day and a half.
pub(crate) const SCRUB_BYTES_PER_SECOND: u64 = 8 * 1024 * 1024;

/// Minimum time between the starts of two scrub passes.
pub(crate) const SCRUB_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Statements that run on a node at the same time.
pub(crate) const RUNNING_MAX: usize = 4_096;

/// Long queries that run on a node at the same time. Further ones wait.
pub(crate) const LONG_QUERIES_MAX: usize = 32;
/// Memory of queries for each long one that may run. Beside what operators account for, a query holds batches
/// on their way, and tables while they grow.
pub(crate) const LONG_QUERY_BYTES: usize = 64 * 1024 * 1024;

/// Long queries that wait at most.
pub(crate) const LONG_QUERIES_WAITING_MAX: usize = 1_000;

/// How long a client may leave a result unread. Its rows, and its place among the long queries, are held
/// meanwhile.
pub(crate) const UNREAD_MAX: Duration = Duration::from_secs(10 * 60);

/// Bytes of the text of a statement that `plexus.queries` shows.
pub(crate) const SHOWN_BYTES_MAX: usize = 1_000;

/// Batches of a long query that wait for the client.
pub(crate) const LANE_BATCHES: usize = 2;
