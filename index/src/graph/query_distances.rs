//! A query, and about how far nodes are from it.

use plexus_model::Metric;

use super::format::Graph;
use super::quantization::{QuantizedQuery, with_sum};

/// A query with what it has to do with each centroid.
pub struct QueryDistances {
    rotated: Vec<f32>,
    /// About how far each centroid is.
    about: Vec<f32>,
    /// To each centroid that has a place: the square of the distance, or the inner product with its sign changed.
    distances: Vec<f32>,
    /// By the centroid, where its query is; the difference from it, ready for codes.
    places: Vec<u32>,
    queries: Vec<QuantizedQuery>,
    touched: Vec<u32>,
    weight: f32,
    squares: f32,
    shared: bool,
}

impl Default for QueryDistances {
    fn default() -> Self {
        Self {
            rotated: vec![],
            about: vec![],
            distances: vec![],
            places: vec![],
            queries: vec![],
            touched: vec![],
            weight: 0.0,
            squares: 0.0,
            shared: false,
        }
    }
}

const NONE: u32 = u32::MAX;
/// Nodes that are fetched before they are looked at.
const AHEAD: usize = 8;

impl QueryDistances {
    /// Takes a rotated vector.
    pub fn begin(&mut self, graph: &Graph, rotated: Vec<f32>) {
        for centroid in self.touched.drain(..) {
            self.places[centroid as usize] = NONE;
        }
        self.places.resize(graph.centroids.len(), NONE);
        self.queries.clear();
        self.rotated = rotated;
        let dot = graph.metric == Metric::Dot;
        (self.weight, self.squares, self.shared) = if dot { (-1.0, 0.0, true) } else { (-2.0, 1.0, false) };
        self.distances.resize(graph.centroids.len(), 0.0);
        self.about.clear();
        match dot {
            true => graph.centroid_codes.products(&self.rotated, &mut self.about),
            false => graph.centroid_codes.squares(&self.rotated, &mut self.about),
        }
    }

    /// About how far nodes are, in their order. Many at a time, since their codes are fetched while others are compared.
    pub(super) fn distances(&mut self, graph: &Graph, nodes: &[u32], found: &mut Vec<f32>) {
        let query = self;
        with_sum!(compare(query: &mut QueryDistances, graph: &Graph, nodes: &[u32], found: &mut Vec<f32>));
    }

    #[inline(always)]
    fn distance(&mut self, graph: &Graph, node: u32, sum: impl Fn(&[u8], &[i8]) -> i32) -> f32 {
        let node = graph.nodes.get(node);
        let place = self.places[node.centroid as usize];
        let place = if place == NONE { self.prepare(graph, u32::from(node.centroid)) } else { place };
        let product = self.queries[place as usize].product(node.code, node.scale, sum);
        self.distances[node.centroid as usize] + self.squares * node.square + self.weight * product
    }

    #[cold]
    fn prepare(&mut self, graph: &Graph, centroid: u32) -> u32 {
        if !self.shared || self.queries.is_empty() {
            let zero;
            let middle = match self.shared {
                true => {
                    zero = vec![0.0; self.rotated.len()];
                    &zero
                }
                false => graph.centroids.get(centroid),
            };
            let query = QuantizedQuery::new(&self.rotated, middle);
            self.queries.push(query);
        }
        let point = graph.centroids.get(centroid);
        self.distances[centroid as usize] = match self.shared {
            true => -crate::dot(point, &self.rotated),
            false => crate::squared_l2(point, &self.rotated),
        };
        let place = self.queries.len() as u32 - 1;
        self.places[centroid as usize] = place;
        self.touched.push(centroid);
        place
    }

    /// About the centroids nearest to the query, the nearest first.
    pub(super) fn nearest_centroids(&self, count: usize) -> Vec<u32> {
        let mut nearest: Vec<(f32, u32)> = self.about.iter().copied().zip(0..).collect();
        let order = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if count < nearest.len() {
            nearest.select_nth_unstable_by(count, order);
            nearest.truncate(count);
        }
        nearest.sort_unstable_by(order);
        nearest.into_iter().map(|(_, centroid)| centroid).collect()
    }
}

#[inline(always)]
fn compare(
    query: &mut QueryDistances,
    graph: &Graph,
    nodes: &[u32],
    found: &mut Vec<f32>,
    sum: impl Fn(&[u8], &[i8]) -> i32,
) {
    found.clear();
    nodes.iter().take(AHEAD).for_each(|soon| prefetch(graph.nodes.head(*soon)));
    for (at, node) in nodes.iter().enumerate() {
        if let Some(soon) = nodes.get(at + AHEAD) {
            prefetch(graph.nodes.head(*soon));
        }
        found.push(query.distance(graph, *node, &sum));
    }
}

/// Has bytes fetched that are soon read.
#[inline(always)]
fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing, and the address is that of a byte that is there.
        #[allow(unsafe_code)]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
