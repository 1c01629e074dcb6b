//! Limits and tunables of the coordinator, each with its reason and unit.

use std::time::Duration;

/// Arrow bytes of one shard that are encoded into one segment. Large enough for wide zones and few
/// files, small enough to be sent, checked and held in memory whole: encoded it is about a quarter.
pub const SEGMENT_BYTES_TARGET: usize = 64 * 1024 * 1024;

/// Arrow bytes that one load buffers over all shards before it encodes the largest one early.
pub const LOAD_BUFFER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Writes that buffer more than a few rows at the same time; more wait, so that their buffers stay bounded.
pub const LOADS_MAX: usize = 8;

/// How long such a write waits for others to end.
pub const LOAD_WAIT_MAX: Duration = Duration::from_secs(60);

/// Segments of one load that are being encoded or sent at the same time.
pub const UPLOADS_MAX: usize = 4;

/// How long a replica may take to make a segment durable before it counts as missing.
pub const UPLOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a write waits for the slower replicas after a majority has answered. They pull later.
pub const STRAGGLER_TIMEOUT: Duration = Duration::from_secs(2);

/// Small writes that wait to be grouped. A full queue makes writers wait.
pub const GROUP_QUEUE_MAX: usize = 4_096;

/// Small writes that share one commit.
pub const GROUP_SIZE_MAX: usize = 1_024;

/// Bytes of rows that share one commit: an entry of the log must reach the followers within a heartbeat.
pub const GROUP_BYTES_MAX: usize = 512 * 1024;

/// How long a statement waits for a quorum before its outcome is reported as unknown or unavailable.
pub const COMMIT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a read waits for the read index and for the local manifest to reach it.
pub const READ_INDEX_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the removal of a node waits for others to take over what it keeps, before it asks to be called
/// again.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);

/// Between looks at how far they are.
pub const DRAIN_POLL: Duration = Duration::from_millis(200);

/// Times that a query is planned again after nodes failed under it.
pub const QUERY_ATTEMPTS_MAX: usize = 8;

/// Result bytes held back before the first row leaves, so that a query that fails early can be retried.
pub const HOLD_BACK_BYTES: usize = 4 * 1024 * 1024;

/// How long a node that failed under a query is not given work.
pub const SUSPECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Inline bytes of a shard above which they are written out as a file.
pub const FLUSH_BYTES: u64 = 256 * 1024;

/// Inline segments of a shard above which they are written out: each costs a scan a little.
pub const FLUSH_SEGMENTS: usize = 256;

/// Age above which inline rows are written out, however few.
pub const FLUSH_AGE: Duration = Duration::from_secs(30);

/// How often the background work looks for something to do.
pub const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// How often garbage and old versions are looked for.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Missing segments that a node pulls at the same time.
pub const REPAIRS_MAX: usize = 2;

/// Bytes asked of a peer at once when a segment is pulled; the pull resumes at this granularity.
pub const REPAIR_CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Segments whose pull broke off and of which what has come is kept in memory.
pub const REPAIR_PARTS_MAX: usize = 8;

/// How long a write may go on between its first segment and its commit.
pub const WRITE_TIME_MAX: Duration = Duration::from_secs(12 * 60 * 60);

/// Age below which a segment that the manifest does not name is not garbage: its commit may be under way.
/// DuplicateMatch the time that a write may take, so that no commit can name a segment that was collected.
pub const GARBAGE_AGE_MIN: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes of key indexes that a node keeps in memory: twelve a row.
pub const KEY_INDEX_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Times that a write is proposed again after somebody else wrote to the same rows or keys.
pub const WRITE_ATTEMPTS_MAX: usize = 30;

/// Transactions that are open on a node.
pub const TRANSACTIONS_MAX: usize = 10_000;

/// Bytes of small statements of one transaction, for one table, above which they become files.
pub const TRANSACTION_INLINE_BYTES_MAX: u64 = 128 * 1024;

/// Bytes of all sets of deleted rows of one change, for one table, up to which each of them may travel in the
/// log.
pub const DELETIONS_INLINE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Bytes of one set of deleted rows that travels in the log although they are more together.
pub const MANY_DELETIONS_INLINE_BYTES_MAX: usize = 256;

/// Bytes of rows that `RETURNING` gives back: they are held until the client asks for them.
pub const RETURNING_BYTES_MAX: usize = 1024 * 1024;

/// Times that the rows of a shard are put in order while others write to it, before `OPTIMIZE` gives up.
pub const OPTIMIZE_ATTEMPTS_MAX: usize = 5;

/// Rows from which a z-order learns how values are spread.
pub const ZORDER_SAMPLE_ROWS: usize = 65_536;

/// Bytes of files that a node is asked to check at once, so that the answer comes in time.
pub const CHECK_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Files that a node is asked to check at once.
pub const CHECK_FILES_MAX: usize = 10_000;

/// How long a file stays that was vacuumed: longer than the queries take that may still read it.
pub const VACUUMED_AGE_MIN: Duration = Duration::from_secs(10 * 60);

/// Bytes a second that a node reads again to find damage: a terabyte in a day and a half.
pub const SCRUB_BYTES_PER_SECOND: u64 = 8 * 1024 * 1024;

/// How often everything is read again at most.
pub const SCRUB_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
