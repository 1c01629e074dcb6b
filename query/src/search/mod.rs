//! Search: rows by their words and vectors, ranked over all segments of a version.
//!
//! A search has *retrievers*, each of which ranks rows by one question. Legs give rows by their place (segment, row) with their
//! scores; columns are read only of the rows that are left in the end. Scores depend on the rows of the table alone, and
//! not on how they lie in segments.

pub mod exec;
pub mod hit;
pub mod params;
pub mod remote;
pub mod snapshot;
pub mod sql;

use std::sync::Arc;

use datafusion::catalog::TableFunction;
use datafusion::logical_expr::ScalarUDF;

pub use exec::report::SearchReport;
pub use exec::statistics::statistics;
pub use exec::text_binding::Bindings;
pub use params::{EF_MAX, SearchOptions};
pub use snapshot::caches::SearchCaches;
pub use snapshot::context::{SearchContext, SearchTransport};
pub use snapshot::snapshot::{SearchSnapshot, SegmentView, blocking};
pub use snapshot::text_fields::TextFields;
pub use snapshot::texts::build_texts;
pub use sql::binding::BindRule;
pub use sql::fast_path::{bind_searches, is_repeatable, run_fast_path};
pub use sql::function::Function;
pub use sql::function_codec::{decode as decode_function, encode as encode_function};
pub use sql::functions::NAMED_ARGUMENT;
pub use sql::relation::searched_table;
pub use sql::rule::SearchRule;

/// The functions over vectors and texts.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    let distances = sql::functions::DistanceFunction::all();
    let texts = sql::functions::TextFunction::all();
    let named = [sql::functions::NamedArgument::function()];
    distances.into_iter().chain(texts).chain(named).map(Arc::new).collect()
}

/// The searches that are relations.
pub fn table_functions() -> Vec<Arc<TableFunction>> {
    let function = |function: Function| {
        Arc::new(TableFunction::new(
            function.name().to_owned(),
            Arc::new(sql::relation::SearchFunction(function)),
        ))
    };
    Function::ALL.into_iter().map(function).collect()
}
