//! Expansion of prefixes, fuzzy terms and patterns: the rows of all terms of the dictionary that match.

use plexus_model::{Error, Result, RowSet};
use tantivy::postings::TermInfo;
use tantivy::query::FuzzyTermQuery;
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{InvertedIndexReader, TantivyError};

use super::index::{FieldIndex, TextIndex, unreadable};
use super::query::{Pattern, edit_distance};

/// Rows with a term that starts with `prefix`.
///
/// # Errors
/// `Corrupt` when the index is damaged.
pub(crate) fn rows_with_prefix(index: &TextIndex, field: usize, prefix: &str) -> Result<RowSet> {
    let inverted = &index.field(field)?.inverted;
    let mut stream = inverted.terms().range().ge(prefix).into_stream().map_err(unreadable)?;
    let mut rows = RowBits::new(index.rows());
    while stream.advance() && stream.key().starts_with(prefix.as_bytes()) {
        let info = stream.value().clone();
        add_postings(inverted, &info, &mut rows)?;
    }
    Ok(rows.into_set())
}

/// Rows with a term that starts with `prefix` and has the form of a pattern.
///
/// # Errors
/// `Corrupt` when the index is damaged.
pub(crate) fn rows_with_pattern(
    index: &TextIndex,
    field: usize,
    prefix: &str,
    pattern: &Pattern,
) -> Result<RowSet> {
    let inverted = &index.field(field)?.inverted;
    let mut stream = inverted.terms().range().ge(prefix).into_stream().map_err(unreadable)?;
    let mut rows = RowBits::new(index.rows());
    while stream.advance() && stream.key().starts_with(prefix.as_bytes()) {
        if std::str::from_utf8(stream.key()).is_ok_and(|term| pattern.matches(term)) {
            let info = stream.value().clone();
            add_postings(inverted, &info, &mut rows)?;
        }
    }
    Ok(rows.into_set())
}

/// Rows with a term within the Damerau-Levenshtein `distance` of `term`, where a transposition counts as one
/// edit: for each distance from zero on those whose nearest term has it.
///
/// # Errors
/// `InvalidArgument` when there is no automaton for the distance; `Corrupt` when the index is damaged.
pub(crate) fn rows_with_similar(
    index: &TextIndex,
    field: usize,
    term: &str,
    distance: u8,
) -> Result<Vec<RowSet>> {
    let of_field = index.field(field)?;
    let mut sets = vec![RowBits::new(index.rows()); usize::from(distance) + 1];
    similar_terms(of_field, field, term, distance, &mut |_, info, found| {
        add_postings(&of_field.inverted, info, &mut sets[found as usize])
    })?;
    let mut nearer = RowSet::new();
    let mut sets: Vec<RowSet> = sets.into_iter().map(RowBits::into_set).collect();
    for rows in &mut sets {
        *rows -= &nearer;
        nearer |= &*rows;
    }
    Ok(sets)
}

/// Takes a term, its place in the index, and its distance.
type TakeTerm<'a> = dyn FnMut(&[u8], &TermInfo, u32) -> Result<()> + 'a;

/// Calls `take` for each term of a field within the Damerau-Levenshtein `distance` of `term`, with its
/// distance.
///
/// # Errors
/// `InvalidArgument` when there is no automaton for the distance; `Corrupt` when the index is damaged; those
/// of `take`.
pub(crate) fn similar_terms(
    of_field: &FieldIndex,
    field: usize,
    term: &str,
    distance: u8,
    take: &mut TakeTerm<'_>,
) -> Result<()> {
    let failed = |e: TantivyError| Error::invalid(format!("{term}~{distance}: {e}"));
    let wanted = tantivy::Term::from_field_text(Field::from_field_id(field as u32), term);
    let automaton = FuzzyTermQuery::new(wanted, distance, true).automaton().map_err(failed)?;
    let mut stream = of_field.inverted.terms().search(automaton).into_stream().map_err(unreadable)?;
    let most = u32::from(distance);
    while stream.advance() {
        let info = stream.value().clone();
        let found = std::str::from_utf8(stream.key()).map_or(most, |key| edit_distance(term, key));
        take(stream.key(), &info, found.min(most))?;
    }
    Ok(())
}

/// Adds all rows of a term.
fn add_postings(inverted: &InvertedIndexReader, info: &TermInfo, rows: &mut RowBits) -> Result<()> {
    let postings = inverted.read_block_postings_from_terminfo(info, IndexRecordOption::Basic);
    let mut postings = postings.map_err(unreadable)?;
    loop {
        let block = postings.docs();
        if block.is_empty() {
            return Ok(());
        }
        block.iter().for_each(|row| rows.insert(*row));
        postings.advance();
    }
}

/// Rows of a segment as bits. The postings of many terms are added faster than to a [`RowSet`].
#[derive(Clone)]
struct RowBits(Vec<u8>);

impl RowBits {
    fn new(rows: u32) -> Self {
        Self(vec![0; rows.div_ceil(8) as usize])
    }

    /// Adds a row. Those beyond the last, which only a damaged index has, are left out.
    fn insert(&mut self, row: u32) {
        if let Some(byte) = self.0.get_mut(row as usize / 8) {
            *byte |= 1 << (row % 8);
        }
    }

    fn into_set(self) -> RowSet {
        RowSet::from_lsb0_bytes(0, &self.0)
    }
}
