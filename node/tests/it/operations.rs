//! Operations: health, metrics, configuration, logs and draining.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use futures::StreamExt;
use futures::stream::BoxStream;
use plexus_model::Result;
use plexus_node::client::Client;
use plexus_node::command::status;
use tokio::sync::oneshot;

use crate::harness::{BINARY, Cluster, KilledOnDrop, PATIENCE, free_ports, run};
use crate::queries::{append_to, number, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_readiness_and_metrics() {
    let cluster = Cluster::start(1).await;
    let url = cluster.nodes[0].http();
    assert_eq!(status::get(&url, "/health").await.unwrap(), "ok\n");
    assert_eq!(status::get(&url, "/ready").await.unwrap(), "ready\n");
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (shards = 1)").await.unwrap();
    client.execute("INSERT INTO t SELECT value FROM generate_series(1, 10000)").await.unwrap();
    let metrics = status::get(&url, "/metrics").await.unwrap();
    for line in ["plexus_raft_leader 1", "plexus_tables 1", "plexus_nodes_live 1", "plexus_segments 1"] {
        assert!(metrics.lines().any(|l| l == line), "{line:?} is not in\n{metrics}");
    }
    let resident = metrics.lines().find_map(|l| l.strip_prefix("plexus_resident_memory_bytes ")).unwrap();
    assert!(resident.parse::<u64>().unwrap() > 10_000_000, "{resident}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_to_join_is_healthy_but_not_ready() {
    let mut cluster = Cluster::start(1).await;
    let seed = cluster.nodes[0].peer();
    let token = cluster.nodes[0].dir.join("join.token");
    let token = std::fs::read_to_string(token).unwrap();
    cluster.nodes[0].kill();
    let [flight, peer, http] = free_ports().map(|p| format!("127.0.0.1:{p}"));
    let child = Command::new(BINARY)
        .args(["start", "--data-dir"])
        .arg(cluster.dir.path().join("waiting"))
        .args(["--flight", &flight, "--peer", &peer, "--http", &http])
        .args(["--join", &seed, "--join-token", token.trim()])
        .stderr(Stdio::null())
        .spawn();
    let _child = KilledOnDrop(child.unwrap());
    let url = format!("http://{http}");
    wait_until("the node is healthy", async || status::get(&url, "/health").await.is_ok()).await;
    let ready = status::get(&url, "/ready").await;
    assert!(ready.unwrap_err().message().contains("not yet in the cluster"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_in_progress_ends_before_the_node_does() {
    let mut cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (shards = 2)").await.unwrap();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..50_000));
    let batch = RecordBatch::try_from_iter([("id", ids)]).unwrap();
    let (begun, has_begun) = oneshot::channel();
    let (terminated, is_terminated) = oneshot::channel();
    let rows = interrupted_stream(batch.clone(), begun, is_terminated);
    let load = tokio::spawn(async move { client.ingest(append_to("t"), batch.schema(), rows).await });
    has_begun.await.unwrap();
    cluster.nodes[0].terminate();
    tokio::time::sleep(Duration::from_millis(500)).await;
    terminated.send(()).unwrap();
    assert_eq!(load.await.unwrap().unwrap(), 100_000);
    assert!(cluster.nodes[0].wait_exit().success(), "{}", cluster.nodes[0].log());
    cluster.nodes[0].start();
    cluster.nodes[0].wait_ready().await;
    let mut client = cluster.nodes[0].client().await;
    assert_eq!(number(&mut client, "SELECT count(*) FROM t").await.unwrap(), 100_000);
}

/// A stream that yields the batch, reports that it has begun, and yields the batch again after `resume`.
fn interrupted_stream(
    batch: RecordBatch,
    begun: oneshot::Sender<()>,
    resume: oneshot::Receiver<()>,
) -> BoxStream<'static, Result<RecordBatch>> {
    let second = batch.clone();
    let late = futures::stream::once(async move {
        begun.send(()).expect("the test waits");
        resume.await.expect("the test resumes the stream");
        Ok(second)
    });
    futures::stream::iter([Ok(batch)]).chain(late).boxed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_bootstrap_alone_a_node_is_a_complete_system_in_the_current_directory() {
    // The default ports. A node that found them taken would end at once, and prove nothing.
    for port in 7070..=7072 {
        let free = TcpListener::bind(("127.0.0.1", port));
        assert!(free.is_ok(), "this test needs the default ports, but port {port} is taken: {free:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let child = Command::new(BINARY)
        .args(["start", "--bootstrap"])
        .current_dir(dir.path())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn();
    let mut child = KilledOnDrop(child.unwrap());
    let mut client = None;
    let started = Instant::now();
    while client.is_none() && started.elapsed() < PATIENCE && child.0.try_wait().unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        client = Client::connect("grpc://127.0.0.1:7070").await.ok();
    }
    let result = match &mut client {
        Some(client) => number(client, "SELECT 41 + 1").await.map_err(|e| e.to_string()),
        None => Err("the node cannot be reached".into()),
    };
    drop(child);
    assert_eq!(result, Ok(42), "{}", std::fs::read_to_string(&log).unwrap());
    assert!(dir.path().join("plexus-data/node.json").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_comes_from_variables_and_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let [flight, peer, http] = free_ports().map(|p| format!("127.0.0.1:{p}"));
    let config = dir.path().join("plexus.toml");
    std::fs::write(&config, format!("flight = {flight:?}\nnode_id = 42\nlog_format = \"json\"\n")).unwrap();
    let log = dir.path().join("log");
    let child = Command::new(BINARY)
        .args(["start", "--http", &http])
        .env("PLEXUS_BOOTSTRAP", "true")
        .env("PLEXUS_CONFIG", &config)
        .env("PLEXUS_PEER", &peer)
        .env("PLEXUS_ADVERTISE", "localhost")
        .env("PLEXUS_DATA_DIR", dir.path().join("data"))
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn();
    let child = KilledOnDrop(child.unwrap());
    let mut live_status = None;
    wait_until("the node is live", async || {
        let Ok(body) = status::get(&format!("http://{http}"), "/status").await else { return false };
        let parsed: serde_json::Value = serde_json::from_str(&body).unwrap();
        live_status = Some(parsed).filter(|status| status["nodes"][0]["live"] == true);
        live_status.is_some()
    })
    .await;
    drop(child);
    let node = &live_status.expect("the node is live")["nodes"][0];
    let advertised = |address: &str| address.replace("127.0.0.1", "localhost");
    assert_eq!(node["id"].as_u64(), Some(42));
    assert_eq!(node["flight"].as_str(), Some(advertised(&flight).as_str()));
    assert_eq!(node["peer"].as_str(), Some(advertised(&peer).as_str()));
    for line in std::fs::read_to_string(&log).unwrap().lines() {
        let parsed: serde_json::Value = serde_json::from_str(line).expect("a JSON object a line");
        assert!(parsed["timestamp"].is_string() && parsed["level"].is_string(), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_name_the_query_table_shard_and_version() {
    let mut cluster = Cluster::start(1).await;
    cluster.nodes[0].kill();
    cluster.nodes[0].args.extend([
        "--log".into(),
        "plexus=debug".into(),
        "--log-format".into(),
        "json".into(),
    ]);
    cluster.nodes[0].start();
    cluster.nodes[0].wait_ready().await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (shards = 2)").await.unwrap();
    client.execute("INSERT INTO t SELECT value FROM generate_series(1, 10000)").await.unwrap();
    let log = cluster.nodes[0].log();
    let in_span = |line: &str| {
        let Ok(parsed) = serde_json::from_str::<serde_json::Value>(line) else { return false };
        let spans = parsed["spans"].as_array().cloned().unwrap_or_default();
        let has = |field: &str| spans.iter().any(|span| !span[field].is_null());
        ["query_id", "version", "table", "shard"].into_iter().all(has)
    };
    assert!(log.lines().any(in_span), "no event is in a span with all four fields:\n{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_makes_segments_under_replicated() {
    let mut cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (shards = 4, replicas = 3)").await.unwrap();
    client.execute("INSERT INTO t SELECT value FROM generate_series(1, 100000)").await.unwrap();
    cluster
        .wait("all replicas exist", |s| s.segments_under_replicated == 0 && s.tables[0].segments == 4)
        .await;
    cluster.nodes[2].kill();
    cluster.wait("every segment lacks a replica", |s| s.segments_under_replicated == 4).await;
    let text = run(&["status", "--url", &cluster.nodes[0].http()]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("under-replicated segments: 4"), "{text}");
    assert!(text.contains("replicas on nodes"), "{text}");
}
