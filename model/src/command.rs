//! Proposals to the metadata log, and the outcomes that `apply` returns for them.

use rkyv::{Archive, Deserialize, Serialize};

use crate::{
    ClusterId, DeletionVector, DeletionVectorData, Error, ErrorKind, NodeId, NodeRecord, Result, Secret,
    Segment, SegmentId, SegmentIndex, TableId, TableName, TableSchema, Token, Version, cut,
};

/// A command with the idempotency token that makes it safe to retry.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Proposal {
    /// Identifies the attempt. A repeated token returns the recorded outcome.
    pub token: Token,
    /// What to change.
    pub command: Command,
}

/// Estimated size of a record without its variable parts, in bytes. Names are bounded in length.
const RECORD_OVERHEAD_BYTES: usize = 256;

impl Proposal {
    /// Size in the log, in bytes. The size of a log entry is bounded by it, so everything counts.
    pub fn weight(&self) -> usize {
        crate::encode(self).len()
    }
}

/// A change of the manifest.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub enum Command {
    /// Sets the id and the secret of the cluster. The first entry of its log.
    Bootstrap {
        /// The id.
        cluster: ClusterId,
        /// The secret.
        secret: Secret,
    },
    /// Adds a node, or updates its addresses and roles.
    RegisterNode(NodeRecord),
    /// Adds a replica on another node to every shard that the node holds. The node keeps serving reads until
    /// the new replicas are complete.
    DrainNode(NodeId),
    /// Removes a drained node from the manifest.
    RemoveNode(NodeId),
    /// Records whether the leader considers a node alive.
    SetLiveness {
        /// The node.
        node: NodeId,
        /// Whether it answers.
        live: bool,
    },
    /// Creates a schema, the namespace of tables.
    CreateSchema {
        /// Name of the schema.
        name: String,
        /// Succeed without effect when the schema exists.
        if_not_exists: bool,
    },
    /// Drops an empty schema.
    DropSchema {
        /// Name of the schema.
        name: String,
        /// Succeed without effect when the schema does not exist.
        if_exists: bool,
    },
    /// Creates a table.
    CreateTable(CreateTable),
    /// Drops a table. Older versions of it stay readable until they are vacuumed.
    DropTable {
        /// Name of the table.
        name: TableName,
        /// Succeed without effect when the table does not exist.
        if_exists: bool,
    },
    /// Changes the schema of a table.
    AlterTable(AlterTable),
    /// Renames a table.
    RenameTable {
        /// The current name.
        from: TableName,
        /// The new name.
        to: TableName,
        /// Drop the table that has the new name already, in the same entry.
        replace: bool,
    },
    /// Adds and removes segments of all named tables at once.
    Commit(Commit),
    /// Purges the segments of a table that no version from `until` on can see. The table may be dropped.
    Vacuum {
        /// The table.
        table: TableId,
        /// The oldest version that stays readable.
        until: Version,
    },
}

/// The definition of a new table.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct CreateTable {
    /// Name of the table.
    pub name: TableName,
    /// Columns, keys, checks and indexes.
    pub schema: TableSchema,
    /// Number of shards. Fixed for the lifetime of the table.
    pub shards: u32,
    /// Number of replicas of each shard.
    pub replicas: u32,
    /// Succeed without effect when the table exists.
    pub if_not_exists: bool,
    /// Drop an existing table of that name in the same entry.
    pub or_replace: bool,
}

/// Replaces the schema of a table. Existing segments are not rewritten; readers adapt their rows.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct AlterTable {
    /// The table.
    pub table: TableId,
    /// Version of the schema that the new one was derived from. Another one at `apply` is a conflict.
    pub schema_version: u32,
    /// The new schema.
    pub schema: TableSchema,
    /// Version of the manifest at which all rows were checked against a new constraint. `None` when the new
    /// schema adds no constraint.
    pub base: Option<Version>,
}

/// An atomic change of the rows and schemas of any number of tables.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
pub struct Commit {
    /// Schema changes. They apply before the changes of rows.
    pub alter: Vec<AlterTable>,
    /// Changes of rows, by table.
    pub changes: Vec<TableChange>,
    /// Tables that a serializable transaction read but does not change, each with the version that it read.
    /// A later change of their rows is a conflict.
    pub unchanged: Vec<(TableId, Version)>,
    /// The kind of statement for the commit history, such as `insert` or `ingest`.
    pub operation: String,
    /// Microseconds from the beginning of the statement to the proposal.
    pub duration_us: u64,
}

impl Commit {
    /// Whether it makes segments invisible and writes nothing.
    pub fn only_removes(&self) -> bool {
        let removes = |change: &TableChange| {
            change.add.is_empty()
                && change.delete.is_empty()
                && change.flush.is_empty()
                && change.index.is_empty()
        };
        self.alter.is_empty() && self.changes.iter().all(removes)
    }
}

