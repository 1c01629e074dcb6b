//! Search execution: retrievers rank rows by one query each, fusion merges the rankings, ties are broken by
//! key.

pub(crate) mod bound_retriever;
pub(crate) mod cursor;
pub(crate) mod diversity;
pub(crate) mod fetch;
pub(crate) mod filter;
pub(crate) mod fusion;
pub(crate) mod local;
pub(crate) mod nearest;
pub(crate) mod pages;
pub(crate) mod report;
pub(crate) mod request;
pub(crate) mod respond;
pub(crate) mod retriever;
pub(crate) mod search;
pub(crate) mod statistics;
pub(crate) mod terms;
pub(crate) mod text_binding;
pub(crate) mod tie_break;
