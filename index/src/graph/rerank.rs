//! Re-ranking: the candidates of a search by codes are ordered by the exact distances of their vectors.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use plexus_model::Metric;

use super::format::Graph;

/// Candidates that are always compared, in addition to the `k` that are wanted.
const EXTRA_CANDIDATES: usize = 10;
/// Errors of a code that are taken as possible, as a multiple of the root mean square of the errors so far.
const ERROR_MULTIPLE_MAX: f32 = 2.0;

/// Nodes with their approximate distances from a query, nearest first.
pub(super) type Candidates = Vec<(f32, u32)>;

/// The `k` nearest rows of the candidates and the ties of the last, nearest first. `distance` gives the exact
/// distance of a row.
///
/// Exact vectors are read in the order of the approximate distances, until the next candidate cannot be among
/// the `k` nearest unless its code is more wrong than the codes so far.
pub(super) fn rerank(
    graph: &Graph,
    candidates: &[(f32, u32)],
    k: usize,
    mut distance: impl FnMut(u32) -> f32,
) -> Vec<(f32, u32)> {
    let mut ranked: Vec<(f32, u32)> = Vec::new();
    let mut nearest: BinaryHeap<TotalDistance> = BinaryHeap::new();
    let mut squared_errors = 0.0;
    for (compared, (approximate, node)) in candidates.iter().enumerate() {
        if compared >= k + EXTRA_CANDIDATES {
            let error = (squared_errors / compared as f32).sqrt();
            let least_possible = approximate - ERROR_MULTIPLE_MAX * error;
            if nearest.peek().is_some_and(|kth| least_possible > code_distance(graph.metric, kth.0)) {
                break;
            }
        }
        let row = graph.row_of(*node);
        let exact = distance(row);
        let error = code_distance(graph.metric, exact) - approximate;
        squared_errors += error * error;
        ranked.push((exact, row));
        push_nearest(&mut nearest, k, exact);
    }
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    if let Some((kth, _)) = k.checked_sub(1).and_then(|last| ranked.get(last)).copied() {
        ranked.truncate(ranked.partition_point(|(distance, _)| *distance <= kth));
    }
    ranked
}

/// Adds a distance to the `k` least ones. Returns whether it is one of them.
pub(super) fn push_nearest(nearest: &mut BinaryHeap<TotalDistance>, k: usize, distance: f32) -> bool {
    if nearest.len() == k && nearest.peek().is_none_or(|kth| distance >= kth.0) {
        return false;
    }
    nearest.push(TotalDistance(distance));
    if nearest.len() > k {
        nearest.pop();
    }
    true
}

/// Converts an exact distance to the scale of the distances by codes: the squared Euclidean distance (of
/// normalized vectors for the cosine), or the negated inner product.
fn code_distance(metric: Metric, distance: f32) -> f32 {
    match metric {
        Metric::Cosine => 2.0 * distance,
        Metric::L2 => distance * distance,
        Metric::Dot => distance,
    }
}

/// A distance with a total order, for heaps.
#[derive(PartialEq)]
pub(super) struct TotalDistance(f32);

impl Eq for TotalDistance {}

impl PartialOrd for TotalDistance {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TotalDistance {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}
