//! Approximate nearest-neighbor search in the vectors of a segment.
//!
//! The index is a Vamana graph (Jayaram Subramanya et al., "DiskANN", NeurIPS 2019) over vectors that are
//! quantized to four bits a component (after RaBitQ: Gao and Long, SIGMOD 2024). Nodes are grouped by their
//! nearest centroid, as in an inverted file (IVF; Jégou et al., 2011). The centroids serve three purposes:
//! codes encode the residual from the centroid, the beam search enters the graph at the nearest centroids,
//! and selective filters scan the nodes of one centroid after the other instead of following edges. The best
//! candidates are re-ranked with the exact vectors, which the caller reads from the segment.

mod beam;
mod build;
mod calibration;
mod centroid_codes;
mod centroids;
mod code_dot;
mod format;
mod node_filter;
mod nodes;
mod quantization;
mod query_distances;
mod random;
mod reachability;
mod rerank;
mod rotation;
mod search;
mod strategy;
mod vamana;

pub use build::{BuildOptions, build_graph};
pub use calibration::RECALL_TARGETS;
pub use format::Graph;
pub use node_filter::NodeFilter;
pub use search::{BEAM_WIDTH_DEFAULT, Beam, GraphSearchOptions, GraphSearcher};
pub use strategy::Strategy;
