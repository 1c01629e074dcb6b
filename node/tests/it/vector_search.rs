//! Vector search with an index, compared with an exact search in this file that shares no code with it.

use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Float64Type, Int64Type};
use plexus_node::client::Client;

use crate::harness::{Cluster, quarantined};
use crate::queries::{column, explain, wait_indexed, wait_until};

const DIMENSIONS: usize = 16;
const ROWS: u64 = 24_000;
const CLUSTERS: u64 = 60;
const K: usize = 10;

/// A component of a vector around one of [`CLUSTERS`] centroids, as an SQL expression of the row's number
/// `i`.
fn component(position: usize) -> String {
    format!(
        "cos((i % {CLUSTERS}) * {}) + 0.45 * sin(i * {} + {position})",
        1.7 * (position + 1) as f64,
        0.917 + position as f64
    )
}

/// The vector that the expressions of [`component`] give for a number.
fn vector(i: f64) -> Vec<f64> {
    let cluster = i.floor() % CLUSTERS as f64;
    let component = |position: usize| {
        let centroid = (cluster * 1.7 * (position + 1) as f64).cos();
        centroid + 0.45 * (i * (0.917 + position as f64) + position as f64).sin()
    };
    (0..DIMENSIONS).map(component).collect()
}

/// A vector as an SQL literal.
fn sql(vector: &[f64]) -> String {
    let numbers: Vec<String> = vector.iter().map(|x| format!("{x:.6}")).collect();
    format!("[{}]", numbers.join(", "))
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt()
}

/// A row of the table.
struct Row {
    id: i64,
    /// The distance from the pivot, near which the queries are: a filter by it keeps or excludes their
    /// neighbors.
    far: f64,
    vector: Vec<f64>,
}

/// All rows that have a vector.
async fn rows(client: &mut Client) -> Vec<Row> {
    let (_, batches) = client.query("SELECT id, far, v FROM t").await.unwrap();
    let of = |batch: &RecordBatch| -> Vec<Row> {
        let (ids, far) =
            (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Float64Type>());
        let vectors = batch.column(2).as_fixed_size_list();
        let row = |at: usize| {
            let vector = vectors.value(at);
            let vector =
                vector.as_primitive::<Float32Type>().values().iter().map(|x| f64::from(*x)).collect();
            Row { id: ids.value(at), far: far.value(at), vector }
        };
        (0..batch.num_rows()).filter(|at| vectors.is_valid(*at)).map(row).collect()
    };
    batches.iter().flat_map(of).collect()
}

/// The ids of the [`K`] nearest rows that pass a filter, by comparing all of them.
fn exact(rows: &[Row], query: &[f64], passes: impl Fn(&Row) -> bool) -> Vec<i64> {
    let mut all: Vec<(f64, i64)> =
        rows.iter().filter(|row| passes(row)).map(|row| (distance(query, &row.vector), row.id)).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.into_iter().take(K).map(|(_, id)| id).collect()
}

/// A filter in SQL and in Rust.
type Filter = (String, Box<dyn Fn(&Row) -> bool>);

/// Filters of several selectivities: they keep rows at random, near the pivot, or far from it.
fn filters(rows: &[Row]) -> Vec<Filter> {
    let mut far: Vec<f64> = rows.iter().map(|row| row.far).collect();
    far.sort_by(f64::total_cmp);
    let mut all: Vec<Filter> = vec![("true".to_owned(), Box::new(|_: &Row| true))];
    for share in [0.5, 0.1, 0.01, 0.001] {
        let below = (1_000.0 * share) as i64;
        all.push((
            format!("(id * 7919) % 1000 < {below}"),
            Box::new(move |row| row.id * 7919 % 1000 < below),
        ));
        let count = (far.len() as f64 * share) as usize;
        let (near, from) = (far[count], far[far.len() - count]);
        all.push((format!("far < {near:?}"), Box::new(move |row| row.far < near)));
        all.push((format!("far >= {from:?}"), Box::new(move |row| row.far >= from)));
    }
    all
}

