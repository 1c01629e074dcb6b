//! One node: its roles put together, started in order, and drained in the reverse.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use plexus_coordinator::limits::LOADS_MAX;
use plexus_coordinator::{
    Coordinator, CoordinatorOptions, GroupCommitter, KeyIndexes, Maintenance, Missing, Puller, Replicator,
    Writer,
};
use plexus_flight::peer::{PeerEndpoint, PeerHandler, PeerNodes, PeerService, WorkerChannels};
use plexus_flight::sql::{Front, SqlService};
use plexus_flight::tls::Identity;
use plexus_model::{ClusterId, Error, ErrorKind, NodeId, NodeRecord, Result};
use plexus_query::{Engine, EngineOptions};
use plexus_raft::{Meta, MetaOptions, SNAPSHOT_ENTRIES};
use plexus_storage::{SegmentEncoder, SegmentReads, SegmentStore};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Server, ServerTlsConfig};

use crate::config::{Config, Membership};
use crate::data_dir::{DataDir, mark_member};
use crate::http;
use crate::status::StatusSource;

/// How long a node asks to be let into a cluster.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long statements in progress may take when the node stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// For the TLS handshake of another node's worker.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// Part of the machine's memory that queries may use.
const QUERY_MEMORY_SHARE: f64 = 0.6;

/// A running node.
pub struct Node {
    pub id: NodeId,
    pub meta: Arc<Meta>,
    pub coordinator: Arc<Coordinator>,
    endpoint: PeerEndpoint,
    /// Ends the servers, which then take no new requests.
    stop_serving: CancellationToken,
    servers: JoinSet<Result<()>>,
    /// Ends what requests in progress still need.
    stop: CancellationToken,
    background: JoinSet<Result<()>>,
    // Released last: nobody may open the directory before everything above is gone.
    _data: DataDir,
}

/// The addresses of a node, bound.
struct Listeners {
    flight: TcpListener,
    peer: TcpListener,
    quic: UdpSocket,
    http: TcpListener,
}

impl Listeners {
    fn bind(config: &Config) -> Result<Self> {
        Ok(Self {
            flight: bind("flight", config.flight)?,
            peer: bind("peer", config.peer)?,
            quic: UdpSocket::bind(config.peer).map_err(|e| {
                Error::invalid(format!("peer address {} (UDP): {e}", config.peer)).with_source(e)
            })?,
            http: bind("http", config.http)?,
        })
    }
}

fn bind(name: &str, address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .map_err(|e| Error::invalid(format!("{name} address {address}: {e}")).with_source(e))?;
    listener.set_nonblocking(true).map_err(|e| Error::io(address, e))?;
    Ok(listener)
}

