//! Arrow Flight and Flight SQL on the client port.
//!
//! [`ClientService`] is the Flight service that clients connect to. It answers plain Flight requests and
//! session actions itself and passes the rest to [`SqlService`], which implements the Flight SQL commands
//! with a coordinator. Tickets and prepared statement handles are stateless: they carry the statement and its
//! parameters, so that any node can serve them.

mod bindings;
mod cancel;
mod client_service;
mod encode;
mod ingest;
mod metadata;
mod options;
mod prepared;
mod response;
pub(crate) mod seal;
mod server;
mod sessions;
mod statements;
pub(crate) mod tickets;
mod transactions;
mod upload;

pub use client_service::ClientService;
pub use server::SqlService;