/// Searches near the pivot with each filter. The recall has to be at least 95 %.
async fn check_recall(client: &mut Client, rows: &[Row]) {
    for (filter, passes) in filters(rows) {
        let (mut hits, mut wanted) = (0, 0);
        for query in 0..8 {
            let query = vector(17.0 + 0.05 * f64::from(query));
            let truth = exact(rows, &query, &passes);
            let vector = sql(&query);
            for search in [
                format!(
                    "SELECT id FROM vector_search(t, v, {vector}, {K}, metric => 'l2', filter => '{filter}')"
                ),
                format!("SELECT id FROM t WHERE {filter} ORDER BY l2_distance(v, {vector}) LIMIT {K}"),
            ] {
                let ids = column(client, &search).await;
                assert_eq!(ids.len(), truth.len(), "{search}");
                hits += ids.iter().filter(|id| truth.contains(id)).count();
                wanted += truth.len();
            }
        }
        assert!(hits * 100 >= wanted * 95, "{filter}: {hits} of {wanted}");
    }
}

/// Creates the table, with [`ROWS`] rows in one segment file per shard. `options` are those of `CREATE
/// TABLE`.
async fn create_table(client: &mut Client, options: &str) {
    let create = format!(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, far DOUBLE, v VECTOR({DIMENSIONS})) WITH ({options})"
    );
    client.execute(&create).await.unwrap();
    let components: Vec<String> = (0..DIMENSIONS).map(component).collect();
    let list = format!("make_array({})", components.join(", "));
    let pivot = sql(&vector(17.0));
    // One row of a thousand has no vector.
    let insert = format!(
        "INSERT INTO t SELECT i, l2_distance(CAST({list} AS FLOAT[{DIMENSIONS}]), {pivot}), \
         CASE WHEN i % 1000 = 999 THEN NULL ELSE {list} END \
         FROM (SELECT value AS i FROM generate_series(0, {}))",
        ROWS - 1
    );
    client.execute(&insert).await.unwrap_or_else(|e| panic!("{insert}: {e}"));
    client.execute("OPTIMIZE t").await.unwrap();
}

/// The strategies that `EXPLAIN` shows for a search, which has to be the same as a relation and in plain SQL.
async fn strategies(client: &mut Client, filter: &str) -> String {
    let vector = sql(&vector(17.3));
    let mut found = Vec::new();
    for search in [
        format!("SELECT id FROM vector_search(t, v, {vector}, 5, metric => 'l2', filter => '{filter}')"),
        format!("SELECT id FROM t WHERE {filter} ORDER BY v <-> {vector} LIMIT 5"),
    ] {
        let plan = explain(client, &search).await;
        let line = plan.lines().find_map(|line| line.split_once("vectors of v "));
        let (_, line) = line.unwrap_or_else(|| panic!("{search} is no vector search:\n{plan}"));
        found.push(line.to_owned());
    }
    assert_eq!(found[0], found[1]);
    found.swap_remove(0)
}

