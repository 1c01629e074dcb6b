//! Search: rows by their words and vectors, ranked over all segments of a version.
//!
//! A search has *legs*, each of which ranks rows by one question. Legs give rows by their place (segment, row) with their
//! scores; columns are read only of the rows that are left in the end. Scores depend on the rows of the table alone, and
//! not on how they lie in segments.

mod alone;
mod arguments;
mod bind;
mod filter;
mod functions;
mod fusion;
mod legs;
mod relation;
mod report;
mod request;
mod rule;
mod source;
mod spread;
mod statistics;
mod vectors;
mod wire;

use std::sync::Arc;

use datafusion::catalog::TableFunction;
use datafusion::common::extensions_options;
use datafusion::config::ConfigExtension;
use datafusion::logical_expr::ScalarUDF;
use plexus_index::graph::BEAM_DEFAULT;

pub use alone::{bind_searches, is_repeatable, run_alone};
pub use arguments::Function;
pub use bind::{BindRule, Bindings};
pub use functions::NAMED_ARGUMENT;
pub use relation::searched_table;
pub use report::SearchReport;
pub use rule::SearchRule;
pub use source::{Part, SearchCaches, Source, TextFields, blocking, build_texts};
pub use spread::RemoteSearches;
pub(crate) use spread::answer;
pub(crate) use statistics::statistics;
pub use wire::{decode as decode_function, encode as encode_function};

extensions_options! {
    /// How searches of a session look for vectors.
    pub struct SearchOptions {
        /// Whether every vector is looked at, and not only those that an index leads to.
        pub exact: bool, default = false
        /// Candidates that are kept while an index leads to the nearest vectors: with more, more of the nearest are found,
        /// and it takes longer.
        pub ef: usize, default = BEAM_DEFAULT
    }
}

impl ConfigExtension for SearchOptions {
    const PREFIX: &'static str = "search";
}

/// Values of [`SearchOptions::ef`], at most.
pub const EF_MAX: usize = 100_000;

/// The functions over vectors and texts.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    let distances = functions::DistanceFunction::all();
    let texts = functions::TextFunction::all();
    let named = [functions::NamedArgument::function()];
    distances.into_iter().chain(texts).chain(named).map(Arc::new).collect()
}

/// The searches that are relations.
pub fn table_functions() -> Vec<Arc<TableFunction>> {
    let function = |function: Function| {
        Arc::new(TableFunction::new(function.name().to_owned(), Arc::new(relation::SearchFunction(function))))
    };
    Function::ALL.into_iter().map(function).collect()
}
