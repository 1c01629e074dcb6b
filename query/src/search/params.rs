//! How retrievers search: the session's settings and what a request overrides.

use datafusion::catalog::Session;
use datafusion::common::extensions_options;
use datafusion::config::ConfigExtension;
use plexus_index::graph::BEAM_WIDTH_DEFAULT;

/// How a retriever searches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SearchParams {
    /// Segments that are searched at the same time.
    pub threads: usize,
    /// Whether vectors are compared by brute force, without an index.
    pub exact: bool,
    /// Beam width of a graph search.
    pub ef: usize,
}

impl SearchParams {
    /// The parameters of a session.
    pub(crate) fn of(state: &dyn Session) -> Self {
        let options = state.config_options().extensions.get::<SearchOptions>().cloned().unwrap_or_default();
        Self {
            threads: state.config().target_partitions(),
            exact: options.exact_search,
            ef: options.ef_search,
        }
    }

    /// The same with the beam width of a request, if the request sets one.
    pub(crate) fn with(self, ef: Option<usize>) -> Self {
        Self { ef: ef.unwrap_or(self.ef), ..self }
    }
}

extensions_options! {
    /// The settings of a session for vector search: `plexus.exact_search` and `plexus.ef_search`.
    pub struct SearchOptions {
        /// Whether every vector is compared, rather than those that an index proposes.
        pub exact_search: bool, default = false
        /// Beam width of a graph search: the number of candidates that it keeps. A wider beam finds more of
        /// the nearest vectors and takes longer.
        pub ef_search: usize, default = BEAM_WIDTH_DEFAULT
    }
}

impl ConfigExtension for SearchOptions {
    const PREFIX: &'static str = "plexus";
}

/// The largest value of [`SearchOptions::ef_search`].
pub const EF_SEARCH_MAX: usize = 100_000;
