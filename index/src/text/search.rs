//! Evaluating a query on the index of one segment.

use std::sync::Arc;

use plexus_model::{Error, Result, RowSelection, RowSet};
use tantivy::directory::OwnedBytes;
use tantivy::schema::IndexRecordOption;

use super::block_max_maxscore::block_max_maxscore;
use super::bm25::{GlobalStatistics, Norms};
use super::conjunction::conjunction;
use super::cursor::{AtLeastCursor, BoolCursor, ConstantScoreCursor, Cursor, END};
use super::index::TextIndex;
use super::phrase::PhraseCursor;
use super::query::{Pattern, ScoredTerm, TextQuery};
use super::term_cursor::TermCursor;
use super::term_expansion::{rows_with_pattern, rows_with_prefix, rows_with_similar};
use super::term_scorer::{FlatQuery, TermScorer};
use super::weighted_query::{Leaf, WeightedQuery};

/// A row that matches a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextHit {
    /// The row of the segment.
    pub row: u32,
    /// The BM25 score; higher is better.
    pub score: f32,
}

/// A query with the weights of its terms. It depends on the whole table, and is used for each of its
/// segments.
pub struct TextSearch {
    root: WeightedQuery,
    /// The norms of each field.
    norms: Vec<Arc<Norms>>,
}

impl TextSearch {
    /// Weights a query over `fields` fields. The statistics must contain the [scored
    /// terms](TextQuery::scored_terms) of the query.
    pub fn new(query: &TextQuery, fields: usize, statistics: &GlobalStatistics) -> Self {
        let norms = (0..fields).map(|field| statistics.norms(field)).collect();
        Self { root: WeightedQuery::new(query, statistics), norms }
    }

    /// Finds the rows of a segment that match: those in `selection` that score at least `threshold`, in
    /// ascending order.
    ///
    /// `found` receives each hit and returns the new threshold, which is never lowered. Rows that at least
    /// `k` other rows score above may be left out.
    ///
    /// # Errors
    /// `Corrupt` when the index is damaged; `InvalidArgument` when a fuzzy term or a pattern cannot be
    /// evaluated; `Internal` when the query has a field that the index or the search does not have.
    pub fn run(
        &self,
        index: &TextIndex,
        selection: &RowSelection,
        k: usize,
        mut threshold: f32,
        found: &mut dyn FnMut(TextHit) -> f32,
    ) -> Result<()> {
        if let Some(leaves) = self.root.disjunction_leaves() {
            block_max_maxscore(self.flat_query(index, leaves)?, selection, k, threshold, found);
            return Ok(());
        }
        if let Some(leaves) = self.root.conjunction_leaves() {
            let (leaf_count, query) = (leaves.len(), self.flat_query(index, leaves)?);
            if query.terms.len() == leaf_count {
                conjunction(query, selection, threshold, found);
            }
            return Ok(());
        }
        let mut cursor = self.cursor(index, &self.root)?;
        cursor.raise_threshold(threshold);
        let mut row = first_selected(selection, cursor.seek(0));
        while row != END {
            // The cursor and the selection seek each other's rows in turn until they meet.
            let match_row = cursor.seek(row);
            if match_row == row {
                let score = cursor.score();
                if score >= threshold {
                    threshold = threshold.max(found(TextHit { row, score }));
                    cursor.raise_threshold(threshold);
                }
            }
            let next = if match_row == row { cursor.seek(row + 1) } else { match_row };
            row = first_selected(selection, next);
        }
        Ok(())
    }

    /// All rows of a segment that match, including deleted ones.
    ///
    /// # Errors
    /// The same as those of [`Self::run`].
    pub fn matching_rows(&self, index: &TextIndex) -> Result<RowSet> {
        let mut cursor = self.cursor(index, &self.root)?;
        let mut rows = RowSet::new();
        let mut row = cursor.seek(0);
        while row != END {
            rows.insert(row);
            row = cursor.seek(row + 1);
        }
        Ok(rows)
    }

