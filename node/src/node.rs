//! One node: starts the parts that its roles need, and stops them in reverse order.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use plexus_coordinator::{
    Attempts, Coordinator, CoordinatorOptions, GroupCommitter, KeyIndexes, LoadSlots, Maintenance,
    MissingSegments, Repairer, Replicator, TaskContext, TaskMetrics, Writer,
};
use plexus_flight::peer::{NodeState, PeerEndpoint, PeerNetwork, PeerService, WorkerChannels};
use plexus_flight::sql::SqlService;
use plexus_flight::tls::Identity;
use plexus_model::{Error, NodeId, Result};
use plexus_query::{Engine, EngineOptions};
use plexus_raft::{Meta, MetaOptions, SNAPSHOT_ENTRIES, SpaceUse};
use plexus_storage::{DiskSpace, SegmentEncoder, SegmentReader, SegmentStore};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::data_dir::{DataDir, mark_member};
use crate::http;
use crate::membership::{enter_cluster, node_record};
use crate::servers::{Listeners, serve_clients, serve_workers};
use crate::status::StatusSource;

/// How long a stopping node waits for requests in progress.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that background tasks have to end when the node stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The runtimes of a node beside the one that starts it, which serves clients and runs short queries. Threads
/// are shared by the system, so that nothing that computes for long delays what runs on another runtime.
#[derive(Clone)]
pub(crate) struct Lanes {
    /// For consensus, other nodes, and the HTTP endpoints.
    pub(crate) control: Handle,
    /// For long queries. The system serves its threads last.
    pub(crate) long: Handle,
}

/// A running node.
pub(crate) struct Node {
    meta: Arc<Meta>,
    endpoint: PeerEndpoint,
    /// Whether clients are served, as `/ready` says.
    serving: Arc<AtomicBool>,
    /// Cancelled first: the servers finish the requests in progress and accept no new ones.
    stop_serving: CancellationToken,
    servers: JoinSet<Result<()>>,
    /// Cancelled second: ends the background tasks that requests in progress depend on.
    stop: CancellationToken,
    background: JoinSet<Result<()>>,
    // Dropped last: the lock on the data directory must outlive everything that uses its files.
    _data: DataDir,
}

impl Node {
    /// Starts a node. The other methods may be called on any runtime.
    ///
    /// # Errors
    /// `InvalidArgument` when an address cannot be bound or the configuration contradicts the data directory,
    /// `Conflict` when another process uses the data directory, and errors of the cluster that the node
    /// joins.
    pub(crate) async fn start(config: Config, lanes: Lanes) -> Result<Self> {
        let Lanes { control, long } = lanes;
        let Listeners { flight, peer, quic, http } = Listeners::bind(&config)?;
        let base = NodeCore::open(&config, quic, &control).await?;

        let (stop_serving, stop) = (CancellationToken::new(), CancellationToken::new());
        let (mut servers, mut background) = (JoinSet::new(), JoinSet::new());
        // Status is served from here on, so that it is available while the node waits to enter the cluster.
        let serving = Arc::new(AtomicBool::new(false));
        let status = Arc::new(base.status_source(serving.clone()));
        background.spawn_on(http::serve(http, status, stop.clone()), &control);

        let record = node_record(&config, base.id);
        if let Some(entering) = enter_cluster(&config, &base.meta, &base.data, record, &base.network).await? {
            let (stop, path) = (stop.clone(), base.data.path().to_owned());
            background.spawn(async move {
                match stop.run_until_cancelled(entering).await {
                    Some(entered) => entered.and_then(|()| mark_member(&path)),
                    None => Ok(()),
                }
            });
        }
        // Not before the node has entered: a rejected node must not have taken part in the cluster.
        control.spawn(PeerService::new(base.state.clone()).run(base.endpoint.clone()));

        let (engine, writer) = base.start_writer(&config, &stop, long.clone())?;
        let coordinator = Arc::new(Coordinator::new(CoordinatorOptions {
            node: base.id,
            meta: base.meta.clone(),
            engine: engine.clone(),
            writer: writer.clone(),
            peers: Arc::new(base.network.clone()),
            export_dir: config.export_dir.clone(),
            failpoints: config.failpoints,
        }));
        let maintenance = base.maintenance(writer);
        if base.state.statements.set(coordinator.statements().clone()).is_err() {
            return Err(Error::internal("the coordinator was started twice"));
        }
        servers.spawn_on(serve_workers(peer, engine, base.identity.clone(), stop_serving.clone()), &long);
        servers.spawn(serve_clients(flight, SqlService::new(coordinator)?, stop_serving.clone()));
        serving.store(true, Ordering::Release);
        let membership = maintenance.run_membership(stop.clone());
        background.spawn_on(membership.map(Ok), &control);
        let maintenance_stop = stop.clone();
        background.spawn(async move {
            maintenance.run(maintenance_stop).await;
            Ok(())
        });
        tracing::info!(
            node = %base.id, cluster = %base.data.authority.cluster, flight = %config.flight,
            peer = %config.peer, http = %config.http, roles = %config.roles, "node is ready"
        );
        let NodeCore { meta, endpoint, data, .. } = base;
        Ok(Self { meta, endpoint, serving, stop_serving, servers, stop, background, _data: data })
    }

