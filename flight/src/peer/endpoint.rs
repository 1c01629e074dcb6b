//! The QUIC endpoint of a node: one UDP socket for both incoming and outgoing connections.
//!
//! Metadata and segments use separate connections, so that bulk transfers do not delay heartbeats. A dead
//! peer is detected after two seconds.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use plexus_model::{Error, ErrorKind, NodeId, Result};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout,
    MtuDiscoveryConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use crate::peer::wire::{self, Request, Response};
use crate::tls::{Identity, SERVER_NAME, node_of};

/// A connection that receives nothing for this long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval of keep-alive packets; several fit into [`IDLE_TIMEOUT`].
const KEEP_ALIVE: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests that one peer may have in flight on one connection.
const STREAMS_MAX: u32 = 1_024;
/// Upper bound of MTU discovery, in bytes of UDP payload. Loopback and data center links carry jumbo frames.
const MTU_MAX: u16 = 8_952;

/// The QUIC endpoint of a node.
#[derive(Clone)]
pub struct PeerEndpoint {
    endpoint: Endpoint,
}

impl PeerEndpoint {
    /// Creates the endpoint on a bound socket. Must be called in the context of the runtime that drives it.
    ///
    /// `reset_key` must be the same after a restart: it lets the node reset connections of its earlier
    /// process.
    ///
    /// # Errors
    /// `Internal` when QUIC or TLS reject the configuration.
    pub fn new(socket: UdpSocket, identity: &Identity, reset_key: &[u8; 32]) -> Result<Self> {
        let internal = |e: &dyn std::fmt::Display| Error::internal(format!("peer endpoint: {e}"));
        let mut endpoint_config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset_key)));
        endpoint_config.cid_generator(|| Box::new(RandomConnectionIds));
        endpoint_config.max_udp_payload_size(MTU_MAX).map_err(|e| internal(&e))?;
        let crypto = QuicServerConfig::try_from(identity.server_config()?).map_err(|e| internal(&e))?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(transport());
        let crypto = QuicClientConfig::try_from(identity.client_config()?).map_err(|e| internal(&e))?;
        let mut client = ClientConfig::new(Arc::new(crypto));
        client.transport_config(transport());
        let mut endpoint = Endpoint::new(endpoint_config, Some(server), socket, Arc::new(TokioRuntime))
            .map_err(|e| internal(&e))?;
        endpoint.set_default_client_config(client);
        Ok(Self { endpoint })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A client with no connections yet.
    pub fn client(&self) -> PeerClient {
        PeerClient { endpoint: self.endpoint.clone(), dials: Arc::default() }
    }

    /// Closes all connections and waits up to a second for the closing packets to be sent.
    pub async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"shutdown");
        let _ = timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

fn transport() -> Arc<TransportConfig> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_MAX);
    let mut config = TransportConfig::default();
    let idle = IdleTimeout::try_from(IDLE_TIMEOUT).expect("two seconds fit a QUIC timeout");
    config
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(KEEP_ALIVE))
        // The default of 333 ms is far above the latency between nodes and would lengthen the idle timeout.
        .initial_rtt(Duration::from_millis(20))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(16 * 1024 * 1024))
        .receive_window(VarInt::from_u32(64 * 1024 * 1024))
        .send_window(32 * 1024 * 1024)
        .mtu_discovery_config(Some(mtu))
        .datagram_receive_buffer_size(None);
    Arc::new(config)
}

/// Random connection ids without a per-process signature. The endpoint accepts ids of its node's earlier
/// process, so it can answer them with a stateless reset.
struct RandomConnectionIds;

impl ConnectionIdGenerator for RandomConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; 8];
        SystemRandom::new().fill(&mut bytes).expect("the system has randomness");
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The traffic of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum TrafficClass {
    /// Messages of the metadata group: small, and urgent since they include heartbeats.
    Meta,
    /// Everything else: segments, reports, search requests.
    Bulk,
}

/// A connection, or the attempt to get one, which all who wait for it share. A failed attempt says why.
type Dial = Shared<BoxFuture<'static, Result<Connection, (ErrorKind, String)>>>;

/// Sends requests to peers. Keeps one connection per peer address and traffic class.
#[derive(Clone)]
pub struct PeerClient {
    endpoint: Endpoint,
    dials: Arc<Mutex<HashMap<(String, TrafficClass), Dial>>>,
}

impl PeerClient {
    /// Sends a request and its body, if any, and reads the response and the body that it announces. `to` is
    /// the node that must be at the address; `None` if it is not known.
    pub(crate) async fn call(
        &self,
        address: &str,
        to: Option<NodeId>,
        class: TrafficClass,
        request: &Request,
        body: Option<Bytes>,
        limit: Duration,
    ) -> Result<(Response, Bytes)> {
        timeout(limit, self.round_trip(address, to, class, request, body))
            .await
            .unwrap_or_else(|_| Err(Error::unavailable(format!("no answer from {address} within {limit:?}"))))
    }

