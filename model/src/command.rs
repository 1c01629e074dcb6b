//! What can be proposed to the log, and what `apply` answers.

use rkyv::{Archive, Deserialize, Serialize};

use crate::{
    ClusterId, ColumnStatistics, Error, ErrorKind, NodeId, NodeRecord, Result, Segment, SegmentId, TableId,
    TableName, TableSchema, Token, Version, cut,
};

/// A command with the token that makes it safe to repeat.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Proposal {
    pub token: Token,
    pub command: Command,
}

/// About what a record takes beside what its parts say of themselves; names are bounded.
const RECORD_BYTES: usize = 256;

impl Proposal {
    /// About how many bytes it takes in the log: what the size of an entry is bounded by.
    pub fn weight(&self) -> usize {
        RECORD_BYTES
            + match &self.command {
                Command::Commit(commit) => commit
                    .changes
                    .iter()
                    .map(|c| {
                        c.add.iter().map(NewSegment::weight).sum::<usize>()
                            + c.remove.len() * size_of::<SegmentId>()
                    })
                    .sum(),
                Command::CreateTable(create) => create.schema.columns.len() * RECORD_BYTES,
                _ => 0,
            }
    }
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub enum Command {
    /// Names the cluster; the first entry of its log.
    Bootstrap {
        cluster: ClusterId,
    },
    /// Adds a node or updates its addresses and roles.
    RegisterNode(NodeRecord),
    /// Gives every shard that a node keeps one replica more, on another node. The node goes on serving
    /// until the others have what it has.
    DrainNode(NodeId),
    /// Forgets a node that was drained.
    RemoveNode(NodeId),
    /// What the leader has seen of a node.
    SetLiveness {
        node: NodeId,
        live: bool,
    },
    CreateSchema {
        name: String,
        if_not_exists: bool,
    },
    DropSchema {
        name: String,
        if_exists: bool,
    },
    CreateTable(CreateTable),
    DropTable {
        name: TableName,
        if_exists: bool,
    },
    /// Gives a table another name; one that has it already is dropped in the same entry if `replace`.
    RenameTable {
        from: TableName,
        to: TableName,
        replace: bool,
    },
    /// Makes segments visible and others invisible, in all named tables at once.
    Commit(Commit),
    /// Forgets the records of segments and tables that were removed at or before this time.
    Purge {
        removed_until_us: u64,
    },
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct CreateTable {
    pub name: TableName,
    pub schema: TableSchema,
    pub shards: u32,
    pub replicas: u32,
    pub if_not_exists: bool,
    /// Replaces a table of that name in the same entry.
    pub or_replace: bool,
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
pub struct Commit {
    pub changes: Vec<TableChange>,
    /// What the statement was, for the history: `insert`, `ingest`, `write out`.
    pub operation: String,
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct TableChange {
    pub table: TableId,
    /// The schema that the segments were checked against.
    pub schema_version: u32,
    pub add: Vec<NewSegment>,
    pub remove: Vec<SegmentId>,
}

/// A segment to be made visible; `acknowledged` inside names who has it durably.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct NewSegment(pub Segment);

impl NewSegment {
    /// About how many bytes it takes in the log.
    pub fn weight(&self) -> usize {
        let inline = if self.0.is_inline() { self.0.bytes() as usize } else { 0 };
        inline + RECORD_BYTES + self.0.columns.len() * size_of::<ColumnStatistics>()
    }
}

/// What `apply` answers to one proposal.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub enum Outcome {
    /// Done; visible from this version on.
    Applied { version: Version, time_us: u64, table: Option<TableId> },
    /// Nothing was changed.
    Rejected { kind: ErrorKind, message: String },
}

/// Length of the words of a rejection.
const REJECTION_BYTES_MAX: usize = 2 * 1024;

impl Outcome {
    pub fn rejected(error: &Error) -> Self {
        // It is kept with its token, on every node.
        Self::Rejected { kind: error.kind(), message: cut(error.message(), REJECTION_BYTES_MAX) }
    }

    /// The version that a success produced, or the rejection as an error.
    pub fn into_result(self) -> Result<Applied> {
        match self {
            Self::Applied { version, time_us, table } => Ok(Applied { version, time_us, table }),
            Self::Rejected { kind, message } => Err(Error::new(kind, message)),
        }
    }
}

/// A success, as a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied {
    pub version: Version,
    pub time_us: u64,
    pub table: Option<TableId>,
}
