//! A graph of vectors: from any of them, edges lead to ever nearer ones of a query.

mod beam;
mod build;
mod centroid_codes;
mod centroids;
mod format;
mod node_filter;
mod quantization;
mod query_distances;
mod search;

pub use build::{BuildOptions, build_graph};
pub use format::{Graph, NODES_MAX};
pub use node_filter::NodeFilter;
pub use search::{BEAM_DEFAULT, GraphSearchOptions, GraphSearcher, Strategy};
