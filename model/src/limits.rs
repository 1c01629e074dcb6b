//! Limits and tunables of the vocabulary, each with its reason.

/// Hash slots of a table. A shard owns a contiguous range of them, so that it can be split or merged.
pub const SLOTS: u32 = 65_536;

/// Seed of the slot hash. Frozen: changing it would move every row of every table.
pub const SLOT_SEED: u64 = 0x706c_6578_7573;

/// More shards than this make more files and connections than they spread load.
pub const SHARDS_MAX: u32 = 1_024;

/// A majority of seven survives three failures; more replicas only cost writes.
pub const REPLICAS_MAX: u32 = 7;

/// Columns of a table. Every segment carries a record per column.
pub const COLUMNS_MAX: usize = 2_000;

/// Indexes of a table. Every segment may carry a record of each.
pub const INDEXES_MAX: usize = 64;

/// Levels of lists and structs inside a column's type.
pub const NESTING_MAX: usize = 32;

/// Length of a table, column or schema name in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Length of a default, a check or an initial value: every node holds them with the table.
pub const EXPRESSION_BYTES_MAX: usize = 64 * 1024;

/// Components of a `VECTOR(n)` or `HALFVEC(n)`.
pub const VECTOR_DIMENSIONS_MAX: u32 = 65_536;

/// Rows of a write that is smaller than this travel inside the commit entry.
pub const INLINE_BYTES_MAX: usize = 16 * 1024;

/// Inline bytes of one table above which its writes take the file path until they are written out.
/// Inline bytes are held in memory and in snapshots by every node.
pub const INLINE_TABLE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Inline bytes of all tables together above which no write travels inside the commit entry.
pub const INLINE_TOTAL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Weight of one proposal (see `Proposal::weight`). Entries go to followers whole, within a heartbeat.
pub const PROPOSAL_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long an answer is remembered for its token. Well above the time for which a coordinator asks
/// again (see `coordinator`); about 40,000 commits a minute fit in a few megabytes.
pub const TOKEN_TTL_US: u64 = 120 * 1_000_000;

/// Answers that are remembered however old they are: a clock that jumps ahead must not make the log
/// forget what was asked a moment ago.
pub const TOKENS_MIN: usize = 10_000;

/// Answers that are remembered at most, however young: after such a jump time hardly moves.
pub const TOKENS_MAX: usize = 200_000;

/// Commits kept as history for `plexus.commits`.
pub const COMMIT_HISTORY_MAX: usize = 10_000;

/// How long a table remembers where rows went: longer than a transaction may be idle.
pub const RELOCATION_TTL_US: u64 = 120 * 1_000_000;

/// Bytes of one such note; a statement that began before a larger one runs into a conflict.
pub const RELOCATION_BYTES_MAX: usize = 256 * 1024;

/// Seconds of which the last version is remembered, for `TIMESTAMP AS OF`: a week of
/// writes in every second.
pub const CLOCK_SECONDS_MAX: usize = 600_000;

/// Bytes of a set of deleted rows up to which it travels in the log. Larger ones are files, and conflict
/// with every other deletion from their segment, since `apply` cannot compare them.
pub const INLINE_DELETION_BYTES_MAX: usize = 64 * 1024;

/// How long removed segments stay readable in tables that do not say: a day.
pub const RETENTION_DEFAULT_US: u64 = 24 * 60 * 60 * 1_000_000;

/// How long the record of a removed segment stays at least, so that running queries on other nodes find it.
pub const RETENTION_MIN_US: u64 = 10 * 60 * 1_000_000;

/// Age at which the staging table of a load is taken to be abandoned.
pub const STAGING_RETENTION_US: u64 = 24 * 60 * 60 * 1_000_000;
