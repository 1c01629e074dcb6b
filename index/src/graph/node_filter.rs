//! Nodes that may be found, when not all may.

use plexus_model::RowSet;

use super::format::Graph;

/// Nodes of a graph, for walks that check them and for looks at all of some centroid.
#[derive(Debug)]
pub struct NodeFilter {
    /// Ascending, which is by their centroids.
    nodes: Vec<u32>,
    /// Where those of each centroid begin, and the end.
    starts: Vec<u32>,
    bits: Vec<u64>,
}

impl NodeFilter {
    /// The nodes of a graph that are some rows.
    pub fn new(graph: &Graph, rows: &RowSet) -> Self {
        let set = |bits: &mut [u64], at: u32| bits[at as usize / 64] |= 1 << (at % 64);
        // Rows are looked up in any order, which a set of bits takes in a step.
        let mut wanted = vec![0u64; (graph.rows() as usize).div_ceil(64)];
        rows.iter().take_while(|row| *row < graph.rows()).for_each(|row| set(&mut wanted, row));
        let mut bits = vec![0u64; graph.len().div_ceil(64)];
        let mut nodes = Vec::with_capacity(rows.len() as usize);
        for node in 0..graph.len() as u32 {
            let row = graph.row_of(node);
            if wanted[row as usize / 64] >> (row % 64) & 1 == 1 {
                set(&mut bits, node);
                nodes.push(node);
            }
        }
        let starts = graph.starts.iter().map(|start| nodes.partition_point(|node| node < start) as u32);
        Self { starts: starts.collect(), nodes, bits }
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.nodes.len() * 4 + self.starts.len() * 4 + self.bits.len() * 8
    }

    #[inline(always)]
    pub(super) fn contains(&self, node: u32) -> bool {
        self.bits[node as usize / 64] >> (node % 64) & 1 == 1
    }

    /// Those of a centroid.
    pub(super) fn of_centroid(&self, centroid: u32) -> &[u32] {
        &self.nodes[self.starts[centroid as usize] as usize..self.starts[centroid as usize + 1] as usize]
    }
}
