//! The SQL suite: `tests/slt/*.slt` through Flight SQL, on one node and on three.

use arrow::array::AsArray;
use sqllogictest_flightsql::runner::FlightSqlDB;

use crate::harness::Cluster;

/// `task_bytes`: so small that every scan is spread over the nodes, or so large that none is.
async fn suite(nodes: u64, task_bytes: u64) {
    let cluster = Cluster::start(nodes).await;
    let mut files: Vec<_> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slt"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "slt"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let url = cluster.nodes.last().unwrap().flight().replace("grpc", "http");
    for file in files {
        println!("{}", file.display());
        let mut runner =
            sqllogictest::Runner::new(|| FlightSqlDB::new_from_endpoint("plexus", url.clone(), "test", ""));
        runner.with_column_validator(sqllogictest::strict_column_validator);
        let setting = format!("statement ok\nSET plexus.task_bytes = {task_bytes}\n");
        runner.run_script_async(&setting).await.unwrap();
        runner.run_file_async(&file).await.unwrap_or_else(|e| panic!("{}", e.display(false)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_one_node() {
    suite(1, 1 << 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_three_nodes() {
    suite(3, 1 << 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_three_nodes_with_every_scan_spread() {
    suite(3, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_shows_stages_the_nodes_that_hold_the_data_and_segments() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT, v BIGINT) WITH (shards = 6, replicas = 1)").await.unwrap();
    client.execute("INSERT INTO t SELECT value, value % 10 FROM generate_series(1, 600000)").await.unwrap();
    client.execute("SET plexus.task_bytes = 1").await.unwrap();
    let query = "SELECT v, count(*) FROM t GROUP BY v";
    let (_, batches) = client.query(&format!("EXPLAIN {query}")).await.unwrap();
    let plans = batches[0].column(1).as_string::<i32>();
    let physical = plans.value(1);
    for id in 1..=3 {
        assert!(physical.contains(&format!(": node {id} at https://")), "node {id} has no task:\n{physical}");
    }
    assert!(physical.contains("stage 1 task 0"), "{physical}");
    let (_, segments) = client.query("SELECT segment_id FROM plexus.segments").await.unwrap();
    let mut named = 0;
    for batch in segments {
        let ids = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
        named += ids.as_string::<i32>().iter().flatten().filter(|id| physical.contains(id)).count();
    }
    assert_eq!(named, 6, "not every segment is named:\n{physical}");
    // A filter on a shard's bounds leaves segments out.
    let (_, batches) = client.query("EXPLAIN SELECT * FROM t WHERE id < 0").await.unwrap();
    assert!(!batches[0].column(1).as_string::<i32>().value(1).contains("shard-"), "nothing is pruned");
}
