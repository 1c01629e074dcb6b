//! The listening sockets of a node and the gRPC servers on them.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use plexus_flight::AccountedCalls;
use plexus_flight::sql::{ClientService, SqlService};
use plexus_flight::tls::Identity;
use plexus_model::{Error, Result};
use plexus_query::Engine;
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Server, ServerTlsConfig};

use crate::config::Config;
use crate::connections::{ConnectionLimits, accept};

/// The limit of open files that every system grants, where it cannot be read.
const OPEN_FILES_LEAST: u64 = 1_024;

/// Requests of one connection at the same time. Further ones wait at the client.
const STREAMS_MAX: u32 = 256;

/// Connections that wait until they are accepted.
const BACKLOG: u32 = 1024;

/// Limit on the TLS handshake of another node that connects to a worker.
const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The bound sockets of a node. The peer address is used for both TCP and UDP. Those of servers that start
/// later do not listen yet: clients are refused, and do not wait.
pub(crate) struct Listeners {
    pub(crate) flight: TcpSocket,
    pub(crate) peer: TcpSocket,
    pub(crate) quic: UdpSocket,
    pub(crate) http: TcpListener,
}

impl Listeners {
    /// Binds all sockets, so that an address in use is reported before the node creates any files.
    pub(crate) fn bind(config: &Config) -> Result<Self> {
        Ok(Self {
            flight: reserve("flight", config.flight)?,
            peer: reserve("peer", config.peer)?,
            quic: UdpSocket::bind(config.peer).map_err(|e| {
                Error::invalid(format!("peer address {} (UDP): {e}", config.peer)).with_source(e)
            })?,
            http: bind("http", config.http)?,
        })
    }
}

/// Binds an address.
fn reserve(name: &str, address: SocketAddr) -> Result<TcpSocket> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    bound().map_err(|e: io::Error| Error::invalid(format!("{name} address {address}: {e}")).with_source(e))
}

/// Listens on a bound address.
fn listen(socket: TcpSocket) -> Result<tokio::net::TcpListener> {
    socket.listen(BACKLOG).map_err(|e| Error::io("listener", e))
}

/// Binds an address and listens.
fn bind(name: &str, address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .map_err(|e| Error::invalid(format!("{name} address {address}: {e}")).with_source(e))?;
    listener.set_nonblocking(true).map_err(|e| Error::io(address, e))?;
    Ok(listener)
}

/// Serves Flight SQL to clients until `stop` is cancelled and the requests in progress have ended.
pub(crate) async fn serve_clients(
    socket: TcpSocket,
    service: SqlService,
    stop: CancellationToken,
) -> Result<()> {
    let open_files = rlimit::Resource::NOFILE.get_soft().unwrap_or(OPEN_FILES_LEAST);
    let incoming = accept(listen(socket)?, ConnectionLimits::of_clients(open_files));
    Server::builder()
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .max_concurrent_streams(STREAMS_MAX)
        .add_service(AccountedCalls::new(ClientService::new(service).into_server()))
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
        .map_err(|e| Error::internal(format!("Flight server: {e}")).with_source(e))
}

/// Runs tasks of distributed queries for other nodes until `stop` is cancelled and the tasks in progress have
/// ended.
pub(crate) async fn serve_workers(
    socket: TcpSocket,
    engine: Arc<Engine>,
    identity: Identity,
    stop: CancellationToken,
) -> Result<()> {
    let incoming = accept(listen(socket)?, ConnectionLimits::of_workers());
    let tls = ServerTlsConfig::new()
        .identity(tonic::transport::Identity::from_pem(&identity.certificate, &identity.key))
        .client_ca_root(Certificate::from_pem(&identity.authority))
        .timeout(TLS_HANDSHAKE_TIMEOUT);
    Server::builder()
        .tls_config(tls)
        .map_err(|e| Error::internal(format!("worker TLS: {e}")))?
        .initial_stream_window_size(8 * 1024 * 1024)
        .initial_connection_window_size(32 * 1024 * 1024)
        .http2_max_header_list_size(1024 * 1024)
        .add_service(AccountedCalls::new(engine.worker().into_worker_server()))
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
        .map_err(|e| Error::internal(format!("worker server: {e}")).with_source(e))
}

/// A listener of the present runtime.
pub(crate) fn tokio_listener(listener: TcpListener) -> Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::from_std(listener).map_err(|e| Error::io("listener", e))
}
