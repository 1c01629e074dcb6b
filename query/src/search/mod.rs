//! Search: rows ranked by full text (BM25) and by vector distance, over all segments of a table version.
//!
//! A search has one or more *retrievers*. Each ranks rows by one query, and fusion merges their rankings. A
//! retriever returns the positions of rows (segment, row) with their scores. Columns are read only for the
//! rows in the final result. Scores depend on the rows of the table alone, not on how the rows are split into
//! segments.

pub(crate) mod exec;
pub(crate) mod hit;
pub(crate) mod params;
pub(crate) mod remote;
pub(crate) mod snapshot;
pub(crate) mod sql;

use std::sync::Arc;

use datafusion::catalog::TableFunction;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

pub(crate) use exec::report::SearchReport;
pub use params::{EF_SEARCH_MAX, SearchOptions};
pub use plexus_index::graph::RECALL_TARGETS;
pub(crate) use snapshot::caches::SearchCaches;
pub use snapshot::caches::build_bytes_max;
pub(crate) use snapshot::context::SearchContext;
pub use snapshot::context::SearchTransport;
pub use snapshot::text_fields::{FieldGroup, TextFields};
pub use snapshot::texts::build_texts;
pub use snapshot::vectors::Vectors;
pub use snapshot::{SearchSnapshot, SegmentView, blocking};
pub(crate) use sql::binding::BindRule;
pub use sql::fast_path::{bind_searches, is_repeatable, run_fast_path};
pub(crate) use sql::function_codec::{carry_bindings, without_carried};
pub use sql::relation::{searched_table, searches_long};
pub(crate) use sql::rule::SearchRule;
pub use sql::scalar_functions::NAMED_ARGUMENT;
pub(crate) use sql::scalar_functions::is_search_function;
pub use sql::search_function::SearchFunction;
pub(crate) use sql::text_conditions::has_text_call;
pub(crate) use sql::vector_functions::VectorOperators;

/// The scalar functions over vectors and texts. The results of one for a batch take `bytes_max`.
pub(crate) fn scalar_functions(bytes_max: u64) -> Vec<Arc<ScalarUDF>> {
    let distances = sql::scalar_functions::DistanceFunction::all();
    let texts = sql::scalar_functions::TextFunction::all();
    let named = [sql::scalar_functions::NamedArgument::function()];
    let bounded = sql::vector_functions::VectorFunction::all(bytes_max).into_iter();
    let bounded = bounded.chain([sql::tokenize::Tokenize::function(bytes_max)]);
    distances.into_iter().chain(texts).chain(named).map(Arc::new).chain(bounded).collect()
}

/// The aggregate functions over vectors.
pub(crate) fn aggregate_functions() -> [Arc<AggregateUDF>; 2] {
    sql::vector_aggregates::VectorAggregate::all()
}

/// The table functions that search: `vector_search`, `text_search` and `hybrid_search`.
pub(crate) fn table_functions() -> Vec<Arc<TableFunction>> {
    let function = |function: SearchFunction| {
        Arc::new(TableFunction::new(
            function.name().to_owned(),
            Arc::new(sql::relation::SearchTableFunction(function)),
        ))
    };
    SearchFunction::ALL.into_iter().map(function).collect()
}
