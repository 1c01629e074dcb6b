//! Searching a graph for the nearest rows of a selection.
//!
//! A selective filter breaks a graph search: its beam fills with nodes that are not selected. A search
//! therefore follows edges only if at least a third of the nodes is selected, including some near the query.
//! Otherwise it scans the selected nodes of the nearest centroids. Selections that are small enough for exact
//! comparison are up to the caller ([`Strategy::for_nearest`]).

use std::collections::BinaryHeap;
use std::fmt;

use plexus_model::{RowSelection, RowSet};

use super::beam::{ENTRY_CENTROIDS, Visited};
use super::build::normalize;
use super::format::Graph;
use super::node_filter::NodeFilter;
use super::query_distances::QueryDistances;
use super::rerank::{Candidates, TotalDistance, push_nearest, rerank};
use super::strategy::{Strategy, candidates_min};
use crate::TopK;

/// Least beam width that a recall takes. With 500,000 clustered vectors it finds 0.96 of the ten nearest.
pub const BEAM_WIDTH_DEFAULT: usize = 96;

/// A graph search runs if at least one of this many nodes of the nearest centroids is selected.
const NEAR_NODES_PER_SELECTED_MAX: usize = 10;
/// Codes that an IVF scan compares at least, for each candidate of the beam width.
const IVF_CODES_PER_CANDIDATE_MIN: usize = 16;
/// An IVF scan ends after this many times as many codes as it took to find the last of the `k` nearest.
const IVF_PATIENCE_FACTOR: usize = 3;
/// Candidates of an IVF scan that are re-ranked at most, if `k` is small.
const IVF_CANDIDATES: usize = 1024;
/// Candidates of an IVF scan for each wanted row, if `k` is large.
const IVF_CANDIDATES_PER_K: usize = 4;

/// How many candidates a beam search keeps. More candidates raise the recall and take more time.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Beam {
    /// So many (`ef` in HNSW).
    Width(usize),
    /// As many as it takes to find this share of the nearest rows on average, by what the build measured.
    Recall(f32),
}

impl Beam {
    /// About as many, for a choice that is made without the graph and the query.
    pub fn estimate(self) -> usize {
        match self {
            Self::Width(width) => width,
            Self::Recall(_) => BEAM_WIDTH_DEFAULT,
        }
    }
}

impl fmt::Display for Beam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Width(width) => write!(f, "ef {width}"),
            Self::Recall(recall) => write!(f, "recall {recall}"),
        }
    }
}

/// Parameters of a search in a graph.
#[derive(Clone, Copy, Debug)]
pub struct GraphSearchOptions {
    /// Number of nearest rows.
    pub k: usize,
    /// How many candidates are kept.
    pub beam: Beam,
}

impl GraphSearchOptions {
    /// Searches for the `k` nearest rows with the default beam width.
    pub fn new(k: usize) -> Self {
        Self { k, beam: Beam::Width(BEAM_WIDTH_DEFAULT) }
    }
}

/// Searches graphs, and reuses its buffers between searches. Keep one for each thread.
#[derive(Default)]
pub struct GraphSearcher {
    visited: Visited,
    query: QueryDistances,
}

impl GraphSearcher {
    /// The `k` rows of `rows` nearest to `query` and the ties of the last, as distances and rows, nearest
    /// first. Fewer when the selection holds fewer, or when the search reaches fewer. None when the recall
    /// takes so many candidates that comparing all selected rows costs less.
    ///
    /// `nodes` is the selection as nodes of this graph, for callers that keep it between searches; it is
    /// derived from `rows` when absent. `distance` gives the exact distance of a row and is called for
    /// re-ranking only.
    pub fn search(
        &mut self,
        graph: &Graph,
        query: &[f32],
        options: GraphSearchOptions,
        rows: &RowSelection,
        nodes: Option<&NodeFilter>,
        distance: impl FnMut(u32) -> f32,
    ) -> Vec<(f32, u32)> {
        let mut rotated = query.to_vec();
        normalize(graph.metric, &mut rotated);
        graph.rotation.apply(&mut rotated);
        self.search_rotated(graph, rotated, options, rows, nodes, distance)
    }

    /// The same with a query that is normalized, if the metric wants that, and rotated.
    pub(super) fn search_rotated(
        &mut self,
        graph: &Graph,
        rotated: Vec<f32>,
        options: GraphSearchOptions,
        rows: &RowSelection,
        nodes: Option<&NodeFilter>,
        distance: impl FnMut(u32) -> f32,
    ) -> Vec<(f32, u32)> {
        let k = options.k;
        self.query.begin(graph, rotated);
        let beam_width = match options.beam {
            Beam::Width(width) => width,
            Beam::Recall(recall) => {
                let width = graph.beam_width(recall, self.query.nearest_centroid_distance());
                let (total, selected) = (graph.len() as u64, rows.len(u64::from(graph.rows())));
                if Strategy::for_nearest(k, width, selected.min(total), total) == Strategy::BruteForce {
                    return vec![];
                }
                width
            }
        };
        let beam_width = beam_width.max(candidates_min(k));
        let candidates = match (rows, nodes) {
            (RowSelection::AllExcept(excluded), _) => self.search_except(graph, beam_width, k, excluded),
            (RowSelection::Only(_), Some(nodes)) => self.search_only(graph, beam_width, k, nodes),
            (RowSelection::Only(rows), None) => {
                self.search_only(graph, beam_width, k, &NodeFilter::new(graph, rows))
            }
        };
        rerank(graph, &candidates, k, distance)
    }

