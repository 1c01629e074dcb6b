//! The manifest: which segments make up every table at every version, and which nodes hold them.
//!
//! The manifest is a pure function of the metadata log. A clone is cheap and pins a snapshot: the maps are
//! persistent, so a later commit copies only the paths that it changes.

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;
use rkyv::{Archive, Deserialize, Serialize};

use crate::{
    ClusterId, Error, NodeId, Outcome, Result, Secret, Segment, SegmentId, Table, TableId, TableName, Token,
    Version,
};

/// The roles of a node. A node has at least one.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Roles {
    /// Votes in the metadata quorum.
    pub meta: bool,
    /// Stores segments.
    pub data: bool,
    /// Accepts clients and runs queries.
    pub query: bool,
}

impl Roles {
    /// All three roles.
    pub const ALL: Self = Self { meta: true, data: true, query: true };
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles = [(self.meta, "meta"), (self.data, "data"), (self.query, "query")];
        let enabled: Vec<&str> = roles.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        f.write_str(&enabled.join(","))
    }
}

/// A node of the cluster.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct NodeRecord {
    /// Unique in the cluster and never reused.
    pub id: NodeId,
    /// What the node does.
    pub roles: Roles,
    /// Address of the Flight SQL server, as `host:port`.
    pub flight: String,
    /// Address for connections between nodes, as `host:port`.
    pub peer: String,
    /// Address of the HTTP server, as `host:port`.
    pub http: String,
    /// Whether the leader considers the node alive.
    pub live: bool,
}

/// An entry of the commit history.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct CommitRecord {
    /// The version that the commit produced.
    pub version: Version,
    /// Commit time in microseconds since 1970.
    pub time_us: u64,
    /// The kinds of its statements.
    pub operation: String,
    /// The tables that it changed.
    pub tables: Vec<TableId>,
    /// Number of rows that it added.
    pub rows_added: u64,
    /// Number of rows that it deleted.
    pub rows_deleted: u64,
    /// Number of segments that it added.
    pub segments_added: u32,
    /// Number of segments that it removed.
    pub segments_removed: u32,
    /// Microseconds from the beginning to the proposal of its longest statement.
    pub duration_us: u64,
}

/// The recorded outcome of a token.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct TokenRecord {
    /// Commit time in microseconds since 1970. Decides how long the outcome is remembered.
    pub time_us: u64,
    /// The outcome of the first proposal with this token.
    pub outcome: Outcome,
}

/// The state of the database: what every version contains, and where it is stored.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Manifest {
    /// Zero until the cluster is bootstrapped.
    pub cluster: ClusterId,
    /// Zero until the cluster is bootstrapped.
    pub secret: Secret,
    /// Index of the last applied log entry.
    pub version: Version,
    /// Commit time of the last applied entry, in microseconds since 1970. Strictly increasing, even when the
    /// clock of a leader goes back.
    pub time_us: u64,
    /// The nodes of the cluster.
    pub nodes: OrdMap<NodeId, Arc<NodeRecord>>,
    /// Schemas by name, each with the version that created it.
    pub schemas: OrdMap<String, Version>,
    /// All tables, including dropped ones that are not vacuumed yet.
    pub tables: OrdMap<TableId, Arc<Table>>,
    /// The tables that are not dropped, by name.
    pub names: OrdMap<TableName, TableId>,
    /// Outcomes of recent proposals.
    pub tokens: OrdMap<Token, TokenRecord>,
    /// The keys of `tokens` ordered by time, for expiry.
    pub token_times: OrdMap<(u64, Token), ()>,
    /// Recent commits.
    pub commits: OrdMap<Version, Arc<CommitRecord>>,
    /// The last version of each second of commit time, by seconds since 1970. Reaches further back than
    /// `commits`.
    pub clock: OrdMap<u64, Version>,
}

impl Manifest {
    /// The table of this name, unless it is dropped.
    pub fn table(&self, name: &TableName) -> Option<&Arc<Table>> {
        self.names.get(name).and_then(|id| self.tables.get(id))
    }

    /// Total bytes of the inline segments of all tables.
    pub fn inline_bytes(&self) -> u64 {
        self.tables.values().map(|t| t.inline_bytes).sum()
    }

    /// The database as it was at `version`, for time travel: its tables with the names and schemas that they
    /// had. Tables that were vacuumed past `version` are missing.
    ///
    /// # Errors
    /// `InvalidArgument` when `version` is after the latest one.
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

    /// The latest version that was committed at or before `time_us`, in microseconds since 1970.
    ///
    /// The answer is exact as far back as the commit history reaches. Before that it is the last version of
    /// an earlier second.
    ///
    /// # Errors
    /// `InvalidArgument` when no version of that age is remembered.
    pub fn version_at(&self, time_us: u64) -> Result<Version> {
        if time_us >= self.time_us {
            return Ok(self.version);
        }
        let exact = self.commits.values().rev().find(|c| c.time_us <= time_us).map(|c| c.version);
        let second = (time_us / 1_000_000).checked_sub(1);
        let by_second = second.and_then(|s| self.clock.get_prev(&s)).map(|(_, version)| *version);
        exact.max(by_second).ok_or_else(|| {
            Error::invalid("no version is known at or before this time: it is older than the commit history")
        })
    }

    /// The segment with this id, whichever table it belongs to.
    pub fn segment(&self, id: SegmentId) -> Option<&Arc<Segment>> {
        self.tables.values().find_map(|table| table.segments.get(&id))
    }

    /// The live nodes that store data, ordered by id.
    pub fn live_data_nodes(&self) -> Vec<NodeId> {
        self.nodes.values().filter(|n| n.live && n.roles.data).map(|n| n.id).collect()
    }
}
