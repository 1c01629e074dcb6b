//! Crashes of nodes, damaged files and lost majorities.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use plexus_model::ErrorKind;
use plexus_node::client::Client;

use crate::harness::{Cluster, damage, quarantined};
use crate::queries::{FLUSH, column, commits_of, number, segment_files};

/// Inserts consecutive ids until `stop` is set and returns those that were acknowledged. A statement whose
/// outcome is unknown is not repeated: its row may or may not exist.
async fn insert_until(mut client: Client, first: i64, stop: Arc<AtomicBool>) -> Vec<i64> {
    let mut acknowledged = Vec::new();
    let mut next = first;
    while !stop.load(Ordering::Relaxed) {
        match client.execute(&format!("INSERT INTO t VALUES ({next}, 'row {next}')")).await {
            Ok(_) => acknowledged.push(next),
            Err(e) => assert!(
                matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Unknown),
                "an insert failed for another reason: {e:?}"
            ),
        }
        next += 1;
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_row_is_lost_when_the_leader_is_killed() {
    let mut cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT, v VARCHAR) WITH (shards = 3, replicas = 3)").await.unwrap();

    let leader = cluster.leader().await;
    let survivors: Vec<usize> = (0..3).filter(|&n| n != leader).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for (i, &node) in survivors.iter().enumerate() {
        let client = cluster.nodes[node].client().await;
        writers.push(tokio::spawn(insert_until(client, i as i64 * 1_000_000, stop.clone())));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.nodes[leader].kill();
    tokio::time::sleep(Duration::from_secs(8)).await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    assert!(acknowledged.len() > 20, "only {} inserts were acknowledged", acknowledged.len());

    let mut client = cluster.nodes[survivors[0]].client().await;
    check_all_exist(&mut client, &acknowledged).await;

    // The killed node restarts and catches up.
    cluster.nodes[leader].start();
    cluster.nodes[leader].wait_ready().await;
    let mut client = cluster.nodes[leader].client().await;
    check_all_exist(&mut client, &acknowledged).await;
    let flushed = segment_files(&mut client).await;
    assert!(flushed > 0, "no inline segment was flushed");
    cluster.wait_replicated(flushed).await;
}

async fn check_all_exist(client: &mut Client, acknowledged: &[i64]) {
    let found = column(client, "SELECT id FROM t ORDER BY id").await;
    assert!(found.windows(2).all(|w| w[0] < w[1]), "a row exists twice");
    let lost: Vec<&i64> = acknowledged.iter().filter(|id| found.binary_search(id).is_err()).collect();
    assert!(lost.is_empty(), "{} acknowledged rows are lost, such as {:?}", lost.len(), lost.first());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_fails_when_a_data_node_is_killed_and_everything_survives_a_restart() {
    let mut cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT, v BIGINT) WITH (shards = 6, replicas = 3)").await.unwrap();
    let insert = "INSERT INTO t SELECT a.value * 1000 + b.value, a.value \
                  FROM generate_series(0, 299) a CROSS JOIN generate_series(0, 999) b";
    client.execute(insert).await.unwrap();
    let expected = number(&mut client, "SELECT sum(id) FROM t").await.unwrap();

    // Every scan becomes a task on every node, so that queries run on the node that dies.
    let leader = cluster.leader().await;
    let reader_node = leader;
    let victim = (0..3).find(|&n| n != leader).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for _ in 0..2 {
        let mut client = cluster.nodes[reader_node].client().await;
        client.execute("SET plexus.task_bytes = 1000").await.unwrap();
        let stop = stop.clone();
        readers.push(tokio::spawn(async move {
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) {
                let sum = number(&mut client, "SELECT sum(id) FROM t").await.expect("a read failed");
                assert_eq!(sum, expected);
                let groups =
                    client.query("SELECT v, count(*) FROM t GROUP BY v").await.expect("a read failed");
                assert_eq!(groups.1.iter().map(|b| b.num_rows()).sum::<usize>(), 300);
                reads += 1;
            }
            reads
        }));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.nodes[victim].kill();
    tokio::time::sleep(Duration::from_secs(10)).await;
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 5, "hardly any read succeeded");
    }

    // Writes continue with two of three replicas, and the third one catches up.
    let mut client = cluster.nodes[reader_node].client().await;
    client.execute(insert).await.unwrap();
    cluster.nodes[victim].start();
    cluster.nodes[victim].wait_ready().await;
    cluster.wait_replicated(segment_files(&mut client).await).await;

    // After a restart of all nodes, all rows still exist.
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    for node in &cluster.nodes {
        node.wait_ready().await;
        let mut client = node.client().await;
        assert_eq!(number(&mut client, "SELECT sum(id) FROM t").await.unwrap(), expected * 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_replica_is_quarantined_and_repaired_and_reads_use_another() {
    let mut cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (shards = 1, replicas = 3)").await.unwrap();
    client.execute("INSERT INTO t SELECT value FROM generate_series(1, 100000)").await.unwrap();
    cluster.nodes[1].kill();
    damage(&cluster.nodes[1].dir);
    cluster.nodes[1].start();
    cluster.nodes[1].wait_ready().await;
    let mut client = cluster.nodes[1].client().await;
    // The query runs on this node alone, whose replica is the damaged one.
    client.execute("SET plexus.task_bytes = 1000000000").await.unwrap();
    assert_eq!(number(&mut client, "SELECT sum(id) FROM t").await.unwrap(), 5_000_050_000);
    assert_eq!(quarantined(&cluster.nodes[1].dir), 1);
    cluster
        .wait("the replica is repaired", |s| s.nodes.iter().all(|n| n.live && n.segments == Some(1)))
        .await;

    // The disk changes a file that is open.
    let mut client = cluster.nodes[2].client().await;
    client.execute("SET plexus.task_bytes = 1000000000").await.unwrap();
    assert_eq!(number(&mut client, "SELECT sum(id) FROM t").await.unwrap(), 5_000_050_000);
    damage(&cluster.nodes[2].dir);
    assert_eq!(number(&mut client, "SELECT sum(id) FROM t").await.unwrap(), 5_000_050_000);
    assert_eq!(quarantined(&cluster.nodes[2].dir), 1);
    cluster
        .wait("the replica is repaired again", |s| s.nodes.iter().all(|n| n.live && n.segments == Some(1)))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_metadata_log_was_cut_gets_it_from_the_others() {
    let mut cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (shards = 1, replicas = 3)").await.unwrap();
    for id in 0..50 {
        client.execute(&format!("INSERT INTO t VALUES ({id})")).await.unwrap();
    }
    // The node that led, which would lead again with what is left of its log.
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill();
    let log = cluster.nodes[leader].dir.join("meta/log");
    let files = std::fs::read_dir(&log).unwrap().map(|file| file.unwrap().path());
    let newest = files.filter(|path| path.extension().is_some_and(|e| e == "wal")).max().unwrap();
    let file = std::fs::File::options().write(true).open(&newest).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    cluster.nodes[leader].start();
    cluster.nodes[leader].wait_ready().await;
    let shown = cluster.nodes[leader].log();
    assert!(shown.contains("lost entries") || shown.contains("is damaged"), "{shown}");
    for node in &cluster.nodes {
        let mut client = node.client().await;
        assert_eq!(number(&mut client, "SELECT count(*) FROM t").await.unwrap(), 50);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_ready_only_while_a_quorum_answers() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for victim in (0..3).filter(|&node| node != leader).collect::<Vec<_>>() {
        cluster.nodes[victim].kill();
    }
    // It leads as far as it knows, but nobody follows.
    let url = cluster.nodes[leader].http();
    let error = plexus_node::command::status::get(&url, "/ready").await.unwrap_err();
    assert!(error.message().contains("not ready"), "{error}");
    assert!(plexus_node::command::status::get(&url, "/health").await.is_ok());
    // What needs no quorum.
    let mut client = cluster.nodes[leader].client().await;
    assert_eq!(number(&mut client, "SELECT 1").await.unwrap(), 1);
    assert_eq!(number(&mut client, "SELECT count(*) FROM plexus.queries").await.unwrap(), 1);
    let error = client.execute("KILL QUERY 'none'").await.map(|killed| killed.affected).unwrap_err();
    // A node that does not answer may run it.
    assert!(!error.message().contains("read index"), "{error}");
    client.execute("SET plexus.staleness = '1 h'").await.unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM plexus.nodes").await.unwrap(), 3);
    let others = (0..3).filter(|&node| node != leader).collect::<Vec<_>>();
    cluster.nodes[others[0]].start();
    cluster.nodes[leader].wait_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_inline_segments_are_flushed_to_a_file() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (shards = 1)").await.unwrap();
    for id in 0..300 {
        client.execute(&format!("INSERT INTO t VALUES ({id})")).await.unwrap();
    }
    cluster.wait("a file exists", |s| s.nodes[0].segments == Some(1)).await;
    assert!(commits_of(&mut client, FLUSH).await > 0);
    assert_eq!(segment_files(&mut client).await, 1);
    assert_eq!(number(&mut client, "SELECT count(DISTINCT id) FROM t").await.unwrap(), 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_inserts_share_commits() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (shards = 2)").await.unwrap();
    client.execute("CREATE TABLE u (id BIGINT) WITH (shards = 2)").await.unwrap();
    let mut writers = Vec::new();
    for writer in 0..32 {
        let mut client = cluster.nodes[0].client().await;
        writers.push(tokio::spawn(async move {
            for i in 0..50 {
                let table = if i % 2 == 0 { "t" } else { "u" };
                client.execute(&format!("INSERT INTO {table} VALUES ({})", writer * 50 + i)).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let rows = "SELECT (SELECT count(DISTINCT id) FROM t) + (SELECT count(DISTINCT id) FROM u)";
    assert_eq!(number(&mut client, rows).await.unwrap(), 32 * 50);
    let commits = commits_of(&mut client, "insert").await;
    assert!(commits < 800, "1600 inserts took {commits} commits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_without_a_majority_fails_and_leaves_nothing() {
    let mut cluster = Cluster::start_with_roles(&["meta,query", "data", "data", "data"]).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (shards = 2, replicas = 3)").await.unwrap();
    cluster.nodes[2].kill();
    cluster.nodes[3].kill();
    let insert = "INSERT INTO t SELECT value FROM generate_series(1, 100000)";
    let error = client.execute(insert).await.map(|a| a.affected).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("durable on 1 of 3 replicas, 2 are needed"), "{error}");
    assert_eq!(number(&mut client, "SELECT count(*) FROM t").await.unwrap(), 0);
    cluster.nodes[2].start();
    cluster.nodes[2].wait_ready().await;
    client.execute(insert).await.unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM t").await.unwrap(), 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_whose_only_file_is_damaged_are_lost_and_not_a_wrong_statement() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (shards = 1)").await.unwrap();
    client.execute("INSERT INTO t SELECT value FROM generate_series(1, 100000)").await.unwrap();
    damage(&cluster.nodes[0].dir);
    for _ in 0..2 {
        let error = client.query("SELECT sum(id) FROM t").await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.message().contains("lost or damaged"), "{error}");
        assert!(!error.message().contains("acktrace"), "{error}");
    }
    assert_eq!(quarantined(&cluster.nodes[0].dir), 1);
}
