//! Searching where the segments are: the messages between nodes, scatter-gather over replicas, and the server side.

pub mod protocol;
pub mod scatter_gather;
pub mod server;