async fn check_strategy(client: &mut Client, filter: &str, expected: &str) {
    let found = strategies(client, filter).await;
    assert!(found.contains(expected), "{filter}: {found}, but {expected} is expected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recall_is_high_with_any_filter() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    create_table(&mut client, "shards = 2").await;
    let all = rows(&mut client).await;
    assert_eq!(all.len() as u64, ROWS - ROWS / 1_000);
    check_strategy(&mut client, "true", "brute_force on 2").await;
    client.execute("CREATE INDEX near ON t USING vector (v) WITH (metric = 'l2')").await.unwrap();
    check_recall(&mut client, &all).await;
    wait_indexed(&mut client, "t").await;
    check_strategy(&mut client, "true", "graph_search on 2").await;
    check_strategy(&mut client, "id % 5 = 0", "ivf_scan on 2").await;
    check_strategy(&mut client, "id < 100", "brute_force on 2").await;
    for node in &cluster.nodes {
        check_recall(&mut node.client().await, &all).await;
    }
    // Deleted rows are not found, and they do not take the place of others.
    client.execute("DELETE FROM t WHERE id % 10 = 3").await.unwrap();
    let left = rows(&mut client).await;
    assert_eq!(left.iter().filter(|row| row.id % 10 == 3).count(), 0);
    check_recall(&mut client, &left).await;
    // The deletions are deletion vectors: the segments have not been compacted.
    check_strategy(&mut client, "true", "graph_search on 2").await;
    check_new_row(&cluster, &mut client).await;
}

/// A new row is found at once on every node, also by the searches that compare all rows.
async fn check_new_row(cluster: &Cluster, client: &mut Client) {
    let query = sql(&vector(17.3));
    client.execute(&format!("INSERT INTO t VALUES (1000000, 0, {query})")).await.unwrap();
    let search = format!("SELECT id FROM vector_search(t, v, {query}, 20, metric => 'l2'");
    for node in &cluster.nodes {
        let mut client = node.client().await;
        assert_eq!(column(&mut client, &format!("{search})")).await[0], 1_000_000);
        let first_page = column(&mut client, &format!("{search}, search_after => '')")).await;
        client.execute("SET plexus.exact_search = true").await.unwrap();
        check_strategy(&mut client, "true", "brute_force on").await;
        let exact = column(&mut client, &format!("{search})")).await;
        assert_eq!(exact.len(), 20);
        assert_eq!(first_page, exact, "pages come from an exact search");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_graph_is_quarantined_and_rebuilt() {
    let mut cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    create_table(&mut client, "shards = 1").await;
    client.execute("CREATE INDEX near ON t USING vector (v) WITH (metric = 'l2')").await.unwrap();
    wait_indexed(&mut client, "t").await;
    let all = rows(&mut client).await;
    let node = &mut cluster.nodes[0];
    let segments = node.dir.join("segments");
    node.terminate();
    node.wait_exit();
    let path = graph_file(&segments).expect("a graph");
    let undamaged = std::fs::read(&path).unwrap();
    let mut damaged = undamaged.clone();
    damaged[undamaged.len() / 2] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    node.start();
    node.wait_ready().await;
    let mut client = node.client().await;
    check_recall(&mut client, &all).await;
    wait_until("the graph is rebuilt", async || {
        quarantined(&node.dir) == 1 && graph_file(&segments).as_ref() == Some(&path)
    })
    .await;
    assert_eq!(std::fs::read(&path).unwrap(), undamaged, "builds are deterministic");
    check_recall(&mut client, &all).await;
}

/// The first file that is a graph, by its magic bytes.
fn graph_file(segments: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(segments).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files
        .filter(|path| path.is_file())
        .find(|path| std::fs::read(path).is_ok_and(|b| b.starts_with(b"PLXGRPH")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusual_vectors_are_found_with_an_index_as_without() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    create_table(&mut client, "shards = 1").await;
    // Zero vectors, many duplicates, and later a vector whose squared norm overflows.
    let query = vector(17.3);
    let duplicate = sql(&query);
    let constant = |value: &str| format!("[{}]", vec![value; DIMENSIONS].join(", "));
    let (zeros, overflowing) = (constant("0.0"), constant("3e38"));
    let insert = |from: i64, count: i64, value: &str| {
        format!("INSERT INTO t SELECT value, 0, {value} FROM generate_series({from}, {})", from + count - 1)
    };
    client.execute(&insert(100_000, 3_000, &zeros)).await.unwrap();
    client.execute(&insert(200_000, 300, &duplicate)).await.unwrap();
    client.execute("OPTIMIZE t").await.unwrap();
    let metrics = [("cosine", "<=>"), ("l2", "<->"), ("dot", "<#>")];
    for round in 0..2 {
        let mut expected = Vec::new();
        for (metric, operator) in metrics {
            let near = format!("SELECT id FROM vector_search(t, v, {duplicate}, 50, metric => '{metric}')");
            let opposite = sql(&query.iter().map(|x| -x).collect::<Vec<_>>());
            let zero = "filter => 'id % 7 = 0 AND id >= 23000 AND id < 103000'";
            let filtered =
                format!("SELECT id FROM vector_search(t, v, {opposite}, 20, metric => '{metric}', {zero})");
            let plain = format!("SELECT id FROM t ORDER BY v {operator} {duplicate}, id DESC LIMIT 20");
            for search in [near, filtered, plain] {
                expected.push((search.clone(), column(&mut client, &search).await));
            }
            let create =
                format!("CREATE INDEX near_{metric} ON t USING vector (v) WITH (metric = '{metric}')");
            client.execute(&create).await.unwrap();
        }
        wait_indexed(&mut client, "t").await;
        for (search, without_index) in expected {
            let found = column(&mut client, &search).await;
            let same = found.iter().filter(|id| without_index.contains(id)).count();
            assert_eq!(found.len(), without_index.len(), "{search}");
            assert!(same * 100 >= found.len() * 95, "{search}: {found:?} and {without_index:?}");
        }
        for (metric, _) in metrics {
            client.execute(&format!("DROP INDEX near_{metric}")).await.unwrap();
        }
        if round == 0 {
            client.execute(&format!("INSERT INTO t VALUES (300000, 0, {overflowing})")).await.unwrap();
            client.execute("OPTIMIZE t").await.unwrap();
        }
    }
}
