//! Building the graph of a segment: normalization, rotation, clustering, encoding, and the order of the
//! nodes. The edges come from [`super::vamana`].

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

use bytes::Bytes;
use plexus_model::{Error, Metric, Result};
use rayon::prelude::*;

use super::calibration::BeamWidths;
use super::centroids::Centroids;
use super::format::{ENTRY_POINTS_PER_CENTROID, Graph, GraphParts, set_beam_widths};
use super::nodes::{DUPLICATE, FACTOR_BYTES, NODES_MAX, Nodes};
use super::quantization::encode;
use super::reachability;
use super::rotation::Rotation;
use super::vamana::VamanaBuilder;

/// Parameters of a build. The names in parentheses are those of the DiskANN paper.
#[derive(Clone, Copy, Debug)]
pub struct BuildOptions {
    /// Maximum number of out-edges of a node (`R`).
    pub degree_max: usize,
    /// Beam width of the searches for neighbor candidates (`L`). More candidates give better edges and a
    /// slower build.
    pub beam_width: usize,
    /// Slack of the robust prune, at least 1 (`α`). Larger values keep more long edges, so that searches need
    /// fewer steps.
    pub alpha: f32,
    /// Seed of the rotation, of the clustering, and of the order of insertion.
    pub seed: u64,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self { degree_max: 28, beam_width: 80, alpha: 1.2, seed: 0x706c_6578_7573 }
    }
}

/// Builds the graph of a segment and returns the bytes that [`Graph::open`] reads.
///
/// `vectors` holds the components of one vector after the other, `dimensions` each, all finite. `rows` holds
/// the row of each vector. `segment_rows` is the number of rows of the segment, including those without a
/// vector.
///
/// The bytes depend only on the arguments. The build uses all threads of the Rayon pool that it is called in.
///
/// # Errors
/// `InvalidArgument` when there are more vectors than a graph can number, which is 2^24.
///
/// # Panics
/// When `vectors` does not hold `rows.len() * dimensions` components.
pub fn build_graph(
    metric: Metric,
    dimensions: usize,
    mut vectors: Vec<f32>,
    rows: &[u32],
    segment_rows: u32,
    options: BuildOptions,
) -> Result<Vec<u8>> {
    assert_eq!(vectors.len(), rows.len() * dimensions, "the number of components does not match the rows");
    if rows.len() > NODES_MAX {
        return Err(Error::invalid(format!("{} vectors are too many for one graph", rows.len())));
    }
    let norms_squared = vectors.par_chunks(dimensions.max(1)).map(|vector| crate::dot(vector, vector));
    let norm_squared_max = norms_squared.reduce(|| 0.0, f32::max);
    let rotation = Rotation::new(dimensions, options.seed);
    vectors.par_chunks_mut(dimensions.max(1)).for_each(|vector| {
        normalize(metric, vector);
        rotation.apply(vector);
    });
    let (centroids, assignment) = Centroids::cluster(&vectors, dimensions, options.seed);
    // Nodes of a centroid are adjacent, which makes them a posting list and improves the locality of a
    // search. Duplicates follow their original.
    let originals = find_originals(&vectors, dimensions);
    let mut order: Vec<u32> = (0..rows.len() as u32).collect();
    order.sort_by_key(|i| (assignment[*i as usize], originals[*i as usize], *i));
    let mut rotated = vec![0.0; vectors.len()];
    rotated.par_chunks_mut(dimensions.max(1)).zip(&order).for_each(|(to, from)| {
        let start = *from as usize * dimensions;
        to.copy_from_slice(&vectors[start..start + dimensions]);
    });
    drop(vectors);
    let node_centroids: Vec<u32> = order.iter().map(|i| assignment[*i as usize]).collect();
    let first_node = |centroid: u32| node_centroids.partition_point(|c| *c < centroid) as u32;
    let posting_starts: Vec<u32> = (0..=centroids.len() as u32).map(first_node).collect();
    let nodes = Nodes::encoded(rows.len(), dimensions, |node, head| {
        let vector = &rotated[node * dimensions..(node + 1) * dimensions];
        let centroid = centroids.get(node_centroids[node]);
        let residual: Vec<f32> = vector.iter().zip(centroid).map(|(x, c)| x - c).collect();
        let factors = encode(&residual, &mut head[FACTOR_BYTES..]);
        head[..4].copy_from_slice(&factors.scale.to_le_bytes());
        head[4..8].copy_from_slice(&factors.norm_squared.to_le_bytes());
        let is_original = originals[order[node] as usize] == order[node];
        let duplicate_flag = if is_original { 0 } else { DUPLICATE };
        head[8..10].copy_from_slice(&(node_centroids[node] as u16 | duplicate_flag).to_le_bytes());
    });
    let entry_points = entry_points(&nodes, &posting_starts, &rotated, dimensions);
    let node_rows: Vec<u32> = order.iter().map(|i| rows[*i as usize]).collect();
    let parts = GraphParts {
        metric,
        dimensions,
        degree: options.degree_max,
        rows: segment_rows,
        seed: options.seed,
        norm_squared_max,
        centroids: &centroids,
        entry_points: &entry_points,
        posting_starts: &posting_starts,
        unreached_starts: &vec![0; centroids.len() + 1],
        unreached: &[],
        node_rows: &node_rows,
        nodes: &nodes,
        edges: &[],
    };
    let searched = Graph::without_edges(&parts);
    let mut edges = VamanaBuilder::new(searched.clone(), &rotated, options).build();
    let lists = reachability::repair(&searched, &rotated, &mut edges, options.degree_max);
    let parts =
        GraphParts { edges: &edges, unreached_starts: &lists.starts, unreached: &lists.nodes, ..parts };
    let bytes = Bytes::from(parts.to_bytes());
    drop((searched, edges));
    let widths = BeamWidths::measured(&Graph::open(bytes.clone())?, &rotated, options.seed);
    // The graph is gone, so that the bytes are not shared and not copied.
    let mut bytes = Vec::from(bytes);
    set_beam_widths(&mut bytes, &widths);
    Ok(bytes)
}

