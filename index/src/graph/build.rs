//! Building a graph.
//!
//! Vectors join in batches, each as large as a share of those that are in: a batch looks for its neighbours in what is
//! there, all at once, and then those learn of it. So the graph depends on the seed and not on how many threads there
//! are (Manohar et al.: "ParlayANN: scalable and deterministic parallel graph-based approximate nearest neighbor search
//! algorithms", 2024). Of the candidates of a vector, those stay that lead somewhere where the others do not (Jayaram
//! Subramanya et al.: "DiskANN: fast accurate billion-point nearest neighbor search on a single node", 2019).

use plexus_model::Metric;
use rayon::prelude::*;

use super::centres::Centres;
use super::codes::{Random, Rotation, code_bytes, encode};
use super::walk::{Asked, Visited};

/// How a graph is built.
#[derive(Clone, Copy, Debug)]
pub struct BuildOptions {
    /// Edges of a vector, at most.
    pub degree: usize,
    /// Candidates that are kept while neighbours are looked for.
    pub beam: usize,
    /// How much farther a neighbour may be than the way round by another, for it to be left out.
    pub detour: f32,
    pub seed: u64,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self { degree: 29, beam: 80, detour: 1.2, seed: 0x706c_6578_7573 }
    }
}

/// A batch is at most such a share of the vectors that are in.
const BATCH_SHARE: usize = 50;
const BATCH_MIN: usize = 64;
/// Edges that a vector may have beyond its degree while the graph is built.
const SLACK: usize = 16;

/// What is read of memory at once.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]);

const LINE: usize = 64;
/// Scale, square and centre in front of a code.
const HEADER: usize = 12;

/// Vectors as nodes of a graph. What a walk needs of one is in one place: its factors, its code, its edges.
pub struct Graph {
    pub(super) metric: Metric,
    pub(super) length: usize,
    pub(super) rotation: Rotation,
    pub(super) centres: Centres,
    code_bytes: usize,
    /// Lines of a node.
    lines: usize,
    nodes: Vec<Line>,
    count: usize,
    pub(super) degree: usize,
    /// A node near each centre, where walks begin.
    pub(super) entries: Vec<u32>,
}

/// A node as it is stored.
pub(super) struct Node<'a> {
    pub scale: f32,
    pub square: f32,
    pub centre: u32,
    pub code: &'a [u8],
}

impl Graph {
    /// Builds the graph of vectors of a length, one after the other. Takes all threads of the pool that it is called in.
    pub fn build(metric: Metric, length: usize, vectors: &[f32], options: BuildOptions) -> Self {
        let count = vectors.len().checked_div(length).unwrap_or(0);
        let rotation = Rotation::new(length, options.seed);
        let mut rotated: Vec<f32> = vectors[..count * length].to_vec();
        rotated.par_chunks_mut(length.max(1)).for_each(|vector| {
            normalise(metric, vector);
            rotation.apply(vector);
        });
        let (centres, of) = Centres::find(&rotated, length, options.seed);
        let code_bytes = code_bytes(length);
        let lines = (HEADER + code_bytes + options.degree * 4).div_ceil(LINE);
        let nodes = vec![Line([0; LINE]); count * lines];
        let entries = vec![];
        let mut graph = Self {
            metric,
            length,
            rotation,
            centres,
            code_bytes,
            lines,
            nodes,
            count,
            degree: options.degree,
            entries,
        };
        graph.encode_all(&rotated, &of);
        graph.find_entries(&of);
        Building::new(&mut graph, &rotated, options).run();
        graph
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes that it takes for each vector.
    pub fn bytes_each(&self) -> usize {
        self.lines * LINE
    }

    #[inline(always)]
    pub(super) fn bytes(&self, node: u32) -> &[u8] {
        let lines = &self.nodes[node as usize * self.lines..(node as usize + 1) * self.lines];
        // SAFETY: lines are bytes, one after the other, and of no other alignment than they need.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * LINE)
        }
    }

