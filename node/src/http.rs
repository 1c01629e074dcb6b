//! HTTP: health for supervisors, metrics for Prometheus, status for people and programs.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::{Router, routing::get};
use plexus_model::{Error, Result};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::status::StatusSource;

pub async fn serve(listener: TcpListener, source: Arc<StatusSource>, stop: CancellationToken) -> Result<()> {
    let app = Router::new()
        .route("/", get(index))
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .with_state(source);
    let listener = tokio::net::TcpListener::from_std(listener).map_err(|e| Error::io("http listener", e))?;
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .map_err(|e| Error::internal(format!("HTTP server: {e}")).with_source(e))
}

async fn index() -> &'static str {
    "Plexus\n\n/health   the process lives\n/ready    it can run statements\n/metrics  for Prometheus\n/status   the cluster as JSON\n"
}

async fn ready(State(source): State<Arc<StatusSource>>) -> Response {
    if source.is_ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no metadata leader, or not yet in the cluster\n").into_response()
    }
}

async fn status(State(source): State<Arc<StatusSource>>) -> Response {
    Json(source.collect().await).into_response()
}

async fn metrics(State(source): State<Arc<StatusSource>>) -> Response {
    match render(&source) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The gauges are read when they are asked for; nothing is counted in between.
fn render(source: &StatusSource) -> Result<String> {
    let manifest = source.meta.manifest();
    let group = source.meta.status();
    let report = source.handler.report().unwrap_or_default();
    let mut registry = Registry::with_prefix("plexus");
    let mut gauge = |name: &str, help: &str, value: u64| {
        let gauge = Gauge::<i64, AtomicI64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge("meta_leader", "Whether this node leads the metadata group", u64::from(source.meta.is_leader()));
    gauge("meta_term", "Term of the metadata group", group.term);
    gauge("meta_log_index", "Last entry of the metadata log on this node", group.last_log);
    gauge("meta_applied_index", "Last entry that this node has applied", group.applied);
    gauge("manifest_version", "Version of the manifest on this node", manifest.version.0);
    gauge("tables", "Tables", manifest.names.len() as u64);
    gauge("nodes", "Nodes in the cluster", manifest.nodes.len() as u64);
    gauge("nodes_live", "Nodes that answer", manifest.nodes.values().filter(|n| n.live).count() as u64);
    gauge("segments", "Segments on this node's disk", report.segments);
    gauge("segments_missing", "Segments that this node should keep and lacks", report.segments_missing);
    gauge(
        "inline_bytes",
        "Bytes of rows that are still in the log",
        manifest.tables.values().map(|t| t.inline_bytes).sum(),
    );
    let searches = Counter::<u64, AtomicU64>::default();
    searches.inc_by(source.handler.engine.get().map_or(0, |engine| engine.searches_answered()));
    registry.register(
        "peer_searches",
        "Questions of other nodes' searches that this node answered",
        searches,
    );
    let memory = Gauge::<u64, AtomicU64>::default();
    memory.set(resident_bytes());
    registry.register("resident_memory_bytes", "Resident memory of the process", memory);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|e| Error::internal(format!("metrics: {e}")))?;
    Ok(text)
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
