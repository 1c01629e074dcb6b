//! What can be proposed to the log, and what `apply` answers.

use rkyv::{Archive, Deserialize, Serialize};

use crate::{
    ClusterId, DeletionVector, DeletionVectorData, Error, ErrorKind, NodeId, NodeRecord, Result, Segment,
    SegmentId, SegmentIndex, TableId, TableName, TableSchema, Token, Version, cut,
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
                Command::Commit(commit) => {
                    let changes: usize = commit.changes.iter().map(TableChange::weight).sum();
                    changes + commit.alter.iter().map(AlterTable::weight).sum::<usize>()
                }
                Command::CreateTable(create) => create.schema.columns.len() * RECORD_BYTES,
                Command::AlterTable(alter) => alter.weight(),
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
    AlterTable(AlterTable),
    /// Gives a table another name; one that has it already is dropped in the same entry if `replace`.
    RenameTable {
        from: TableName,
        to: TableName,
        replace: bool,
    },
    /// Makes segments visible and others invisible, in all named tables at once.
    Commit(Commit),
    /// Forgets what no version from this one on sees of a table, be it dropped or not.
    Vacuum {
        table: TableId,
        until: Version,
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

/// Gives a table another schema. Segments stay as they are.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct AlterTable {
    pub table: TableId,
    /// The schema that the new one was made from.
    pub schema_version: u32,
    pub schema: TableSchema,
    /// Version whose rows were found to fit the new schema, when it asks for more than the old one.
    pub base: Option<Version>,
}

impl AlterTable {
    fn weight(&self) -> usize {
        (self.schema.columns.len() + self.schema.indexes.len()) * RECORD_BYTES
    }
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
pub struct Commit {
    /// Schemas that change before the rows do.
    pub alter: Vec<AlterTable>,
    pub changes: Vec<TableChange>,
    /// Tables whose rows must be those of the change's base still, though it does not change them: what a
    /// serializable transaction read.
    pub unchanged: Vec<(TableId, Version)>,
    /// What the statement was, for the history: `insert`, `ingest`, `write out`.
    pub operation: String,
    /// From the beginning of the statement to the proposal.
    pub duration_us: u64,
}

/// What a change does to the rows of its table.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    /// Rows are new, or gone.
    Write,
    /// The added segments hold the rows that the removed ones held.
    Move,
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct TableChange {
    pub table: TableId,
    /// The schema that the segments were checked against.
    pub schema_version: u32,
    /// Version of the manifest that the change was computed from.
    pub base: Version,
    pub kind: ChangeKind,
    pub add: Vec<NewSegment>,
    /// Segments that nothing was deleted from after `base`.
    pub remove: Vec<SegmentId>,
    /// Rows of segments that nobody else deleted after `base`.
    pub delete: Vec<(SegmentId, DeletionVector)>,
    /// Rows that leave the log for files.
    pub flush: Vec<Flush>,
    /// Where the rows of removed segments went: lets `apply` take along what was deleted after `base`.
    pub relocations: Vec<RowRelocation>,
    /// Indexes of segments that have none yet of that definition. They change no rows.
    pub index: Vec<(SegmentId, SegmentIndex)>,
}

/// Rows of a removed segment that an added one holds, in the same order and one after the other.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct RowRelocation {
    pub from: SegmentId,
    pub to: SegmentId,
    /// Position of the first of them.
    pub offset: u32,
    /// Which rows, as [`crate::encode_row_set`] writes them.
    pub rows: Vec<u8>,
}

/// All rows of inline segments, in this order, as one file. It takes their place at all versions.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Flush {
    pub from: Vec<SegmentId>,
    pub segment: NewSegment,
}

impl TableChange {
    /// A change that does nothing yet.
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

    fn weight(&self) -> usize {
        let ids = self.remove.len() + self.flush.iter().map(|e| e.from.len()).sum::<usize>();
        let added = self.add.iter().chain(self.flush.iter().map(|e| &e.segment));
        let deleted = self.delete.iter().map(|(_, d)| deletion_vector_weight(d));
        let moved = self.relocations.iter().map(|m| m.rows.len() + RECORD_BYTES / 4);
        added.map(NewSegment::weight).sum::<usize>()
            + self.index.len() * RECORD_BYTES / 2
            + moved.sum::<usize>()
            + deleted.sum::<usize>()
            + ids * size_of::<SegmentId>()
    }
}

/// About how many bytes a deletion takes in the log.
fn deletion_vector_weight(deletion: &DeletionVector) -> usize {
    RECORD_BYTES / 4
        + match &deletion.rows {
            DeletionVectorData::Inline(bytes) => bytes.len(),
            DeletionVectorData::File { acknowledged, .. } => acknowledged.len() * size_of::<NodeId>(),
        }
}

/// A segment to be made visible; `acknowledged` inside names who has it durably.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct NewSegment(pub Segment);

impl NewSegment {
    /// About how many bytes it takes in the log.
    pub fn weight(&self) -> usize {
        let inline = if self.0.is_inline() { self.0.bytes() as usize } else { 0 };
        let keys = self.0.keys.len() * size_of::<u64>();
        let deletions: usize = self.0.deletions.iter().map(deletion_vector_weight).sum();
        inline + RECORD_BYTES + keys + deletions + self.0.statistics.weight()
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