    fn bytes_mut(nodes: &mut [Line]) -> &mut [u8] {
        // SAFETY: as above; they are borrowed alone.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(nodes.as_mut_ptr().cast(), nodes.len() * LINE)
        }
    }

    #[inline(always)]
    pub(super) fn node(&self, node: u32) -> Node<'_> {
        let bytes = self.bytes(node);
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        Node {
            scale: f32::from_le_bytes(word(0)),
            square: f32::from_le_bytes(word(4)),
            centre: u32::from_le_bytes(word(8)),
            code: &bytes[HEADER..HEADER + self.code_bytes],
        }
    }

    /// Bytes of a node that hold its factors and its code.
    pub(super) fn head_bytes(&self) -> usize {
        HEADER + self.code_bytes
    }

    #[inline(always)]
    pub(super) fn neighbours(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let start = HEADER + self.code_bytes;
        let edges = &self.bytes(node)[start..start + self.degree * 4];
        let edges = edges.chunks_exact(4).map(|e| u32::from_le_bytes([e[0], e[1], e[2], e[3]]));
        edges.take_while(move |other| *other != node)
    }

    fn encode_all(&mut self, rotated: &[f32], of: &[u32]) {
        let (length, code_bytes) = (self.length.max(1), self.code_bytes);
        let centres = &self.centres;
        self.nodes.par_chunks_mut(self.lines.max(1)).zip(rotated.par_chunks(length)).zip(of).for_each(
            |((lines, vector), centre)| {
                let middle = centres.get(*centre);
                let difference: Vec<f32> = vector.iter().zip(middle).map(|(x, c)| x - c).collect();
                let bytes = Self::bytes_mut(lines);
                let factors = encode(&difference, &mut bytes[HEADER..HEADER + code_bytes]);
                bytes[..4].copy_from_slice(&factors.scale.to_le_bytes());
                bytes[4..8].copy_from_slice(&factors.square.to_le_bytes());
                bytes[8..12].copy_from_slice(&centre.to_le_bytes());
            },
        );
    }

    /// Of each centre the vector that is nearest to it.
    fn find_entries(&mut self, of: &[u32]) {
        let mut nearest: Vec<Option<(f32, u32)>> = vec![None; self.centres.len()];
        for (node, centre) in (0..).zip(of) {
            let square = self.node(node).square;
            let best = &mut nearest[*centre as usize];
            if best.is_none_or(|(least, _)| square < least) {
                *best = Some((square, node));
            }
        }
        // A centre without vectors is entered where any other is.
        let any = nearest.iter().flatten().map(|(_, node)| *node).next().unwrap_or(0);
        self.entries = nearest.iter().map(|n| n.map_or(any, |(_, node)| node)).collect();
    }

    fn set_neighbours(&mut self, node: u32, neighbours: &[u32]) {
        let start = HEADER + self.code_bytes;
        let lines = &mut self.nodes[node as usize * self.lines..(node as usize + 1) * self.lines];
        let edges = &mut Self::bytes_mut(lines)[start..start + self.degree * 4];
        let filled = neighbours.iter().copied().chain(std::iter::repeat(node));
        for (place, other) in edges.chunks_exact_mut(4).zip(filled) {
            place.copy_from_slice(&other.to_le_bytes());
        }
    }
}

/// A graph in the making: with edges beyond what is stored, and the vectors themselves.
struct Building<'a> {
    graph: &'a mut Graph,
    rotated: &'a [f32],
    edges: Vec<Vec<u32>>,
    options: BuildOptions,
}

impl<'a> Building<'a> {
    fn new(graph: &'a mut Graph, rotated: &'a [f32], options: BuildOptions) -> Self {
        let edges = vec![Vec::new(); graph.len()];
        Self { graph, rotated, edges, options }
    }

    fn run(mut self) {
        let mut first: Vec<u32> = self.graph.entries.clone();
        first.sort_unstable();
        first.dedup();
        let mut order: Vec<u32> =
            (0..self.graph.len() as u32).filter(|node| first.binary_search(node).is_err()).collect();
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
        let pruned: Vec<Vec<u32>> = all.par_iter().map(|node| self.fitting(*node)).collect();
        for (node, neighbours) in all.into_iter().zip(pruned) {
            self.graph.set_neighbours(node, &neighbours);
        }
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
                || (Visited::default(), Asked::default()),
                |(visited, asked), node| {
                    asked.begin(self.graph, self.of(*node).to_vec());
                    let edges = |other: u32, found: &mut Vec<u32>| found.extend(&self.edges[other as usize]);
                    let found = self.graph.look(asked, self.options.beam, visited, edges);
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
        let detour = self.options.detour * self.options.detour;
        let mut candidates: Vec<(f32, u32)> =
            candidates.iter().map(|other| (self.distance(node, *other), *other)).collect();
        candidates.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut kept: Vec<u32> = Vec::with_capacity(self.options.degree);
        for (distance, candidate) in candidates {
            if kept.len() == self.options.degree {
                break;
            }
            let hidden = kept.iter().any(|other| detour * self.distance(*other, candidate) <= distance);
            if !hidden {
                kept.push(candidate);
            }
        }
        kept
    }
}

/// For the cosine, vectors are compared by their directions.
pub(super) fn normalise(metric: Metric, vector: &mut [f32]) {
    let length = crate::dot(vector, vector).sqrt();
    if metric == Metric::Cosine && length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
}