impl Node {
    /// Starts a node. Consensus and the peer endpoint run on `control`, a runtime of their own, so that
    /// heavy queries cannot make a healthy node miss its heartbeats.
    pub async fn start(config: Config, control: &Handle) -> Result<Self> {
        let token = match &config.membership {
            Membership::Join { token, .. } => Some(token.as_str()),
            _ => None,
        };
        let listeners = Listeners::bind(&config)?;
        let data = DataDir::open(&config.data_dir, config.node_id, token)?;
        let id = data.node();
        let identity = data.authority.issue(id)?;
        let endpoint = {
            let _control = control.enter();
            PeerEndpoint::new(listeners.quic, &identity, &data.reset_key())?
        };
        let store = match config.roles.data {
            true => Some(Arc::new(SegmentStore::open(data.path())?)),
            false => None,
        };
        let missing = Arc::new(Missing::default());
        let handler = Arc::new(PeerHandler {
            meta: Default::default(),
            store: store.clone(),
            missing: missing.clone(),
            engine: Default::default(),
        });
        let nodes = PeerNodes::new(endpoint.client(), handler.clone());
        let meta = start_meta(control, id, &data, nodes.clone()).await?;
        if handler.meta.set(meta.clone()).is_err() {
            return Err(Error::internal("the metadata group was started twice"));
        }

        let (stop_serving, stop) = (CancellationToken::new(), CancellationToken::new());
        let (mut servers, mut background) = (JoinSet::new(), JoinSet::new());
        // From now on it can be asked how the node is, also while it waits to be let in.
        let serving = Arc::new(AtomicBool::new(false));
        let status = StatusSource {
            node: id,
            meta: meta.clone(),
            peers: Arc::new(nodes.clone()),
            handler: handler.clone(),
            serving: serving.clone(),
        };
        servers.spawn(http::serve(listeners.http, Arc::new(status), stop_serving.clone()));

        let record = node_record(&config, id);
        if let Some(entering) = enter_cluster(&config, &meta, &data, record).await? {
            let (stop, path) = (stop.clone(), data.path().to_owned());
            background.spawn(async move {
                match stop.run_until_cancelled(entering).await {
                    Some(entered) => entered.and_then(|()| mark_member(&path)),
                    None => Ok(()),
                }
            });
        }
        // Not earlier: a node that is refused must not have taken part.
        control.spawn(PeerService::new(handler.clone()).run(endpoint.clone()));

        let channels = WorkerChannels::new(&identity);
        let reads = SegmentReads::new(store.clone(), Arc::new(nodes.clone()));
        let engine = Arc::new(engine(&config, reads.clone(), nodes.clone(), channels)?);
        if handler.engine.set(engine.clone()).is_err() {
            return Err(Error::internal("the query engine was started twice"));
        }
        let (group, committing) = GroupCommitter::new();
        let writer = Writer {
            meta: meta.clone(),
            replicator: Replicator::new(id, store.clone(), Arc::new(nodes.clone())),
            encoder: SegmentEncoder,
            group,
            reads: reads.clone(),
            keys: Arc::new(KeyIndexes::new(reads)),
            engine: engine.clone(),
            loads: Arc::new(Semaphore::new(LOADS_MAX)),
        };
        committing.start(writer.clone(), stop.clone());
        let coordinator = Arc::new(Coordinator::new(CoordinatorOptions {
            node: id,
            meta: meta.clone(),
            engine: engine.clone(),
            writer: writer.clone(),
            peers: Arc::new(nodes.clone()),
            export_dir: config.export_dir.clone(),
            failpoints: config.failpoints,
        }));
        let puller = Puller::new(id, Arc::new(nodes));
        let maintenance = Maintenance { node: id, meta: meta.clone(), writer, store, puller, missing };
        servers.spawn(serve_workers(listeners.peer, engine, identity, stop_serving.clone()));
        let service = SqlService::new(coordinator.clone())?;
        servers.spawn(serve_clients(listeners.flight, service, stop_serving.clone()));
        serving.store(true, Ordering::Release);
        let maintenance_stop = stop.clone();
        background.spawn(async move {
            maintenance.run(maintenance_stop).await;
            Ok(())
        });
        tracing::info!(
            node = %id, cluster = %data.authority.cluster, flight = %config.flight, peer = %config.peer,
            http = %config.http, roles = %config.roles, "node is ready"
        );
        Ok(Self { id, meta, coordinator, endpoint, stop_serving, servers, stop, background, _data: data })
    }

    /// Waits until a part of the node ends, which it does only when something is wrong.
    pub async fn failed(&mut self) -> Error {
        let ended = |joined| match joined {
            Some(Ok(Err(error))) => error,
            Some(Ok(Ok(()))) | None => Error::internal("a server of this node has ended"),
            Some(Err(error)) => Error::internal(format!("a server of this node panicked: {error}")),
        };
        // What ends well in the background, such as entering the cluster, is no failure.
        let background = async {
            loop {
                match self.background.join_next().await {
                    Some(Ok(Ok(()))) => {}
                    None => std::future::pending().await,
                    failed => return ended(failed),
                }
            }
        };
        tokio::select! {
            server = self.servers.join_next() => ended(server),
            error = background => error,
            error = self.meta.failed() => error,
        }
    }

    /// Stops taking requests, lets those in progress end for a while, and leaves.
    pub async fn drain(mut self) {
        self.stop_serving.cancel();
        let all = async { while self.servers.join_next().await.is_some() {} };
        if timeout(DRAIN_TIMEOUT, all).await.is_err() {
            tracing::warn!("some requests did not end within {DRAIN_TIMEOUT:?}");
        }
        self.servers.abort_all();
        self.stop.cancel();
        while self.background.join_next().await.is_some() {}
        self.meta.shutdown().await;
        self.endpoint.close().await;
    }
}

async fn start_meta(control: &Handle, id: NodeId, data: &DataDir, nodes: PeerNodes) -> Result<Arc<Meta>> {
    let options = MetaOptions {
        node: id,
        directory: data.path().join("meta"),
        transport: Arc::new(nodes),
        snapshot_entries: SNAPSHOT_ENTRIES,
    };
    control
        .spawn(Meta::start(options))
        .await
        .map_err(|e| Error::internal(format!("starting the metadata group: {e}")))?
}

fn node_record(config: &Config, id: NodeId) -> NodeRecord {
    NodeRecord {
        id,
        roles: config.roles,
        flight: config.advertised(config.flight),
        peer: config.advertised(config.peer),
        http: config.advertised(config.http),
        live: true,
    }
}

