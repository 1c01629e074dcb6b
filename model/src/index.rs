//! Indexes of a table, by which its rows are searched.

use rkyv::{Archive, Deserialize, Serialize};

use crate::{Error, FileData, NodeId, Result, SegmentId};

/// How near two vectors are to each other. Smaller is nearer for all of them.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Metric {
    /// One less the cosine of their angle: from 0 to 2.
    Cosine,
    /// Euclidean.
    L2,
    /// The inner product with its sign changed.
    Dot,
}

impl Metric {
    /// # Errors
    /// `InvalidArgument` names what there is.
    pub fn named(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "cosine" => Ok(Self::Cosine),
            "l2" => Ok(Self::L2),
            "dot" => Ok(Self::Dot),
            _ => Err(Error::invalid(format!("metric {name:?} does not exist; there are cosine, l2, dot"))),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::L2 => "l2",
            Self::Dot => "dot",
        }
    }
}

/// An index as it was defined.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct IndexDefinition {
    /// Unique within its table for ever.
    pub id: u32,
    pub name: String,
    pub kind: IndexKind,
}

/// What an index is of. Columns are named by their ids.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum IndexKind {
    /// Words of texts, found by the terms that a tokenizer makes of them.
    Text { columns: Vec<u32>, tokenizer: String },
    /// Vectors, found by how near they are.
    Vector { column: u32, metric: Metric },
}

/// Rows from which a segment has an index of its vectors: fewer are looked at sooner.
const GRAPH_ROWS_MIN: u64 = 4_096;
/// Rows up to which it has one. Of vectors so short that a segment has more, an edge takes more than a component, and
/// looking at all is fast.
const GRAPH_ROWS_MAX: u64 = 1 << 20;

impl IndexKind {
    /// Whether a segment of so many rows has an index of this kind.
    pub fn is_worth(&self, rows: u64) -> bool {
        match self {
            Self::Text { .. } => true,
            Self::Vector { .. } => (GRAPH_ROWS_MIN..=GRAPH_ROWS_MAX).contains(&rows),
        }
    }

    /// What it is called in SQL.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Text { .. } => "text",
            Self::Vector { .. } => "vector",
        }
    }

    pub fn columns(&self) -> &[u32] {
        match self {
            Self::Text { columns, .. } => columns,
            Self::Vector { column, .. } => std::slice::from_ref(column),
        }
    }
}

/// The index of one segment, in a file of its own on the replicas of the shard. Made of the segment alone, so that it
/// can be made again.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct SegmentIndex {
    /// Id of its definition.
    pub index: u32,
    pub file: SegmentId,
    pub data: FileData,
    /// Who has it durably when it is proposed; empty once it is committed.
    pub acknowledged: Vec<NodeId>,
}
