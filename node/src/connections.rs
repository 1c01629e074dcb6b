//! Accepts connections within limits: of their number, of those from one address, and of the time until they
//! say anything. Descriptors remain for segment files and other nodes.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Limits of one port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// Connections at the same time.
    pub(crate) total: usize,
    /// Connections from one address at the same time.
    pub(crate) per_address: usize,
    /// Bytes that must have arrived within `greeting_max`.
    pub(crate) greeting_bytes: usize,
    /// Time until they must have arrived.
    pub(crate) greeting_max: Duration,
    /// Whether a connection above a limit closes the oldest one of its address, instead of being refused:
    /// where requests are short, old connections are idle ones.
    pub(crate) closes_oldest: bool,
}

/// Bytes by which a client opens an HTTP/2 connection (RFC 9113, section 3.4).
pub(crate) const HTTP2_PREFACE_BYTES: usize = 24;

/// Time until a connection must have said something.
const GREETING_MAX: Duration = Duration::from_secs(10);

/// Time between two looks at what has arrived.
const GREETING_POLL: Duration = Duration::from_millis(20);

/// Pause after an error of the listener, such as the lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Accepted connections that wait for their server.
const ACCEPTED_MAX: usize = 64;

impl ConnectionLimits {
    /// The limits of a port for clients, by the limit of open files: half of them are for connections, and
    /// half of those may be from one address, since many clients may be behind one.
    pub(crate) fn of_clients(open_files: u64) -> Self {
        let total = usize::try_from(open_files / 2).unwrap_or(usize::MAX).min(CLIENTS_MAX);
        Self {
            total,
            per_address: total.div_ceil(2),
            greeting_bytes: HTTP2_PREFACE_BYTES,
            greeting_max: GREETING_MAX,
            closes_oldest: false,
        }
    }

    /// The limits of the HTTP port, for supervisors and people.
    pub(crate) fn of_http() -> Self {
        Self {
            total: HTTP_MAX,
            per_address: HTTP_MAX / 2,
            greeting_bytes: 1,
            greeting_max: GREETING_MAX,
            closes_oldest: true,
        }
    }

    /// The limits of the port for other nodes, whose handshake is limited by TLS.
    pub(crate) fn of_workers() -> Self {
        Self {
            total: WORKERS_MAX,
            per_address: WORKERS_MAX,
            greeting_bytes: 1,
            greeting_max: GREETING_MAX,
            closes_oldest: false,
        }
    }
}

/// Connections of clients at most. Each takes a descriptor and some tens of kilobytes.
const CLIENTS_MAX: usize = 10_000;

/// Connections to the HTTP port at most.
const HTTP_MAX: usize = 512;

/// Connections of other nodes at most: several from each.
const WORKERS_MAX: usize = 4_096;

/// The connections of a port: those of each address, the oldest first.
#[derive(Debug, Default)]
struct Counts(Mutex<HashMap<IpAddr, VecDeque<CancellationToken>>>);

impl Counts {
    /// Counts a connection; `None` when it exceeds a limit.
    fn add(self: &Arc<Self>, address: IpAddr, limits: ConnectionLimits) -> Option<Counted> {
        let mut counts = self.lock();
        let total: usize = counts.values().map(VecDeque::len).sum();
        let here = counts.get(&address).map_or(0, VecDeque::len);
        if total >= limits.total || here >= limits.per_address {
            // Of this address if it has too many, otherwise of the one that has the most.
            let most =
                counts.iter().max_by_key(|(_, connections)| connections.len()).map(|(address, _)| *address);
            let from = if here >= limits.per_address { Some(address) } else { most };
            let connections = from.filter(|_| limits.closes_oldest).and_then(|from| counts.get_mut(&from))?;
            connections.pop_front()?.cancel();
            counts.retain(|_, connections| !connections.is_empty());
        }
        let closed = CancellationToken::new();
        counts.entry(address).or_default().push_back(closed.clone());
        Some(Counted { counts: self.clone(), address, closed })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, VecDeque<CancellationToken>>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// A connection that counts until this is dropped, or another one takes its place.
#[derive(Debug)]
struct Counted {
    counts: Arc<Counts>,
    address: IpAddr,
    closed: CancellationToken,
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Taken out by that, when another one takes its place.
        if self.closed.is_cancelled() {
            return;
        }
        self.closed.cancel();
        let mut counts = self.counts.lock();
        if let Some(here) = counts.get_mut(&self.address) {
            here.retain(|connection| !connection.is_cancelled());
            if here.is_empty() {
                counts.remove(&self.address);
            }
        }
    }
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    counted: Counted,
}

impl Connection {
    /// Cancelled when the connection shall be closed, because another one takes its place.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.counted.closed.clone()
    }
}

