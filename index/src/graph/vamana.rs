//! The edges of a Vamana graph (Jayaram Subramanya et al.: "DiskANN: fast accurate billion-point nearest
//! neighbor search on a single node", NeurIPS 2019).
//!
//! Nodes are inserted in batches, each a fixed share of the nodes that are already in the graph. All nodes of
//! a batch search their neighbors in the graph as it is before the batch. The result therefore depends on the
//! seed and not on the number of threads (Manohar et al.: "ParlayANN: scalable and deterministic parallel
//! graph-based approximate nearest neighbor search algorithms", 2024).

use rayon::prelude::*;

use super::beam::Visited;
use super::build::BuildOptions;
use super::format::Graph;
use super::query_distances::QueryDistances;
use super::random::SplitMix64;

/// A batch has at most one node for this many nodes in the graph.
const GRAPH_NODES_PER_BATCH_NODE: usize = 50;
const BATCH_NODES_MIN: usize = 64;
/// Out-edges that a node may have beyond its maximum degree during the build. Pruning less often is faster.
const DEGREE_SLACK: usize = 16;

/// The state of a build.
pub(super) struct VamanaBuilder<'a> {
    /// Codes and entry points, without edges.
    graph: Graph,
    /// The exact vectors, rotated, in the order of the nodes.
    rotated: &'a [f32],
    /// The out-edges of each node so far.
    edges: Vec<Vec<u32>>,
    options: BuildOptions,
}

impl<'a> VamanaBuilder<'a> {
    pub(super) fn new(graph: Graph, rotated: &'a [f32], options: BuildOptions) -> Self {
        let edges = vec![Vec::new(); graph.len()];
        Self { graph, rotated, edges, options }
    }

    /// The out-edges of all nodes, at most the maximum degree each. Duplicates have none.
    pub(super) fn build(mut self) -> Vec<Vec<u32>> {
        let mut entry_points: Vec<u32> = self.graph.entry_points.clone();
        entry_points.sort_unstable();
        entry_points.dedup();
        let mut order: Vec<u32> =
            (0..self.graph.len() as u32).filter(|node| entry_points.binary_search(node).is_err()).collect();
        order.retain(|node| !self.graph.nodes.is_duplicate(*node));
        // A Fisher-Yates shuffle.
        let mut random = SplitMix64::new(self.options.seed ^ 1);
        for last in (1..order.len()).rev() {
            order.swap(last, (random.next() % (last as u64 + 1)) as usize);
        }
        self.insert_entry_points(&entry_points);
        let (mut inserted, mut start) = (entry_points.len(), 0);
        while start < order.len() {
            let size = (inserted / GRAPH_NODES_PER_BATCH_NODE).max(BATCH_NODES_MIN).min(order.len() - start);
            self.insert_batch(&order[start..start + size]);
            start += size;
            inserted += size;
        }
        let all: Vec<u32> = (0..self.graph.len() as u32).collect();
        all.par_iter().map(|node| self.final_edges(*node)).collect()
    }

    fn vector(&self, node: u32) -> &[f32] {
        let dimensions = self.graph.dimensions;
        &self.rotated[node as usize * dimensions..(node as usize + 1) * dimensions]
    }

    fn squared_distance(&self, a: u32, b: u32) -> f32 {
        crate::squared_l2(self.vector(a), self.vector(b))
    }

    /// The out-edges of a node without slack.
    fn final_edges(&self, node: u32) -> Vec<u32> {
        let edges = &self.edges[node as usize];
        if edges.len() <= self.options.degree_max { edges.clone() } else { self.robust_prune(node, edges) }
    }

    /// Inserts the entry points first: each is a candidate for all others, since there is nothing to search
    /// yet.
    fn insert_entry_points(&mut self, entry_points: &[u32]) {
        let neighbors: Vec<Vec<u32>> = entry_points
            .par_iter()
            .map(|node| {
                let others: Vec<u32> = entry_points.iter().copied().filter(|other| other != node).collect();
                self.robust_prune(*node, &others)
            })
            .collect();
        self.connect(entry_points, neighbors);
    }

    /// Inserts nodes: searches the candidates of each in the graph, prunes them, and adds edges in both
    /// directions.
    fn insert_batch(&mut self, batch: &[u32]) {
        let neighbors: Vec<Vec<u32>> = batch
            .par_iter()
            .map_init(
                || (Visited::default(), QueryDistances::default()),
                |(visited, query), node| {
                    query.begin(&self.graph, self.vector(*node).to_vec());
                    let edges =
                        |other: u32, reached: &mut Vec<u32>| reached.extend(&self.edges[other as usize]);
                    let found = self.graph.beam_search(query, self.options.beam_width, visited, edges, None);
                    let candidates: Vec<u32> =
                        found.into_iter().map(|(_, other)| other).filter(|other| other != node).collect();
                    self.robust_prune(*node, &candidates)
                },
            )
            .collect();
        self.connect(batch, neighbors);
    }

    /// Sets the out-edges of nodes, and adds the reverse edges to their neighbors.
    fn connect(&mut self, nodes: &[u32], neighbors: Vec<Vec<u32>>) {
        let mut reverse: Vec<(u32, u32)> = Vec::new();
        for (node, neighbors) in nodes.iter().zip(neighbors) {
            reverse.extend(neighbors.iter().map(|other| (*other, *node)));
            self.edges[*node as usize] = neighbors;
        }
        reverse.par_sort_unstable();
        let by_target: Vec<&[(u32, u32)]> = reverse.chunk_by(|a, b| a.0 == b.0).collect();
        let updated: Vec<(u32, Vec<u32>)> = by_target
            .par_iter()
            .map(|group| {
                let node = group[0].0;
                let mut all = self.edges[node as usize].clone();
                let added: Vec<u32> =
                    group.iter().map(|(_, other)| *other).filter(|other| !all.contains(other)).collect();
                all.extend(added);
                let is_full = all.len() > self.options.degree_max + DEGREE_SLACK;
                (node, if is_full { self.robust_prune(node, &all) } else { all })
            })
            .collect();
        for (node, edges) in updated {
            self.edges[node as usize] = edges;
        }
    }

    /// Chooses neighbors from candidates, nearest first (`RobustPrune` in the paper).
    ///
    /// A candidate is skipped when a chosen neighbor `n` is nearer to it by the factor `alpha`, that is if
    /// `alpha * d(n, candidate) <= d(node, candidate)`: a search reaches the candidate through `n`.
    fn robust_prune(&self, node: u32, candidates: &[u32]) -> Vec<u32> {
        // All distances are squared.
        let alpha_squared = self.options.alpha * self.options.alpha;
        let mut candidates: Vec<(f32, u32)> =
            candidates.iter().map(|other| (self.squared_distance(node, *other), *other)).collect();
        candidates.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut neighbors: Vec<u32> = Vec::with_capacity(self.options.degree_max);
        for (distance, candidate) in candidates {
            if neighbors.len() == self.options.degree_max {
                break;
            }
            let is_covered = neighbors
                .iter()
                .any(|other| alpha_squared * self.squared_distance(*other, candidate) <= distance);
            if !is_covered {
                neighbors.push(candidate);
            }
        }
        neighbors
    }
}
