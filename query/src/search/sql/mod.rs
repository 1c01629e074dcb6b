//! SQL in front of searches: functions, their arguments, binding, the rewriting rule, relations and the fast
//! path.

pub(crate) mod arguments;
pub(crate) mod binding;
pub(crate) mod fast_path;
pub(crate) mod function_codec;
pub(crate) mod relation;
pub(crate) mod rule;
pub(crate) mod scalar_functions;
pub(crate) mod search_function;
pub(crate) mod search_results;
pub(crate) mod tie_break_keys;
