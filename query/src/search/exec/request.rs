//! A search request: the retrievers and how their rankings become one result.

use plexus_index::text::{Analyzer, TextQuery};

use crate::search::exec::cursor::Cursor;
use crate::search::exec::fusion::Fusion;
use crate::search::exec::retriever::Retriever;

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
    /// Position of the column of whose values only the best row each is returned.
    pub group_by: Option<usize>,
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
