//! Walking a graph towards a query.
//!
//! When only some nodes may be found, one of three ways leads to them. Few are looked at one by one. Of many, those are
//! looked at that belong to the centroids nearest to the query: nothing leads astray there, wherever they are. And if a third
//! and more may be found, and some of what is near the query, a walk goes by any node, and checks those that it found.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use plexus_model::{Metric, RowSelection, RowSet};

use super::beam::{BEGINNINGS, Visited};
use super::build::normalize;
use super::format::Graph;
use super::node_filter::NodeFilter;
use super::query_distances::QueryDistances;
use crate::TopK;

/// Beam width of a search that does not choose one: recall 0.96 and more at 500,000 clustered vectors.
pub const BEAM_DEFAULT: usize = 96;

/// What one search of a graph asks for.
#[derive(Clone, Copy, Debug)]
pub struct GraphSearchOptions {
    /// Number of nearest rows.
    pub k: usize,
    /// Candidates that the beam search keeps: more raise recall and cost time.
    pub beam: usize,
}

impl GraphSearchOptions {
    /// The `k` nearest with the default beam.
    pub fn new(k: usize) -> Self {
        Self { k, beam: BEAM_DEFAULT }
    }
}

/// How the nearest of those nodes are found that may be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// By looking at the vectors of all of them.
    BruteForce,
    /// By looking at the codes of those near the query.
    IvfScan,
    /// By a walk along the edges.
    GraphSearch,
}

impl Strategy {
    /// How the `k` nearest are found of `left` nodes of `all`, with so many candidates.
    pub fn for_nearest(k: usize, beam: usize, left: u64, all: u64) -> Self {
        // A walk that keeps a good part of them takes longer than looking at all.
        match (beam.max(enough(k)) as u64).saturating_mul(SHARE_MIN) > left {
            true => Self::BruteForce,
            false => Self::of(left, all),
        }
    }

    /// `left` of `all` nodes may be found.
    fn of(left: u64, all: u64) -> Self {
        match left {
            left if left <= EXACT_MAX => Self::BruteForce,
            left if left * WALK_SHARE < all => Self::IvfScan,
            _ => Self::GraphSearch,
        }
    }

    /// What people are told.
    pub fn name(self) -> &'static str {
        match self {
            Self::BruteForce => "brute_force",
            Self::IvfScan => "ivf_scan",
            Self::GraphSearch => "graph_search",
        }
    }
}

/// With fewer nodes for each candidate, all are looked at.
const SHARE_MIN: u64 = 8;
/// So few are compared by their vectors.
const EXACT_MAX: u64 = 256;
/// A walk goes if one of so many nodes may be found.
const WALK_SHARE: u64 = 3;
/// A walk goes if one of so many nodes of the nearest centroids may be found.
const NEAR_SHARE: usize = 10;
/// Codes that are looked at, at least, for each candidate that is kept, when they are looked at centroid by centroid.
const LOOKED: usize = 16;
/// As often as many codes are looked at as until the last that was among the best.
const PATIENCE: usize = 3;
/// Candidates that are compared beyond those that are wanted.
const COMPARED_MORE: usize = 10;
/// So many times the mean error of codes may one be off.
const ERRORS: f32 = 2.0;
/// Candidates that are compared by their vectors, at most, of those that were looked at centroid by centroid.
const COMPARED_MAX: usize = 1024;

/// Candidates of which the nearest `k` are all there: codes tell only about where they are.
fn enough(k: usize) -> usize {
    (2 * k).max(k + 20)
}

/// What walks of one thread use again and again.
#[derive(Default)]
pub struct GraphSearcher {
    visited: Visited,
    query: QueryDistances,
}

impl GraphSearcher {
    /// The `k` rows of `rows` nearest to `query`, nearest first, and those tied with the last of them. Fewer when the
    /// selection holds fewer, or when the search reaches fewer.
    ///
    /// `nodes` is the selection as nodes of this graph, for callers that keep it between searches; it is derived from
    /// `rows` when absent. `distance` gives the exact distance of a row and is called for re-ranking only.
    pub fn search(
        &mut self,
        graph: &Graph,
        query: &[f32],
        options: GraphSearchOptions,
        rows: &RowSelection,
        nodes: Option<&NodeFilter>,
        distance: impl FnMut(u32) -> f32,
    ) -> Vec<(f32, u32)> {
        let k = options.k;
        let mut rotated = query.to_vec();
        normalize(graph.metric, &mut rotated);
        graph.rotation.apply(&mut rotated);
        self.query.begin(graph, rotated);
        let beam = options.beam.max(enough(k));
        let candidates = match (rows, nodes) {
            (RowSelection::AllExcept(excluded), _) => self.search_except(graph, beam, k, excluded),
            (RowSelection::Only(_), Some(nodes)) => self.search_only(graph, beam, k, nodes),
            (RowSelection::Only(rows), None) => {
                self.search_only(graph, beam, k, &NodeFilter::new(graph, rows))
            }
        };
        rerank(graph, &candidates, k, distance)
    }

    fn search_except(&mut self, graph: &Graph, beam: usize, k: usize, excluded: &RowSet) -> Candidates {
        if excluded.is_empty() {
            return self.graph_search(graph, beam, |_| true);
        }
        let selected = (graph.len() as u64).saturating_sub(excluded.len());
        if Strategy::of(selected, graph.len() as u64) == Strategy::GraphSearch {
            let accept = |node| !excluded.contains(graph.row_of(node));
            let found = self.graph_search(graph, wider(beam, selected, graph), accept);
            if found.len() >= enough(k) {
                return found;
            }
        }
        let mut rows = RowSet::new();
        rows.insert_range(0..graph.rows());
        rows -= excluded;
        self.ivf_scan(graph, beam, k, &NodeFilter::new(graph, &rows))
    }

