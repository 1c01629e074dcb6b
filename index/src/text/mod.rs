//! Full text inside one segment: which rows match a query, and how well.
//!
//! Analyzers, dictionaries and postings are those of tantivy; a document is a row, by its number. Scores are made
//! here, from statistics of the whole table that the caller hands in, and added up in the order of the query, so that
//! they are the same bits however the rows are spread over segments.

mod analyzer;
mod any_of;
mod blocks;
mod build;
mod cursor;
mod dense;
mod index;
mod pack;
mod parse;
mod query;
mod score;
mod search;
mod snippet;

pub use analyzer::Analyzer;
pub use build::build_text;
pub use index::{TextIndex, TextStatistics};
pub use parse::parse_query;
pub use query::{ScoredTerm, TextQuery};
pub use score::GlobalStatistics;
pub use search::{Accept, TextHit, TextSearch};
pub use snippet::{Snippet, snippet};
