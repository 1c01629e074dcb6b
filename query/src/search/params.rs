//! How retrievers search: the session's settings and what a request overrides.

use datafusion::catalog::Session;
use datafusion::common::extensions_options;
use datafusion::config::ConfigExtension;
use plexus_index::graph::{Beam, RECALL_TARGETS};

/// How a retriever searches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SearchParams {
    /// Segments that are searched at the same time.
    pub threads: usize,
    /// Whether vectors are compared by brute force, without an index.
    pub exact: bool,
    /// How wide the beam of a graph search is.
    pub beam: Beam,
}

impl SearchParams {
    /// The parameters of a session.
    pub(crate) fn of(state: &dyn Session) -> Self {
        let options = state.config_options().extensions.get::<SearchOptions>().cloned().unwrap_or_default();
        Self {
            threads: state.config().target_partitions(),
            exact: options.exact_search,
            beam: match options.ef_search {
                EF_BY_RECALL => Beam::Recall(options.recall_target as f32),
                ef => Beam::Width(ef),
            },
        }
    }

    /// The same with the beam width of a request, if the request sets one.
    pub(crate) fn with(self, ef: Option<usize>) -> Self {
        Self { beam: ef.map_or(self.beam, Beam::Width), ..self }
    }
}

extensions_options! {
    /// The settings of a session for vector search: `plexus.exact_search`, `plexus.ef_search` and
    /// `plexus.recall_target`.
    pub struct SearchOptions {
        /// Whether every vector is compared, rather than those that an index proposes.
        pub exact_search: bool, default = false
        /// Beam width of a graph search: the number of candidates that it keeps. A wider beam finds more of
        /// the nearest vectors and takes longer. Zero for as many as `recall_target` needs.
        pub ef_search: usize, default = EF_BY_RECALL
        /// The share of the nearest rows that a graph search shall find on average.
        pub recall_target: f64, default = f64::from(RECALL_TARGETS[0])
    }
}

impl ConfigExtension for SearchOptions {
    const PREFIX: &'static str = "plexus";
}

/// The value of [`SearchOptions::ef_search`] that leaves the beam width to the recall.
const EF_BY_RECALL: usize = 0;

/// The largest value of [`SearchOptions::ef_search`].
pub const EF_SEARCH_MAX: usize = 100_000;
