//! Building a graph.
//!
//! Vectors join in batches, each as large as a share of those that are in: a batch looks for its neighbors in what is
//! there, all at once, and then those learn of it. So the graph depends on the seed and not on how many threads there
//! are (Manohar et al.: "ParlayANN: scalable and deterministic parallel graph-based approximate nearest neighbor search
//! algorithms", 2024). Of the candidates of a vector, those stay that lead somewhere where the others do not (Jayaram
//! Subramanya et al.: "DiskANN: fast accurate billion-point nearest neighbor search on a single node", 2019).

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

use plexus_model::{Error, Metric, Result};
use rayon::prelude::*;

use super::beam::Visited;
use super::centroids::Centroids;
use super::format::{DUPLICATE, ENTRIES, FACTOR_BYTES, Graph, GraphParts, NODES_MAX, Nodes};
use super::quantization::{Random, Rotation, encode};
use super::query_distances::QueryDistances;

/// How a graph is built.
#[derive(Clone, Copy, Debug)]
pub struct BuildOptions {
    /// Edges of a vector, at most.
    pub degree: usize,
    /// Candidates that are kept while neighbors are looked for.
    pub beam: usize,
    /// How much farther a neighbour may be than the way round by another, for it to be left out.
    pub alpha: f32,
    pub seed: u64,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self { degree: 28, beam: 80, alpha: 1.2, seed: 0x706c_6578_7573 }
    }
}

/// A batch is at most such a share of the vectors that are in.
const BATCH_SHARE: usize = 50;
const BATCH_MIN: usize = 64;
/// Edges that a vector may have beyond its degree while the graph is built.
const SLACK: usize = 16;

/// Builds the graph of the vectors of a segment: of those of `rows`, one after the other, each finite. Gives the bytes
/// that [`Graph::open`] reads. Takes all threads of the pool that it is called in.
///
/// # Errors
/// `InvalidArgument` when there are more vectors than a graph can name.
pub fn build_graph(
    metric: Metric,
    length: usize,
    mut vectors: Vec<f32>,
    rows: &[u32],
    segment_rows: u32,
    options: BuildOptions,
) -> Result<Vec<u8>> {
    assert_eq!(vectors.len(), rows.len() * length, "not as many vectors as rows");
    if rows.len() > NODES_MAX {
        return Err(Error::invalid(format!("{} vectors are too many for one graph", rows.len())));
    }
    let squares = vectors.par_chunks(length.max(1)).map(|vector| crate::dot(vector, vector));
    let largest_square = squares.reduce(|| 0.0, f32::max);
    let rotation = Rotation::new(length, options.seed);
    vectors.par_chunks_mut(length.max(1)).for_each(|vector| {
        normalize(metric, vector);
        rotation.apply(vector);
    });
    let (centroids, of) = Centroids::find(&vectors, length, options.seed);
    // What is near each other is near each other in memory, and what is the same follows on the first of it.
    let first = first_equals(&vectors, length);
    let mut order: Vec<u32> = (0..rows.len() as u32).collect();
    order.sort_by_key(|place| (of[*place as usize], first[*place as usize], *place));
    let mut rotated = vec![0.0; vectors.len()];
    rotated.par_chunks_mut(length.max(1)).zip(&order).for_each(|(to, from)| {
        let start = *from as usize * length;
        to.copy_from_slice(&vectors[start..start + length]);
    });
    drop(vectors);
    let of: Vec<u32> = order.iter().map(|place| of[*place as usize]).collect();
    let starts: Vec<u32> =
        (0..=centroids.len() as u32).map(|centroid| of.partition_point(|c| *c < centroid) as u32).collect();
    let nodes = Nodes::encoded(rows.len(), length, |node, head| {
        let (vector, middle) = (&rotated[node * length..(node + 1) * length], centroids.get(of[node]));
        let difference: Vec<f32> = vector.iter().zip(middle).map(|(x, c)| x - c).collect();
        let factors = encode(&difference, &mut head[FACTOR_BYTES..]);
        head[..4].copy_from_slice(&factors.scale.to_le_bytes());
        head[4..8].copy_from_slice(&factors.square.to_le_bytes());
        let copy = if first[order[node] as usize] == order[node] { 0 } else { DUPLICATE };
        head[8..10].copy_from_slice(&(of[node] as u16 | copy).to_le_bytes());
    });
    let entries = entries(&nodes, &starts, &rotated, length);
    let row_of: Vec<u32> = order.iter().map(|place| rows[*place as usize]).collect();
    let parts = GraphParts {
        metric,
        length,
        degree: options.degree,
        rows: segment_rows,
        seed: options.seed,
        largest_square,
        centroids: &centroids,
        entries: &entries,
        starts: &starts,
        row_of: &row_of,
        nodes: &nodes,
        edges: &[],
    };
    let edges = Building::new(Graph::without_edges(&parts), &rotated, options).run();
    Ok(GraphParts { edges: &edges, ..parts }.to_bytes())
}

