//! Terms of a segment that begin with a text, or are near to one, with the rows that have them.

use plexus_model::{Error, Result, RowSet};
use rkyv::{Archive, Deserialize, Serialize};
use tantivy::postings::TermInfo;
use tantivy::schema::IndexRecordOption;

use super::index::{FieldIndex, TextIndex, unreadable};
use super::term_expansion::similar_terms;

/// What terms are looked for.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum TermForm {
    /// Those that begin with a text.
    Prefix(String),
    /// Those within an edit distance of a term, one or two.
    Similar(String, u8),
}

/// Terms of a segment that a form may have. They are in memory at once.
const TERMS_MAX: usize = 100_000;

impl TextIndex {
    /// The terms of a field that have a form, each with the number of rows that have it and are not in
    /// `deleted`; those that no other row has are left out.
    ///
    /// # Errors
    /// `InvalidArgument` for more than 100,000 of them, and for a distance that there is no automaton for;
    /// `Corrupt` when the index is damaged; `Internal` when the field does not exist.
    pub fn terms(&self, field: usize, form: &TermForm, deleted: &RowSet) -> Result<Vec<(String, u64)>> {
        let of_field = self.field(field)?;
        let mut found = Vec::new();
        let mut add = |key: &[u8], info: &TermInfo| -> Result<()> {
            let rows = rows_with(of_field, info, deleted)?;
            if rows > 0 {
                found.push((String::from_utf8_lossy(key).into_owned(), rows));
            }
            if found.len() > TERMS_MAX {
                return Err(Error::invalid(format!(
                    "more than {TERMS_MAX} terms of a segment have this form: use a longer text"
                )));
            }
            Ok(())
        };
        match form {
            TermForm::Prefix(prefix) => {
                let terms = of_field.inverted.terms();
                let mut stream = terms.range().ge(prefix).into_stream().map_err(unreadable)?;
                while stream.advance() && stream.key().starts_with(prefix.as_bytes()) {
                    let info = stream.value().clone();
                    add(stream.key(), &info)?;
                }
            }
            TermForm::Similar(term, distance) => {
                similar_terms(of_field, field, term, *distance, &mut |key, info, _| add(key, info))?;
            }
        }
        Ok(found)
    }
}

/// The number of rows with a term that are not deleted.
fn rows_with(field: &FieldIndex, info: &TermInfo, deleted: &RowSet) -> Result<u64> {
    if deleted.is_empty() {
        return Ok(u64::from(info.doc_freq));
    }
    let postings = field.inverted.read_block_postings_from_terminfo(info, IndexRecordOption::Basic);
    let mut postings = postings.map_err(unreadable)?;
    let mut rows = 0;
    while !postings.docs().is_empty() {
        rows += postings.docs().iter().filter(|row| !deleted.contains(**row)).count() as u64;
        postings.advance();
    }
    Ok(rows)
}
