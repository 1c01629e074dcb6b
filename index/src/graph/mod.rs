//! A graph of vectors: from any of them, edges lead to ever nearer ones of a query.

mod build;
mod centres;
mod codes;
mod walk;

pub use build::{BuildOptions, Graph};
pub use walk::{Walk, WalkOptions};
