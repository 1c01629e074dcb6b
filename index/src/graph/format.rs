//! The graph of a segment as bytes, which are read where they are: mapped, they take memory as far as there is some.
//!
//! Layout, little-endian. Magic; metric, length of a vector, degree, rows of the segment, nodes, centroids (4 bytes each);
//! the seed of the rotation (8); the largest square of a vector (4). Then of each centroid its components, and the nodes by
//! which walks enter there; where the nodes of each centroid begin; the row of each node; zeros up to the next line of
//! memory; and the nodes, in the order of their centroids. What a walk needs of one is in one place: its scale, its square,
//! its centroid (2 bytes, the highest bit set for a copy), its code, its edges (3 bytes each, the node itself where there are fewer), and zeros up to a
//! multiple of [`ALIGNMENT`]. Copies of a vector follow on the first of it, and no edge leads to them or from them.

use bytes::Bytes;
use plexus_model::{Error, Metric, Result, RowSet};

use super::centroid_codes::CentroidCodes;
use super::centroids::Centroids;
use super::quantization::{Rotation, code_bytes};

const MAGIC: &[u8; 8] = b"PLXGRPH1";
const HEADER_BYTES: usize = 44;
const LINE: usize = 64;
const ALIGNMENT: usize = 32;
/// Scale, square and centroid in front of a code.
pub(super) const FACTOR_BYTES: usize = 10;
const EDGE_BYTES: usize = 3;
/// Set beside its centroid when the same vector is in front of a node.
pub(super) const DUPLICATE: u16 = 1 << 15;
/// Bounds of what a file may say of itself: beyond them it is none.
const LENGTH_MAX: usize = 1 << 16;
const CENTROIDS_MAX: usize = 1 << 15;
const DEGREE_MAX: usize = 1 << 10;
/// Nodes by which walks enter at a centroid.
pub(super) const ENTRIES: usize = 3;
/// Nodes are named by three bytes.
pub const NODES_MAX: usize = 1 << 24;

/// Vectors as nodes of a graph: from any of them, edges lead to ever nearer ones of a query.
#[derive(Clone)]
pub struct Graph {
    pub(super) metric: Metric,
    pub(super) length: usize,
    pub(super) degree: usize,
    rows: u32,
    largest_square: f32,
    pub(super) rotation: Rotation,
    pub(super) centroids: Centroids,
    pub(super) centroid_codes: CentroidCodes,
    /// Of each centroid some nodes, where walks begin.
    pub(super) entries: Vec<u32>,
    /// Where the nodes of each centroid begin, and the end.
    pub(super) starts: Vec<u32>,
    row_of: Bytes,
    pub(super) nodes: Nodes,
}

/// Bytes of nodes, one after the other.
#[derive(Clone)]
pub(super) struct Nodes {
    bytes: Bytes,
    stride: usize,
    code_bytes: usize,
}

/// A node as it is stored.
pub(super) struct Node<'a> {
    pub scale: f32,
    pub square: f32,
    pub centroid: u16,
    pub code: &'a [u8],
}

/// What a graph is made of, before it is bytes.
pub(super) struct GraphParts<'a> {
    pub metric: Metric,
    pub length: usize,
    pub degree: usize,
    pub rows: u32,
    pub seed: u64,
    pub largest_square: f32,
    pub centroids: &'a Centroids,
    pub entries: &'a [u32],
    pub starts: &'a [u32],
    pub row_of: &'a [u32],
    /// Without edges.
    pub nodes: &'a Nodes,
    pub edges: &'a [Vec<u32>],
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").field("nodes", &self.len()).finish_non_exhaustive()
    }
}

impl Nodes {
    /// Nodes without edges, from what `encode` makes of the bytes of each.
    pub fn encoded(count: usize, length: usize, encode: impl Fn(usize, &mut [u8]) + Sync) -> Self {
        use rayon::prelude::*;
        let code_bytes = code_bytes(length);
        let head = FACTOR_BYTES + code_bytes;
        let stride = head.next_multiple_of(ALIGNMENT);
        // The first begins a line of memory.
        let mut bytes = vec![0; count * stride + LINE];
        let first = bytes.as_ptr().align_offset(LINE).min(LINE);
        let places = bytes[first..].par_chunks_exact_mut(stride).take(count);
        places.enumerate().for_each(|(node, place)| encode(node, &mut place[..head]));
        Self { bytes: Bytes::from(bytes).slice(first..first + count * stride), stride, code_bytes }
    }

