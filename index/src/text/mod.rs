//! Full text inside one segment: which rows match a query, and how well.
//!
//! Analyzers, dictionaries and postings are those of tantivy; a document is a row, by its number. Scores are made
//! here, from statistics of the whole table that the caller hands in, and added up in the order of the query, so that
//! they are the same bits however the rows are spread over segments.

mod analyzer;
mod archive;
mod block_max;
mod block_max_maxscore;
mod bm25;
mod build;
mod cursor;
mod index;
mod parse;
mod query;
mod search;
mod snippet;
mod term_frequency_bitmap;

pub use analyzer::Analyzer;
pub use bm25::GlobalStatistics;
pub use build::build_text;
pub use index::{TextIndex, TextStatistics};
pub use parse::parse_query;
pub use query::{ScoredTerm, TextQuery};
pub use search::{TextHit, TextSearch};
pub use snippet::{Snippet, snippet};
