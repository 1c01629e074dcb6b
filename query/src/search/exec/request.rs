//! A search request: the retrievers and how their rankings become one result.

use std::hash::{DefaultHasher, Hash, Hasher};

use plexus_index::text::{Analyzer, TextQuery};
use plexus_model::TableId;

use crate::search::exec::cursor::Cursor;
use crate::search::exec::diversity::Diversity;
use crate::search::exec::fusion::Fusion;
use crate::search::exec::retriever::Retriever;
use crate::search::exec::search::ScoredRow;

/// One search, with all arguments of its call resolved against the table.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The retrievers with their weights.
    pub retrievers: Vec<(Retriever, f64)>,
    /// How several rankings become one. A single retriever keeps its own scores.
    pub fusion: Fusion,
    /// Rows to return.
    pub k: usize,
    /// Rows to skip at the top of the ranking.
    pub offset: usize,
    /// Rows of each retriever that are fused for the top of the ranking, or `k` if that is more.
    pub num_candidates: usize,
    /// Which rows are returned of those with the same value of a column.
    pub group_by: Option<GroupBy>,
    /// What rows have to reach.
    pub threshold: Option<Threshold>,
    /// Whether and how rows that are like each other are passed over.
    pub diversity: Option<Diversity>,
    /// The excerpt to return, if one is requested.
    pub highlight: Option<Highlight>,
    /// An SQL predicate that the rows must satisfy.
    pub filter: Option<String>,
    /// The end of the previous page.
    pub search_after: Option<Cursor>,
    /// Whether the result is read page by page. The first page has no cursor yet.
    pub paged: bool,
}

impl Request {
    /// Rows of each retriever that are fused for the top of the ranking. It is the same for all pages of a
    /// search.
    pub(crate) fn fused(&self) -> usize {
        match self.search_after {
            Some(cursor) => cursor.candidates,
            None => self.num_candidates.max(self.k),
        }
    }

    /// A hash of what decides the order of the rows of a table, so that a cursor continues only the search
    /// that it is of.
    pub(crate) fn ranking(&self, table: TableId) -> u64 {
        let Self { retrievers, fusion, group_by, threshold, filter, .. } = self;
        let ranking = format!("{retrievers:?} {fusion:?} {group_by:?} {threshold:?} {filter:?}");
        let mut hasher = DefaultHasher::new();
        (table, ranking).hash(&mut hasher);
        hasher.finish()
    }
}

/// The best rows of each value of a column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupBy {
    /// Position of the column in the table.
    pub column: usize,
    /// Rows of each value.
    pub size: usize,
}

/// What rows have to reach to be returned.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Threshold {
    /// The largest distance of a search by one vector.
    Distance(f64),
    /// The least score of the whole search.
    Score(f64),
}

impl Threshold {
    /// Whether a row reaches it.
    pub(crate) fn is_reached(self, row: &ScoredRow) -> bool {
        match self {
            Self::Score(least) => row.score >= least,
            Self::Distance(most) => {
                row.ranks.iter().flatten().next().is_some_and(|rank| f64::from(-rank.score) <= most)
            }
        }
    }
}

/// A column of which an excerpt around the matching terms is returned.
#[derive(Clone, Debug)]
pub(crate) struct Highlight {
    /// Position of the column in the table.
    pub column: usize,
    /// Length of the excerpt in bytes.
    pub length: usize,
    /// The queries to mark, each with the position of the column among its fields and its analyzer.
    pub marks: Vec<(TextQuery, usize, Analyzer)>,
}
