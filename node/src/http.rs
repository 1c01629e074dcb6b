//! HTTP endpoints: health for supervisors, metrics for Prometheus, status for people and programs.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, Version, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::{Router, routing::get};
use futures::StreamExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use plexus_coordinator::TaskMetrics;
use plexus_memory::{MemoryGuard, allocated_bytes};
use plexus_model::{Error, Result};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::connections::{ConnectionLimits, accept};
use crate::memory::resident_bytes;
use crate::servers::tokio_listener;
use crate::status::StatusSource;

/// Content type of the OpenMetrics text format, version 1.0.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Time for the head of a request, also for the next one of a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of the head of a request.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// How long a connection may be open. Supervisors open another one then.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(300);

/// Time that requests in progress have when the node stops.
const STOP_GRACE: Duration = Duration::from_millis(500);

const INDEX: &str = "Plexus

/health   200 while the process is running
/ready    200 when this node can run statements
/metrics  metrics for Prometheus
/status   state of the cluster as JSON
";

/// Serves until `stop` is cancelled.
pub(crate) async fn serve(
    listener: TcpListener,
    source: Arc<StatusSource>,
    stop: CancellationToken,
) -> Result<()> {
    let app = Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .layer(middleware::from_fn(with_one_host))
        .with_state(source);
    let mut connections = Box::pin(accept(tokio_listener(listener)?, ConnectionLimits::of_http()));
    let mut serving = JoinSet::new();
    while let Some(Some(connection)) = stop.run_until_cancelled(connections.next()).await {
        while serving.try_join_next().is_some() {}
        let connection = connection.map_err(|e| Error::io("http connection", e))?;
        let closed = connection.closed();
        let connection = TokioIo::new(connection);
        let service = TowerToHyperService::new(app.clone());
        let serve = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(HEADER_BYTES_MAX)
            .serve_connection(connection, service);
        serving.spawn(closed.run_until_cancelled_owned(timeout(CONNECTION_TIME_MAX, serve)));
    }
    let _ = timeout(STOP_GRACE, async { while serving.join_next().await.is_some() {} }).await;
    Ok(())
}

/// Refuses requests without a host, or with several: a proxy may have read another one than this node.
async fn with_one_host(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    match hosts == 1 || (hosts == 0 && request.version() < Version::HTTP_11) {
        true => next.run(request).await,
        false => (StatusCode::BAD_REQUEST, "a request has one Host header\n").into_response(),
    }
}

async fn ready(State(source): State<Arc<StatusSource>>) -> Response {
    match source.check_ready().await {
        Ok(()) => "ready\n".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {error}\n")).into_response(),
    }
}

async fn status(State(source): State<Arc<StatusSource>>) -> Response {
    Json(source.collect().await).into_response()
}

async fn metrics(State(source): State<Arc<StatusSource>>) -> Response {
    match encode_metrics(&source) {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Reads all metrics at the time of the request. Nothing is accumulated between requests.
fn encode_metrics(source: &StatusSource) -> Result<String> {
    let manifest = source.meta.manifest();
    let group = source.meta.status();
    let report = source.state.report().unwrap_or_default();
    let is_leader = u64::from(source.meta.is_leader());
    let live = manifest.nodes.values().filter(|n| n.live).count() as u64;
    let inline_bytes = manifest.tables.values().map(|t| t.inline_bytes).sum();
    let mut registry = Registry::with_prefix("plexus");
    let mut gauge = |name: &str, help: &str, value: u64| {
        let gauge = Gauge::<i64, AtomicI64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge("raft_leader", "1 if this node is the Raft leader of the metadata group, otherwise 0", is_leader);
    gauge("raft_term", "Current Raft term of the metadata group", group.term);
    gauge("raft_log_index", "Index of the last Raft log entry on this node", group.last_log);
    gauge("raft_applied_index", "Index of the last Raft log entry applied on this node", group.applied);
    gauge("manifest_version", "Version of the manifest on this node", manifest.version.0);
    let statements = source.state.statements.get().map_or(0, |statements| statements.count() as u64);
    gauge("statements_running", "Number of statements that this node runs for its clients", statements);
    gauge(
        "raft_quorum",
        "1 if a quorum of the metadata group was heard of in the last three seconds, otherwise 0",
        u64::from(source.has_quorum()),
    );
    if let Some((free, reserve)) = source.space.free_and_reserve() {
        gauge("disk_free_bytes", "Bytes that are free on the disk of the data directory", free);
        gauge("disk_reserve_bytes", "Bytes of these that writes of rows leave free", reserve);
    }
    let set_aside = source.attempts.set_aside() as u64;
    gauge(
        "background_set_aside",
        "Units of background work that ended the process before and wait",
        set_aside,
    );
    gauge("tables", "Number of tables", manifest.names.len() as u64);
    gauge("nodes", "Number of nodes in the cluster", manifest.nodes.len() as u64);
    gauge("nodes_live", "Number of live nodes in the cluster", live);
    gauge("segments", "Number of segment files on this node", report.segments);
    gauge(
        "segments_missing",
        "Number of segments that this node should hold and does not",
        report.segments_missing,
    );
    gauge(
        "inline_bytes",
        "Bytes of rows held inline in the manifest, not yet in segment files",
        inline_bytes,
    );
    let searches = Counter::<u64, AtomicU64>::default();
    searches.inc_by(source.state.engine.get().map_or(0, |engine| engine.remote_search_requests()));
    registry.register(
        "remote_search_requests",
        "Number of search requests from other nodes that this node has answered",
        searches,
    );
    register_background_tasks(&mut registry, &source.task_metrics);
    let memory = Gauge::<u64, AtomicU64>::default();
    memory.set(resident_bytes());
    registry.register("resident_memory_bytes", "Resident memory of the process in bytes", memory);
    let allocated = Gauge::<u64, AtomicU64>::default();
    allocated.set(allocated_bytes());
    registry.register("allocated_memory_bytes", "Memory that the process has allocated, in bytes", allocated);
    let ended = Counter::<u64, AtomicU64>::default();
    ended.inc_by(MemoryGuard::ended());
    registry.register("ended_for_memory", "Statements and tasks that ended because memory was short", ended);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|e| Error::internal(format!("metrics: {e}")))?;
    Ok(text)
}

/// Runs, failures and busy seconds of each background task, under the label `task`.
fn register_background_tasks(registry: &mut Registry, metrics: &TaskMetrics) {
    type Labels = Vec<(&'static str, &'static str)>;
    let runs = Family::<Labels, Counter>::default();
    let failures = Family::<Labels, Counter>::default();
    let busy = Family::<Labels, Counter<f64, AtomicU64>>::default();
    for (task, statistics) in metrics.snapshot() {
        let labels = vec![("task", task)];
        runs.get_or_create(&labels).inc_by(statistics.runs);
        failures.get_or_create(&labels).inc_by(statistics.failures);
        busy.get_or_create(&labels).inc_by(statistics.busy.as_secs_f64());
    }
    registry.register("background_runs", "Runs of a background task on this node", runs);
    registry.register("background_failures", "Runs of a background task that failed", failures);
    registry.register("background_busy_seconds", "Time that a background task has run", busy);
}
