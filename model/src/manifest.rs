//! The manifest: which segments make up every table, and who keeps them.
//!
//! A pure function of the log. Cloning it is cheap and pins it: the maps are persistent, so a later
//! commit copies only the path that it changes.

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;
use rkyv::{Archive, Deserialize, Serialize};

use crate::limits::RETENTION_DEFAULT_US;
use crate::{
    ClusterId, Error, NodeId, Outcome, Result, RowRelocation, Segment, SegmentId, TableId, TableSchema,
    Token, Version,
};

/// A table's name within the database.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TableName {
    pub schema: String,
    pub table: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> Self {
        Self { schema: schema.into(), table: table.into() }
    }
}

/// Where a load that creates its table gathers its rows, out of sight, until it renames the table. Not a
/// schema that can be named in SQL.
pub const STAGING_SCHEMA: &str = "$staging";

impl TableName {
    /// A name for a load in progress.
    pub fn staging() -> Self {
        Self::new(STAGING_SCHEMA, crate::Token::generate().to_string())
    }

    pub fn is_staging(&self) -> bool {
        self.schema == STAGING_SCHEMA
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// Which parts of the work a node takes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Roles {
    pub meta: bool,
    pub data: bool,
    pub query: bool,
}

impl Roles {
    pub const ALL: Self = Self { meta: true, data: true, query: true };
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(self.meta, "meta"), (self.data, "data"), (self.query, "query")];
        let on: Vec<&str> = names.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        f.write_str(&on.join(","))
    }
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct NodeRecord {
    pub id: NodeId,
    pub roles: Roles,
    /// `host:port` under which others reach it.
    pub flight: String,
    pub peer: String,
    pub http: String,
    pub live: bool,
}

/// One shard's replicas, best first.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Shard {
    pub replicas: Vec<NodeId>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Table {
    pub id: TableId,
    pub name: TableName,
    pub schema: Arc<TableSchema>,
    pub schema_version: u32,
    pub replicas: u32,
    pub shards: Arc<Vec<Shard>>,
    pub created: Version,
    pub created_time_us: u64,
    /// Version that dropped it. The record stays for running queries until it is purged.
    pub dropped: Option<Version>,
    pub dropped_time_us: u64,
    /// All segments, also removed ones that are not purged yet.
    pub segments: OrdMap<SegmentId, Arc<Segment>>,
    /// Bytes of inline segments, which are bounded.
    pub inline_bytes: u64,
    /// What it was called and made of before, oldest first.
    pub history: Vec<TableHistory>,
    /// Oldest version at which all its segments are there.
    pub oldest: Version,
    /// Version of the last change of its rows or its schema.
    pub changed: Version,
    /// Where the rows of segments went a moment ago, for statements that began before.
    pub relocations: OrdMap<SegmentId, Arc<SegmentRelocation>>,
}

/// Where the rows of a segment went.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct SegmentRelocation {
    pub from: SegmentId,
    /// Commit time, which decides how long it is remembered.
    pub time_us: u64,
    pub places: Vec<RowRelocation>,
}

/// The name and schema that a table had before a version.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct TableHistory {
    pub until: Version,
    pub name: TableName,
    pub schema: TableSchema,
    pub schema_version: u32,
}

impl Table {
    /// Whether it is there at `version`.
    pub fn exists_at(&self, version: Version) -> bool {
        self.created <= version && self.dropped.is_none_or(|dropped| dropped > version)
    }

