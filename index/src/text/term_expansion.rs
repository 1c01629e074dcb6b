//! Expansion of prefixes and fuzzy terms: the rows of all terms of the dictionary that match.

use plexus_model::{Error, Result, RowSet};
use tantivy::postings::TermInfo;
use tantivy::query::FuzzyTermQuery;
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{InvertedIndexReader, TantivyError};

use super::index::{TextIndex, unreadable};

/// Rows with a term that starts with `prefix`.
///
/// # Errors
/// `Corrupt` when the index is damaged.
pub(crate) fn rows_with_prefix(index: &TextIndex, field: usize, prefix: &str) -> Result<RowSet> {
    let inverted = &index.field(field)?.inverted;
    let mut stream = inverted.terms().range().ge(prefix).into_stream().map_err(unreadable)?;
    let mut rows = RowSet::new();
    while stream.advance() && stream.key().starts_with(prefix.as_bytes()) {
        let info = stream.value().clone();
        add_postings(inverted, &info, &mut rows)?;
    }
    Ok(rows)
}

/// Rows with a term within the Damerau-Levenshtein `distance` of `term`, where a transposition counts as one
/// edit.
///
/// # Errors
/// `InvalidArgument` when there is no automaton for the distance; `Corrupt` when the index is damaged.
pub(crate) fn rows_with_similar(index: &TextIndex, field: usize, term: &str, distance: u8) -> Result<RowSet> {
    let failed = |e: TantivyError| Error::invalid(format!("{term}~{distance}: {e}"));
    let inverted = &index.field(field)?.inverted;
    let term = tantivy::Term::from_field_text(Field::from_field_id(field as u32), term);
    let automaton = FuzzyTermQuery::new(term.clone(), distance, true).automaton().map_err(failed)?;
    let mut stream = inverted.terms().search(automaton).into_stream().map_err(unreadable)?;
    let mut rows = RowSet::new();
    while stream.advance() {
        let info = stream.value().clone();
        add_postings(inverted, &info, &mut rows)?;
    }
    Ok(rows)
}

/// Adds all rows of a term.
fn add_postings(inverted: &InvertedIndexReader, info: &TermInfo, rows: &mut RowSet) -> Result<()> {
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
