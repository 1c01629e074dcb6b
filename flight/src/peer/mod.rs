//! Between nodes: metadata and segments over QUIC, and channels to the workers of distributed queries.

mod channels;
mod endpoint;
mod service;
mod wire;

pub use channels::WorkerChannels;
pub use endpoint::{PeerClient, PeerEndpoint};
pub use service::{PeerHandler, PeerNodes, PeerService};
