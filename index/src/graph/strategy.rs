//! The choice of how the nearest of the selected rows are found.

/// Below this many selected nodes for each candidate of the beam, all selected vectors are compared.
const NODES_PER_CANDIDATE_MIN: u64 = 16;
/// Up to this many selected nodes, all of them are compared.
const BRUTE_FORCE_NODES_MAX: u64 = 256;
/// A graph search runs if at least one of this many nodes is selected. It expands all nodes and filters the
/// result, so it needs a beam that is wider by the same factor.
const GRAPH_SEARCH_NODES_PER_SELECTED_MAX: u64 = 3;

/// How the nearest of the selected rows of a segment are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// Compares the exact vectors of all selected rows.
    BruteForce,
    /// Compares the codes of the selected nodes of the nearest centroids, as an inverted file (IVF) does, and
    /// re-ranks the best.
    IvfScan,
    /// Beam search along the edges of the graph. The nodes that are not selected are removed from its result.
    GraphSearch,
}

impl Strategy {
    /// The strategy for the `k` nearest of `selected` out of `total` nodes, with the given beam width.
    ///
    /// It is an estimate: [`GraphSearcher`](super::GraphSearcher) falls back from a graph search to an IVF
    /// scan when the selected nodes are far from the query.
    pub fn for_nearest(k: usize, beam_width: usize, selected: u64, total: u64) -> Self {
        let candidates = beam_width.max(candidates_min(k)) as u64;
        match candidates.saturating_mul(NODES_PER_CANDIDATE_MIN) > selected {
            true => Self::BruteForce,
            false => Self::for_selectivity(selected, total),
        }
    }

    /// The strategy for `selected` out of `total` nodes, whatever the number of results.
    pub(super) fn for_selectivity(selected: u64, total: u64) -> Self {
        match selected {
            selected if selected <= BRUTE_FORCE_NODES_MAX => Self::BruteForce,
            selected if selected * GRAPH_SEARCH_NODES_PER_SELECTED_MAX < total => Self::IvfScan,
            _ => Self::GraphSearch,
        }
    }

    /// The name in `EXPLAIN`.
    pub fn name(self) -> &'static str {
        match self {
            Self::BruteForce => "brute_force",
            Self::IvfScan => "ivf_scan",
            Self::GraphSearch => "graph_search",
        }
    }
}

/// Candidates that are needed so that re-ranking finds the `k` nearest: the order by codes is only
/// approximate.
pub(super) fn candidates_min(k: usize) -> usize {
    (2 * k).max(k + 20)
}
