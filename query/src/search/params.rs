//! TODO module docs.

use datafusion::catalog::Session;
use datafusion::common::extensions_options;
use datafusion::config::ConfigExtension;
use plexus_index::graph::BEAM_WIDTH_DEFAULT;

/// How retrievers look for rows.
#[derive(Clone, Copy, Debug)]
pub struct SearchParams {
    pub threads: usize,
    /// Whether every vector is looked at.
    pub exact: bool,
    /// Candidates of a walk.
    pub ef: usize,
}

impl SearchParams {
    /// As a session has it.
    pub fn of(state: &dyn Session) -> Self {
        let options = state.config_options().extensions.get::<SearchOptions>().cloned().unwrap_or_default();
        Self {
            threads: state.config().target_partitions(),
            exact: options.exact_search,
            ef: options.ef_search,
        }
    }

    pub fn with(self, ef: Option<usize>) -> Self {
        Self { ef: ef.unwrap_or(self.ef), ..self }
    }
}

extensions_options! {
    /// How searches of a session look for vectors.
    pub struct SearchOptions {
        /// Whether every vector is looked at, and not only those that an index leads to.
        pub exact_search: bool, default = false
        /// Candidates that are kept while an index leads to the nearest vectors: with more, more of the nearest are found,
        /// and it takes longer.
        pub ef_search: usize, default = BEAM_WIDTH_DEFAULT
    }
}

impl ConfigExtension for SearchOptions {
    const PREFIX: &'static str = "plexus";
}

/// Values of [`SearchOptions::ef`], at most.
pub const EF_MAX: usize = 100_000;
