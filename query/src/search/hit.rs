//! Rows that a retriever found: their positions and scores.

/// The position of a row in a [`SearchSnapshot`](crate::search::SearchSnapshot).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Hit {
    /// Index of the segment among the views of the snapshot.
    pub view: u32,
    /// Position of the row in the segment.
    pub row: u32,
}

/// Hits with their scores, the best first. A higher score is better; a vector's score is its negated
/// distance.
pub(crate) type Ranking = Vec<(f32, Hit)>;
