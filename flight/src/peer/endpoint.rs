//! The QUIC endpoint of a node: one UDP socket that both asks and answers.
//!
//! Metadata and segments use separate connections, so that neither starves the other. A dead peer is
//! noticed after two seconds.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plexus_model::{Error, Result};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout,
    MtuDiscoveryConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::peer::wire::{self, Request, Response};
use crate::tls::{Identity, SERVER_NAME};

const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests of one peer in flight at once.
const STREAMS_MAX: u32 = 1_024;
/// Loopback and data-centre links carry more than Ethernet's default.
const MTU_MAX: u16 = 8_952;

/// The bound endpoint.
#[derive(Clone)]
pub struct PeerEndpoint {
    endpoint: Endpoint,
}

impl PeerEndpoint {
    /// Serves a bound socket. Must be called on the runtime that will drive it.
    pub fn new(socket: UdpSocket, identity: &Identity, reset_key: &[u8; 32]) -> Result<Self> {
        let internal = |e: &dyn std::fmt::Display| Error::internal(format!("peer endpoint: {e}"));
        let mut endpoint_config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset_key)));
        endpoint_config.cid_generator(|| Box::new(RandomIds));
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

    pub fn client(&self) -> PeerClient {
        PeerClient { endpoint: self.endpoint.clone(), connections: Arc::default() }
    }

    /// Closes all connections, after answers on their way have left.
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
        // The default guess of a third of a second would stretch the idle timeout.
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

/// Connection ids that any of our endpoints accepts: a restarted node can then reset connections that its
/// earlier process left behind.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
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

/// What a connection carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    Meta,
    Bulk,
}

type Slot = Arc<Mutex<Option<Connection>>>;

/// Sends requests to peers over connections that it keeps.
#[derive(Clone)]
pub struct PeerClient {
    endpoint: Endpoint,
    connections: Arc<std::sync::Mutex<HashMap<(String, Class), Slot>>>,
}

impl PeerClient {
    /// One exchange. A body is sent after the request, and one that the response announces is read.
    pub async fn call(
        &self,
        address: &str,
        class: Class,
        request: &Request,
        body: Option<Bytes>,
        limit: Duration,
    ) -> Result<(Response, Bytes)> {
        timeout(limit, self.exchange(address, class, request, body))
            .await
            .unwrap_or_else(|_| Err(Error::unavailable(format!("no answer from {address} within {limit:?}"))))
    }

    async fn exchange(
        &self,
        address: &str,
        class: Class,
        request: &Request,
        body: Option<Bytes>,
    ) -> Result<(Response, Bytes)> {
        let connection = self.connection(address, class).await?;
        let first = exchange_on(&connection, address, request, body.clone()).await;
        if first.is_ok() || connection.close_reason().is_none() {
            return first;
        }
        // The peer was started anew since the connection was last used, and takes new ones. Whatever is asked of
        // it may be asked twice.
        let connection = self.connection(address, class).await?;
        exchange_on(&connection, address, request, body).await
    }

    async fn connection(&self, address: &str, class: Class) -> Result<Connection> {
        let slot = {
            let mut connections = self.connections.lock().expect("no code panics while it holds this lock");
            connections.entry((address.to_owned(), class)).or_default().clone()
        };
        // Held while connecting, so that callers share one attempt; it is bounded in time.
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|c| c.close_reason().is_none()) {
            return Ok(connection.clone());
        }
        let connection = self.dial(address).await?;
        *slot = Some(connection.clone());
        Ok(connection)
    }

    async fn dial(&self, address: &str) -> Result<Connection> {
        let target = tokio::net::lookup_host(address)
            .await
            .map_err(|e| Error::invalid(format!("peer address {address:?}: {e}")))?
            .next()
            .ok_or_else(|| Error::invalid(format!("peer address {address:?} has no host")))?;
        let connecting = self
            .endpoint
            .connect(target, SERVER_NAME)
            .map_err(|e| Error::unavailable(format!("connecting to {address}: {e}")))?;
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(quinn::ConnectionError::TransportError(e))) => Err(Error::invalid(format!(
                "{address} does not belong to this cluster, or the join token is of another one: {e}"
            ))),
            Ok(Err(e)) => Err(Error::unavailable(format!("connecting to {address}: {e}"))),
            Err(_) => {
                Err(Error::unavailable(format!("no connection to {address} within {CONNECT_TIMEOUT:?}")))
            }
        }
    }
}

async fn exchange_on(
    connection: &Connection,
    address: &str,
    request: &Request,
    body: Option<Bytes>,
) -> Result<(Response, Bytes)> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(wire::lost)?;
    wire::write_frame(&mut send, plexus_model::encode(request)).await?;
    if let Some(body) = body {
        wire::write_body(&mut send, body).await?;
    }
    send.finish().map_err(wire::lost)?;
    let frame = wire::read_frame(&mut receive).await.map_err(|e| e.context(address))?;
    let response: Response = plexus_model::decode("peer response", &frame)?;
    let body = match response {
        Response::Body { length } => wire::read_body(&mut receive, length).await?,
        _ => Bytes::new(),
    };
    Ok((response, body))
}
