//! Statements that take long: what they leave to others, and how they end.

use std::time::{Duration, Instant};

use plexus_model::ErrorKind;
use plexus_node::client::Client;
use plexus_node::command::status;

use crate::harness::{Cluster, Node, PATIENCE};
use crate::queries::{execute_all, number};

/// Nothing matches, so that the join neither returns a row nor waits for anything: half an hour of work.
const ENDLESS_JOIN: &str = "SELECT count(*) FROM generate_series(1, 3000000) a(x) \
     JOIN generate_series(1, 3000000) b(y) ON a.x + b.y < 0";

/// The same between two rows that share a key with all others.
const ENDLESS_HASH_JOIN: &str = "SELECT count(*) \
     FROM (SELECT x, x % 1 AS k FROM generate_series(1, 3000000) a(x)) a \
     JOIN (SELECT y, y % 1 AS k FROM generate_series(1, 3000000) b(y)) b ON a.k = b.k AND a.x + b.y < 0";

/// Rows without an end, which an aggregate swallows.
const ENDLESS_CROSS_JOIN: &str = "SELECT count(*), max(x + y) FROM generate_series(1, 3000000) a(x), \
     generate_series(1, 3000000) b(y)";

/// How often the endless statements run, by a text in all of them.
async fn endless(client: &mut Client) -> i64 {
    let sql = "SELECT count(*) FROM plexus.queries WHERE statement LIKE '%generate_series(1, 3000000)%' \
               AND statement NOT LIKE '%plexus.queries%'";
    number(client, sql).await.expect("a number")
}