/// The connections of a listener. Those above a limit are closed, and so are silent ones.
pub(crate) fn accept(
    listener: TcpListener,
    limits: ConnectionLimits,
) -> impl Stream<Item = io::Result<Connection>> {
    let (accepted, connections) = mpsc::channel(ACCEPTED_MAX);
    let mut tasks = JoinSet::new();
    tasks.spawn(accept_all(listener, limits, accepted));
    stream::unfold((connections, tasks), |(mut connections, tasks)| async move {
        connections.recv().await.map(|connection| (Ok(connection), (connections, tasks)))
    })
}

async fn accept_all(listener: TcpListener, limits: ConnectionLimits, accepted: mpsc::Sender<Connection>) {
    let counts: Arc<Counts> = Arc::default();
    let mut greeting = JoinSet::new();
    // One line for all refusals until a connection is accepted again.
    let mut refused = false;
    loop {
        while greeting.try_join_next().is_some() {}
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(counted) = counts.add(address.ip().to_canonical(), limits) else {
            if !std::mem::replace(&mut refused, true) {
                report_refusal(address, limits);
            }
            continue;
        };
        refused = false;
        let accepted = accepted.clone();
        greeting.spawn(async move {
            if stream.set_nodelay(true).is_ok() && greets(&stream, limits).await {
                // The server is gone if this fails.
                let _ = accepted.send(Connection { stream, counted }).await;
            }
        });
    }
}

fn report_refusal(address: SocketAddr, limits: ConnectionLimits) {
    let ConnectionLimits { total, per_address, .. } = limits;
    tracing::warn!(%address, total, per_address, "refused connections above the limit of a port");
}

/// Waits until a connection has sent its first bytes; `false` if it does not in time.
async fn greets(stream: &TcpStream, limits: ConnectionLimits) -> bool {
    let bytes = limits.greeting_bytes;
    let mut buffer = [0; HTTP2_PREFACE_BYTES];
    let greeting = async {
        loop {
            match stream.peek(&mut buffer[..bytes]).await {
                Ok(0) | Err(_) => return false,
                Ok(arrived) if arrived >= bytes => return true,
                Ok(_) => sleep(GREETING_POLL).await,
            }
        }
    };
    timeout(limits.greeting_max, greeting).await.unwrap_or(false)
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn connections_above_the_limit_are_closed_until_others_end() {
        let (listener, address) = listener().await;
        let limits = ConnectionLimits {
            total: 8,
            per_address: 2,
            closes_oldest: false,
            ..ConnectionLimits::of_http()
        };
        let mut connections = Box::pin(accept(listener, limits));
        let connect = || async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream
        };
        let _first = connect().await;
        let first = connections.next().await.unwrap().unwrap();
        let _second = connect().await;
        let _accepted = connections.next().await.unwrap().unwrap();
        let mut refused = TcpStream::connect(address).await.unwrap();
        assert!(matches!(refused.read(&mut [0]).await, Ok(0) | Err(_)));
        drop(first);
        let _third = connect().await;
        connections.next().await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn where_requests_are_short_the_oldest_connection_is_closed() {
        let (listener, address) = listener().await;
        let limits = ConnectionLimits { total: 8, per_address: 2, ..ConnectionLimits::of_http() };
        let mut connections = Box::pin(accept(listener, limits));
        let mut accepted = vec![];
        for _ in 0..5 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            accepted.push((connections.next().await.unwrap().unwrap(), stream));
        }
        let closed = |(connection, _): &(Connection, TcpStream)| connection.closed().is_cancelled();
        assert_eq!(accepted.iter().map(closed).collect::<Vec<_>>(), [true, true, true, false, false]);
        let counts = accepted[0].0.counted.counts.clone();
        drop(accepted);
        assert!(counts.lock().is_empty());
    }

    #[tokio::test]
    async fn silent_connections_are_closed() {
        let (listener, address) = listener().await;
        let greeting_max = Duration::from_millis(200);
        let limits = ConnectionLimits { greeting_max, ..ConnectionLimits::of_clients(1_024) };
        let mut connections = Box::pin(accept(listener, limits));
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"PRI * HTTP/2.0").await.unwrap();
        tokio::select! {
            _ = connections.next() => panic!("a connection without a greeting"),
            closed = async { (silent.read(&mut [0]).await, slow.read(&mut [0]).await) } => {
                assert!(matches!(closed, (Ok(0) | Err(_), Ok(0) | Err(_))));
            }
        }
        let mut greets = TcpStream::connect(address).await.unwrap();
        greets.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        connections.next().await.unwrap().unwrap();
    }
}