/// Of each vector the first that is equal to it: edges would lead from equals to one of them alone.
fn first_equals(vectors: &[f32], length: usize) -> Vec<u32> {
    let of = |place: u32| &vectors[place as usize * length..(place as usize + 1) * length];
    let hash = |vector: &[f32]| {
        let mut hasher = DefaultHasher::new();
        vector.iter().for_each(|x| hasher.write_u32(x.to_bits()));
        hasher.finish()
    };
    let hashes: Vec<u64> = vectors.par_chunks(length.max(1)).map(hash).collect();
    let mut known: HashMap<u64, Vec<u32>> = HashMap::with_capacity(hashes.len());
    let first = (0..).zip(hashes).map(|(place, hash)| {
        let same = known.entry(hash).or_default();
        match same.iter().find(|other| of(**other) == of(place)) {
            Some(first) => *first,
            None => {
                same.push(place);
                place
            }
        }
    });
    first.collect()
}

/// Of each centroid the vector that is nearest to it, and others that are far from that and from each other: a centroid may
/// stand for several groups, between which no edge leads. A centroid without vectors is entered where any other is.
fn entries(nodes: &Nodes, starts: &[u32], rotated: &[f32], length: usize) -> Vec<u32> {
    let of = |node: u32| &rotated[node as usize * length..(node as usize + 1) * length];
    let of_centroid = |range: &[u32]| {
        let squares = (range[0]..range[1]).map(|node| (nodes.get(node).square, node));
        let mut found = vec![squares.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, node)| node)];
        let mut far = vec![f32::MAX; (range[1] - range[0]) as usize];
        while found.len() < ENTRIES {
            let last = found[found.len() - 1];
            for (far, node) in far.iter_mut().zip(range[0]..) {
                *far = far.min(crate::squared_l2(of(last), of(node)));
            }
            let farthest = far.iter().zip(range[0]..).max_by(|a, b| a.0.total_cmp(b.0).then(b.1.cmp(&a.1)));
            found.push(farthest.map_or(last, |(_, node)| node));
        }
        found
    };
    starts.par_windows(2).flat_map_iter(of_centroid).collect()
}

/// A graph in the making: with edges beyond what is stored, and the vectors themselves.
struct Building<'a> {
    graph: Graph,
    rotated: &'a [f32],
    edges: Vec<Vec<u32>>,
    options: BuildOptions,
}

impl<'a> Building<'a> {
    fn new(graph: Graph, rotated: &'a [f32], options: BuildOptions) -> Self {
        let edges = vec![Vec::new(); graph.len()];
        Self { graph, rotated, edges, options }
    }

    /// The edges of all nodes.
    fn run(mut self) -> Vec<Vec<u32>> {
        let mut first: Vec<u32> = self.graph.entries.clone();
        first.sort_unstable();
        first.dedup();
        let mut order: Vec<u32> =
            (0..self.graph.len() as u32).filter(|node| first.binary_search(node).is_err()).collect();
        order.retain(|node| !self.graph.nodes.is_duplicate(*node));
        let mut random = Random::new(self.options.seed ^ 1);
        for last in (1..order.len()).rev() {
            order.swap(last, (random.next() % (last as u64 + 1)) as usize);
        }
        // Where walks begin is in from the start: each near the others.
        self.join_first(&first);
        let (mut joined, mut start) = (first.len(), 0);
        while start < order.len() {
            let size = (joined / BATCH_SHARE).max(BATCH_MIN).min(order.len() - start);
            self.join(&order[start..start + size]);
            start += size;
            joined += size;
        }
        let all: Vec<u32> = (0..self.graph.len() as u32).collect();
        all.par_iter().map(|node| self.fitting(*node)).collect()
    }

