//! The byte format of a graph, and its reader. Nodes are read in place from a mapped file; centroids and
//! offsets are decoded when the graph is opened.
//!
//! Layout, little-endian:
//!
//! | part | size in bytes |
//! |---|---|
//! | magic | 8 |
//! | metric, dimensions, degree, rows of the segment, nodes, centroids, unreached nodes | 4 each |
//! | seed of the rotation | 8 |
//! | largest squared norm of a vector | 4 |
//! | beam widths for the recall targets, for queries inside and for those outside of the data | 4 each |
//! | distance of the nearest centroid from which on a query is outside | 4 |
//! | components of each centroid | 4 each |
//! | entry points of each centroid, as nodes | 4 each |
//! | first node of each centroid, and the number of nodes | 4 each |
//! | place of the first unreached node of each centroid, and their number | 4 each |
//! | unreached nodes | 4 each |
//! | row of each node | 4 each |
//! | zeros up to the next cache line | |
//! | nodes, ordered by centroid | [`record_bytes`] each |
//!
//! The record of a node consists of the scale of its code (4), the squared norm of its residual (4), its
//! centroid (2, the highest bit is set for duplicates), its code, its out-edges (3 each; unused places hold
//! the node itself), and zeros up to a multiple of 32 bytes. Nodes with the same vector are adjacent. All but
//! the first of them are duplicates, which have no edges in either direction. Unreached nodes are those which
//! a search by their own vector does not visit. A search that enters their centroid compares all of them.

use bytes::Bytes;
use plexus_model::{Error, Metric, Result, RowSet};

use super::calibration::BeamWidths;
use super::centroid_codes::CentroidCodes;
use super::centroids::Centroids;
use super::nodes::{CACHE_LINE_BYTES, EDGE_BYTES, NODES_MAX, Nodes, record_bytes};
use super::rotation::Rotation;

const MAGIC: &[u8; 8] = b"PLXGRPH2";
/// Where the beam widths are in the header.
const BEAM_WIDTHS_START: usize = 48;
const HEADER_BYTES: usize = BEAM_WIDTHS_START + BeamWidths::BYTES;
/// Nodes of each centroid at which a beam search enters the graph.
pub(super) const ENTRY_POINTS_PER_CENTROID: usize = 3;
/// Limits of the sizes in the header. Larger values mean damaged bytes and must not size an allocation.
const DIMENSIONS_MAX: usize = 1 << 16;
const CENTROIDS_MAX: usize = 1 << 15;
const DEGREE_MAX: usize = 1 << 10;

/// A Vamana graph over the vectors of a segment. Each vector is a node; rows without a vector have none.
#[derive(Clone)]
pub struct Graph {
    pub(super) metric: Metric,
    pub(super) dimensions: usize,
    /// Out-edges of each node.
    degree: usize,
    rows: u32,
    norm_squared_max: f32,
    beam_widths: BeamWidths,
    pub(super) rotation: Rotation,
    pub(super) centroids: Centroids,
    pub(super) centroid_codes: CentroidCodes,
    /// [`ENTRY_POINTS_PER_CENTROID`] nodes for each centroid.
    pub(super) entry_points: Vec<u32>,
    /// The first node of each centroid, and the number of nodes.
    pub(super) posting_starts: Vec<u32>,
    /// Where the unreached nodes of each centroid start in `unreached`, and their number.
    unreached_starts: Vec<u32>,
    unreached: Vec<u32>,
    /// The row of each node, four bytes each.
    node_rows: Bytes,
    pub(super) nodes: Nodes,
}

/// The parts of a graph that is written. See [`Graph`] for the fields.
pub(super) struct GraphParts<'a> {
    pub(super) metric: Metric,
    pub(super) dimensions: usize,
    pub(super) degree: usize,
    pub(super) rows: u32,
    pub(super) seed: u64,
    pub(super) norm_squared_max: f32,
    pub(super) centroids: &'a Centroids,
    pub(super) entry_points: &'a [u32],
    pub(super) posting_starts: &'a [u32],
    pub(super) unreached_starts: &'a [u32],
    pub(super) unreached: &'a [u32],
    pub(super) node_rows: &'a [u32],
    /// Nodes without edges.
    pub(super) nodes: &'a Nodes,
    /// The out-edges of each node.
    pub(super) edges: &'a [Vec<u32>],
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").field("nodes", &self.len()).finish_non_exhaustive()
    }
}

