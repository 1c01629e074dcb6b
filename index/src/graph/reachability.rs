//! Searches by its own vector get to every node. The robust prune leaves nodes that no search gets to: those
//! that lie alone, and those of groups with no edges between them. Each gets an edge from where a search for
//! it ends. A new edge may lead searches for others astray, and many nodes may want edges from the same one,
//! so those that are still not reached are kept in lists beside the graph.

use plexus_model::Metric;
use rayon::prelude::*;

use super::beam::Visited;
use super::format::Graph;
use super::query_distances::QueryDistances;
use super::search::BEAM_WIDTH_DEFAULT;

/// Nodes around a node, of which one gets an edge to it.
const PARENTS: usize = 16;

/// The nodes that edges do not lead to, by the centroid that a search by their own vector enters first.
pub(super) struct Unreached {
    /// Where those of each centroid start in `nodes`, and their number.
    pub(super) starts: Vec<u32>,
    pub(super) nodes: Vec<u32>,
}

/// A node that a search by its own vector did not visit.
struct Missed {
    /// The centroid that the search entered first.
    centroid: u32,
    node: u32,
    /// Where it ended: the nearest nodes, nearest first.
    nearest: Vec<u32>,
}

/// Adds edges to nodes that are not reached, from nodes with fewer than `degree_max`. Returns those that are
/// not reached then either. Duplicates have no edges and are in no list: a search finds them beside their
/// original.
pub(super) fn repair(graph: &Graph, rotated: &[f32], edges: &mut [Vec<u32>], degree_max: usize) -> Unreached {
    // The vector with the largest product need not be the query itself, so none is searched by its own.
    let unreached = if graph.metric == Metric::Dot { vec![] } else { missed(graph, rotated, edges) };
    if unreached.is_empty() {
        return Unreached { starts: vec![0; graph.centroids.len() + 1], nodes: vec![] };
    }
    for missed in unreached {
        let has_room = |parent: &&u32| edges[**parent as usize].len() < degree_max;
        if let Some(parent) = missed.nearest.iter().find(has_room) {
            edges[*parent as usize].push(missed.node);
        }
    }
    let mut found: Vec<(u32, u32)> =
        missed(graph, rotated, edges).into_iter().map(|missed| (missed.centroid, missed.node)).collect();
    found.sort_unstable();
    let start = |centroid: u32| found.partition_point(|(other, _)| *other < centroid) as u32;
    Unreached {
        starts: (0..=graph.centroids.len() as u32).map(start).collect(),
        nodes: found.into_iter().map(|(_, node)| node).collect(),
    }
}

/// The nodes that are not reached, in ascending order.
fn missed(graph: &Graph, rotated: &[f32], edges: &[Vec<u32>]) -> Vec<Missed> {
    let out_edges = |node: u32, reached: &mut Vec<u32>| reached.extend(&edges[node as usize]);
    let search = |(visited, query): &mut (Visited, QueryDistances), node: u32| {
        let vector = &rotated[node as usize * graph.dimensions..(node as usize + 1) * graph.dimensions];
        query.begin(graph, vector.to_vec());
        let nearest = graph.beam_search(query, BEAM_WIDTH_DEFAULT, visited, out_edges, Some(node));
        if visited.contains(node) {
            return None;
        }
        let centroid = *query.nearest_centroids(1).first()?;
        Some(Missed { centroid, node, nearest: nearest.into_iter().take(PARENTS).map(|(_, n)| n).collect() })
    };
    let nodes: Vec<u32> = (0..graph.len() as u32).filter(|node| !graph.nodes.is_duplicate(*node)).collect();
    nodes.par_iter().map_init(Default::default, |state, node| search(state, *node)).flatten_iter().collect()
}