    /// The table under the name and schema that it had at `version`.
    ///
    /// # Errors
    /// `NotFound` when it was not there yet or no more; `InvalidArgument` when that version was vacuumed.
    pub fn as_of(self: &Arc<Self>, version: Version) -> Result<Arc<Self>> {
        if version < self.created {
            return Err(Error::not_found(format!(
                "table {} was created by version {}, after version {version}",
                self.name, self.created
            )));
        }
        if let Some(dropped) = self.dropped.filter(|dropped| *dropped <= version) {
            return Err(Error::not_found(format!(
                "table {} was dropped by version {dropped}, not after version {version}",
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

    /// The segments that a read at `version` sees, in the order of their ids.
    pub fn visible(&self, version: Version) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.values().filter(move |segment| segment.is_visible_at(version))
    }

    /// Segments that no version from `until` on sees.
    pub fn garbage(&self, until: Version) -> impl Iterator<Item = &Arc<Segment>> {
        let gone = |at: Option<Version>| at.is_some_and(|at| at <= until);
        let all = gone(self.dropped);
        self.segments.values().filter(move |s| all || s.removed.is_some_and(|at| at <= until))
    }

    pub fn rows(&self, version: Version) -> u64 {
        self.visible(version).map(|s| s.live_rows(version)).sum()
    }
}

/// What the history keeps of a commit.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct CommitRecord {
    pub version: Version,
    pub time_us: u64,
    pub operation: String,
    pub tables: Vec<TableId>,
    pub rows_added: u64,
    pub rows_deleted: u64,
    pub segments_added: u32,
    pub segments_removed: u32,
    /// Of the longest statement in it, from its beginning to its proposal.
    pub duration_us: u64,
}

/// The answer to a token, and when it was given.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct TokenRecord {
    pub time_us: u64,
    pub outcome: Outcome,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Manifest {
    pub cluster: ClusterId,
    /// Index of the last entry applied.
    pub version: Version,
    /// Commit time of the last entry: never falls, whatever the proposers' clocks say.
    pub time_us: u64,
    pub nodes: OrdMap<NodeId, Arc<NodeRecord>>,
    pub schemas: OrdMap<String, Version>,
    pub tables: OrdMap<TableId, Arc<Table>>,
    /// Tables that are not dropped, by name.
    pub names: OrdMap<TableName, TableId>,
    pub tokens: OrdMap<Token, TokenRecord>,
    /// Tokens by time, oldest first.
    pub token_times: OrdMap<(u64, Token), ()>,
    pub commits: OrdMap<Version, Arc<CommitRecord>>,
    /// The last version of each second of commit time, by the second.
    pub clock: OrdMap<u64, Version>,
}

impl Manifest {
    pub fn table(&self, name: &TableName) -> Option<&Arc<Table>> {
        self.names.get(name).and_then(|id| self.tables.get(id))
    }

    /// Bytes of rows that are in the manifest itself.
    pub fn inline_bytes(&self) -> u64 {
        self.tables.values().map(|t| t.inline_bytes).sum()
    }

    /// The database as it was at `version`: its tables under the names and schemas of that time. Those
    /// whose segments of that time were vacuumed are left out.
    ///
    /// # Errors
    /// `InvalidArgument` when that version is yet to come.
    pub fn as_of(&self, version: Version) -> Result<Self> {
        if version > self.version {
            return Err(Error::invalid(format!(
                "version {version} is yet to come: the latest is {}",
                self.version
            )));
        }
        let tables: OrdMap<TableId, Arc<Table>> =
            self.tables.values().filter_map(|t| Some((t.id, t.as_of(version).ok()?))).collect();
        let names = tables.values().map(|t| (t.name.clone(), t.id)).collect();
        Ok(Self { version, tables, names, ..self.clone() })
    }

    /// The latest version that was committed at or before a time, in microseconds since 1970.
    ///
    /// # Errors
    /// `InvalidArgument` when that is before all that is remembered.
    pub fn version_at(&self, time_us: u64) -> Result<Version> {
        if time_us >= self.time_us {
            return Ok(self.version);
        }
        // Exact as far as the history goes; before it, to the second.
        let exact = self.commits.values().rev().find(|c| c.time_us <= time_us).map(|c| c.version);
        let second = (time_us / 1_000_000).checked_sub(1);
        let coarse = second.and_then(|s| self.clock.get_prev(&s)).map(|(_, version)| *version);
        exact.max(coarse).ok_or_else(|| {
            Error::invalid("there is no version from that time or before: it is older than the history")
        })
    }

    /// The record of a segment, whichever table it belongs to.
    pub fn segment(&self, id: SegmentId) -> Option<&Arc<Segment>> {
        self.tables.values().find_map(|table| table.segments.get(&id))
    }

    /// Nodes that keep data and answer, in the order of their ids.
    pub fn live_data_nodes(&self) -> Vec<NodeId> {
        self.nodes.values().filter(|n| n.live && n.roles.data).map(|n| n.id).collect()
    }

    /// The manifest as one archive: the same manifest always gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = IMAGE_FORMAT.to_le_bytes().to_vec();
        bytes.extend(crate::encode(&Image::from(self)));
        bytes
    }

    /// # Errors
    /// `Corrupt` when they are damaged, or of another format than this version reads.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (format, image) = bytes.split_at_checked(size_of::<u32>()).unwrap_or_default();
        let format = format.try_into().map(u32::from_le_bytes).unwrap_or_default();
        if format != IMAGE_FORMAT {
            return Err(Error::corrupt(format!(
                "manifest snapshot of format {format}: this version reads {IMAGE_FORMAT}"
            )));
        }
        crate::decode::<Image>("manifest snapshot", image).map(Self::from)
    }
}

/// The archived form. `names`, `token_times` and `inline_bytes` follow from the rest.
#[derive(Archive, Serialize, Deserialize)]
struct Image {
    cluster: ClusterId,
    version: Version,
    time_us: u64,
    nodes: Vec<NodeRecord>,
    schemas: Vec<(String, Version)>,
    tables: Vec<TableImage>,
    tokens: Vec<(Token, TokenRecord)>,
    commits: Vec<CommitRecord>,
    clock: Vec<(u64, Version)>,
}

#[derive(Archive, Serialize, Deserialize)]
struct TableImage {
    id: TableId,
    name: TableName,
    schema: TableSchema,
    schema_version: u32,
    replicas: u32,
    shards: Vec<Shard>,
    created: Version,
    created_time_us: u64,
    dropped: Option<Version>,
    dropped_time_us: u64,
    segments: Vec<Segment>,
    history: Vec<TableHistory>,
    oldest: Version,
    changed: Version,
    relocations: Vec<SegmentRelocation>,
}

/// In front of the archive, whose layout it names.
const IMAGE_FORMAT: u32 = 4;

impl From<&Manifest> for Image {
    fn from(m: &Manifest) -> Self {
        Self {
            cluster: m.cluster,
            version: m.version,
            time_us: m.time_us,
            nodes: m.nodes.values().map(|n| (**n).clone()).collect(),
            schemas: m.schemas.iter().map(|(name, version)| (name.clone(), *version)).collect(),
            tables: m
                .tables
                .values()
                .map(|t| TableImage {
                    id: t.id,
                    name: t.name.clone(),
                    schema: (*t.schema).clone(),
                    schema_version: t.schema_version,
                    replicas: t.replicas,
                    shards: (*t.shards).clone(),
                    created: t.created,
                    created_time_us: t.created_time_us,
                    dropped: t.dropped,
                    dropped_time_us: t.dropped_time_us,
                    segments: t.segments.values().map(|s| (**s).clone()).collect(),
                    history: t.history.clone(),
                    oldest: t.oldest,
                    changed: t.changed,
                    relocations: t.relocations.values().map(|m| (**m).clone()).collect(),
                })
                .collect(),
            tokens: m.tokens.iter().map(|(token, record)| (*token, record.clone())).collect(),
            commits: m.commits.values().map(|c| (**c).clone()).collect(),
            clock: m.clock.iter().map(|(second, version)| (*second, *version)).collect(),
        }
    }
}

impl From<Image> for Manifest {
    fn from(image: Image) -> Self {
        let tables: OrdMap<TableId, Arc<Table>> = image
            .tables
            .into_iter()
            .map(|t| {
                let segments: OrdMap<SegmentId, Arc<Segment>> =
                    t.segments.into_iter().map(|s| (s.id, Arc::new(s))).collect();
                let inline_bytes = segments.values().filter(|s| s.is_inline()).map(|s| s.bytes()).sum();
                let table = Table {
                    id: t.id,
                    name: t.name,
                    schema: Arc::new(t.schema),
                    schema_version: t.schema_version,
                    replicas: t.replicas,
                    shards: Arc::new(t.shards),
                    created: t.created,
                    created_time_us: t.created_time_us,
                    dropped: t.dropped,
                    dropped_time_us: t.dropped_time_us,
                    segments,
                    inline_bytes,
                    history: t.history,
                    oldest: t.oldest,
                    changed: t.changed,
                    relocations: t.relocations.into_iter().map(|m| (m.from, Arc::new(m))).collect(),
                };
                (table.id, Arc::new(table))
            })
            .collect();
        Self {
            cluster: image.cluster,
            version: image.version,
            time_us: image.time_us,
            nodes: image.nodes.into_iter().map(|n| (n.id, Arc::new(n))).collect(),
            schemas: image.schemas.into_iter().collect(),
            names: tables.values().filter(|t| t.dropped.is_none()).map(|t| (t.name.clone(), t.id)).collect(),
            tables,
            token_times: image.tokens.iter().map(|(token, record)| ((record.time_us, *token), ())).collect(),
            tokens: image.tokens.into_iter().collect(),
            commits: image.commits.into_iter().map(|c| (c.version, Arc::new(c))).collect(),
            clock: image.clock.into_iter().collect(),
        }
    }
}