async fn wait_endless(client: &mut Client, count: i64) {
    let started = Instant::now();
    while endless(client).await != count {
        assert!(started.elapsed() < PATIENCE, "waited for {count} endless statements");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a node computes nothing: less than a tenth of a processor in a second.
async fn wait_idle(node: &Node) {
    let started = Instant::now();
    loop {
        let before = node.processor_time();
        tokio::time::sleep(Duration::from_secs(1)).await;
        if node.processor_time() - before < Duration::from_millis(300) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "node {} still computes", node.id);
    }
}

/// Starts a statement that does not end by itself. Dropping the handle's task ends its client.
async fn begin(node: &Node, sql: &'static str) -> tokio::task::JoinHandle<plexus_model::Error> {
    let mut client = node.client().await;
    tokio::spawn(async move { client.query(sql).await.expect_err("an endless statement has ended") })
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_joins_leave_a_node_to_others_and_end_when_they_are_told_to() {
    let cluster = Cluster::start(2).await;
    let node = &cluster.nodes[0];
    let (mut here, mut there) = (node.client().await, cluster.nodes[1].client().await);
    let mut running = Vec::new();
    for sql in [ENDLESS_JOIN, ENDLESS_HASH_JOIN, ENDLESS_CROSS_JOIN, ENDLESS_JOIN] {
        running.push(begin(node, sql).await);
    }
    wait_endless(&mut there, running.len() as i64).await;
    // More of them than processors run. All of these would wait for their end.
    status::get(&node.http(), "/health").await.unwrap();
    status::get(&node.http(), "/ready").await.unwrap();
    execute_all(
        &mut node.client().await,
        &["CREATE TABLE busy (id BIGINT PRIMARY KEY, v INT)", "INSERT INTO busy VALUES (1, 1)"],
    )
    .await;
    assert_eq!(number(&mut here, "SELECT v FROM busy WHERE id = 1").await.unwrap(), 1);

    // Killed by the other node.
    let kill_all = "SELECT query_id, state, node_id FROM plexus.queries \
                    WHERE statement LIKE '%generate_series(1, 3000000)%' AND node_id = 1";
    let (_, batches) = there.query(kill_all).await.unwrap();
    let ids = batches.iter().flat_map(|batch| {
        let ids = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
        arrow::array::AsArray::as_string::<i32>(&ids).iter().flatten().map(str::to_owned).collect::<Vec<_>>()
    });
    for id in ids.collect::<Vec<_>>() {
        there.execute(&format!("KILL QUERY '{id}'")).await.unwrap();
        let error = there.execute(&format!("KILL QUERY '{id}x'")).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    for task in running {
        let error = task.await.unwrap();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        assert!(error.message().contains("was cancelled"), "{error}");
    }
    wait_endless(&mut there, 0).await;
    wait_idle(node).await;

    // Ended by their time.
    execute_all(&mut here, &["SET statement_timeout = '500ms'"]).await;
    for sql in [ENDLESS_JOIN, ENDLESS_HASH_JOIN, ENDLESS_CROSS_JOIN] {
        let error = here.query(sql).await.err().unwrap();
        assert!(error.message().contains("statement_timeout"), "{error}");
    }
    wait_idle(node).await;

    // Ended by clients that leave.
    let left: Vec<_> = [begin(node, ENDLESS_JOIN).await, begin(node, ENDLESS_HASH_JOIN).await].into();
    wait_endless(&mut there, 2).await;
    left.iter().for_each(|task| task.abort());
    wait_endless(&mut there, 0).await;
    wait_idle(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_table_whose_rows_share_a_key_is_no_short_join() {
    const JOIN: &str = "SELECT count(*) FROM same a JOIN same b ON a.k = b.k AND a.v + b.v < 0";
    let mut cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    execute_all(
        &mut client,
        &[
            "CREATE TABLE same (k BIGINT, v BIGINT)",
            "INSERT INTO same SELECT 7, value FROM generate_series(1, 200000)",
        ],
    )
    .await;
    let mut left = Vec::new();
    for _ in 0..4 {
        left.push(begin(&cluster.nodes[0], JOIN).await);
    }
    let running = "SELECT count(*) FROM plexus.queries WHERE statement LIKE '%JOIN same%' \
                   AND statement NOT LIKE '%plexus.queries%'";
    while number(&mut client, running).await.unwrap() < 4 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // More of them than processors run, and answers come all the same.
    assert_eq!(number(&mut cluster.nodes[0].client().await, "SELECT 1").await.unwrap(), 1);
    left.iter().for_each(|task| task.abort());
    wait_idle(&cluster.nodes[0]).await;

    // A node that is told to stop does, whatever runs.
    let _running = [begin(&cluster.nodes[0], JOIN).await, begin(&cluster.nodes[0], JOIN).await];
    while number(&mut client, running).await.unwrap() < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.nodes[0].terminate();
    assert!(cluster.nodes[0].wait_exit().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn distributed_joins_end_on_all_nodes() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    execute_all(
        &mut client,
        &[
            "CREATE TABLE wide (x BIGINT) WITH (shards = 6, replicas = 1)",
            "INSERT INTO wide SELECT value FROM generate_series(1, 2000000)",
            "SET plexus.task_bytes = 1",
        ],
    )
    .await;
    let join = "SELECT count(*) FROM wide a JOIN wide b ON a.x % 2 = b.x % 2 AND a.x + b.x < 0";
    assert!(crate::queries::explain(&mut client, join).await.contains("task 1: node"));
    execute_all(&mut client, &["SET statement_timeout = '3s'"]).await;
    let error = client.query(join).await.err().unwrap();
    assert!(error.message().contains("statement_timeout"), "{error}");
    for node in &cluster.nodes {
        wait_idle(node).await;
    }
    assert_eq!(number(&mut client, "SELECT count(*) FROM wide").await.unwrap(), 2_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_computes_stops_when_it_is_told_to() {
    let mut cluster = Cluster::start(1).await;
    let running =
        [begin(&cluster.nodes[0], ENDLESS_JOIN).await, begin(&cluster.nodes[0], ENDLESS_JOIN).await];
    let mut client = cluster.nodes[0].client().await;
    wait_endless(&mut client, 2).await;
    drop(client);
    cluster.nodes[0].terminate();
    assert!(cluster.nodes[0].wait_exit().success());
    for task in running {
        task.await.unwrap();
    }
}
