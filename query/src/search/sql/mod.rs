//! SQL in front of searches: functions, their arguments, binding, the rewriting rule, relations and the fast
//! path.

pub(crate) mod arguments;
pub(crate) mod binding;
pub(crate) mod fast_path;
pub(crate) mod function_codec;
mod monotonic;
mod query_vectors;
pub(crate) mod relation;
mod row_filter;
pub(crate) mod rule;
pub(crate) mod scalar_functions;
pub(crate) mod search_function;
pub(crate) mod search_results;
mod suggestions;
pub(crate) mod text_conditions;
pub(crate) mod tie_break_keys;
pub(crate) mod tokenize;
pub(crate) mod vector_aggregates;
pub(crate) mod vector_functions;
mod vector_operand;