    fn of(&self, node: u32) -> &[f32] {
        let length = self.graph.length;
        &self.rotated[node as usize * length..(node as usize + 1) * length]
    }

    fn distance(&self, a: u32, b: u32) -> f32 {
        crate::squared_l2(self.of(a), self.of(b))
    }

    /// Edges of a node, as many as are stored.
    fn fitting(&self, node: u32) -> Vec<u32> {
        let edges = &self.edges[node as usize];
        if edges.len() <= self.options.degree { edges.clone() } else { self.prune(node, edges) }
    }

    fn join_first(&mut self, first: &[u32]) {
        let chosen: Vec<Vec<u32>> = first
            .par_iter()
            .map(|node| {
                let others: Vec<u32> = first.iter().copied().filter(|other| other != node).collect();
                self.prune(*node, &others)
            })
            .collect();
        self.connect(first, chosen);
    }

    fn join(&mut self, batch: &[u32]) {
        let chosen: Vec<Vec<u32>> = batch
            .par_iter()
            .map_init(
                || (Visited::default(), QueryDistances::default()),
                |(visited, query), node| {
                    query.begin(&self.graph, self.of(*node).to_vec());
                    let edges = |other: u32, found: &mut Vec<u32>| found.extend(&self.edges[other as usize]);
                    let found = self.graph.beam_search(query, self.options.beam, visited, edges);
                    let candidates: Vec<u32> =
                        found.into_iter().map(|(_, other)| other).filter(|other| other != node).collect();
                    self.prune(*node, &candidates)
                },
            )
            .collect();
        self.connect(batch, chosen);
    }

    /// Gives nodes their edges, and those at the other ends theirs.
    fn connect(&mut self, nodes: &[u32], chosen: Vec<Vec<u32>>) {
        let mut back: Vec<(u32, u32)> = Vec::new();
        for (node, chosen) in nodes.iter().zip(chosen) {
            back.extend(chosen.iter().map(|other| (*other, *node)));
            self.edges[*node as usize] = chosen;
        }
        back.par_sort_unstable();
        let groups: Vec<&[(u32, u32)]> = back.chunk_by(|a, b| a.0 == b.0).collect();
        let updated: Vec<(u32, Vec<u32>)> = groups
            .par_iter()
            .map(|group| {
                let node = group[0].0;
                let mut all = self.edges[node as usize].clone();
                let fresh: Vec<u32> =
                    group.iter().map(|(_, other)| *other).filter(|other| !all.contains(other)).collect();
                all.extend(fresh);
                let full = all.len() > self.options.degree + SLACK;
                (node, if full { self.prune(node, &all) } else { all })
            })
            .collect();
        for (node, edges) in updated {
            self.edges[node as usize] = edges;
        }
    }

    /// Of candidates those that are not nearer to one that is kept than to where they are from, the nearest first.
    fn prune(&self, node: u32, candidates: &[u32]) -> Vec<u32> {
        let alpha = self.options.alpha * self.options.alpha;
        let mut candidates: Vec<(f32, u32)> =
            candidates.iter().map(|other| (self.distance(node, *other), *other)).collect();
        candidates.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut kept: Vec<u32> = Vec::with_capacity(self.options.degree);
        for (distance, candidate) in candidates {
            if kept.len() == self.options.degree {
                break;
            }
            let hidden = kept.iter().any(|other| alpha * self.distance(*other, candidate) <= distance);
            if !hidden {
                kept.push(candidate);
            }
        }
        kept
    }
}

/// For the cosine, vectors are compared by their directions.
pub(super) fn normalize(metric: Metric, vector: &mut [f32]) {
    let length = crate::dot(vector, vector).sqrt();
    if metric == Metric::Cosine && length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
}
