//! The number of tokens of each row, exactly. The index itself rounds lengths to a byte: a score takes the
//! rounded length of its row and the exact mean of all, as tantivy does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use plexus_model::{Error, Result};
use tantivy::directory::OwnedBytes;
use tantivy::tokenizer::{BoxTokenStream, TextAnalyzer, Token, TokenStream, Tokenizer};

/// The entry of an archive with the lengths: for each field those of all rows, in 32 bits each,
/// little-endian. Rows without a text have [`NO_TEXT`].
pub(crate) const LENGTHS_ENTRY: &str = "tokens";

/// The length of a row that is null.
pub(crate) const NO_TEXT: u32 = u32::MAX;

/// Counts the tokens of a field while a row is indexed.
#[derive(Clone, Default)]
pub(crate) struct TokenCount(Arc<AtomicU32>);

impl TokenCount {
    /// The tokens since the last call.
    pub(crate) fn take(&self) -> u32 {
        self.0.swap(0, Ordering::Relaxed)
    }

    /// An analyzer whose tokens are counted.
    pub(crate) fn of(&self, analyzer: TextAnalyzer) -> TextAnalyzer {
        TextAnalyzer::builder(CountedAnalyzer { analyzer, count: self.clone() }).build()
    }
}

#[derive(Clone)]
struct CountedAnalyzer {
    analyzer: TextAnalyzer,
    count: TokenCount,
}

impl Tokenizer for CountedAnalyzer {
    type TokenStream<'a> = CountedTokens<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> CountedTokens<'a> {
        CountedTokens { tokens: self.analyzer.token_stream(text), count: &self.count }
    }
}

struct CountedTokens<'a> {
    tokens: BoxTokenStream<'a>,
    count: &'a TokenCount,
}

impl TokenStream for CountedTokens<'_> {
    fn advance(&mut self) -> bool {
        let has_more = self.tokens.advance();
        self.count.0.fetch_add(u32::from(has_more), Ordering::Relaxed);
        has_more
    }

    fn token(&self) -> &Token {
        self.tokens.token()
    }

    fn token_mut(&mut self) -> &mut Token {
        self.tokens.token_mut()
    }
}

/// The lengths of the rows in one field.
#[derive(Clone)]
pub(crate) struct RowLengths(OwnedBytes);

const LENGTH_BYTES: usize = size_of::<u32>();

impl RowLengths {
    /// The lengths of each of `fields` fields of `rows` rows.
    ///
    /// # Errors
    /// `Corrupt` when the entry has another size.
    pub(crate) fn open(entry: Option<&OwnedBytes>, fields: usize, rows: usize) -> Result<Vec<Self>> {
        let entry = entry.ok_or_else(|| Error::corrupt("text index: the lengths of rows are missing"))?;
        let bytes = rows.saturating_mul(LENGTH_BYTES);
        if entry.len() != bytes.saturating_mul(fields) {
            return Err(Error::corrupt(format!(
                "text index: {} bytes of lengths are not those of {rows} rows in {fields} fields",
                entry.len()
            )));
        }
        Ok((0..fields).map(|field| Self(entry.slice(field * bytes..(field + 1) * bytes))).collect())
    }

    /// The tokens of all rows.
    pub(crate) fn sum(&self) -> u64 {
        (0..self.lengths().len() as u32).map(|row| self.of(row)).sum()
    }

    /// The tokens of a row; zero if it has no text, or is beyond the last.
    pub(crate) fn of(&self, row: u32) -> u64 {
        self.length(row).map_or(0, u64::from)
    }

    /// Whether a row has a text, even an empty one.
    pub(crate) fn has_text(&self, row: u32) -> bool {
        self.length(row).is_some()
    }

    fn length(&self, row: u32) -> Option<u32> {
        let length = self.lengths().get(row as usize).map(|bytes| u32::from_le_bytes(*bytes));
        length.filter(|length| *length != NO_TEXT)
    }

    fn lengths(&self) -> &[[u8; LENGTH_BYTES]] {
        self.0.as_chunks().0
    }
}
