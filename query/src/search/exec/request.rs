//! TODO module docs.

use plexus_index::text::{Analyzer, TextQuery};

use crate::search::exec::cursor::Cursor;
use crate::search::exec::fusion::Fusion;
use crate::search::exec::retriever::Retriever;

/// What is searched for, and how what is found is put together.
#[derive(Clone, Debug)]
pub struct Request {
    /// Each with its weight.
    pub retrievers: Vec<(Retriever, f64)>,
    /// How several become one; with one retriever its own scores count.
    pub fusion: Fusion,
    pub k: usize,
    /// So many of the best are left out.
    pub offset: usize,
    /// How many rows of each retriever are fused.
    pub num_candidates: usize,
    /// Column, by its place, of whose values only the best row each is found.
    pub group_by: Option<usize>,
    pub highlight: Option<Highlight>,
    /// A predicate in SQL that rows fulfil to be found.
    pub filter: Option<String>,
    pub search_after: Option<Cursor>,
    /// Whether its rows are read page by page.
    pub paged: bool,
}

impl Request {
    /// How many rows of each retriever are fused: of all pages as of the first.
    pub fn fused(&self) -> usize {
        match self.search_after {
            Some(cursor) => cursor.candidates,
            None => self.num_candidates.max(self.offset + self.k),
        }
    }
}

/// A column of which the view is shown that was found.
#[derive(Clone, Debug)]
pub struct Highlight {
    /// RetrieverRank in the table.
    pub column: usize,
    /// Bytes of the text.
    pub length: usize,
    /// What to mark: a query, the place of the column among its fields, and its analyzer.
    pub marks: Vec<(TextQuery, usize, Analyzer)>,
}
