//! Which beam width finds which share of the nearest rows. That depends on the data: in clusters a narrow
//! beam finds nearly all, among vectors without any structure a wide one is needed. It also depends on the
//! query: one that lies outside of the data has its neighbors in many places. So each build measures it, with
//! queries of both kinds, against the exact result.

use plexus_model::{Metric, RowSelection};
use rayon::prelude::*;

use super::build::normalize;
use super::format::Graph;
use super::query_distances::QueryDistances;
use super::random::SplitMix64;
use super::search::{BEAM_WIDTH_DEFAULT, Beam, GraphSearchOptions, GraphSearcher};

/// Shares of the nearest rows that a search may ask for, on average.
pub const RECALL_TARGETS: [f32; 2] = [0.95, 0.99];

/// Beam widths that are tried, each by this factor wider than the one before.
const BEAM_WIDTH_FACTOR: f32 = 1.5;
const BEAM_WIDTH_MAX: usize = 4_096;

/// The part of what lies between two rows by which a third is moved: it makes the spread a quarter larger.
const MOVED: f32 = 0.35;

/// Queries of each kind, and the nearest rows that are counted for each.
const QUERIES: usize = 96;
const NEAREST: usize = 10;

/// How much of what a target misses is kept as a margin, since queries are few and others are different.
const MARGIN: f32 = 0.2;

/// Nodes that a thread compares with all queries at a time.
const NODES_PER_CHUNK: usize = 256;

/// The beam width for each of [`RECALL_TARGETS`].
type Widths = [u32; RECALL_TARGETS.len()];

/// The beam widths of a graph.
#[derive(Clone, Copy, Debug)]
pub(super) struct BeamWidths {
    inside: Widths,
    outside: Widths,
    /// A query is outside of the data if its nearest centroid is farther away.
    border: f32,
}

impl Default for BeamWidths {
    fn default() -> Self {
        let widths = [BEAM_WIDTH_DEFAULT as u32; RECALL_TARGETS.len()];
        Self { inside: widths, outside: widths, border: f32::INFINITY }
    }
}

impl BeamWidths {
    pub(super) const BYTES: usize = 2 * size_of::<Widths>() + 4;

    /// Those of a graph whose nodes have the vectors `rotated`.
    pub(super) fn measured(graph: &Graph, rotated: &[f32], seed: u64) -> Self {
        if graph.is_empty() {
            return Self::default();
        }
        let mut random = SplitMix64::new(seed ^ 3);
        let [inside, outside] = [inside(graph, rotated, &mut random), outside(graph, rotated, &mut random)];
        let mut query = QueryDistances::default();
        let nearest_centroid = |vector: &Vec<f32>| {
            query.begin(graph, vector.clone());
            query.nearest_centroid_distance()
        };
        let mut distances: Vec<f32> = inside.iter().map(nearest_centroid).collect();
        distances.sort_unstable_by(f32::total_cmp);
        // Not the farthest: that may be a row which lies alone.
        let mut border = distances[distances.len() * 9 / 10];
        let [mut inside, outside] = [inside, outside].map(|queries| widths(graph, rotated, &queries));
        if graph.metric == Metric::Dot {
            // Products grow with the query, so they do not tell where it lies.
            border = f32::INFINITY;
            inside.iter_mut().zip(outside).for_each(|(inside, outside)| *inside = outside.max(*inside));
        }
        Self { inside, outside, border }
    }

    /// The width for the least of [`RECALL_TARGETS`] that is as large, or for the last.
    pub(super) fn of(&self, recall: f32, nearest_centroid_distance: f32) -> usize {
        let widths = if nearest_centroid_distance > self.border { self.outside } else { self.inside };
        let target = RECALL_TARGETS.iter().position(|target| *target >= recall);
        widths[target.unwrap_or(RECALL_TARGETS.len() - 1)] as usize
    }

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let numbers = self.inside.into_iter().chain(self.outside).chain([self.border.to_bits()]);
        bytes
            .chunks_exact_mut(4)
            .zip(numbers)
            .for_each(|(to, number)| to.copy_from_slice(&number.to_le_bytes()));
        bytes
    }

    /// `None` for bytes that [`to_bytes`](Self::to_bytes) did not return.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut numbers = bytes.as_chunks().0.iter().map(|number| u32::from_le_bytes(*number));
        let mut widths = || -> Option<Widths> {
            let mut widths = Widths::default();
            for width in &mut widths {
                *width = numbers.next().filter(|width| (1..=BEAM_WIDTH_MAX as u32).contains(width))?;
            }
            Some(widths)
        };
        let (inside, outside) = (widths()?, widths()?);
        Some(Self { inside, outside, border: f32::from_bits(numbers.next()?) })
    }
}

/// The least widths with which searches for queries reach the targets.
fn widths(graph: &Graph, rotated: &[f32], queries: &[Vec<f32>]) -> Widths {
    let mut widths = [BEAM_WIDTH_MAX as u32; RECALL_TARGETS.len()];
    let farthest = farthest_of_nearest(graph, rotated, queries);
    let (mut width, mut reached) = (BEAM_WIDTH_DEFAULT, 0);
    loop {
        let recall = recall(graph, rotated, queries, &farthest, width);
        while reached < widths.len() && recall >= goal(RECALL_TARGETS[reached]) {
            widths[reached] = width as u32;
            reached += 1;
        }
        if reached == widths.len() || width >= BEAM_WIDTH_MAX {
            return widths;
        }
        width = ((width as f32 * BEAM_WIDTH_FACTOR) as usize).min(BEAM_WIDTH_MAX);
    }
}

