//! The network interfaces of a Plexus node: Arrow Flight SQL for clients, QUIC and gRPC between nodes.
//!
//! This crate owns sockets, framing, client protocols, tickets, TLS and the mapping between
//! error kinds and gRPC status codes. It knows nothing about SQL, storage formats or consensus. It passes
//! statements to the coordinator, search requests to the query engine, and Raft messages to the metadata
//! group, as opaque text or bytes.
//!
//! Central types:
//!
//! - [`sql::ClientService`] is the Flight service on the client port. It wraps [`sql::SqlService`], which
//!   implements the Flight SQL commands.
//! - [`peer::PeerService`] answers requests of other nodes, [`peer::PeerNetwork`] sends them. Both use the
//!   node's one [`peer::PeerEndpoint`].
//! - [`tls::Authority`] is the certificate authority of a cluster. It issues the [`tls::Identity`] of each
//!   node and travels to new nodes inside a join token.
//!
//! ```
//! use plexus_flight::tls::Authority;
//! use plexus_model::{ClusterId, NodeId};
//!
//! let authority = Authority::create(ClusterId::generate())?;
//! // The token is all that another node needs to join the cluster.
//! let token = authority.join_token();
//! let identity = Authority::from_join_token(&token)?.issue(NodeId(2))?;
//! let server = identity.server_config()?;
//! assert_eq!(server.alpn_protocols, [b"plexus/1"]);
//! # Ok::<(), plexus_model::Error>(())
//! ```

mod call_accounts;
#[doc(hidden)]
pub mod fuzzing;
pub mod peer;
pub mod sql;
pub mod status;
pub mod tls;
mod whole_messages;

pub use call_accounts::AccountedCalls;