    /// Waits until a part of the node ends, which happens only on failure.
    pub(crate) async fn failed(&mut self) -> Error {
        let failure = |joined| match joined {
            Some(Ok(Err(error))) => error,
            Some(Ok(Ok(()))) | None => Error::internal("a server of this node has ended"),
            Some(Err(error)) => Error::internal(format!("a server of this node panicked: {error}")),
        };
        // Background tasks that complete successfully, such as entering the cluster, are no failure.
        let background = async {
            loop {
                match self.background.join_next().await {
                    Some(Ok(Ok(()))) => {}
                    None => std::future::pending().await,
                    failed => return failure(failed),
                }
            }
        };
        tokio::select! {
            server = self.servers.join_next() => failure(server),
            error = background => error,
            error = self.meta.failed() => error,
            error = self.meta.removed() => error,
        }
    }

    /// Stops accepting requests, waits a limited time for those in progress, and stops the node.
    pub(crate) async fn drain(mut self) {
        self.serving.store(false, Ordering::Release);
        self.meta.hand_over().await;
        self.stop_serving.cancel();
        let all = async { while self.servers.join_next().await.is_some() {} };
        if timeout(DRAIN_TIMEOUT, all).await.is_err() {
            tracing::warn!("aborting requests that did not end within {DRAIN_TIMEOUT:?}");
        }
        self.servers.abort_all();
        self.stop.cancel();
        // Threads that compute may not come to look at it.
        let all = async { while self.background.join_next().await.is_some() {} };
        let _ = timeout(STOP_TIMEOUT, all).await;
        self.meta.shutdown().await;
        self.endpoint.close().await;
    }
}

/// What a node has before it enters the cluster: its identity, its storage, its network, and its member of
/// the metadata group.
struct NodeCore {
    id: NodeId,
    identity: Identity,
    endpoint: PeerEndpoint,
    state: Arc<NodeState>,
    network: PeerNetwork,
    meta: Arc<Meta>,
    data: DataDir,
    task_metrics: TaskMetrics,
    attempts: Arc<Attempts>,
}

impl NodeCore {
    async fn open(config: &Config, socket: UdpSocket, control: &Handle) -> Result<Self> {
        let data = DataDir::open(&config.data_dir, config.node_id, &config.membership)?;
        let id = data.node();
        let identity = data.authority.issue(id)?;
        let endpoint = {
            let _control = control.enter();
            PeerEndpoint::new(socket, &identity, &data.reset_key())?
        };
        let store = match config.roles.data {
            true => Some(Arc::new(SegmentStore::open(data.path())?)),
            false => None,
        };
        let state = Arc::new(NodeState {
            meta: Default::default(),
            store,
            missing: Arc::new(MissingSegments::default()),
            engine: Default::default(),
            statements: Default::default(),
        });
        let network = PeerNetwork::new(endpoint.client(), state.clone());
        let meta = start_meta(control, id, &data, network.clone()).await?;
        if state.meta.set(meta.clone()).is_err() {
            return Err(Error::internal("the metadata group was started twice"));
        }
        let attempts = Arc::new(Attempts::new(&data.path().join("attempts")));
        let task_metrics = TaskMetrics::default();
        Ok(Self { id, identity, endpoint, state, network, meta, data, task_metrics, attempts })
    }

    fn status_source(&self, serving: Arc<AtomicBool>) -> StatusSource {
        StatusSource {
            node: self.id,
            meta: self.meta.clone(),
            peers: Arc::new(self.network.clone()),
            state: self.state.clone(),
            task_metrics: self.task_metrics.clone(),
            attempts: self.attempts.clone(),
            space: DiskSpace::of(self.data.path()),
            serving,
        }
    }

