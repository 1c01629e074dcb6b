//! Walking a graph towards a query.
//!
//! When only some nodes may be found, one of three ways leads to them. Few are looked at one by one. Of many, those are
//! looked at that belong to the centres nearest to the query: nothing leads astray there, wherever they are. And if a third
//! and more may be found, and some of what is near the query, a walk goes by any node, and checks those that it found.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use plexus_model::{Metric, Rows};

use super::asked::Asked;
use super::beam::{BEGINNINGS, Visited};
use super::build::normalise;
use super::chosen::Chosen;
use super::file::Graph;
use crate::Top;

/// How a walk goes.
#[derive(Clone, Copy, Debug)]
pub struct WalkOptions {
    /// Candidates that are kept: more find more of the nearest, and take longer.
    pub beam: usize,
}

impl Default for WalkOptions {
    fn default() -> Self {
        Self { beam: 96 }
    }
}

/// Rows that may be found.
#[derive(Clone, Copy)]
pub enum Among<'a> {
    /// All but these.
    Except(&'a Rows),
    /// These.
    Only(&'a Chosen),
}

/// How the nearest of those nodes are found that may be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// By looking at the vectors of all of them.
    Exact,
    /// By looking at the codes of those near the query.
    Centres,
    /// By a walk along the edges.
    Walk,
}

impl Strategy {
    /// How the `k` nearest are found of `left` nodes of `all`, with so many candidates.
    pub fn for_nearest(k: usize, beam: usize, left: u64, all: u64) -> Self {
        // A walk that keeps a good part of them takes longer than looking at all.
        match (beam.max(enough(k)) as u64).saturating_mul(SHARE_MIN) > left {
            true => Self::Exact,
            false => Self::of(left, all),
        }
    }

    /// `left` of `all` nodes may be found.
    fn of(left: u64, all: u64) -> Self {
        match left {
            left if left <= EXACT_MAX => Self::Exact,
            left if left * WALK_SHARE < all => Self::Centres,
            _ => Self::Walk,
        }
    }

    /// What people are told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exactly",
            Self::Centres => "by the nearest centres",
            Self::Walk => "by a walk",
        }
    }
}

/// With fewer nodes for each candidate, all are looked at.
const SHARE_MIN: u64 = 8;
/// So few are compared by their vectors.
const EXACT_MAX: u64 = 256;
/// A walk goes if one of so many nodes may be found.
const WALK_SHARE: u64 = 3;
/// A walk goes if one of so many nodes of the nearest centres may be found.
const NEAR_SHARE: usize = 10;
/// Codes that are looked at, at least, for each candidate that is kept, when they are looked at centre by centre.
const LOOKED: usize = 16;
/// As often as many codes are looked at as until the last that was among the best.
const PATIENCE: usize = 3;
/// Candidates that are compared beyond those that are wanted.
const COMPARED_MORE: usize = 10;
/// So many times the mean error of codes may one be off.
const ERRORS: f32 = 2.0;
/// Candidates that are compared by their vectors, at most, of those that were looked at centre by centre.
const COMPARED_MAX: usize = 1024;

/// Candidates of which the nearest `k` are all there: codes tell only about where they are.
fn enough(k: usize) -> usize {
    (2 * k).max(k + 20)
}

/// What walks of one thread use again and again.
#[derive(Default)]
pub struct Walk {
    visited: Visited,
    asked: Asked,
}

impl Walk {
    /// The `k` rows nearest to a query that are found, the nearest first, by `distance` from it, which is asked for the
    /// best candidates alone; and those that are equal to the last of them. Fewer when not so many may be found, or were.
    pub fn nearest(
        &mut self,
        graph: &Graph,
        query: &[f32],
        k: usize,
        options: WalkOptions,
        among: Among<'_>,
        distance: impl FnMut(u32) -> f32,
    ) -> Vec<(f32, u32)> {
        let mut rotated = query.to_vec();
        normalise(graph.metric, &mut rotated);
        graph.rotation.apply(&mut rotated);
        self.asked.begin(graph, rotated);
        let beam = options.beam.max(enough(k));
        let candidates = match among {
            Among::Except(hidden) => self.walk_except(graph, beam, k, hidden),
            Among::Only(chosen) => self.walk_only(graph, beam, k, chosen),
        };
        compare(graph, &candidates, k, distance)
    }

    fn walk_except(&mut self, graph: &Graph, beam: usize, k: usize, hidden: &Rows) -> Candidates {
        if hidden.is_empty() {
            return self.walk(graph, beam, |_| true);
        }
        let left = (graph.len() as u64).saturating_sub(hidden.len());
        if Strategy::of(left, graph.len() as u64) == Strategy::Walk {
            let may = |node| !hidden.contains(graph.row_of(node));
            let found = self.walk(graph, wider(beam, left, graph), may);
            if found.len() >= enough(k) {
                return found;
            }
        }
        let mut seen = Rows::new();
        seen.insert_range(0..graph.rows());
        seen -= hidden;
        self.look_by_centres(graph, beam, k, &Chosen::new(graph, &seen))
    }

    fn walk_only(&mut self, graph: &Graph, beam: usize, k: usize, chosen: &Chosen) -> Candidates {
        let left = chosen.len() as u64;
        if Strategy::of(left, graph.len() as u64) == Strategy::Walk && self.are_near(graph, chosen) {
            let found = self.walk(graph, wider(beam, left, graph), |node| chosen.contains(node));
            // As many of the nearest may be found as are wanted: none is nearer. Otherwise they are elsewhere.
            if found.len() >= enough(k) {
                return found;
            }
        }
        self.look_by_centres(graph, beam, k, chosen)
    }

    /// Whether a fair part of what is at the nearest centres may be found: otherwise a walk would end among others.
    fn are_near(&self, graph: &Graph, chosen: &Chosen) -> bool {
        let nearest = self.asked.nearest_centres(BEGINNINGS);
        let (mut left, mut all) = (0, 0);
        for centre in nearest {
            left += chosen.of_centre(centre).len();
            all += graph.of_centre(centre).len();
        }
        left * NEAR_SHARE >= all
    }

    /// The nearest nodes by their codes that a walk finds, as far as they may be found.
    fn walk(&mut self, graph: &Graph, beam: usize, may: impl Fn(u32) -> bool) -> Candidates {
        let edges = |node: u32, found: &mut Vec<u32>| found.extend(graph.neighbours(node));
        let found = graph.look(&mut self.asked, beam, &mut self.visited, edges);
        let mut all = Vec::with_capacity(found.len());
        for (distance, node) in found {
            let same = std::iter::once(node).chain(graph.copies(node));
            all.extend(same.filter(|node| may(*node)).map(|node| (distance, node)));
        }
        all
    }

    /// The nearest nodes by their codes of those that belong to the nearest centres.
    fn look_by_centres(&mut self, graph: &Graph, beam: usize, k: usize, chosen: &Chosen) -> Candidates {
        let kept = COMPARED_MAX.max(4 * k);
        let mut top = Top::new(kept);
        // Those that are as good as found, and after how many codes one was found last. When that is long ago, others are
        // not expected any more; where the query is far from all that may be found, there are more and more of them
        // (after Teofili and Lin: "Patience in proximity", 2025).
        let mut best: BinaryHeap<Distance> = BinaryHeap::new();
        let (mut looked, mut last) = (0, 0);
        let mut distances = Vec::new();
        for centre in self.asked.nearest_centres(usize::MAX) {
            let nodes = chosen.of_centre(centre);
            self.asked.distances(graph, nodes, &mut distances);
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
fn compare(
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