/// What a change does to the rows of its table.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    /// Adds or deletes rows.
    Write,
    /// Only relocates rows: the added segments hold the live rows of the removed ones, as after compaction.
    Relocate,
}

/// The change of one table in a [`Commit`].
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct TableChange {
    /// The table.
    pub table: TableId,
    /// Version of the schema that the segments were checked against.
    pub schema_version: u32,
    /// Version of the manifest that the change was computed from.
    pub base: Version,
    /// Whether the change affects the content of the table.
    pub kind: ChangeKind,
    /// New segments.
    pub add: Vec<NewSegment>,
    /// Segments that become invisible. A deletion from one of them after `base` is a conflict, unless
    /// `relocations` allows to carry it over.
    pub remove: Vec<SegmentId>,
    /// Deleted rows, by segment. A row that another commit deleted after `base` is a conflict.
    pub delete: Vec<(SegmentId, DeletionVector)>,
    /// Inline segments that move from the log to files.
    pub flush: Vec<Flush>,
    /// Where the rows of removed segments went. `apply` uses it to carry deletions that were committed after
    /// `base` over to the new segments.
    pub relocations: Vec<RowRelocation>,
    /// Index files of segments that have none of that definition yet. They change no rows.
    pub index: Vec<(SegmentId, SegmentIndex)>,
}

/// A run of rows that moved from a removed segment to an added one. The rows keep their order and are
/// contiguous in the added segment.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct RowRelocation {
    /// The removed segment.
    pub from: SegmentId,
    /// The added segment.
    pub to: SegmentId,
    /// Position of the first of these rows in the added segment.
    pub offset: u32,
    /// Positions of the rows in the removed segment, encoded by [`encode_row_set`](crate::encode_row_set).
    pub rows: Vec<u8>,
}

/// A flush: one file that holds all rows of inline segments, in the order of `from`. It replaces them at all
/// versions.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Flush {
    /// The inline segments.
    pub from: Vec<SegmentId>,
    /// The file segment.
    pub segment: NewSegment,
}

impl TableChange {
    /// A change without any effect yet.
    pub fn new(table: TableId, schema_version: u32, base: Version, kind: ChangeKind) -> Self {
        Self {
            table,
            schema_version,
            base,
            kind,
            add: vec![],
            remove: vec![],
            delete: vec![],
            flush: vec![],
            relocations: vec![],
            index: vec![],
        }
    }
}

/// Estimated size of a deletion vector in the log, in bytes.
fn deletion_vector_weight(deletion: &DeletionVector) -> usize {
    RECORD_OVERHEAD_BYTES / 4
        + match &deletion.rows {
            DeletionVectorData::Inline(bytes) => bytes.len(),
            DeletionVectorData::File { acknowledged, .. } => acknowledged.len() * size_of::<NodeId>(),
        }
}

/// A segment that a commit adds. [`Segment::acknowledged`] lists the nodes that have made it durable.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct NewSegment(
    /// The record that enters the manifest.
    pub Segment,
);

impl NewSegment {
    /// Estimated size in the log, in bytes.
    pub fn weight(&self) -> usize {
        let inline = if self.0.is_inline() { self.0.bytes() as usize } else { 0 };
        let keys = self.0.keys.len() * size_of::<u64>();
        let deletions: usize = self.0.deletions.iter().map(deletion_vector_weight).sum();
        inline + RECORD_OVERHEAD_BYTES + keys + deletions + self.0.statistics.encoded_len()
    }
}

/// The result of applying one proposal.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub enum Outcome {
    /// The command took effect.
    Applied {
        /// The version from which on the effect is visible.
        version: Version,
        /// Commit time in microseconds since 1970.
        time_us: u64,
        /// The table that the command created, altered, renamed or dropped.
        table: Option<TableId>,
    },
    /// The command was refused and changed nothing.
    Rejected {
        /// Kind of the error.
        kind: ErrorKind,
        /// Message of the error.
        message: String,
    },
}

/// Bytes of the message of a rejection. Every node remembers it together with its token.
const REJECTION_BYTES_MAX: usize = 2 * 1024;

impl Outcome {
    /// A rejection with the kind and the message of `error`. A long message is truncated.
    pub fn rejected(error: &Error) -> Self {
        Self::Rejected { kind: error.kind(), message: cut(error.message(), REJECTION_BYTES_MAX) }
    }

    /// Converts to a `Result`.
    ///
    /// # Errors
    /// The error of a rejection.
    pub fn into_result(self) -> Result<Applied> {
        match self {
            Self::Applied { version, time_us, table } => Ok(Applied { version, time_us, table }),
            Self::Rejected { kind, message } => Err(Error::new(kind, message)),
        }
    }
}

/// The content of [`Outcome::Applied`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied {
    /// The version from which on the effect is visible.
    pub version: Version,
    /// Commit time in microseconds since 1970.
    pub time_us: u64,
    /// The table that the command created, altered, renamed or dropped.
    pub table: Option<TableId>,
}
