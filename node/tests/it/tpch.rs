//! The 22 queries of TPC-H on one node and on three, compared with plain DataFusion over the same rows.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::StreamExt;
use plexus_node::client::IngestOptions;
use plexus_node::command::demo::tpch;

use crate::harness::Cluster;
use crate::queries::append_to;

const SCALE: f64 = 0.02;

fn queries() -> Vec<(String, String)> {
    let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/queries"));
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 22);
    files
        .into_iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// Rows as text, in their order.
fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<ArrayFormatter> =
            batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join("|"));
        }
    }
    rows
}

/// Queries whose ORDER BY determines the order of all their rows.
const ORDERED: [&str; 14] =
    ["q01", "q02", "q04", "q05", "q07", "q08", "q09", "q11", "q12", "q13", "q15", "q16", "q20", "q22"];

async fn compare(nodes: u64, task_bytes: u64) {
    let cluster = Cluster::start(nodes).await;
    let mut client = cluster.nodes[0].client().await;
    // Plexus reads number literals as decimals.
    let config = SessionConfig::new().set_bool("datafusion.sql_parser.parse_float_as_decimal", true);
    let plain = SessionContext::new_with_config(config);
    for table in tpch(SCALE) {
        let schema = table.reader.schema();
        let batches: Vec<RecordBatch> = table.reader.map(|b| b.unwrap()).collect();
        let options = IngestOptions {
            create: true,
            shards: Some(6),
            primary_key: table.key.iter().map(|k| (*k).into()).collect(),
            ..append_to(table.name)
        };
        let stream = futures::stream::iter(batches.clone().into_iter().map(Ok)).boxed();
        let loaded = client.ingest(options, schema.clone(), stream).await.unwrap();
        assert_eq!(loaded, batches.iter().map(|b| b.num_rows() as u64).sum::<u64>());
        plain
            .register_table(table.name, Arc::new(MemTable::try_new(schema, vec![batches]).unwrap()))
            .unwrap();
    }
    client.execute(&format!("SET plexus.task_bytes = {task_bytes}")).await.unwrap();
    for (name, sql) in queries() {
        let expected = plain.sql(&sql).await.unwrap().collect().await.unwrap();
        let (_, found) = client.query(&sql).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        let (mut found, mut expected) = (rows(&found), rows(&expected));
        if !ORDERED.contains(&name.as_str()) {
            found.sort();
            expected.sort();
        }
        assert_eq!(found.len(), expected.len(), "{name} on {nodes} node(s)");
        for (found, expected) in found.iter().zip(&expected) {
            assert!(is_same(found, expected), "{name} on {nodes} node(s): {found}, expected {expected}");
        }
    }
}

/// Whether two rows are the same. DataFusion cuts averages of decimals off behind six digits.
fn is_same(found: &str, expected: &str) -> bool {
    let is_near = |found: &str, expected: &str| match (found.parse::<f64>(), expected.parse::<f64>()) {
        (Ok(found), Ok(expected)) => (found - expected).abs() <= 1e-6 * expected.abs().max(1.0),
        _ => false,
    };
    let (found, expected): (Vec<&str>, Vec<&str>) =
        (found.split('|').collect(), expected.split('|').collect());
    found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| *f == e || is_near(f, e))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tpch_on_one_node() {
    compare(1, 1 << 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tpch_on_three_nodes_with_distributed_scans() {
    compare(3, 10_000).await;
}
