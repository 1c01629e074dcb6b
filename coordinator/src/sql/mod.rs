//! SQL text and syntax trees: dialect and parsing, classification, rewriting of DML and searches, procedure
//! calls, time travel and parameters. Nothing here runs a statement.

pub(crate) mod call;
pub(crate) mod clauses;
pub(crate) mod columns;
mod common_tables;
pub(crate) mod definition;
pub(crate) mod dependent_columns;
pub(crate) mod dialect;
pub(crate) mod distinct_names;
pub(crate) mod duration;
pub(crate) mod grouping_sets;
pub(crate) mod kind;
pub(crate) mod like_escapes;
pub(crate) mod multisets;
pub(crate) mod named_windows;
pub(crate) mod names;
pub(crate) mod operators;
pub(crate) mod order_items;
pub(crate) mod parameters;
pub(crate) mod parse;
pub(crate) mod plan_size;
pub(crate) mod prepared;
pub(crate) mod reads;
pub(crate) mod regressions;
pub(crate) mod result_names;
pub(crate) mod rewrite;
pub(crate) mod row_values;
pub(crate) mod scopes;
pub(crate) mod search_calls;
pub(crate) mod standard_forms;
pub(crate) mod syntax;
pub(crate) mod time_travel;
pub(crate) mod time_zones;
pub(crate) mod timestamps;
pub(crate) mod type_aliases;
pub(crate) mod using_columns;
pub(crate) mod window_calls;