    /// Creates the query engine and the write path, and starts the group committer.
    fn start_writer(
        &self,
        config: &Config,
        stop: &CancellationToken,
        long: Handle,
    ) -> Result<(Arc<Engine>, Writer)> {
        let store = &self.state.store;
        let channels = WorkerChannels::new(&self.identity);
        let reader = SegmentReader::new(store.clone(), Arc::new(self.network.clone()));
        let engine = Arc::new(new_engine(config, reader.clone(), self.network.clone(), channels, long)?);
        if self.state.engine.set(engine.clone()).is_err() {
            return Err(Error::internal("the query engine was started twice"));
        }
        let (group, committing) = GroupCommitter::new();
        let writer = Writer {
            meta: self.meta.clone(),
            replicator: Replicator::new(self.id, store.clone(), Arc::new(self.network.clone())),
            encoder: SegmentEncoder,
            group,
            reader: reader.clone(),
            keys: Arc::new(KeyIndexes::new(reader)),
            engine: engine.clone(),
            loads: LoadSlots::new(engine.memory_bytes()),
        };
        committing.start(writer.clone(), stop.clone());
        let space = DiskSpace::of(self.data.path());
        tokio::spawn(stop.clone().run_until_cancelled_owned(limit_spills(engine.clone(), space)));
        Ok((engine, writer))
    }

    fn maintenance(&self, writer: Writer) -> Maintenance {
        let context = TaskContext {
            node: self.id,
            meta: self.meta.clone(),
            writer,
            store: self.state.store.clone(),
            repairer: Arc::new(Repairer::new(self.id, Arc::new(self.network.clone()))),
            attempts: self.attempts.clone(),
            missing: self.state.missing.clone(),
        };
        Maintenance { context, metrics: self.task_metrics.clone() }
    }
}

/// How often the free space is looked at that queries may spill to.
const SPILL_INTERVAL: Duration = Duration::from_millis(100);

/// Lets queries spill as long as the disk has room. They leave twice what is kept back, so that writes go on.
async fn limit_spills(engine: Arc<Engine>, space: DiskSpace) {
    let mut ticker = tokio::time::interval(SPILL_INTERVAL);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticker.tick().await;
        let space = space.clone();
        // The system may wait for the disk.
        let asked = tokio::task::spawn_blocking(move || space.free_and_reserve()).await;
        if let Ok(Some((free, reserve))) = asked
            && let Err(error) = engine.set_room_for_spills(free.saturating_sub(2 * reserve))
        {
            tracing::debug!(%error, "queries cannot spill");
        }
    }
}

async fn start_meta(control: &Handle, id: NodeId, data: &DataDir, network: PeerNetwork) -> Result<Arc<Meta>> {
    let space = DiskSpace::of(data.path());
    let options = MetaOptions {
        node: id,
        directory: data.path().join("meta"),
        transport: Arc::new(network),
        snapshot_entries: SNAPSHOT_ENTRIES,
        check_space: Box::new(move |used, bytes| match used {
            SpaceUse::Commit => space.check(bytes),
            SpaceUse::Log => space.check_log(bytes),
        }),
    };
    control
        .spawn(Meta::start(options))
        .await
        .map_err(|e| Error::internal(format!("starting the metadata group: {e}")))?
}

fn new_engine(
    config: &Config,
    reader: SegmentReader,
    network: PeerNetwork,
    channels: WorkerChannels,
    long: Handle,
) -> Result<Engine> {
    let address = config.advertised(config.peer);
    let self_url = plexus_coordinator::worker_url(&address)
        .ok_or_else(|| Error::invalid(format!("peer address {address} does not form a valid URL")))?;
    let spill_dir = config.data_dir.join("spill");
    // What a killed process has left.
    if spill_dir.exists() {
        std::fs::remove_dir_all(&spill_dir).map_err(|e| Error::io(spill_dir.display(), e))?;
    }
    std::fs::create_dir_all(&spill_dir).map_err(|e| Error::io(spill_dir.display(), e))?;
    Engine::new(EngineOptions {
        reader,
        transport: Arc::new(network),
        channels,
        self_url,
        memory_bytes: config.query_memory as usize,
        spill_dir: Some(spill_dir),
        partitions: std::thread::available_parallelism().map_or(2, |n| n.get()),
        long,
        parsers: plexus_coordinator::EXPRESSION_PARSERS,
    })
    .map_err(plexus_coordinator::from_datafusion)
}
