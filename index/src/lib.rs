//! Search inside one segment. Each index has a writer, which makes bytes, and a reader over them; where
//! the bytes are kept, and what is visible, is decided elsewhere.

mod keys;

pub use keys::{KeyIndex, build_keys};
