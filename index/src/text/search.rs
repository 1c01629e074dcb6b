//! Searching the index of a segment.

use std::sync::Arc;

use plexus_model::{Error, Result, RowSelection, RowSet};
use tantivy::TantivyError;
use tantivy::query::FuzzyTermQuery;
use tantivy::schema::{Field, IndexRecordOption};

use super::block_max_maxscore::{Choice, Term, all_of, any_of};
use super::bm25::{GlobalStatistics, Norms};
use super::cursor::{BoolCursor, Cursor, END, PhraseCursor, RowsCursor, TermCursor};
use super::index::{TextIndex, unreadable};
use super::query::{ScoredTerm, TextQuery};

/// A row that matches, with its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextHit {
    pub row: u32,
    pub score: f32,
}

/// A query with the weights of its terms in the whole table: the same for all segments.
pub struct TextSearch {
    root: Weighted,
    /// Of each field.
    norms: Vec<Arc<Norms>>,
}

/// A query whose scored leaves have their weights.
enum Weighted {
    Term { term: ScoredTerm, weight: f32 },
    Phrase { field: usize, terms: Vec<(u32, String)>, slop: u32, weight: f32 },
    Prefix { field: usize, prefix: String, score: f32 },
    Fuzzy { field: usize, term: String, distance: u8, score: f32 },
    All { score: f32 },
    Bool { must: Vec<Weighted>, should: Vec<Weighted>, not: Vec<Weighted> },
}

impl TextSearch {
    pub fn new(query: &TextQuery, fields: usize, statistics: &GlobalStatistics) -> Self {
        let norms = (0..fields).map(|field| statistics.norms(field)).collect();
        Self { root: weighted(query, statistics), norms }
    }

    /// Finds rows of a segment: all that `selection` covers and that score at least `threshold`, which each call of
    /// `found` may raise. Rows come in ascending order. Rows that `k` others score above may be left out.
    pub fn run(
        &self,
        index: &TextIndex,
        selection: &RowSelection,
        k: usize,
        mut threshold: f32,
        found: &mut dyn FnMut(TextHit) -> f32,
    ) -> Result<()> {
        if let Some(leaves) = flat(&self.root) {
            any_of(self.choice(index, leaves)?, selection, k, threshold, found);
            return Ok(());
        }
        if let Some(leaves) = conjunction(&self.root) {
            let (wanted, choice) = (leaves.len(), self.choice(index, leaves)?);
            if choice.terms.len() == wanted {
                all_of(choice, selection, threshold, found);
            }
            return Ok(());
        }
        let mut cursor = self.cursor(index, &self.root)?;
        cursor.raise(threshold);
        let mut row = first_from(selection, cursor.seek(0));
        while row != END {
            // Rows that are accepted and rows that match are sought in turn until they meet.
            let here = cursor.seek(row);
            if here == row {
                let score = cursor.score();
                if score >= threshold {
                    threshold = threshold.max(found(TextHit { row, score }));
                    cursor.raise(threshold);
                }
            }
            let next = if here == row { cursor.seek(row + 1) } else { here };
            row = first_from(selection, next);
        }
        Ok(())
    }

    /// All rows that match, whatever their scores.
    pub fn rows(&self, index: &TextIndex) -> Result<RowSet> {
        let mut cursor = self.cursor(index, &self.root)?;
        let mut rows = RowSet::new();
        let mut row = cursor.seek(0);
        while row != END {
            rows.insert(row);
            row = cursor.seek(row + 1);
        }
        Ok(rows)
    }

