//! Pinned segments: what a search reads of a table version, and what a node caches of it.

pub mod caches;
pub mod context;
pub mod selections;
pub mod snapshot;
pub mod term_statistics_cache;
pub mod text_fields;
pub mod texts;
pub mod vectors;
