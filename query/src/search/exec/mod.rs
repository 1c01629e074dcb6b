//! Running searches: retrievers rank rows by one query each, fusion merges their rankings, ties are broken by key.

pub mod bound_retriever;
pub mod cursor;
pub mod fetch;
pub mod filter;
pub mod fusion;
pub mod local;
pub mod nearest;
pub mod report;
pub mod request;
pub mod respond;
pub mod retriever;
pub mod search;
pub mod statistics;
pub mod text_binding;
pub mod tie_break;