    pub fn len(&self) -> usize {
        self.bytes.len() / self.stride
    }

    /// Factors and code of a node.
    #[inline(always)]
    pub fn head(&self, node: u32) -> &[u8] {
        let start = node as usize * self.stride;
        &self.bytes[start..start + FACTOR_BYTES + self.code_bytes]
    }

    #[inline(always)]
    pub fn get(&self, node: u32) -> Node<'_> {
        let (factors, code) = self.head(node).split_at(FACTOR_BYTES);
        // Of an array, all bytes are read at once.
        let factors: &[u8; FACTOR_BYTES] = factors.try_into().expect("split there");
        let [a, b, c, d, e, f, g, h, i, j] = *factors;
        Node {
            scale: f32::from_le_bytes([a, b, c, d]),
            square: f32::from_le_bytes([e, f, g, h]),
            centroid: u16::from_le_bytes([i, j]) & !DUPLICATE,
            code,
        }
    }

    /// Whether the node in front has the same vector.
    #[inline(always)]
    pub fn is_duplicate(&self, node: u32) -> bool {
        let head = self.head(node);
        u16::from_le_bytes([head[8], head[9]]) & DUPLICATE != 0
    }
}

/// Bytes of a node with all that belongs to it.
fn stride(length: usize, degree: usize) -> usize {
    (FACTOR_BYTES + code_bytes(length) + degree * EDGE_BYTES).next_multiple_of(ALIGNMENT)
}

impl GraphParts<'_> {
    pub fn to_bytes(&self) -> Vec<u8> {
        let (count, stride) = (self.nodes.len(), stride(self.length, self.degree));
        let mut bytes =
            Vec::with_capacity(count * (stride + 4) + self.centroids.len() * (self.length * 4 + 8) + 256);
        bytes.extend_from_slice(MAGIC);
        let metric = match self.metric {
            Metric::Cosine => 0,
            Metric::L2 => 1,
            Metric::Dot => 2,
        };
        let sizes = [
            metric,
            self.length as u32,
            self.degree as u32,
            self.rows,
            count as u32,
            self.centroids.len() as u32,
        ];
        sizes.iter().for_each(|size| bytes.extend_from_slice(&size.to_le_bytes()));
        bytes.extend_from_slice(&self.seed.to_le_bytes());
        bytes.extend_from_slice(&self.largest_square.to_le_bytes());
        self.centroids.all().flatten().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
        for numbers in [self.entries, self.starts, self.row_of] {
            numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        }
        bytes.resize(bytes.len().next_multiple_of(LINE), 0);
        for (node, edges) in (0..count as u32).zip(self.edges) {
            let end = bytes.len() + stride;
            bytes.extend_from_slice(self.nodes.head(node));
            let filled = edges.iter().copied().chain(std::iter::repeat(node)).take(self.degree);
            filled.for_each(|other| bytes.extend_from_slice(&other.to_le_bytes()[..EDGE_BYTES]));
            bytes.resize(end, 0);
        }
        bytes
    }
}

