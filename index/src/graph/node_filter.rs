//! Row filters, translated to the nodes of a graph.

use plexus_model::RowSet;

use super::format::Graph;

/// The nodes that a filter selects, as a bitmap and as a posting list for each centroid.
#[derive(Debug)]
pub struct NodeFilter {
    /// The selected nodes in ascending order, which groups them by centroid.
    nodes: Vec<u32>,
    /// For each centroid where its nodes start in `nodes`, and the number of nodes.
    posting_starts: Vec<u32>,
    bits: Vec<u64>,
}

impl NodeFilter {
    /// Selects the nodes of some rows. Rows without a node are ignored.
    pub fn new(graph: &Graph, rows: &RowSet) -> Self {
        // Nodes are not ordered by row, so each lookup is random. A plain bitmap is faster than a Roaring one
        // there.
        let mut row_bits = vec![0u64; (graph.rows() as usize).div_ceil(64)];
        rows.iter().take_while(|row| *row < graph.rows()).for_each(|row| set_bit(&mut row_bits, row));
        let mut bits = vec![0u64; graph.len().div_ceil(64)];
        let mut nodes = Vec::with_capacity(rows.len() as usize);
        for node in 0..graph.len() as u32 {
            if has_bit(&row_bits, graph.row_of(node)) {
                set_bit(&mut bits, node);
                nodes.push(node);
            }
        }
        let posting_starts =
            graph.posting_starts.iter().map(|start| nodes.partition_point(|node| node < start) as u32);
        Self { posting_starts: posting_starts.collect(), nodes, bits }
    }

    /// Number of selected nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no node is selected.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.nodes.len() * 4 + self.posting_starts.len() * 4 + self.bits.len() * 8
    }

    #[inline(always)]
    pub(super) fn contains(&self, node: u32) -> bool {
        has_bit(&self.bits, node)
    }

    /// The selected nodes of a centroid, in ascending order.
    pub(super) fn postings(&self, centroid: u32) -> &[u32] {
        let (start, end) =
            (self.posting_starts[centroid as usize], self.posting_starts[centroid as usize + 1]);
        &self.nodes[start as usize..end as usize]
    }
}

#[inline(always)]
fn has_bit(bits: &[u64], at: u32) -> bool {
    bits[at as usize / 64] >> (at % 64) & 1 == 1
}

#[inline(always)]
fn set_bit(bits: &mut [u64], at: u32) {
    bits[at as usize / 64] |= 1 << (at % 64);
}
