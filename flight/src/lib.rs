//! Wire formats, and nothing else: Arrow Flight and Flight SQL for clients, QUIC between nodes.
//!
//! [`sql::Front`] is the service on the client port. [`peer`] is the protocol on the peer port: metadata
//! and segments over QUIC, tasks of distributed queries over TCP, both under mutual TLS from the cluster's
//! own authority ([`tls`]). Only this crate knows bytes on the wire.

pub mod peer;
pub mod sql;
pub mod status;
pub mod tls;
