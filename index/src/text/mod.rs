//! Full-text search inside one segment: which rows match a query, and their BM25 scores.
//!
//! Analyzers, term dictionaries and postings are those of tantivy; a tantivy document is a row. Scores are
//! computed here, from statistics of the whole table that the caller passes in. Contributions of terms are
//! added in the order of the query, so that a score has the same bits however the rows are distributed over
//! segments.

mod analyzer;
mod archive;
mod block_max;
mod block_max_maxscore;
mod bm25;
mod build;
mod conjunction;
mod cursor;
mod index;
mod memory_directory;
mod parse;
mod phrase;
mod query;
mod row_lengths;
mod search;
mod snippet;
mod suggest;
mod term_cursor;
mod term_expansion;
mod term_frequency_bitmap;
mod term_scorer;
mod weighted_query;
mod word_tokenizer;

pub use analyzer::Analyzer;
pub use bm25::GlobalStatistics;
pub use build::build_text_index;
pub use index::{TextIndex, TextStatistics};
pub use parse::{EDIT_DISTANCE_MAX, QueryField, QueryOptions, Syntax, parse_query};
pub use query::{MinimumShouldMatch, ScoredTerm, TextQuery, edit_distance};
pub use search::{TextHit, TextSearch};
pub use snippet::{Snippet, snippet};
pub use suggest::TermForm;