/// For each vector the first vector that equals it, which may be itself.
///
/// The robust prune keeps an edge to at most one of several equal vectors, so that a search would miss the
/// others. Duplicates therefore have no edges at all; a search adds them to its result beside their original.
fn find_originals(vectors: &[f32], dimensions: usize) -> Vec<u32> {
    let vector = |i: u32| &vectors[i as usize * dimensions..(i as usize + 1) * dimensions];
    let hash = |vector: &[f32]| {
        let mut hasher = DefaultHasher::new();
        vector.iter().for_each(|x| hasher.write_u32(x.to_bits()));
        hasher.finish()
    };
    let hashes: Vec<u64> = vectors.par_chunks(dimensions.max(1)).map(hash).collect();
    let mut by_hash: HashMap<u64, Vec<u32>> = HashMap::with_capacity(hashes.len());
    let originals = (0..).zip(hashes).map(|(i, hash)| {
        let candidates = by_hash.entry(hash).or_default();
        match candidates.iter().find(|other| vector(**other) == vector(i)) {
            Some(original) => *original,
            None => {
                candidates.push(i);
                i
            }
        }
    });
    originals.collect()
}

/// Chooses the entry points of each centroid: the node nearest to it, then the nodes farthest from those
/// before.
///
/// A cluster may consist of several groups without edges between them, and one entry point would miss the
/// others. A centroid without nodes gets node 0.
fn entry_points(nodes: &Nodes, posting_starts: &[u32], rotated: &[f32], dimensions: usize) -> Vec<u32> {
    let vector = |node: u32| &rotated[node as usize * dimensions..(node as usize + 1) * dimensions];
    let of_centroid = |bounds: &[u32]| {
        let postings = bounds[0]..bounds[1];
        let distances = postings.clone().map(|node| (nodes.get(node).norm_squared, node));
        let nearest = distances.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, node)| node);
        let mut chosen = vec![nearest];
        // The distance of each node from the nearest chosen one.
        let mut distances = vec![f32::MAX; postings.len()];
        while chosen.len() < ENTRY_POINTS_PER_CENTROID {
            let last = chosen[chosen.len() - 1];
            for (distance, node) in distances.iter_mut().zip(postings.clone()) {
                *distance = distance.min(crate::squared_l2(vector(last), vector(node)));
            }
            let farthest =
                distances.iter().zip(postings.clone()).max_by(|a, b| a.0.total_cmp(b.0).then(b.1.cmp(&a.1)));
            chosen.push(farthest.map_or(last, |(_, node)| node));
        }
        chosen
    };
    posting_starts.par_windows(2).flat_map_iter(of_centroid).collect()
}

/// Scales a vector to norm 1 if the metric is `Cosine`: the squared distance of such vectors is twice their
/// cosine distance. A zero vector stays as it is.
pub(super) fn normalize(metric: Metric, vector: &mut [f32]) {
    let norm = crate::dot(vector, vector).sqrt();
    if metric == Metric::Cosine && norm > 0.0 {
        vector.iter_mut().for_each(|x| *x /= norm);
    }
}