    fn search_except(&mut self, graph: &Graph, beam_width: usize, k: usize, excluded: &RowSet) -> Candidates {
        if excluded.is_empty() {
            return self.graph_search(graph, beam_width, |_| true);
        }
        let selected = (graph.len() as u64).saturating_sub(excluded.len());
        if Strategy::for_selectivity(selected, graph.len() as u64) == Strategy::GraphSearch {
            let accept = |node| !excluded.contains(graph.row_of(node));
            let found = self.graph_search(graph, widened(beam_width, selected, graph), accept);
            if found.len() >= candidates_min(k) {
                return found;
            }
        }
        let mut rows = RowSet::new();
        rows.insert_range(0..graph.rows());
        rows -= excluded;
        self.ivf_scan(graph, beam_width, k, &NodeFilter::new(graph, &rows))
    }

    fn search_only(&mut self, graph: &Graph, beam_width: usize, k: usize, nodes: &NodeFilter) -> Candidates {
        let selected = nodes.len() as u64;
        if Strategy::for_selectivity(selected, graph.len() as u64) == Strategy::GraphSearch
            && self.selects_near_nodes(graph, nodes)
        {
            let accept = |node| nodes.contains(node);
            let found = self.graph_search(graph, widened(beam_width, selected, graph), accept);
            // Fewer means that the graph search ended among nodes outside the selection.
            if found.len() >= candidates_min(k) {
                return found;
            }
        }
        self.ivf_scan(graph, beam_width, k, nodes)
    }

    /// Whether enough nodes of the nearest centroids are selected. Otherwise a graph search would end among
    /// nodes outside the selection.
    fn selects_near_nodes(&self, graph: &Graph, nodes: &NodeFilter) -> bool {
        let (mut selected, mut total) = (0, 0);
        for centroid in self.query.nearest_centroids(ENTRY_CENTROIDS) {
            selected += nodes.postings(centroid).len();
            total += graph.postings(centroid).len();
        }
        selected * NEAR_NODES_PER_SELECTED_MAX >= total
    }

    /// The accepted nodes of a beam search, with their duplicates.
    fn graph_search(&mut self, graph: &Graph, beam_width: usize, accept: impl Fn(u32) -> bool) -> Candidates {
        let edges = |node: u32, reached: &mut Vec<u32>| reached.extend(graph.neighbors(node));
        let found = graph.beam_search(&mut self.query, beam_width, &mut self.visited, edges, None);
        let mut candidates = Vec::with_capacity(found.len());
        for (distance, node) in found {
            let with_duplicates = std::iter::once(node).chain(graph.duplicates(node));
            candidates.extend(with_duplicates.filter(|node| accept(*node)).map(|node| (distance, node)));
        }
        candidates
    }

    /// The nearest selected nodes by their codes, from the posting lists of the nearest centroids.
    ///
    /// The scan ends when no code was among the `k` nearest for long (after Teofili and Lin: "Patience in
    /// proximity", 2025). A fixed number of centroids would be too few for queries far from all selected
    /// nodes, where the nearest nodes are spread over many centroids.
    fn ivf_scan(&mut self, graph: &Graph, beam_width: usize, k: usize, nodes: &NodeFilter) -> Candidates {
        let count = IVF_CANDIDATES.max(IVF_CANDIDATES_PER_K * k);
        let mut top = TopK::new(count);
        let mut nearest: BinaryHeap<TotalDistance> = BinaryHeap::new();
        // Codes compared before the current centroid, and before the last that was among the `k` nearest.
        let (mut compared, mut last_improvement) = (0, 0);
        let mut distances = Vec::new();
        for centroid in self.query.nearest_centroids(usize::MAX) {
            let postings = nodes.postings(centroid);
            self.query.distances(graph, postings, &mut distances);
            for (i, (distance, node)) in distances.iter().zip(postings).enumerate() {
                top.push(-distance, *node);
                if push_nearest(&mut nearest, k, *distance) {
                    last_improvement = compared + i;
                }
            }
            compared += postings.len();
            if compared >= beam_width * IVF_CODES_PER_CANDIDATE_MIN
                && compared >= last_improvement * IVF_PATIENCE_FACTOR
            {
                break;
            }
        }
        top.into_sorted().into_iter().take(count).map(|(score, node)| (-score, node)).collect()
    }
}

/// The beam width that gives as many selected candidates as `beam_width` gives without a filter.
fn widened(beam_width: usize, selected: u64, graph: &Graph) -> usize {
    (beam_width as u64 * graph.len() as u64).div_ceil(selected.max(1)) as usize
}
