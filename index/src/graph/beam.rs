//! Beam search in a graph: repeatedly expands the nearest node that was not expanded yet, and keeps the
//! nearest nodes that were seen (greedy search in the DiskANN paper, Jayaram Subramanya et al., 2019).

use super::format::Graph;
use super::query_distances::QueryDistances;

/// Nearest centroids whose entry points a beam search starts from.
pub(super) const ENTRY_CENTROIDS: usize = 3;
/// Centroids that are entered next, when the search from those before has ended. It goes on as long as one of
/// their entry points is among the nearest nodes: a query outside of the data has its neighbors in many
/// clusters, with no edges between them.
const NEXT_CENTROIDS: usize = 4;

/// The set of visited nodes. Clearing it costs only as much as the last search touched.
#[derive(Default)]
pub(crate) struct Visited {
    bits: Vec<u64>,
    /// Words of `bits` that are not zero.
    touched: Vec<u32>,
}

impl Visited {
    fn begin(&mut self, nodes: usize) {
        for word in self.touched.drain(..) {
            self.bits[word as usize] = 0;
        }
        self.bits.resize(nodes.div_ceil(64), 0);
    }

    pub(super) fn contains(&self, node: u32) -> bool {
        self.bits[node as usize / 64] >> (node % 64) & 1 == 1
    }

    /// Adds a node. Returns whether it is new.
    #[inline(always)]
    fn insert(&mut self, node: u32) -> bool {
        let (word, bit) = (node / 64, 1u64 << (node % 64));
        let bits = &mut self.bits[word as usize];
        if *bits == 0 {
            self.touched.push(word);
        }
        let is_new = *bits & bit == 0;
        *bits |= bit;
        is_new
    }
}

/// A node in the beam.
struct Candidate {
    distance: f32,
    node: u32,
    is_expanded: bool,
}

/// The nearest nodes so far, nearest first.
struct Beam {
    width: usize,
    candidates: Vec<Candidate>,
    /// All candidates before this one are expanded.
    next: usize,
}

impl Beam {
    fn new(width: usize) -> Self {
        Self { width, candidates: Vec::with_capacity(width + 1), next: 0 }
    }

    /// Whether a node at a distance is among the nearest.
    #[inline(always)]
    fn has_place(&self, distance: f32) -> bool {
        self.candidates.len() < self.width || distance < self.candidates[self.width - 1].distance
    }

    #[inline(always)]
    fn insert(&mut self, distance: f32, node: u32) {
        if !self.has_place(distance) {
            return;
        }
        let rank = self.candidates.partition_point(|other| (other.distance, other.node) < (distance, node));
        if self.candidates.len() == self.width {
            self.candidates.pop();
        }
        self.candidates.insert(rank, Candidate { distance, node, is_expanded: false });
        self.next = self.next.min(rank);
    }

    /// Marks the nearest candidate that is not expanded, and returns it.
    fn expand_next(&mut self) -> Option<u32> {
        while self.next < self.candidates.len() {
            let candidate = &mut self.candidates[self.next];
            self.next += 1;
            if !candidate.is_expanded {
                candidate.is_expanded = true;
                return Some(candidate.node);
            }
        }
        None
    }
}

impl Graph {
    /// The nodes nearest to a query by their codes, nearest first; at most `beam_width`. Duplicates are not
    /// included.
    ///
    /// `edges` appends the out-edges of a node, which during a build are not in the graph yet. The search
    /// ends, without a result, when it visits `wanted`.
    pub(super) fn beam_search(
        &self,
        query: &mut QueryDistances,
        beam_width: usize,
        visited: &mut Visited,
        edges: impl Fn(u32, &mut Vec<u32>),
        wanted: Option<u32>,
    ) -> Vec<(f32, u32)> {
        if self.is_empty() {
            return vec![];
        }
        visited.begin(self.len());
        let mut beam = Beam::new(beam_width);
        let (mut reached, mut unvisited, mut distances) = (Vec::new(), Vec::new(), Vec::new());
        let mut centroids = query.nearest_centroids(ENTRY_CENTROIDS + NEXT_CENTROIDS);
        let mut entered = ENTRY_CENTROIDS.min(centroids.len());
        centroids[..entered].iter().for_each(|centroid| reached.extend(self.entry_points_of(*centroid)));
        loop {
            // Follows edges until all candidates are expanded.
            loop {
                unvisited.clear();
                unvisited.extend(reached.drain(..).filter(|node| visited.insert(*node)));
                query.distances(self, &unvisited, &mut distances);
                distances.iter().zip(&unvisited).for_each(|(distance, node)| beam.insert(*distance, *node));
                if wanted.is_some_and(|wanted| unvisited.contains(&wanted)) {
                    return vec![];
                }
                match beam.expand_next() {
                    Some(node) => edges(node, &mut reached),
                    None => break,
                }
            }
            if entered == centroids.len() {
                centroids = query.nearest_centroids(usize::MAX);
            }
            let next = (entered + NEXT_CENTROIDS).min(centroids.len());
            centroids[entered..next]
                .iter()
                .for_each(|centroid| reached.extend(self.entry_points_of(*centroid)));
            entered = next;
            reached.retain(|node| !visited.contains(*node));
            query.distances(self, &reached, &mut distances);
            if !distances.iter().any(|distance| beam.has_place(*distance)) {
                break;
            }
        }
        let mut found: Vec<(f32, u32)> =
            beam.candidates.into_iter().map(|candidate| (candidate.distance, candidate.node)).collect();
        unvisited.clear();
        for centroid in &centroids[..entered] {
            unvisited.extend(self.unreached_of(*centroid));
        }
        if !unvisited.is_empty() {
            query.distances(self, &unvisited, &mut distances);
            found.extend(distances.iter().copied().zip(unvisited.iter().copied()));
            found.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            found.dedup();
            found.truncate(beam_width);
        }
        found
    }
}
