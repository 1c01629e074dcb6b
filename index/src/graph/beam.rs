//! The search for the nodes nearest to a query by their codes: from the nearest that is known to what it leads to.

use super::format::{ENTRIES, Graph};
use super::query_distances::QueryDistances;

/// Centroids by which a walk begins.
pub(super) const BEGINNINGS: usize = 3;

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

impl Graph {
    /// The nodes nearest to a query by their codes, at most `beam`, the nearest first. `edges` gives those of a node.
    pub(super) fn beam_search(
        &self,
        query: &mut QueryDistances,
        beam: usize,
        visited: &mut Visited,
        edges: impl Fn(u32, &mut Vec<u32>),
    ) -> Vec<(f32, u32)> {
        if self.is_empty() {
            return vec![];
        }
        visited.begin(self.len());
        let mut found = Beam::new(beam);
        let (mut all, mut fresh, mut distances) = (Vec::new(), Vec::new(), Vec::new());
        for centroid in query.nearest_centroids(BEGINNINGS) {
            let first = centroid as usize * ENTRIES;
            all.extend_from_slice(&self.entries[first..first + ENTRIES]);
        }
        loop {
            fresh.clear();
            fresh.extend(all.drain(..).filter(|node| visited.visit(*node)));
            query.distances(self, &fresh, &mut distances);
            distances.iter().zip(&fresh).for_each(|(distance, node)| found.insert(*distance, *node));
            match found.take() {
                Some(node) => edges(node, &mut all),
                None => break,
            }
        }
        found.nodes.into_iter().map(|(distance, node, _)| (distance, node)).collect()
    }
}
