//! The SQL suite: `tests/slt/*.slt` through Flight SQL, on one node and on three.

use sqllogictest_flightsql::runner::FlightSqlDB;

use crate::harness::Cluster;

async fn suite(nodes: u64) {
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
        runner.run_file_async(&file).await.unwrap_or_else(|e| panic!("{}", e.display(false)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_one_node() {
    suite(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_three_nodes() {
    suite(3).await;
}