/// Founds a cluster, joins one, or takes part again. The latter may need nodes that are still starting:
/// it is returned as what remains to be done, which fails when the cluster does not want this node.
async fn enter_cluster(
    config: &Config,
    meta: &Arc<Meta>,
    data: &DataDir,
    record: NodeRecord,
) -> Result<Option<impl Future<Output = Result<()>> + Send + use<>>> {
    let cluster = data.authority.cluster;
    match (&config.membership, meta.is_pristine()) {
        (Membership::Join { address, .. }, true) => meta.join(address, record, JOIN_TIMEOUT).await?,
        (Membership::Resume | Membership::Bootstrap, true) => {
            if !config.roles.meta {
                return Err(Error::invalid(format!(
                    "roles = {}: the first node of a cluster needs the meta role; to join one, give --join",
                    config.roles
                )));
            }
            meta.bootstrap(cluster, record).await?;
            if config.membership == Membership::Bootstrap {
                tracing::info!(token_file = %data.token_path().display(), "founded a cluster; nodes join with its token");
            }
        }
        (membership, false) => {
            let was_member = data.was_member();
            return Ok(Some(return_to_cluster(
                meta.clone(),
                cluster,
                record,
                membership.clone(),
                was_member,
            )));
        }
    }
    mark_member(data.path())?;
    Ok(None)
}

/// Says that this node is back until the cluster has taken note. What an interrupted start left half done
/// is done here.
async fn return_to_cluster(
    meta: Arc<Meta>,
    cluster: ClusterId,
    record: NodeRecord,
    membership: Membership,
    was_member: bool,
) -> Result<()> {
    loop {
        let entered = async {
            // Only a founder that was interrupted leads a group of no nodes.
            if meta.is_leader() && meta.manifest().nodes.is_empty() {
                return meta.bootstrap(cluster, record.clone()).await;
            }
            match (meta.rejoin(record.clone()).await, &membership) {
                // It was never let in: its first start was interrupted.
                (Err(e), Membership::Join { address, .. })
                    if e.kind() == ErrorKind::NotFound && !was_member =>
                {
                    meta.join(address, record.clone(), JOIN_TIMEOUT).await
                }
                (returned, _) => returned,
            }
        };
        match entered.await {
            Ok(()) => return Ok(()),
            // The cluster's own answer; anything else may pass.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {
                return Err(error);
            }
            Err(error) => tracing::warn!(%error, "not yet part of the cluster again"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn engine(
    config: &Config,
    reads: SegmentReads,
    nodes: PeerNodes,
    channels: WorkerChannels,
) -> Result<Engine> {
    let self_url = plexus_coordinator::worker_url(&config.advertised(config.peer)).ok_or_else(|| {
        Error::invalid(format!("peer address {} is no URL", config.advertised(config.peer)))
    })?;
    Engine::new(EngineOptions {
        reads,
        peers: Arc::new(nodes),
        channels,
        self_url,
        memory_bytes: config.query_memory as usize,
        partitions: std::thread::available_parallelism().map_or(2, |n| n.get()),
    })
    .map_err(plexus_coordinator::from_datafusion)
}

/// Bytes that queries may use when the configuration does not say: a share of what the machine, or the
/// control group that this process runs in, has.
pub fn default_query_memory() -> u64 {
    const GUESS: u64 = 4 * 1024 * 1024 * 1024;
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let meminfo = read("/proc/meminfo");
    let machine = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok())
        .map_or(GUESS, |kib| kib * 1024);
    // Version 2 of control groups, then version 1; "max" is no number.
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .find_map(|path| read(path).trim().parse::<u64>().ok())
        .unwrap_or(u64::MAX);
    (machine.min(group) as f64 * QUERY_MEMORY_SHARE) as u64
}

async fn serve_clients(listener: TcpListener, service: SqlService, stop: CancellationToken) -> Result<()> {
    Server::builder()
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .add_service(Front::new(service).into_server())
        .serve_with_incoming_shutdown(incoming(listener)?, stop.cancelled_owned())
        .await
        .map_err(|e| Error::internal(format!("Flight server: {e}")).with_source(e))
}

async fn serve_workers(
    listener: TcpListener,
    engine: Arc<Engine>,
    identity: Identity,
    stop: CancellationToken,
) -> Result<()> {
    let tls = ServerTlsConfig::new()
        .identity(tonic::transport::Identity::from_pem(&identity.certificate, &identity.key))
        .client_ca_root(Certificate::from_pem(&identity.authority))
        .timeout(TLS_TIMEOUT);
    Server::builder()
        .tls_config(tls)
        .map_err(|e| Error::internal(format!("worker TLS: {e}")))?
        .initial_stream_window_size(8 * 1024 * 1024)
        .initial_connection_window_size(32 * 1024 * 1024)
        .http2_max_header_list_size(1024 * 1024)
        .add_service(engine.worker().into_worker_server())
        .serve_with_incoming_shutdown(incoming(listener)?, stop.cancelled_owned())
        .await
        .map_err(|e| Error::internal(format!("worker server: {e}")).with_source(e))
}

fn incoming(listener: TcpListener) -> Result<TcpIncoming> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(|e| Error::io("listener", e))?;
    Ok(TcpIncoming::from(listener).with_nodelay(Some(true)))
}
