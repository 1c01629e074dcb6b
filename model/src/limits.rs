//! Limits and tunables of the data model, each with its unit and its reason.

/// Number of hash slots of a table. A shard owns a contiguous range of slots, so that shards can later be
/// split and joined.
pub(crate) const SLOTS: u32 = 65_536;

/// Seed of the slot hash. Frozen: another seed would move every row of every table to another shard.
pub(crate) const SLOT_SEED: u64 = 0x706c_6578_7573;

/// Shards of a table. More than this add files and connections without spreading the load any further.
pub const SHARDS_MAX: u32 = 1_024;

/// Replicas of a shard. A majority of seven survives three failures; more replicas only slow writes down.
pub const REPLICAS_MAX: u32 = 7;

/// Columns of a table. Every segment carries statistics of each.
pub(crate) const COLUMNS_MAX: usize = 2_000;

/// Indexes of a table. Every segment may carry a record of each.
pub(crate) const INDEXES_MAX: usize = 64;

/// Nesting depth of the type of a column.
pub const NESTING_MAX: usize = 32;

/// Bytes of the name of a schema, table, column or index.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// Bytes of a default, a check or an initial value. Every node holds them in memory with the table.
pub(crate) const EXPRESSION_BYTES_MAX: usize = 64 * 1024;

/// Components of a `VECTOR(n)` or `HALFVEC(n)`.
pub const VECTOR_DIMENSIONS_MAX: u32 = 65_536;

/// Bytes of rows of one write up to which they travel inside the commit entry, as inline segments.
pub const INLINE_BYTES_MAX: usize = 16 * 1024;

/// Rows that an inline segment of so many bytes may announce: a value takes a bit at least, and rows whose
/// values take nothing are few.
pub const fn inline_rows_max(bytes: usize) -> u64 {
    (bytes as u64).saturating_mul(8).saturating_add(1024 * 1024)
}

/// Inline bytes of one table above which its writes create files until a flush has made room. Every node
/// holds inline segments in memory and in its snapshots.
pub const INLINE_TABLE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Inline bytes of all tables together above which no write travels inside the commit entry.
pub const INLINE_TOTAL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Weight of one proposal, see [`Proposal::weight`](crate::Proposal::weight). An entry is sent to followers
/// as a whole; one of this size still arrives before the election timeout on a slow network.
pub const PROPOSAL_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Microseconds for which the outcome of a token is remembered. Must be well above the time for which a
/// coordinator retries. At 40,000 commits a minute the outcomes take a few megabytes.
pub const TOKEN_TTL_US: u64 = 120 * 1_000_000;

/// Outcomes that are remembered regardless of their age. A clock that jumps ahead must not make the log
/// forget the outcomes of proposals that are still being retried.
pub const TOKENS_MIN: usize = 10_000;

/// Outcomes that are remembered at most, regardless of their age. Bounds memory after the clock of a leader
/// jumped ahead: from then on commit times hardly advance, so no outcome expires by age.
pub const TOKENS_MAX: usize = 200_000;

/// Commits that are kept for `plexus.commits`.
pub const COMMIT_HISTORY_MAX: usize = 10_000;

/// Microseconds for which a table remembers row relocations. Longer than a transaction may be idle by
/// default.
pub const RELOCATION_TTL_US: u64 = 120 * 1_000_000;

/// Bytes of the relocation of one segment. A larger one is not recorded, and concurrent statements that
/// change its rows fail with a conflict.
pub const RELOCATION_BYTES_MAX: usize = 256 * 1024;

/// Seconds whose last version is remembered, for `TIMESTAMP AS OF`. Enough for a week with a write in every
/// second.
pub const CLOCK_SECONDS_MAX: usize = 600_000;

/// Bytes of a deletion vector up to which it travels in the log. A larger one is a file and conflicts with
/// every concurrent deletion from the same segment, because `apply` cannot read files to compare rows.
pub const INLINE_DELETION_BYTES_MAX: usize = 64 * 1024;

/// Microseconds for which removed segments stay readable in tables that do not set a retention: one day.
pub(crate) const RETENTION_DEFAULT_US: u64 = 24 * 60 * 60 * 1_000_000;

/// Microseconds for which the record of a removed segment is kept at least, so that queries that run on
/// other nodes still find it.
pub const RETENTION_MIN_US: u64 = 10 * 60 * 1_000_000;

/// Microseconds after which the staging table of a load counts as abandoned.
pub const STAGING_RETENTION_US: u64 = 24 * 60 * 60 * 1_000_000;
