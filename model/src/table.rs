//! Tables in the manifest: name, schema, placement and segments, with the history that time travel needs.

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;
use rkyv::{Archive, Deserialize, Serialize};

use crate::limits::RETENTION_DEFAULT_US;
use crate::{Error, NodeId, Result, RowRelocation, Segment, SegmentId, TableId, TableSchema, Token, Version};

/// The qualified name of a table.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TableName {
    /// Name of the schema, the namespace of the table.
    pub schema: String,
    /// Name of the table within the schema.
    pub table: String,
}

/// Schema of staging tables. A load that creates its table collects the rows in a staging table, and renames
/// it when all rows are there. SQL cannot name this schema.
pub const STAGING_SCHEMA: &str = "$staging";

impl TableName {
    /// The table `table` in the schema `schema`.
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> Self {
        Self { schema: schema.into(), table: table.into() }
    }

    /// A new unique name of a staging table.
    pub fn staging() -> Self {
        Self::new(STAGING_SCHEMA, Token::generate().to_string())
    }

    /// Whether this is the name of a staging table.
    pub fn is_staging(&self) -> bool {
        self.schema == STAGING_SCHEMA
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// The nodes that hold the replicas of one shard.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Shard {
    /// By descending rendezvous score.
    pub replicas: Vec<NodeId>,
}

/// A table, including its dropped and removed parts that are not vacuumed yet.
#[derive(Clone, PartialEq, Debug)]
pub struct Table {
    /// Unique in the cluster and never reused.
    pub id: TableId,
    /// The current name.
    pub name: TableName,
    /// The current schema.
    pub schema: Arc<TableSchema>,
    /// Counts the changes of the schema.
    pub schema_version: u32,
    /// Number of replicas that each shard should have.
    pub replicas: u32,
    /// The shards; [`Segment::shard`] is an index into them.
    pub shards: Arc<Vec<Shard>>,
    /// Version that created the table.
    pub created: Version,
    /// Commit time of `created`, in microseconds since 1970.
    pub created_time_us: u64,
    /// Version that dropped the table. The record stays for time travel and running queries until it is
    /// vacuumed.
    pub dropped: Option<Version>,
    /// Commit time of `dropped`, in microseconds since 1970. Zero while the table is not dropped.
    pub dropped_time_us: u64,
    /// All segments, including removed ones that are not vacuumed yet.
    pub segments: OrdMap<SegmentId, Arc<Segment>>,
    /// Total bytes of the inline segments. They are bounded, because every node holds them in memory.
    pub inline_bytes: u64,
    /// Earlier names and schemas, oldest first.
    pub history: Vec<TableHistory>,
    /// Oldest version that can be read: segments that only earlier versions see are vacuumed.
    pub oldest: Version,
    /// Version of the last change of the rows or the schema.
    pub changed: Version,
    /// Recent row relocations, by removed segment. Statements that began before a compaction or a flush use
    /// them to find their rows.
    pub relocations: OrdMap<SegmentId, Arc<SegmentRelocation>>,
}

/// Where the rows of a removed segment went.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct SegmentRelocation {
    /// The removed segment.
    pub from: SegmentId,
    /// Commit time in microseconds since 1970. Decides how long the relocation is remembered.
    pub time_us: u64,
    /// Runs of rows and their new places.
    pub places: Vec<RowRelocation>,
}

/// The name and schema of a table before a version.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct TableHistory {
    /// Version that replaced them: the first one at which they are not valid any more.
    pub until: Version,
    /// The former name.
    pub name: TableName,
    /// The former schema.
    pub schema: TableSchema,
    /// The former schema version.
    pub schema_version: u32,
}

impl Table {
    /// The table with the name and schema that it had at `version`, for time travel. The segments are not
    /// filtered: read them with [`Table::visible`].
    ///
    /// # Errors
    /// `NotFound` when the table did not exist at `version`. `InvalidArgument` when the version was vacuumed.
    pub fn as_of(self: &Arc<Self>, version: Version) -> Result<Arc<Self>> {
        if version < self.created {
            return Err(Error::not_found(format!(
                "table {} was created by version {}, after version {version}",
                self.name, self.created
            )));
        }
        if let Some(dropped) = self.dropped.filter(|dropped| *dropped <= version) {
            return Err(Error::not_found(format!(
                "table {} does not exist at version {version}: version {dropped} dropped it",
                self.name
            )));
        }
        if version < self.oldest {
            return Err(Error::invalid(format!(
                "version {version} of table {} was vacuumed; the oldest that can be read is {}",
                self.name, self.oldest
            )));
        }
        let Some(history) = self.history.iter().find(|history| history.until > version) else {
            return Ok(self.clone());
        };
        Ok(Arc::new(Self {
            name: history.name.clone(),
            schema: Arc::new(history.schema.clone()),
            schema_version: history.schema_version,
            ..(**self).clone()
        }))
    }

    /// How long removed segments stay readable, in microseconds.
    pub fn retention_us(&self) -> u64 {
        self.schema.retention_us.unwrap_or(RETENTION_DEFAULT_US)
    }

    /// The segments that a read at `version` sees, ordered by id.
    pub fn visible(&self, version: Version) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.values().filter(move |segment| segment.is_visible_at(version))
    }

    /// The segments that no version from `until` on can see.
    pub fn garbage(&self, until: Version) -> impl Iterator<Item = &Arc<Segment>> {
        let is_dropped = self.dropped.is_some_and(|dropped| dropped <= until);
        self.segments
            .values()
            .filter(move |s| is_dropped || s.removed.is_some_and(|removed| removed <= until))
    }

    /// Whether a vacuum up to `until` has anything to remove: data or history that no version from `until` on
    /// needs.
    pub fn has_garbage(&self, until: Version) -> bool {
        self.dropped.is_some_and(|dropped| dropped <= until)
            || self.history.iter().any(|history| history.until <= until)
            || self.garbage(until).next().is_some()
    }

    /// Upper bound of the rows at `version`: a flushed segment may have newer rows too.
    pub fn rows(&self, version: Version) -> u64 {
        self.visible(version).map(|s| s.live_rows(version)).sum()
    }
}