impl GraphParts<'_> {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let (count, stride) = (self.nodes.len(), record_bytes(self.dimensions, self.degree));
        let centroid_bytes = self.centroids.len() * (self.dimensions * 4 + 8);
        let mut bytes = Vec::with_capacity(count * (stride + 4) + centroid_bytes + 256);
        bytes.extend_from_slice(MAGIC);
        let metric = match self.metric {
            Metric::Cosine => 0,
            Metric::L2 => 1,
            Metric::Dot => 2,
        };
        let sizes = [
            metric,
            self.dimensions as u32,
            self.degree as u32,
            self.rows,
            count as u32,
            self.centroids.len() as u32,
            self.unreached.len() as u32,
        ];
        sizes.iter().for_each(|size| bytes.extend_from_slice(&size.to_le_bytes()));
        bytes.extend_from_slice(&self.seed.to_le_bytes());
        bytes.extend_from_slice(&self.norm_squared_max.to_le_bytes());
        // Until they are measured.
        bytes.extend_from_slice(&BeamWidths::default().to_bytes());
        self.centroids.iter().flatten().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
        for numbers in
            [self.entry_points, self.posting_starts, self.unreached_starts, self.unreached, self.node_rows]
        {
            numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        }
        bytes.resize(bytes.len().next_multiple_of(CACHE_LINE_BYTES), 0);
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

/// Sets the beam widths of a graph in the bytes that [`GraphParts::to_bytes`] returned.
pub(super) fn set_beam_widths(bytes: &mut [u8], widths: &BeamWidths) {
    bytes[BEAM_WIDTHS_START..HEADER_BYTES].copy_from_slice(&widths.to_bytes());
}

impl Graph {
    /// Opens the bytes that [`build_graph`](super::build_graph) returned.
    ///
    /// The caller must have verified a checksum of the bytes: node numbers inside of records are not
    /// validated, and a search of damaged records may panic.
    ///
    /// # Errors
    /// `Corrupt` when the bytes are not a complete graph.
    pub fn open(bytes: Bytes) -> Result<Self> {
        let corrupt = |what: &str| Error::corrupt(format!("graph of {} bytes: {what}", bytes.len()));
        if bytes.len() < HEADER_BYTES || &bytes[..8] != MAGIC {
            return Err(corrupt("the magic number is missing"));
        }
        let size = |field: usize| u32_at(&bytes, 8 + 4 * field) as usize;
        let metric = match size(0) {
            0 => Metric::Cosine,
            1 => Metric::L2,
            2 => Metric::Dot,
            _ => return Err(corrupt("the metric is unknown")),
        };
        let (dimensions, degree, rows, count, centroids) = (size(1), size(2), size(3), size(4), size(5));
        let unreached = size(6);
        if dimensions > DIMENSIONS_MAX
            || degree > DEGREE_MAX
            || centroids > CENTROIDS_MAX
            || count > rows.min(NODES_MAX)
            || unreached > count
        {
            return Err(corrupt("a size in the header exceeds its limit"));
        }
        let seed = u64::from(u32_at(&bytes, 36)) | u64::from(u32_at(&bytes, 40)) << 32;
        let norm_squared_max = f32::from_bits(u32_at(&bytes, 44));
        let beam_widths = BeamWidths::from_bytes(&bytes[BEAM_WIDTHS_START..HEADER_BYTES]);
        let beam_widths = beam_widths.ok_or_else(|| corrupt("a beam width exceeds its limit"))?;
        // Centroids, entry points, posting starts, starts of unreached nodes, these, rows of nodes.
        let part_bytes = [
            dimensions * centroids * 4,
            centroids * ENTRY_POINTS_PER_CENTROID * 4,
            (centroids + 1) * 4,
            (centroids + 1) * 4,
            unreached * 4,
            count * 4,
        ];
        let mut end = HEADER_BYTES;
        let part_starts = part_bytes.map(|size| {
            end += size;
            end - size
        });
        let nodes_start = end.next_multiple_of(CACHE_LINE_BYTES);
        if bytes.len() != nodes_start + count * record_bytes(dimensions, degree) {
            return Err(corrupt("the size does not match the number of nodes"));
        }
        let numbers = |part: usize| {
            (0..part_bytes[part] / 4).map(move |i| part_starts[part] + 4 * i).map(|at| u32_at(&bytes, at))
        };
        let points: Vec<f32> = numbers(0).map(f32::from_bits).collect();
        let [entry_points, posting_starts, unreached_starts, unreached] =
            [1, 2, 3, 4].map(|part| numbers(part).collect::<Vec<u32>>());
        let divides = |starts: &[u32], count: usize| {
            starts.is_sorted() && starts.first() == Some(&0) && starts.last() == Some(&(count as u32))
        };
        let mut nodes = entry_points.iter().chain(&unreached);
        if !divides(&posting_starts, count)
            || !divides(&unreached_starts, unreached.len())
            || nodes.any(|node| count > 0 && *node as usize >= count)
        {
            return Err(corrupt("the nodes of the centroids are out of range"));
        }
        let centroids = Centroids::new(dimensions, points);
        Ok(Self {
            metric,
            dimensions,
            degree,
            rows: rows as u32,
            norm_squared_max,
            beam_widths,
            rotation: Rotation::new(dimensions, seed),
            centroid_codes: CentroidCodes::new(&centroids, dimensions),
            centroids,
            entry_points,
            posting_starts,
            unreached_starts,
            unreached,
            node_rows: bytes.slice(part_starts[5]..part_starts[5] + part_bytes[5]),
            nodes: Nodes::from_bytes(bytes.slice(nodes_start..), dimensions, degree),
        })
    }

