//! Search inside one segment. Each index has a writer, which makes bytes, and a reader over them; where
//! the bytes are kept, and what is visible, is decided elsewhere.

mod distance;
pub mod graph;
mod keys;
mod simd;
pub mod text;
mod top_k;

pub use distance::{VectorQuery, distance, dot, squared_l2};
pub use keys::{KeyIndex, build_keys};
pub use top_k::TopK;
