//! Approximate distances between a query and the nodes of a graph, from their codes.

use plexus_model::Metric;

use super::code_dot::with_code_dot;
use super::format::Graph;
use super::quantization::QuantizedQuery;

/// Marks a centroid in [`QueryDistances::slots`] that was not prepared.
const UNPREPARED: u32 = u32::MAX;
/// Nodes between the one that is prefetched and the one that is compared.
const PREFETCH_NODES: usize = 8;

/// A rotated query, prepared for the codes of each centroid when the first node of that centroid is compared.
/// The buffers are reused for the next query.
///
/// For a node with vector `v` and centroid `c`, the code gives `q'.(v - c)`, where `q'` is `q - c` for L2 and
/// cosine and `q` for the inner product. The distance is one of
///
/// - L2 and cosine: `|q - v|^2 = |q - c|^2 + |v - c|^2 - 2 (q - c).(v - c)`
/// - inner product: `-q.v = -q.c - q.(v - c)`
#[derive(Default)]
pub(crate) struct QueryDistances {
    rotated: Vec<f32>,
    /// The approximate distance of each centroid.
    centroids_approximate: Vec<f32>,
    /// The exact distance of each prepared centroid: the first term of the formulas.
    centroids_exact: Vec<f32>,
    /// For each centroid the place of its query in `queries`, or [`UNPREPARED`].
    slots: Vec<u32>,
    queries: Vec<QuantizedQuery>,
    prepared: Vec<u32>,
    /// Factor of the inner product with a residual.
    product_weight: f32,
    /// Factor of the squared norm of a residual.
    norm_weight: f32,
    /// Whether all centroids share one quantized query, as for the inner product.
    is_shared: bool,
}

impl QueryDistances {
    /// Starts a new query. The vector is normalized as the metric requires, and rotated.
    pub(crate) fn begin(&mut self, graph: &Graph, rotated: Vec<f32>) {
        for centroid in self.prepared.drain(..) {
            self.slots[centroid as usize] = UNPREPARED;
        }
        self.slots.resize(graph.centroids.len(), UNPREPARED);
        self.queries.clear();
        self.rotated = rotated;
        let is_dot = graph.metric == Metric::Dot;
        (self.product_weight, self.norm_weight, self.is_shared) =
            if is_dot { (-1.0, 0.0, true) } else { (-2.0, 1.0, false) };
        self.centroids_exact.resize(graph.centroids.len(), 0.0);
        self.centroids_approximate.clear();
        match is_dot {
            true => {
                graph.centroid_codes.negated_inner_products(&self.rotated, &mut self.centroids_approximate);
            }
            false => graph.centroid_codes.squared_distances(&self.rotated, &mut self.centroids_approximate),
        }
    }

    /// Replaces `result` with the approximate distances of `nodes`. Taking many nodes at once hides the
    /// latency of memory: the codes of later nodes are prefetched while earlier ones are compared.
    pub(super) fn distances(&mut self, graph: &Graph, nodes: &[u32], result: &mut Vec<f32>) {
        let query = self;
        with_code_dot!(
            compute_distances(query: &mut QueryDistances, graph: &Graph, nodes: &[u32], result: &mut Vec<f32>)
        );
    }

    #[inline(always)]
    fn distance(&mut self, graph: &Graph, node: u32, code_dot: impl Fn(&[u8], &[i8]) -> i32) -> f32 {
        let node = graph.nodes.get(node);
        let centroid = node.centroid as usize;
        let slot = self.slots[centroid];
        let slot = if slot == UNPREPARED { self.prepare(graph, u32::from(node.centroid)) } else { slot };
        let product = self.queries[slot as usize].inner_product(node.code, node.scale, code_dot);
        self.centroids_exact[centroid] + self.norm_weight * node.norm_squared + self.product_weight * product
    }

    /// Quantizes the query for the codes of a centroid. Returns its slot.
    #[cold]
    fn prepare(&mut self, graph: &Graph, centroid: u32) -> u32 {
        let point = graph.centroids.get(centroid);
        if !self.is_shared {
            self.queries.push(QuantizedQuery::new(&self.rotated, point));
        } else if self.queries.is_empty() {
            let zero = vec![0.0; self.rotated.len()];
            self.queries.push(QuantizedQuery::new(&self.rotated, &zero));
        }
        self.centroids_exact[centroid as usize] = match self.is_shared {
            true => -crate::dot(point, &self.rotated),
            false => crate::squared_l2(point, &self.rotated),
        };
        let slot = self.queries.len() as u32 - 1;
        self.slots[centroid as usize] = slot;
        self.prepared.push(centroid);
        slot
    }

    /// The distance of the nearest centroid, approximately.
    pub(super) fn nearest_centroid_distance(&self) -> f32 {
        self.centroids_approximate.iter().copied().min_by(f32::total_cmp).unwrap_or(0.0)
    }

    /// The `count` centroids nearest to the query by their codes, nearest first.
    pub(super) fn nearest_centroids(&self, count: usize) -> Vec<u32> {
        let mut nearest: Vec<(f32, u32)> = self.centroids_approximate.iter().copied().zip(0..).collect();
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
fn compute_distances(
    query: &mut QueryDistances,
    graph: &Graph,
    nodes: &[u32],
    result: &mut Vec<f32>,
    code_dot: impl Fn(&[u8], &[i8]) -> i32,
) {
    result.clear();
    nodes.iter().take(PREFETCH_NODES).for_each(|later| prefetch(graph.nodes.head(*later)));
    for (i, node) in nodes.iter().enumerate() {
        if let Some(later) = nodes.get(i + PREFETCH_NODES) {
            prefetch(graph.nodes.head(*later));
        }
        result.push(query.distance(graph, *node, &code_dot));
    }
}

/// Prefetches the cache lines of some bytes.
#[inline(always)]
fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no effect that a program can observe, and the address is that of a valid
        // byte.
        #[allow(unsafe_code, reason = "the prefetch intrinsic takes a raw pointer")]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