    fn cursor(&self, index: &TextIndex, query: &Weighted) -> Result<Box<dyn Cursor>> {
        let none = || -> Box<dyn Cursor> { Box::new(RowsCursor::new(RowSet::new(), 0.0)) };
        Ok(match query {
            Weighted::Term { term, weight } => match self.term(index, term, *weight)? {
                Some(cursor) => Box::new(cursor),
                None => none(),
            },
            Weighted::Phrase { field, terms, slop, weight } => {
                let postings = terms.iter().map(|(offset, term)| {
                    Ok(index.positions(*field, term)?.map(|postings| (*offset, postings)))
                });
                match postings.collect::<Result<Option<Vec<_>>>>()? {
                    Some(postings) => {
                        let (lengths, norms) = self.lengths(index, *field)?;
                        Box::new(PhraseCursor::new(postings, *slop, lengths, *weight, norms))
                    }
                    None => none(),
                }
            }
            Weighted::Prefix { field, prefix, score } => {
                Box::new(RowsCursor::new(prefixed(index, *field, prefix)?, *score))
            }
            Weighted::Fuzzy { field, term, distance, score } => {
                Box::new(RowsCursor::new(similar(index, *field, term, *distance)?, *score))
            }
            Weighted::All { score } => {
                let mut rows = RowSet::new();
                rows.insert_range(0..index.rows());
                Box::new(RowsCursor::new(rows, *score))
            }
            Weighted::Bool { must, should, not } => {
                let cursors = |queries: &[Weighted]| {
                    queries.iter().map(|query| self.cursor(index, query)).collect::<Result<Vec<_>>>()
                };
                Box::new(BoolCursor::new(cursors(must)?, cursors(should)?, cursors(not)?))
            }
        })
    }

    fn term(&self, index: &TextIndex, term: &ScoredTerm, weight: f32) -> Result<Option<TermCursor>> {
        let postings = index.postings(term.field, &term.term, IndexRecordOption::WithFreqs)?;
        let (lengths, norms) = self.lengths(index, term.field)?;
        Ok(postings.map(|postings| TermCursor::new(postings, lengths, weight, norms)))
    }

    fn lengths(
        &self,
        index: &TextIndex,
        field: usize,
    ) -> Result<(tantivy::directory::OwnedBytes, Arc<Norms>)> {
        let norms = self.norms.get(field).cloned();
        let norms = norms.ok_or_else(|| Error::internal(format!("no norms of text field {field}")))?;
        Ok((index.field(field)?.lengths.clone(), norms))
    }

    /// Those of some terms that are in a segment, each with its place among them.
    fn choice(&self, index: &TextIndex, leaves: Vec<Leaf<'_>>) -> Result<Choice> {
        let groups = leaves.iter().map(|leaf| leaf.group).collect();
        let mut terms = Vec::with_capacity(leaves.len());
        for (place, leaf) in leaves.into_iter().enumerate() {
            let ScoredTerm { field, term } = leaf.term;
            let Some(postings) = index.postings(*field, term, IndexRecordOption::WithFreqs)? else {
                continue;
            };
            let blocks = index.blocks(*field, term, &postings)?;
            let (lengths, norms) = self.lengths(index, *field)?;
            terms.push(Term::new(place, TermCursor::new(postings, lengths, leaf.weight, norms), blocks));
        }
        Ok(Choice { terms, groups })
    }
}

struct Leaf<'a> {
    /// Which child of the query it is of: those of one child are added up first.
    group: usize,
    term: &'a ScoredTerm,
    weight: f32,
}

/// The leaves of a query that is a term, a choice of terms, or a choice of those.
fn flat(query: &Weighted) -> Option<Vec<Leaf<'_>>> {
    let mut leaves = Vec::new();
    for (group, child) in choice(query).enumerate() {
        for leaf in choice(child) {
            let Weighted::Term { term, weight } = leaf else {
                return None;
            };
            leaves.push(Leaf { group, term, weight: *weight });
        }
    }
    Some(leaves)
}

/// The leaves of a query that is several terms of which all must be there.
fn conjunction(query: &Weighted) -> Option<Vec<Leaf<'_>>> {
    let Weighted::Bool { must, should, not } = query else {
        return None;
    };
    if must.is_empty() || !should.is_empty() || !not.is_empty() {
        return None;
    }
    let mut leaves = Vec::with_capacity(must.len());
    for (group, child) in must.iter().enumerate() {
        let Weighted::Term { term, weight } = child else {
            return None;
        };
        leaves.push(Leaf { group, term, weight: *weight });
    }
    Some(leaves)
}

