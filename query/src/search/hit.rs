//! TODO module docs.

/// A row of a view, by its place among the views of a [`SearchSnapshot`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Hit {
    pub view: u32,
    pub row: u32,
}

/// Hits with their scores, the best first.
pub type Ranking = Vec<(f32, Hit)>;
