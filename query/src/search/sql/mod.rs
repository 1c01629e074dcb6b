//! SQL in front of searches: functions, their arguments, binding, the rewriting rule, relations and the fast path.

pub mod arguments;
pub mod binding;
pub mod fast_path;
pub mod found_rows;
pub mod function;
pub mod function_codec;
pub mod functions;
pub mod relation;
pub mod rule;