    /// A cursor over the rows of a segment that match a query of any form.
    fn cursor(&self, index: &TextIndex, query: &WeightedQuery) -> Result<Box<dyn Cursor>> {
        let none = || -> Box<dyn Cursor> { Box::new(ConstantScoreCursor::new(RowSet::new(), 0.0)) };
        Ok(match query {
            WeightedQuery::Term { term, weight } => match self.term_cursor(index, term, *weight)? {
                Some(cursor) => Box::new(cursor),
                None => none(),
            },
            WeightedQuery::Phrase { field, terms, slop, weight } => {
                let postings = terms.iter().map(|(offset, term)| {
                    Ok(index.positions(*field, term)?.map(|postings| (*offset, postings)))
                });
                match postings.collect::<Result<Option<Vec<_>>>>()? {
                    Some(postings) => {
                        let (lengths, norms) = self.lengths_and_norms(index, *field)?;
                        let repeated = repeated(terms);
                        Box::new(PhraseCursor::new(postings, repeated, *slop, lengths, *weight, norms))
                    }
                    None => none(),
                }
            }
            WeightedQuery::Prefix { field, prefix, score } => {
                Box::new(ConstantScoreCursor::new(rows_with_prefix(index, *field, prefix)?, *score))
            }
            WeightedQuery::Fuzzy { field, term, distance, boost } => {
                let steps = f32::from(*distance) + 1.0;
                let sets = (0_u8..).zip(rows_with_similar(index, *field, term, *distance)?);
                let sets = sets.map(|(distance, rows)| -> Box<dyn Cursor> {
                    let score = boost * (1.0 - f32::from(distance) / steps);
                    Box::new(ConstantScoreCursor::new(rows, score))
                });
                Box::new(BoolCursor::new(vec![], sets.collect(), vec![]))
            }
            WeightedQuery::Pattern { field, prefix, expression, score } => {
                let pattern = Pattern::new(expression)?;
                let rows = rows_with_pattern(index, *field, prefix, &pattern)?;
                Box::new(ConstantScoreCursor::new(rows, *score))
            }
            WeightedQuery::AtLeast { count, queries } => {
                let cursors = queries.iter().map(|query| self.cursor(index, query));
                Box::new(AtLeastCursor::new(cursors.collect::<Result<_>>()?, *count as usize))
            }
            WeightedQuery::All { fields, score } => {
                Box::new(ConstantScoreCursor::new(index.rows_with_text(fields)?, *score))
            }
            WeightedQuery::Bool { must, should, must_not } => {
                let cursors = |queries: &[WeightedQuery]| {
                    queries.iter().map(|query| self.cursor(index, query)).collect::<Result<Vec<_>>>()
                };
                Box::new(BoolCursor::new(cursors(must)?, cursors(should)?, cursors(must_not)?))
            }
        })
    }

    fn term_cursor(&self, index: &TextIndex, term: &ScoredTerm, weight: f32) -> Result<Option<TermCursor>> {
        let postings = index.postings(term.field, &term.term, IndexRecordOption::WithFreqs)?;
        let (lengths, norms) = self.lengths_and_norms(index, term.field)?;
        Ok(postings.map(|postings| TermCursor::new(postings, lengths, weight, norms)))
    }

    /// The length code of each row in a field, and the norms of the codes.
    fn lengths_and_norms(&self, index: &TextIndex, field: usize) -> Result<(OwnedBytes, Arc<Norms>)> {
        let norms = self.norms.get(field).cloned();
        let norms = norms.ok_or_else(|| Error::internal(format!("the text search has no field {field}")))?;
        Ok((index.field(field)?.lengths.clone(), norms))
    }

    /// The scorers of those leaves whose terms are in the segment.
    fn flat_query(&self, index: &TextIndex, leaves: Vec<Leaf<'_>>) -> Result<FlatQuery> {
        let groups = leaves.iter().map(|leaf| leaf.group).collect();
        let mut terms = Vec::with_capacity(leaves.len());
        for (i, leaf) in leaves.into_iter().enumerate() {
            let ScoredTerm { field, term } = leaf.term;
            let Some(postings) = index.postings(*field, term, IndexRecordOption::WithFreqs)? else {
                continue;
            };
            let blocks = index.block_max_index(*field, term, &postings)?;
            let (lengths, norms) = self.lengths_and_norms(index, *field)?;
            terms.push(TermScorer::new(i, TermCursor::new(postings, lengths, leaf.weight, norms), blocks));
        }
        Ok(FlatQuery { terms, groups })
    }
}

/// For each term of a phrase the same one that is nearest before it.
fn repeated(terms: &[(u32, String)]) -> Vec<Option<usize>> {
    let before = |(offset, term): &(u32, String)| {
        let same = terms.iter().enumerate().filter(|(_, (other, same))| same == term && other < offset);
        same.max_by_key(|(_, (other, _))| *other).map(|(at, _)| at)
    };
    terms.iter().map(before).collect()
}

/// The first selected row at or after `row`, or [`END`] when a set of rows has no more. Rows beyond the
/// segment count as selected: the cursor that the caller intersects with ends first.
fn first_selected(selection: &RowSelection, row: u32) -> u32 {
    match selection {
        RowSelection::AllExcept(rows) => {
            let mut row = row;
            while row != END && rows.contains(row) {
                row += 1;
            }
            row
        }
        RowSelection::Only(rows) => rows.range(row..).next().unwrap_or(END),
    }
}
