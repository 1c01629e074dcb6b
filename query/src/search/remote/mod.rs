//! Distributed search: the messages between nodes, scatter-gather over replicas, and the server side.

pub(crate) mod protocol;
pub(crate) mod scatter_gather;
pub(crate) mod server;
