//! A graph of vectors: from any of them, edges lead to ever nearer ones of a query.

mod asked;
mod beam;
mod build;
mod centres;
mod chosen;
mod coarse;
mod codes;
mod file;
mod walk;

pub use build::{BuildOptions, build_graph};
pub use chosen::Chosen;
pub use file::{Graph, NODES_MAX};
pub use walk::{Among, Strategy, Walk, WalkOptions};
