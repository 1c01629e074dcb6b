//! Walking a graph towards a query.

use plexus_model::Metric;

use super::build::{Graph, normalise};
use super::codes::{CodeQuery, Sum, best_sum};

/// How a walk goes.
#[derive(Clone, Copy, Debug)]
pub struct WalkOptions {
    /// Candidates that are kept: more find more of the nearest, and take longer.
    pub beam: usize,
    /// How many of them are compared by their vectors in the end.
    pub compared: usize,
}

/// Centres by which a walk begins.
const BEGINNINGS: usize = 3;

/// Nodes that a walk has come by, cleared for the next one.
#[derive(Default)]
pub struct Visited {
    bits: Vec<u64>,
    touched: Vec<u32>,
}

impl Visited {
    fn begin(&mut self, nodes: usize) {
        for word in self.touched.drain(..) {
            self.bits[word as usize] = 0;
        }
        self.bits.resize(nodes.div_ceil(64), 0);
    }

    /// Whether it was not there before.
    #[inline(always)]
    fn visit(&mut self, node: u32) -> bool {
        let (word, bit) = (node / 64, 1u64 << (node % 64));
        let bits = &mut self.bits[word as usize];
        if *bits == 0 {
            self.touched.push(word);
        }
        let fresh = *bits & bit == 0;
        *bits |= bit;
        fresh
    }
}

/// A query with what it has to do with each centre.
pub struct Asked {
    rotated: Vec<f32>,
    /// To each centre: the square of the distance, or the inner product with its sign changed.
    distances: Vec<f32>,
    /// By the centre, where its query is; the difference from it, ready for codes.
    places: Vec<u32>,
    queries: Vec<CodeQuery>,
    touched: Vec<u32>,
    weight: f32,
    squares: f32,
    shared: bool,
    sum: Sum,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            rotated: vec![],
            distances: vec![],
            places: vec![],
            queries: vec![],
            touched: vec![],
            weight: 0.0,
            squares: 0.0,
            shared: false,
            sum: best_sum(),
        }
    }
}

const NONE: u32 = u32::MAX;

impl Asked {
    /// Takes a rotated vector.
    pub fn begin(&mut self, graph: &Graph, rotated: Vec<f32>) {
        for centre in self.touched.drain(..) {
            self.places[centre as usize] = NONE;
        }
        self.places.resize(graph.centres.len(), NONE);
        self.queries.clear();
        self.rotated = rotated;
        let dot = graph.metric == Metric::Dot;
        (self.weight, self.squares, self.shared) = if dot { (-1.0, 0.0, true) } else { (-2.0, 1.0, false) };
        self.distances.clear();
        let distance = |centre: &[f32]| match dot {
            true => -crate::dot(centre, &self.rotated),
            false => crate::squared_l2(centre, &self.rotated),
        };
        self.distances.extend(graph.centres.all().map(distance));
    }

    /// About how far a node is.
    #[inline(always)]
    fn distance(&mut self, graph: &Graph, node: u32) -> f32 {
        let node = graph.node(node);
        let place = self.places[node.centre as usize];
        let place = if place == NONE { self.prepare(graph, node.centre) } else { place };
        let product = self.queries[place as usize].product(node.code, node.scale, self.sum);
        self.distances[node.centre as usize] + self.squares * node.square + self.weight * product
    }

    #[cold]
    fn prepare(&mut self, graph: &Graph, centre: u32) -> u32 {
        if !self.shared || self.queries.is_empty() {
            let query = match self.shared {
                true => CodeQuery::new(&self.rotated),
                false => {
                    let difference: Vec<f32> =
                        self.rotated.iter().zip(graph.centres.get(centre)).map(|(x, c)| x - c).collect();
                    CodeQuery::new(&difference)
                }
            };
            self.queries.push(query);
        }
        let place = self.queries.len() as u32 - 1;
        self.places[centre as usize] = place;
        self.touched.push(centre);
        place
    }