/// What a query is a choice of; itself when it is none.
fn choice(query: &Weighted) -> std::slice::Iter<'_, Weighted> {
    match query {
        Weighted::Bool { must, should, not } if must.is_empty() && not.is_empty() => should.iter(),
        other => std::slice::from_ref(other).iter(),
    }
}

/// The first selected row at or after `row`, or [`END`] when a set of rows has no more. Rows beyond the segment
/// count as selected: the cursor that the caller intersects with ends first.
fn first_from(selection: &RowSelection, row: u32) -> u32 {
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

fn weighted(query: &TextQuery, statistics: &GlobalStatistics) -> Weighted {
    match query {
        TextQuery::Term { term, boost } => {
            Weighted::Term { term: term.clone(), weight: statistics.weight(std::iter::once(term), *boost) }
        }
        TextQuery::Phrase { field, terms, slop, boost } => {
            let keys: Vec<ScoredTerm> =
                terms.iter().map(|(_, term)| ScoredTerm { field: *field, term: term.clone() }).collect();
            let weight = statistics.weight(keys.iter(), *boost);
            Weighted::Phrase { field: *field, terms: terms.clone(), slop: *slop, weight }
        }
        TextQuery::Prefix { field, prefix, boost } => {
            Weighted::Prefix { field: *field, prefix: prefix.clone(), score: *boost }
        }
        TextQuery::Fuzzy { field, term, distance, boost } => {
            Weighted::Fuzzy { field: *field, term: term.clone(), distance: *distance, score: *boost }
        }
        TextQuery::All { boost } => Weighted::All { score: *boost },
        TextQuery::Bool { must, should, not } => {
            let all = |queries: &[TextQuery]| queries.iter().map(|q| weighted(q, statistics)).collect();
            Weighted::Bool { must: all(must), should: all(should), not: all(not) }
        }
    }
}

/// Rows with a term that begins so.
fn prefixed(index: &TextIndex, field: usize, prefix: &str) -> Result<RowSet> {
    let inverted = &index.field(field)?.inverted;
    let mut stream = inverted.terms().range().ge(prefix).into_stream().map_err(unreadable)?;
    let mut rows = RowSet::new();
    while stream.advance() && stream.key().starts_with(prefix.as_bytes()) {
        let info = stream.value().clone();
        take(inverted, &info, &mut rows)?;
    }
    Ok(rows)
}

/// Rows with a term that differs in at most `distance` letters; two that change places are one.
fn similar(index: &TextIndex, field: usize, term: &str, distance: u8) -> Result<RowSet> {
    let failed = |e: TantivyError| Error::invalid(format!("{term}~{distance}: {e}"));
    let inverted = &index.field(field)?.inverted;
    let term = tantivy::Term::from_field_text(Field::from_field_id(field as u32), term);
    let automaton = FuzzyTermQuery::new(term.clone(), distance, true).automaton().map_err(failed)?;
    let mut stream = inverted.terms().search(automaton).into_stream().map_err(unreadable)?;
    let mut rows = RowSet::new();
    while stream.advance() {
        let info = stream.value().clone();
        take(inverted, &info, &mut rows)?;
    }
    Ok(rows)
}

fn take(
    inverted: &tantivy::InvertedIndexReader,
    info: &tantivy::postings::TermInfo,
    rows: &mut RowSet,
) -> Result<()> {
    let postings = inverted.read_block_postings_from_terminfo(info, IndexRecordOption::Basic);
    let mut postings = postings.map_err(unreadable)?;
    loop {
        let block = postings.docs();
        if block.is_empty() {
            return Ok(());
        }
        rows.extend(block.iter().copied());
        postings.advance();
    }
}
