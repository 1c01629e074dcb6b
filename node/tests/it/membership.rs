//! Nodes that join, move to other addresses and are decommissioned.

use std::time::Duration;

use plexus_model::ErrorKind;

use crate::harness::{Cluster, fails};
use crate::queries::{execute_all, number};

/// A table with rows on every node, of which each is stored once.
const UNREPLICATED: [&str; 2] = [
    "CREATE TABLE t (id BIGINT) WITH (shards = 12, replicas = 1)",
    "INSERT INTO t SELECT value FROM generate_series(1, 200000)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_decommissioned_when_others_can_take_its_replicas() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let mut client = cluster.nodes[leader].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (shards = 4, replicas = 3)").await.unwrap();
    client.execute("INSERT INTO t SELECT value FROM generate_series(1, 100000)").await.unwrap();

    let victim = (0..3).find(|&n| n != leader).unwrap();
    let id = cluster.nodes[victim].id;
    let leader_id = cluster.nodes[leader].id;
    let remove = format!("CALL plexus.remove_node({id})");
    let affected = |answer: plexus_node::client::StatementResult| answer.affected;
    let error = client.execute(&remove).await.map(affected).unwrap_err();
    assert!(error.message().contains("public.t"), "{error}");
    let error = client.execute("CALL plexus.remove_node(99)").await.map(affected).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    cluster.add("meta,data,query").await;
    let remove_leader = format!("CALL plexus.remove_node({leader_id})");
    let error = client.execute(&remove_leader).await.map(affected).unwrap_err();
    assert!(error.message().contains("leads"), "{error}");
    client.execute(&remove).await.unwrap();
    cluster
        .wait("three members store all segments, and the removed node is none of them", |s| {
            s.nodes.len() == 3
                && s.nodes.iter().all(|n| n.id != id && n.voter && n.segments.is_some_and(|has| has >= 4))
                && s.segments_under_replicated == 0
                && s.tables.iter().all(|t| t.shards.iter().all(|s| !s.replicas.contains(&id)))
        })
        .await;
    assert_eq!(number(&mut client, "SELECT count(*) FROM t").await.unwrap(), 100_000);

    // A removed node ends, and cannot rejoin by a restart.
    for _ in 0..2 {
        assert!(!cluster.nodes[victim].wait_exit().success());
        let log = cluster.nodes[victim].log();
        assert!(log.contains("no member of the cluster"), "{log}");
        cluster.nodes[victim].start();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_replica_moves_before_its_node_is_removed() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let mut client = cluster.nodes[leader].client().await;
    execute_all(&mut client, &UNREPLICATED).await;
    client.execute("INSERT INTO t VALUES (0)").await.unwrap();
    let victim = (0..3).find(|&n| n != leader).unwrap();
    let id = cluster.nodes[victim].id;
    client.execute(&format!("CALL plexus.remove_node({id})")).await.unwrap();
    cluster.nodes[victim].kill();
    assert_eq!(number(&mut client, "SELECT count(*) FROM t").await.unwrap(), 200_001);
    let status = cluster.nodes[leader].status().await.unwrap();
    assert_eq!(status.nodes.iter().filter(|n| n.voter).count(), 2);
    let shards = &status.tables[0].shards;
    assert!(shards.iter().all(|s| s.replicas.len() == 1 && !s.replicas.contains(&id)), "{shards:?}");
    // A second call, as after an interruption, finds nothing to do.
    let again = client.execute(&format!("CALL plexus.remove_node({id})")).await.map(|a| a.affected);
    assert_eq!(again.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_only_a_dead_node_stores_is_named_and_blocks_its_removal() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let mut client = cluster.nodes[leader].client().await;
    execute_all(&mut client, &UNREPLICATED).await;
    let victim = (0..3).find(|&n| n != leader).unwrap();
    let id = cluster.nodes[victim].id;
    cluster.nodes[victim].kill();
    cluster.wait("the dead node is known", |s| s.nodes.iter().any(|n| n.id == id && !n.live)).await;
    let remove = format!("CALL plexus.remove_node({id})");
    let error = client.execute(&remove).await.map(|a| a.affected).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.message().contains("public.t") && error.message().contains("drop the table"), "{error}");
    client.execute("DROP TABLE t").await.unwrap();
    client.execute(&remove).await.unwrap();
    cluster.wait("two are left", |s| s.nodes.len() == 2 && s.nodes.iter().all(|n| n.live)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_at_the_address_of_a_dead_voter_does_not_vote_for_it() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let victim = (0..3).find(|&n| n != leader).unwrap();
    let (id, ports) = (cluster.nodes[victim].id, cluster.nodes[victim].ports);
    cluster.nodes[victim].kill();
    cluster.wait("the dead node is known", |s| s.nodes.iter().any(|n| n.id == id && !n.live)).await;
    let heir = cluster.add_at("data,query", ports).await;
    let mut client = cluster.nodes[leader].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (replicas = 1)").await.unwrap();
    // With two of three voters dead there is no majority, whatever answers at the address of the first.
    let other = (0..3).find(|&n| n != leader && n != victim).unwrap();
    cluster.nodes[other].kill();
    let insert = client.execute("INSERT INTO t VALUES (1)").await.map(|a| a.affected);
    assert!(insert.is_err(), "one voter of three has committed");
    cluster.nodes[other].start();
    cluster.nodes[other].wait_ready().await;
    client.execute("INSERT INTO t VALUES (2)").await.unwrap();
    client.execute(&format!("CALL plexus.remove_node({id})")).await.unwrap();
    let mut client = cluster.nodes[heir].client().await;
    assert_eq!(number(&mut client, "SELECT count(*) FROM t WHERE id = 2").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_returns_under_other_addresses() {
    let mut cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (shards = 3, replicas = 3)").await.unwrap();
    client.execute("INSERT INTO t SELECT value FROM generate_series(1, 50000)").await.unwrap();
    cluster.nodes[2].kill();
    cluster.nodes[2].move_ports();
    cluster.nodes[2].start();
    cluster.nodes[2].wait_ready().await;
    let peer = cluster.nodes[2].peer();
    cluster
        .wait("the moved node is live under its new address", |s| {
            s.nodes.iter().all(|n| n.live) && s.nodes.iter().any(|n| n.peer == peer && n.voter)
        })
        .await;
    // The same while the leader restarts.
    let leader = cluster.leader().await;
    let mover = (0..3).find(|&n| n != leader).unwrap();
    cluster.nodes[mover].kill();
    cluster.nodes[leader].kill();
    cluster.nodes[mover].move_ports();
    cluster.nodes[mover].start();
    cluster.nodes[leader].start();
    for node in &cluster.nodes {
        node.wait_ready().await;
    }
    let moved = cluster.nodes[mover].peer();
    cluster
        .wait("all are live again", |s| {
            s.nodes.iter().all(|n| n.live && n.voter) && s.nodes.iter().any(|n| n.peer == moved)
        })
        .await;
    // With another node dead, a majority needs the moved node.
    cluster.nodes[1].kill();
    let mut client = cluster.nodes[0].client().await;
    client.execute("INSERT INTO t VALUES (0)").await.unwrap();
    let mut client = cluster.nodes[2].client().await;
    assert_eq!(number(&mut client, "SELECT count(*) FROM t").await.unwrap(), 50_001);
}

/// Two of three voters that exchange their addresses leave no majority that could record it. What they
/// announce then must not count once each is back at its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_exchanged_addresses_are_well_when_they_are_back() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let mut client = cluster.nodes[leader].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (replicas = 3)").await.unwrap();
    client.execute("INSERT INTO t VALUES (1)").await.unwrap();
    let (a, b) = ((leader + 1) % 3, (leader + 2) % 3);
    for wait in [Duration::from_secs(12), Duration::ZERO] {
        cluster.nodes[a].kill();
        cluster.nodes[b].kill();
        (cluster.nodes[a].ports, cluster.nodes[b].ports) = (cluster.nodes[b].ports, cluster.nodes[a].ports);
        cluster.nodes[a].start();
        cluster.nodes[b].start();
        tokio::time::sleep(wait).await;
    }
    for node in &cluster.nodes {
        node.wait_ready().await;
    }
    let peers = [cluster.nodes[a].peer(), cluster.nodes[b].peer()];
    tokio::time::sleep(Duration::from_secs(10)).await;
    cluster
        .wait("all are live at their addresses", |s| {
            s.nodes.iter().all(|n| n.live && n.voter)
                && peers.iter().all(|peer| s.nodes.iter().any(|n| n.peer == *peer))
        })
        .await;
    let mut client = cluster.nodes[a].client().await;
    client.execute("INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM t").await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_lost_its_directory_cannot_take_its_own_place() {
    let mut cluster = Cluster::start(3).await;
    cluster.nodes[2].kill();
    std::fs::remove_dir_all(&cluster.nodes[2].dir).unwrap();
    cluster.nodes[2].start();
    assert!(!cluster.nodes[2].wait_exit().success());
    assert!(cluster.nodes[2].log().contains("give it another id"), "{}", cluster.nodes[2].log());
    let mut client = cluster.nodes[0].client().await;
    assert_eq!(number(&mut client, "SELECT 1").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_founded_once_and_never_by_an_empty_directory() {
    let mut cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE kept (id BIGINT)").await.unwrap();
    client.execute("INSERT INTO kept VALUES (1)").await.unwrap();
    drop(client);
    cluster.nodes[0].kill();
    let node = &cluster.nodes[0];
    let [flight, peer, http] = node.ports.map(|port| format!("127.0.0.1:{port}"));
    let start_fails = |dir: &std::path::Path, extra: &[&str]| {
        let dir = dir.display().to_string();
        let mut args =
            vec!["start", "--data-dir", &dir, "--flight", &flight, "--peer", &peer, "--http", &http];
        args.extend(extra);
        fails(&args)
    };
    let message = start_fails(&node.dir, &["--bootstrap"]);
    assert!(message.contains("start without --bootstrap"), "{message}");
    // Not mounted.
    let unmounted = cluster.dir.path().join("unmounted");
    let message = start_fails(&unmounted, &[]);
    assert!(message.contains("has no node") && message.contains("not mounted"), "{message}");
    assert!(!unmounted.exists());
    // Parts of the directory are lost.
    let identity = node.dir.join("node.json");
    let saved = std::fs::read(&identity).unwrap();
    std::fs::remove_file(&identity).unwrap();
    for extra in [&[][..], &["--bootstrap"]] {
        let message = start_fails(&node.dir, extra);
        assert!(message.contains("but not its node.json"), "{message}");
    }
    std::fs::write(&identity, saved).unwrap();
    let meta = node.dir.join("meta");
    std::fs::rename(&meta, node.dir.join("meta.away")).unwrap();
    let message = start_fails(&node.dir, &[]);
    assert!(message.contains("the metadata of node 1 is lost"), "{message}");
    std::fs::remove_dir_all(&meta).unwrap();
    std::fs::rename(node.dir.join("meta.away"), &meta).unwrap();
    cluster.nodes[0].start();
    cluster.nodes[0].wait_ready().await;
    let mut client = cluster.nodes[0].client().await;
    assert_eq!(number(&mut client, "SELECT count(*) FROM kept").await.unwrap(), 1);
}
