//! What a search reads of a table version: its segments, texts, vectors and indexes, and the caches over
//! them.

pub(crate) mod caches;
pub(crate) mod context;
mod search_snapshot;
pub(crate) mod selections;
pub(crate) mod term_statistics_cache;
pub(crate) mod text_fields;
pub(crate) mod texts;
pub(crate) mod vectors;

pub use search_snapshot::{SearchSnapshot, SegmentView, blocking};