impl Graph {
    /// Opens what [`super::build_graph`] made. The bytes must have been compared with a checksum: of those that were
    /// changed since, not all are found out here.
    ///
    /// # Errors
    /// `Corrupt` when they are no graph, or not all of one.
    pub fn open(bytes: Bytes) -> Result<Self> {
        let wrong = |what: &str| Error::corrupt(format!("graph of {} bytes: {what}", bytes.len()));
        if bytes.len() < HEADER_BYTES || &bytes[..8] != MAGIC {
            return Err(wrong("it does not begin as one"));
        }
        let size = |at: usize| u32_at(&bytes, 8 + 4 * at) as usize;
        let metric = match size(0) {
            0 => Metric::Cosine,
            1 => Metric::L2,
            2 => Metric::Dot,
            _ => return Err(wrong("its metric is unknown")),
        };
        let (length, degree, rows, count, centroids) = (size(1), size(2), size(3), size(4), size(5));
        if length > LENGTH_MAX
            || degree > DEGREE_MAX
            || centroids > CENTROIDS_MAX
            || count > rows.min(NODES_MAX)
        {
            return Err(wrong("it is larger than any"));
        }
        let seed = u64::from(u32_at(&bytes, 32)) | u64::from(u32_at(&bytes, 36)) << 32;
        let largest_square = f32::from_bits(u32_at(&bytes, 40));
        let lengths = [length * centroids * 4, centroids * ENTRIES * 4, (centroids + 1) * 4, count * 4];
        let mut at = HEADER_BYTES;
        let mut places = [0; 4];
        for (place, length) in places.iter_mut().zip(lengths) {
            *place = at;
            at += length;
        }
        let first = at.next_multiple_of(LINE);
        let stride = stride(length, degree);
        if bytes.len() != first + count * stride {
            return Err(wrong("its length is not that of its nodes"));
        }
        let numbers = |part: usize| {
            (0..lengths[part] / 4).map(move |i| places[part] + 4 * i).map(|at| u32_at(&bytes, at))
        };
        let points: Vec<f32> = numbers(0).map(f32::from_bits).collect();
        let (entries, starts): (Vec<u32>, Vec<u32>) = (numbers(1).collect(), numbers(2).collect());
        let ordered =
            starts.is_sorted() && starts.first() == Some(&0) && starts.last() == Some(&(count as u32));
        if !ordered || entries.iter().any(|node| count > 0 && *node as usize >= count) {
            return Err(wrong("its centroids are not in order"));
        }
        let nodes = Nodes { bytes: bytes.slice(first..), stride, code_bytes: code_bytes(length) };
        let centroids = Centroids::new(length, points);
        Ok(Self {
            metric,
            length,
            degree,
            rows: rows as u32,
            largest_square,
            rotation: Rotation::new(length, seed),
            centroid_codes: CentroidCodes::new(&centroids, length),
            centroids,
            entries,
            starts,
            row_of: bytes.slice(places[3]..places[3] + lengths[3]),
            nodes,
        })
    }

    /// A graph in the making, of which only the codes are there.
    pub(super) fn without_edges(parts: &GraphParts<'_>) -> Self {
        Self {
            metric: parts.metric,
            length: parts.length,
            degree: 0,
            rows: parts.rows,
            largest_square: parts.largest_square,
            rotation: Rotation::new(parts.length, parts.seed),
            centroids: parts.centroids.clone(),
            centroid_codes: CentroidCodes::new(parts.centroids, parts.length),
            entries: parts.entries.to_vec(),
            starts: parts.starts.to_vec(),
            row_of: Bytes::new(),
            nodes: parts.nodes.clone(),
        }
    }

    /// How many vectors are in it.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Components of a vector.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Rows of the segment: those without a vector are not in the graph.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// The largest square of the length of a vector.
    pub fn largest_square(&self) -> f32 {
        self.largest_square
    }

    /// Bytes that it takes beside those of its file, which may be mapped.
    pub fn bytes(&self) -> usize {
        self.centroids.len() * (self.length * 4 + 8) + self.centroid_codes.bytes() + 1024
    }

    /// The row of the segment that a node is.
    #[inline(always)]
    pub fn row_of(&self, node: u32) -> u32 {
        u32_at(&self.row_of, node as usize * 4)
    }

    /// Rows that have no vector in it.
    pub fn absent(&self) -> RowSet {
        let mut absent = RowSet::new();
        if self.len() < self.rows as usize {
            absent.insert_range(0..self.rows);
            (0..self.len() as u32).for_each(|node| {
                absent.remove(self.row_of(node));
            });
        }
        absent
    }

    /// The nodes of a centroid.
    pub(super) fn of_centroid(&self, centroid: u32) -> std::ops::Range<u32> {
        self.starts[centroid as usize]..self.starts[centroid as usize + 1]
    }

    /// Nodes with the same vector as one to which edges lead.
    pub(super) fn duplicates(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        (node + 1..self.len() as u32).take_while(|next| self.nodes.is_duplicate(*next))
    }

    #[inline(always)]
    pub(super) fn neighbors(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let start = node as usize * self.nodes.stride + FACTOR_BYTES + self.nodes.code_bytes;
        let edges = &self.nodes.bytes[start..start + self.degree * EDGE_BYTES];
        let edges = edges.chunks_exact(EDGE_BYTES).map(|e| u32::from_le_bytes([e[0], e[1], e[2], 0]));
        edges.take_while(move |other| *other != node)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
