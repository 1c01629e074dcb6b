//! SQL text: parsing, the dialect, what kind a statement is, rewriting of DML, calls, time travel, parameters.

pub mod call;
pub mod dialect;
pub mod duration;
pub mod kind;
pub mod names;
pub mod parameters;
pub mod parse;
pub mod rewrite;
pub mod search_calls;
pub mod time_travel;