fn goal(target: f32) -> f32 {
    target + MARGIN * (1.0 - target)
}

fn vector_of<'a>(graph: &Graph, rotated: &'a [f32], node: u32) -> &'a [f32] {
    &rotated[node as usize * graph.dimensions..(node as usize + 1) * graph.dimensions]
}

/// Queries beside rows: a row, moved by a third of what lies between two others of its centroid.
fn inside(graph: &Graph, rotated: &[f32], random: &mut SplitMix64) -> Vec<Vec<f32>> {
    let mut any = |nodes: std::ops::Range<u32>| {
        nodes.start + (random.next() % u64::from(nodes.end - nodes.start)) as u32
    };
    let mut query = |_| {
        let row = any(0..graph.len() as u32);
        let around = graph.postings(graph.nodes.get(row).centroid.into());
        let (from, to) = (any(around.clone()), any(around));
        let [row, from, to] = [row, from, to].map(|node| vector_of(graph, rotated, node));
        let moved = row.iter().zip(from).zip(to).map(|((x, from), to)| x + MOVED * (to - from));
        let mut moved: Vec<f32> = moved.collect();
        normalize(graph.metric, &mut moved);
        moved
    };
    (0..QUERIES).map(&mut query).collect()
}

/// Queries outside of the data: points with the mean and the deviation of all rows, and nothing else of them.
fn outside(graph: &Graph, rotated: &[f32], random: &mut SplitMix64) -> Vec<Vec<f32>> {
    let (mut sums, mut squares) = (vec![0.0f64; graph.dimensions], vec![0.0f64; graph.dimensions]);
    for vector in rotated.chunks_exact(graph.dimensions.max(1)) {
        for ((sum, square), x) in sums.iter_mut().zip(&mut squares).zip(vector) {
            *sum += f64::from(*x);
            *square += f64::from(*x) * f64::from(*x);
        }
    }
    let rows = graph.len() as f64;
    // A sum of twelve uniform numbers is close to a normal distribution.
    let mut normal =
        || (0..12).map(|_| (random.next() >> 11) as f64 / (1u64 << 53) as f64).sum::<f64>() - 6.0;
    let mut query = |_| {
        let points = sums.iter().zip(&squares).map(|(sum, square)| {
            let mean = sum / rows;
            (mean + (square / rows - mean * mean).max(0.0).sqrt() * normal()) as f32
        });
        let mut point: Vec<f32> = points.collect();
        normalize(graph.metric, &mut point);
        point
    };
    (0..QUERIES).map(&mut query).collect()
}

/// The distance of two vectors, which are of norm 1 for the cosine.
fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
    match metric {
        Metric::Dot => -crate::dot(a, b),
        Metric::L2 => crate::squared_l2(a, b).sqrt(),
        Metric::Cosine => crate::squared_l2(a, b) / 2.0,
    }
}

/// For each query the distance of the last of the nearest rows.
fn farthest_of_nearest(graph: &Graph, rotated: &[f32], queries: &[Vec<f32>]) -> Vec<f32> {
    let of_chunk = |nodes: &[f32]| -> Vec<Vec<f32>> {
        let nearest = |query: &Vec<f32>| {
            let vectors = nodes.chunks_exact(graph.dimensions.max(1));
            least(vectors.map(|vector| distance(graph.metric, query, vector)).collect())
        };
        queries.iter().map(nearest).collect()
    };
    let merged = |left: Vec<Vec<f32>>, right: Vec<Vec<f32>>| {
        left.into_iter().zip(right).map(|(left, right)| least([left, right].concat())).collect()
    };
    let chunks = rotated.par_chunks(NODES_PER_CHUNK * graph.dimensions.max(1));
    let nearest = chunks.map(of_chunk).reduce(|| vec![vec![]; queries.len()], merged);
    nearest.into_iter().map(|nearest| nearest.last().copied().unwrap_or(f32::INFINITY)).collect()
}

/// The least of some distances, in ascending order.
fn least(mut distances: Vec<f32>) -> Vec<f32> {
    distances.sort_unstable_by(f32::total_cmp);
    distances.truncate(NEAREST);
    distances
}

/// The share of the nearest rows that searches find.
fn recall(graph: &Graph, rotated: &[f32], queries: &[Vec<f32>], farthest: &[f32], width: usize) -> f32 {
    let mut node_of = vec![0; graph.rows() as usize];
    (0..graph.len() as u32).for_each(|node| node_of[graph.row_of(node) as usize] = node);
    let options = GraphSearchOptions { k: NEAREST, beam: Beam::Width(width) };
    let hits = |searcher: &mut GraphSearcher, (query, farthest): (&Vec<f32>, &f32)| {
        let of_row =
            |row: u32| distance(graph.metric, query, vector_of(graph, rotated, node_of[row as usize]));
        let found =
            searcher.search_rotated(graph, query.clone(), options, &RowSelection::all(), None, of_row);
        found.into_iter().filter(|(distance, _)| distance <= farthest).count().min(NEAREST)
    };
    let found = queries.par_iter().zip(farthest).map_init(GraphSearcher::default, hits).sum::<usize>();
    found as f32 / (queries.len() * NEAREST.min(graph.len())) as f32
}
