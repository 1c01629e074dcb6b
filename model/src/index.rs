//! Search indexes: their definitions in a table's schema, and the index files of single segments.

use rkyv::{Archive, Deserialize, Serialize};

use crate::{Error, FileData, NodeId, Result, SegmentId};

/// The distance of two vectors. A smaller value means more similar vectors for every metric.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Metric {
    /// Cosine distance: one minus the cosine of the angle, from 0 to 2.
    Cosine,
    /// Euclidean distance.
    L2,
    /// The negated inner product.
    Dot,
}

impl Metric {
    /// The metric of this name, in any case.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown name; the message lists the known ones.
    pub fn from_name(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "cosine" => Ok(Self::Cosine),
            "l2" => Ok(Self::L2),
            "dot" => Ok(Self::Dot),
            _ => Err(Error::invalid(format!("unknown metric {name:?}: expected cosine, l2 or dot"))),
        }
    }

    /// The name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::L2 => "l2",
            Self::Dot => "dot",
        }
    }
}

/// The definition of an index in the schema of its table.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct IndexDefinition {
    /// Unique within the table and never reused.
    pub id: u32,
    /// Unique among the current indexes of the table.
    pub name: String,
    /// What is indexed, and how.
    pub kind: IndexKind,
}

/// The type and the columns of an index. Columns are given by id.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum IndexKind {
    /// Full-text index: an inverted index of the terms of all columns.
    Text {
        /// Ids of the indexed columns.
        columns: Vec<u32>,
        /// Name of the tokenizer that splits values into terms.
        tokenizer: String,
    },
    /// Vector index: a graph for nearest-neighbor search.
    Vector {
        /// Id of the indexed column.
        column: u32,
        /// The distance by which neighbors are chosen.
        metric: Metric,
    },
}

/// Segments with fewer rows get no vector index: a brute-force scan is faster.
const GRAPH_ROWS_MIN: u64 = 4_096;
/// Segments with more rows get no vector index. Only very short vectors reach this many rows in a segment;
/// for those the graph edges take more space than the vectors, and a brute-force scan is fast.
const GRAPH_ROWS_MAX: u64 = 1 << 20;

impl IndexKind {
    /// Whether a segment of `rows` rows gets an index file of this kind.
    pub fn applies_to(&self, rows: u64) -> bool {
        match self {
            Self::Text { .. } => true,
            Self::Vector { .. } => (GRAPH_ROWS_MIN..=GRAPH_ROWS_MAX).contains(&rows),
        }
    }

    /// The name in SQL.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Text { .. } => "text",
            Self::Vector { .. } => "vector",
        }
    }

    /// Ids of the indexed columns.
    pub fn columns(&self) -> &[u32] {
        match self {
            Self::Text { columns, .. } => columns,
            Self::Vector { column, .. } => std::slice::from_ref(column),
        }
    }
}

/// The index file of one segment, on the replicas of its shard. It is derived from the segment alone, so that
/// a lost one can be rebuilt.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct SegmentIndex {
    /// Id of its [`IndexDefinition`].
    pub index: u32,
    /// Id of the file.
    pub file: SegmentId,
    /// Size and checksum of the file.
    pub data: FileData,
    /// Nodes that have made the file durable, at the time of the proposal. Empty once it is committed.
    pub acknowledged: Vec<NodeId>,
}
