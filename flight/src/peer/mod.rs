//! Communication between nodes: metadata, segments and search requests over QUIC, query tasks over gRPC.
//!
//! [`PeerService`] answers the requests of other nodes, [`PeerNetwork`] sends them, both through the node's
//! [`PeerEndpoint`]. [`WorkerChannels`] are the separate gRPC channels to the workers of distributed queries.

mod channels;
mod endpoint;
mod network;
mod service;
pub(crate) mod wire;

pub use channels::WorkerChannels;
pub use endpoint::{PeerClient, PeerEndpoint};
pub use network::PeerNetwork;
pub use service::{NodeState, PeerService};