    /// The graph that a build searches: with codes, but without stored edges and rows.
    pub(super) fn without_edges(parts: &GraphParts<'_>) -> Self {
        Self {
            metric: parts.metric,
            dimensions: parts.dimensions,
            degree: 0,
            rows: parts.rows,
            norm_squared_max: parts.norm_squared_max,
            beam_widths: BeamWidths::default(),
            rotation: Rotation::new(parts.dimensions, parts.seed),
            centroids: parts.centroids.clone(),
            centroid_codes: CentroidCodes::new(parts.centroids, parts.dimensions),
            entry_points: parts.entry_points.to_vec(),
            posting_starts: parts.posting_starts.to_vec(),
            unreached_starts: parts.unreached_starts.to_vec(),
            unreached: parts.unreached.to_vec(),
            node_rows: Bytes::new(),
            nodes: parts.nodes.clone(),
        }
    }

    /// Number of nodes, which is the number of rows with a vector.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether the graph has no nodes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The metric that the graph was built for.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Number of components of a vector.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Number of rows of the segment, including those without a vector.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// The largest squared norm of a vector, as it is in the segment: before normalization.
    pub fn norm_squared_max(&self) -> f32 {
        self.norm_squared_max
    }

    /// The beam width that finds a share of the nearest rows on average, for a query whose nearest centroid
    /// is so far away.
    pub(super) fn beam_width(&self, recall: f32, nearest_centroid_distance: f32) -> usize {
        self.beam_widths.of(recall, nearest_centroid_distance)
    }

    /// Size on the heap in bytes. The bytes of the file are not included, since they may be mapped.
    pub fn bytes(&self) -> usize {
        let lists = (self.centroids.len() + self.unreached.len()) * 4;
        self.centroids.len() * (self.dimensions * 4 + 8) + lists + self.centroid_codes.bytes() + 1024
    }

    /// The row of a node.
    #[inline(always)]
    pub fn row_of(&self, node: u32) -> u32 {
        u32_at(&self.node_rows, node as usize * 4)
    }

    /// Rows of the segment that have no vector in the graph.
    pub fn rows_without_vector(&self) -> RowSet {
        let mut absent = RowSet::new();
        if self.len() < self.rows as usize {
            absent.insert_range(0..self.rows);
            (0..self.len() as u32).for_each(|node| {
                absent.remove(self.row_of(node));
            });
        }
        absent
    }

    /// The posting list of a centroid: the nodes that are nearest to it.
    pub(super) fn postings(&self, centroid: u32) -> std::ops::Range<u32> {
        self.posting_starts[centroid as usize]..self.posting_starts[centroid as usize + 1]
    }

    /// The nodes at which a search enters a centroid.
    pub(super) fn entry_points_of(&self, centroid: u32) -> &[u32] {
        let first = centroid as usize * ENTRY_POINTS_PER_CENTROID;
        &self.entry_points[first..first + ENTRY_POINTS_PER_CENTROID]
    }

    /// The unreached nodes that a search which enters a centroid compares.
    pub(super) fn unreached_of(&self, centroid: u32) -> &[u32] {
        let (start, end) =
            (self.unreached_starts[centroid as usize], self.unreached_starts[centroid as usize + 1]);
        &self.unreached[start as usize..end as usize]
    }

    /// The duplicates of a node, which no edge leads to.
    pub(super) fn duplicates(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        (node + 1..self.len() as u32).take_while(|next| self.nodes.is_duplicate(*next))
    }

    /// The out-edges of a node.
    #[inline(always)]
    pub(super) fn neighbors(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        self.nodes.neighbors(node, self.degree)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
