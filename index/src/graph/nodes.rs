//! The nodes of a graph: factors, code and out-edges of each vector in one record, so that expanding a node
//! reads adjacent cache lines.

use bytes::Bytes;
use rayon::prelude::*;

use super::quantization::code_bytes;

/// Size of a cache line in bytes. The first node starts at one.
pub(super) const CACHE_LINE_BYTES: usize = 64;
/// Records are padded to a multiple of this many bytes, so that few of them straddle a further cache line.
const ALIGNMENT: usize = 32;
/// Size of scale, squared norm and centroid in front of a code.
pub(super) const FACTOR_BYTES: usize = 10;
/// Size of an out-edge, a node number.
pub(super) const EDGE_BYTES: usize = 3;
/// Largest number of nodes in a graph: edges have three bytes.
pub(super) const NODES_MAX: usize = 1 << 24;
/// Flag beside the centroid of a node whose vector equals that of the node before it.
pub(super) const DUPLICATE: u16 = 1 << 15;

/// The records of all nodes.
#[derive(Clone)]
pub(super) struct Nodes {
    bytes: Bytes,
    /// Size of a record in bytes.
    stride: usize,
    code_bytes: usize,
}

/// The decoded head of a record.
pub(super) struct Node<'a> {
    /// Distance between the levels of the code.
    pub(super) scale: f32,
    /// Squared norm of the residual from the centroid.
    pub(super) norm_squared: f32,
    pub(super) centroid: u16,
    pub(super) code: &'a [u8],
}

/// Size of the record of a node with `degree` out-edges, in bytes.
pub(super) fn record_bytes(dimensions: usize, degree: usize) -> usize {
    (FACTOR_BYTES + code_bytes(dimensions) + degree * EDGE_BYTES).next_multiple_of(ALIGNMENT)
}

impl Nodes {
    /// Nodes in the bytes of a graph, with `degree` out-edges each.
    pub(super) fn from_bytes(bytes: Bytes, dimensions: usize, degree: usize) -> Self {
        Self { bytes, stride: record_bytes(dimensions, degree), code_bytes: code_bytes(dimensions) }
    }

    /// Nodes without edges. `encode` writes the head of each node, which consists of its factors and its
    /// code.
    pub(super) fn encoded(count: usize, dimensions: usize, encode: impl Fn(usize, &mut [u8]) + Sync) -> Self {
        let code_bytes = code_bytes(dimensions);
        let head_bytes = FACTOR_BYTES + code_bytes;
        let stride = record_bytes(dimensions, 0);
        let mut bytes = vec![0; count * stride + CACHE_LINE_BYTES];
        let first = bytes.as_ptr().align_offset(CACHE_LINE_BYTES).min(CACHE_LINE_BYTES);
        let records = bytes[first..].par_chunks_exact_mut(stride).take(count);
        records.enumerate().for_each(|(node, record)| encode(node, &mut record[..head_bytes]));
        Self { bytes: Bytes::from(bytes).slice(first..first + count * stride), stride, code_bytes }
    }

    /// Number of nodes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() / self.stride
    }

    /// The encoded factors and the code of a node.
    #[inline(always)]
    pub(super) fn head(&self, node: u32) -> &[u8] {
        let start = node as usize * self.stride;
        &self.bytes[start..start + FACTOR_BYTES + self.code_bytes]
    }

    #[inline(always)]
    pub(super) fn get(&self, node: u32) -> Node<'_> {
        let (factors, code) = self.head(node).split_at(FACTOR_BYTES);
        // The fixed size lets the compiler drop the bounds check of each byte.
        let factors: &[u8; FACTOR_BYTES] = factors.try_into().expect("split_at gives FACTOR_BYTES bytes");
        let [a, b, c, d, e, f, g, h, i, j] = *factors;
        Node {
            scale: f32::from_le_bytes([a, b, c, d]),
            norm_squared: f32::from_le_bytes([e, f, g, h]),
            centroid: u16::from_le_bytes([i, j]) & !DUPLICATE,
            code,
        }
    }

    /// Whether the vector of a node equals that of the node before it.
    #[inline(always)]
    pub(super) fn is_duplicate(&self, node: u32) -> bool {
        let head = self.head(node);
        u16::from_le_bytes([head[8], head[9]]) & DUPLICATE != 0
    }

    /// The out-edges of a node. Unused places hold the node itself.
    #[inline(always)]
    pub(super) fn neighbors(&self, node: u32, degree: usize) -> impl Iterator<Item = u32> + '_ {
        let start = node as usize * self.stride + FACTOR_BYTES + self.code_bytes;
        let edges = &self.bytes[start..start + degree * EDGE_BYTES];
        let edges = edges.chunks_exact(EDGE_BYTES).map(|e| u32::from_le_bytes([e[0], e[1], e[2], 0]));
        edges.take_while(move |other| *other != node)
    }
}