    fn beginnings(&self, graph: &Graph) -> Vec<u32> {
        let mut nearest: Vec<(f32, u32)> = self.distances.iter().copied().zip(0..).collect();
        let count = BEGINNINGS.min(nearest.len());
        if count > 0 {
            nearest.select_nth_unstable_by(count - 1, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        }
        nearest[..count].iter().map(|(_, centre)| graph.entries[*centre as usize]).collect()
    }
}

/// Candidates by their distance, the nearest first, with whether they were looked from.
struct Beam {
    size: usize,
    nodes: Vec<(f32, u32, bool)>,
    /// Before it all were looked from.
    next: usize,
}

impl Beam {
    fn new(size: usize) -> Self {
        Self { size, nodes: Vec::with_capacity(size + 1), next: 0 }
    }

    #[inline(always)]
    fn insert(&mut self, distance: f32, node: u32) {
        if self.nodes.len() == self.size && self.nodes[self.size - 1].0 <= distance {
            return;
        }
        let place = self.nodes.partition_point(|other| (other.0, other.1) < (distance, node));
        if self.nodes.len() == self.size {
            self.nodes.pop();
        }
        self.nodes.insert(place, (distance, node, false));
        self.next = self.next.min(place);
    }

    /// The nearest that was not looked from.
    fn take(&mut self) -> Option<u32> {
        while self.next < self.nodes.len() {
            let node = &mut self.nodes[self.next];
            self.next += 1;
            if !node.2 {
                node.2 = true;
                return Some(node.1);
            }
        }
        None
    }
}

/// What walks of one thread use again and again.
#[derive(Default)]
pub struct Walk {
    visited: Visited,
    asked: Asked,
}

impl Walk {
    /// The `k` nearest to a query that are found, the nearest first, by `distance` from it. That is asked for the best
    /// candidates alone.
    pub fn nearest(
        &mut self,
        graph: &Graph,
        query: &[f32],
        k: usize,
        options: WalkOptions,
        mut distance: impl FnMut(u32) -> f32,
    ) -> Vec<(f32, u32)> {
        let mut rotated = query.to_vec();
        normalise(graph.metric, &mut rotated);
        graph.rotation.apply(&mut rotated);
        self.asked.begin(graph, rotated);
        let edges = |node: u32, found: &mut Vec<u32>| found.extend(graph.neighbours(node));
        let found = graph.look(&mut self.asked, options.beam.max(k), &mut self.visited, edges);
        let compared = options.compared.max(k);
        let mut nearest: Vec<(f32, u32)> =
            found.into_iter().take(compared).map(|(_, node)| (distance(node), node)).collect();
        nearest.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        nearest.truncate(k);
        nearest
    }
}

impl Graph {
    /// The nodes nearest to a query by their codes, at most `beam`, the nearest first. `edges` gives those of a node.
    pub(super) fn look(
        &self,
        asked: &mut Asked,
        beam: usize,
        visited: &mut Visited,
        edges: impl Fn(u32, &mut Vec<u32>),
    ) -> Vec<(f32, u32)> {
        if self.is_empty() {
            return vec![];
        }
        visited.begin(self.len());
        let mut found = Beam::new(beam);
        for entry in asked.beginnings(self) {
            if visited.visit(entry) {
                found.insert(asked.distance(self, entry), entry);
            }
        }
        let (mut all, mut fresh): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        let head = self.head_bytes();
        while let Some(node) = found.take() {
            all.clear();
            edges(node, &mut all);
            fresh.clear();
            for other in &all {
                if visited.visit(*other) {
                    prefetch(&self.bytes(*other)[..head]);
                    fresh.push(*other);
                }
            }
            for other in &fresh {
                found.insert(asked.distance(self, *other), *other);
            }
        }
        found.nodes.into_iter().map(|(distance, node, _)| (distance, node)).collect()
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