    async fn round_trip(
        &self,
        address: &str,
        to: Option<NodeId>,
        class: TrafficClass,
        request: &Request,
        body: Option<Bytes>,
    ) -> Result<(Response, Bytes)> {
        let connection = self.connection(address, class).await?;
        check_node(&connection, address, to)?;
        let first = round_trip_on(&connection, address, request, body.clone()).await;
        if first.is_ok() || connection.close_reason().is_none() {
            return first;
        }
        // The peer has restarted since the connection was last used, and accepts new ones. Every request is
        // idempotent, so it does no harm if the peer receives this one twice.
        let connection = self.connection(address, class).await?;
        check_node(&connection, address, to)?;
        round_trip_on(&connection, address, request, body).await
    }

    /// The connection to a peer. Dials once for all who wait for it, also if those who began to wait leave.
    async fn connection(&self, address: &str, class: TrafficClass) -> Result<Connection> {
        let known = self.dial(address, class);
        let connection = known.await.map_err(|(kind, message)| Error::new(kind, message))?;
        if connection.close_reason().is_none() {
            return Ok(connection);
        }
        self.dial(address, class).await.map_err(|(kind, message)| Error::new(kind, message))
    }

    /// The known connection to a peer, or a new attempt to get one.
    fn dial(&self, address: &str, class: TrafficClass) -> Dial {
        let key = (address.to_owned(), class);
        let mut dials = self.lock_dials();
        let is_closed = |dial: &Dial| matches!(dial.peek(), Some(Ok(c)) if c.close_reason().is_some());
        if let Some(dial) = dials.get(&key).filter(|dial| !is_closed(dial)) {
            return dial.clone();
        }
        let (this, of) = (self.clone(), key.clone());
        let attempt = tokio::spawn(async move {
            let connected = this.connect(&of.0).await;
            if connected.is_err() {
                // The next one who needs the connection dials again.
                this.lock_dials().remove(&of);
            }
            connected.map_err(|e| (e.kind(), e.message().to_owned()))
        });
        let interrupted = |_| Err((ErrorKind::Unavailable, "the node is stopping".to_owned()));
        let dial = attempt.map(move |attempt| attempt.unwrap_or_else(interrupted)).boxed().shared();
        dials.insert(key, dial.clone());
        dial
    }

    fn lock_dials(&self) -> MutexGuard<'_, HashMap<(String, TrafficClass), Dial>> {
        self.dials.lock().expect("no code panics while it holds this lock")
    }

    async fn connect(&self, address: &str) -> Result<Connection> {
        let target = tokio::net::lookup_host(address)
            .await
            .map_err(|e| Error::invalid(format!("peer address {address:?}: {e}")))?
            .next()
            .ok_or_else(|| {
                Error::invalid(format!("peer address {address:?} does not resolve to any address"))
            })?;
        let connecting = self
            .endpoint
            .connect(target, SERVER_NAME)
            .map_err(|e| Error::unavailable(format!("connecting to {address}: {e}")))?;
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(quinn::ConnectionError::TransportError(e))) => Err(Error::invalid(format!(
                "{address} does not belong to this cluster, or the join token belongs to another cluster: {e}"
            ))),
            Ok(Err(e)) => Err(Error::unavailable(format!("connecting to {address}: {e}"))),
            Err(_) => {
                Err(Error::unavailable(format!("no connection to {address} within {CONNECT_TIMEOUT:?}")))
            }
        }
    }
}

/// The node at the other end of a connection, by its certificate.
pub(crate) fn peer_node(connection: &Connection) -> Option<NodeId> {
    let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    node_of(identity.first()?)
}

/// Fails when another node than the expected one has taken over an address.
fn check_node(connection: &Connection, address: &str, expected: Option<NodeId>) -> Result<()> {
    let (Some(expected), Some(found)) = (expected, peer_node(connection)) else {
        return Ok(());
    };
    match found == expected {
        true => Ok(()),
        false => {
            Err(Error::unavailable(format!("{address} is the address of node {found}, not of {expected}")))
        }
    }
}

async fn round_trip_on(
    connection: &Connection,
    address: &str,
    request: &Request,
    body: Option<Bytes>,
) -> Result<(Response, Bytes)> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(wire::connection_lost)?;
    wire::write_frame(&mut send, plexus_model::encode(request)).await?;
    if let Some(body) = body {
        wire::write_body(&mut send, body).await?;
    }
    send.finish().map_err(wire::connection_lost)?;
    let frame = wire::read_frame(&mut receive).await.map_err(|e| e.context(address))?;
    let response: Response = plexus_model::decode("peer response", &frame)?;
    let body = match response {
        Response::Body { length } => wire::read_body(&mut receive, length).await?,
        _ => Bytes::new(),
    };
    Ok((response, body))
}
