//! Search inside one segment of a table: primary keys, full text, and nearest vectors.
//!
//! Each index has a writer that turns the rows of a segment into bytes, and a reader over these bytes:
//!
//! - [`KeyIndex`] maps hashes of primary keys to rows.
//! - [`text::TextIndex`] is an inverted index; [`text::TextSearch`] evaluates a query on it with BM25 scores.
//! - [`graph::Graph`] is a Vamana graph over quantized vectors; [`graph::GraphSearcher`] finds the nearest
//!   rows.
//!
//! Rows are identified by their position in the segment. The crate does not know tables, versions or files:
//! the caller stores the bytes, verifies their checksum, and passes in the visible rows
//! ([`RowSelection`](plexus_model::RowSelection)) and the statistics of the whole table. Results are bitwise
//! identical on every processor and for every distribution of the rows over segments, except for the recall
//! of the approximate vector search.
//!
//! ```
//! use plexus_index::TopK;
//! use plexus_index::text::{Analyzer, GlobalStatistics, TextIndex, TextSearch};
//! use plexus_index::text::{QueryField, Syntax, build_text_index, parse_query};
//! use plexus_model::{Result, RowSelection, RowSet};
//!
//! let analyzer = Analyzer::named("en_stem")?;
//! let rows = [vec![Some("Heat and flow")], vec![Some("A wing that flutters")]];
//! let bytes = build_text_index(1, &analyzer, rows.into_iter(), 1 << 30)?;
//! let index = TextIndex::open(bytes.into())?;
//!
//! let fields = [QueryField { name: "body".to_owned(), analyzer, boost: Some(1.0) }];
//! let query = parse_query("wings", Syntax::Lenient, &fields)?;
//! let deleted = RowSet::new();
//! let counts = index.statistics(&deleted);
//! let document_frequencies = query.scored_terms().into_iter().map(|term| {
//!     let rows = index.document_frequency(term.field, &term.term, &deleted)?;
//!     Ok((term, rows))
//! });
//! let document_frequencies = document_frequencies.collect::<Result<_>>()?;
//! let statistics = GlobalStatistics { rows: counts.rows, tokens: counts.tokens, document_frequencies };
//!
//! let mut top = TopK::new(10);
//! TextSearch::new(&query, 1, &statistics).run(
//!     &index,
//!     &RowSelection::all(),
//!     10,
//!     f32::NEG_INFINITY,
//!     &mut |hit| top.push(hit.score, hit.row),
//! )?;
//! let rows: Vec<u32> = top.into_sorted().into_iter().map(|(_, row)| row).collect();
//! assert_eq!(rows, [1]);
//! # Ok::<(), plexus_model::Error>(())
//! ```

mod distance;
pub mod graph;
mod keys;
mod simd;
pub mod text;
mod top_k;

pub use distance::{VectorQuery, distance, dot, squared_l2};
pub use keys::{KeyIndex, build_key_index};
pub use top_k::TopK;