    fn search_only(&mut self, graph: &Graph, beam: usize, k: usize, nodes: &NodeFilter) -> Candidates {
        let selected = nodes.len() as u64;
        if Strategy::of(selected, graph.len() as u64) == Strategy::GraphSearch && self.are_near(graph, nodes)
        {
            let found = self.graph_search(graph, wider(beam, selected, graph), |node| nodes.contains(node));
            // Fewer means that the graph search ended among nodes outside the selection.
            if found.len() >= enough(k) {
                return found;
            }
        }
        self.ivf_scan(graph, beam, k, nodes)
    }

    /// Whether a fair part of what is at the nearest centroids may be found: otherwise a walk would end among others.
    fn are_near(&self, graph: &Graph, chosen: &NodeFilter) -> bool {
        let nearest = self.query.nearest_centroids(BEGINNINGS);
        let (mut left, mut all) = (0, 0);
        for centroid in nearest {
            left += chosen.of_centroid(centroid).len();
            all += graph.of_centroid(centroid).len();
        }
        left * NEAR_SHARE >= all
    }

    /// The nearest nodes by their codes that a walk finds, as far as they may be found.
    fn graph_search(&mut self, graph: &Graph, beam: usize, accept: impl Fn(u32) -> bool) -> Candidates {
        let edges = |node: u32, found: &mut Vec<u32>| found.extend(graph.neighbors(node));
        let found = graph.beam_search(&mut self.query, beam, &mut self.visited, edges);
        let mut all = Vec::with_capacity(found.len());
        for (distance, node) in found {
            let same = std::iter::once(node).chain(graph.duplicates(node));
            all.extend(same.filter(|node| accept(*node)).map(|node| (distance, node)));
        }
        all
    }

    /// The nearest nodes by their codes of those that belong to the nearest centroids.
    fn ivf_scan(&mut self, graph: &Graph, beam: usize, k: usize, chosen: &NodeFilter) -> Candidates {
        let kept = COMPARED_MAX.max(4 * k);
        let mut top = TopK::new(kept);
        // Those that are as good as found, and after how many codes one was found last. When that is long ago, others are
        // not expected any more; where the query is far from all that may be found, there are more and more of them
        // (after Teofili and Lin: "Patience in proximity", 2025).
        let mut best: BinaryHeap<Distance> = BinaryHeap::new();
        let (mut looked, mut last) = (0, 0);
        let mut distances = Vec::new();
        for centroid in self.query.nearest_centroids(usize::MAX) {
            let nodes = chosen.of_centroid(centroid);
            self.query.distances(graph, nodes, &mut distances);
            for (at, (distance, node)) in distances.iter().zip(nodes).enumerate() {
                top.push(-distance, *node);
                if keep(&mut best, k, *distance) {
                    last = looked + at;
                }
            }
            looked += nodes.len();
            if looked >= beam * LOOKED && looked >= last * PATIENCE {
                break;
            }
        }
        top.into_sorted().into_iter().take(kept).map(|(score, node)| (-score, node)).collect()
    }
}

/// Nodes with about how far they are, the nearest first.
type Candidates = Vec<(f32, u32)>;

/// The `k` nearest of candidates by `distance`, which is that of a row, and those that are equal to the last of them.
///
/// Codes tell only about how far something is: candidates are compared in their order, until the next is farther by its
/// code than the last that counts by more than codes have been wrong by so far.
fn rerank(
    graph: &Graph,
    candidates: &[(f32, u32)],
    k: usize,
    mut distance: impl FnMut(u32) -> f32,
) -> Vec<(f32, u32)> {
    let mut found: Vec<(f32, u32)> = Vec::new();
    let mut best: BinaryHeap<Distance> = BinaryHeap::new();
    let mut errors = 0.0;
    for (compared, (about, node)) in candidates.iter().enumerate() {
        if compared >= k + COMPARED_MORE {
            let error = (errors / compared as f32).sqrt();
            if best.peek().is_some_and(|last| about - ERRORS * error > comparable(graph.metric, last.0)) {
                break;
            }
        }
        let row = graph.row_of(*node);
        let exact = distance(row);
        let error = comparable(graph.metric, exact) - about;
        errors += error * error;
        found.push((exact, row));
        keep(&mut best, k, exact);
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    if let Some((last, _)) = k.checked_sub(1).and_then(|last| found.get(last)).copied() {
        found.truncate(found.partition_point(|(distance, _)| *distance <= last));
    }
    found
}

/// Keeps the `k` least distances. Whether one is among them so far.
fn keep(best: &mut BinaryHeap<Distance>, k: usize, distance: f32) -> bool {
    if best.len() == k && best.peek().is_none_or(|worst| distance >= worst.0) {
        return false;
    }
    best.push(Distance(distance));
    if best.len() > k {
        best.pop();
    }
    true
}

/// A distance as codes give it: a square, or the inner product with its sign changed. Of vectors of length one, the
/// square is twice the distance by the cosine.
fn comparable(metric: Metric, distance: f32) -> f32 {
    match metric {
        Metric::Cosine => 2.0 * distance,
        Metric::L2 => distance * distance,
        Metric::Dot => distance,
    }
}

/// A distance by its size.
#[derive(PartialEq)]
struct Distance(f32);

impl Eq for Distance {}

impl PartialOrd for Distance {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Distance {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A beam in which as many may be found as there are in one where all may.
fn wider(beam: usize, left: u64, graph: &Graph) -> usize {
    (beam as u64 * graph.len() as u64).div_ceil(left.max(1)) as usize
}
