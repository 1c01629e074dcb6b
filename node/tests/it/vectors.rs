//! Searches of vectors by their index, against a look at all of them that shares no code with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Float64Type, Int64Type};
use plexus_node::client::Client;

use crate::harness::{Cluster, number};

const LENGTH: usize = 16;
const ROWS: u64 = 24_000;
const CLUSTERS: u64 = 60;
const K: usize = 10;

/// A component of a vector around one of some centres, as SQL and as a number.
fn component(place: usize) -> String {
    format!(
        "cos((i % {CLUSTERS}) * {}) + 0.45 * sin(i * {} + {place})",
        1.7 * (place + 1) as f64,
        0.917 + place as f64
    )
}

fn vector(i: f64) -> Vec<f64> {
    let cluster = i.floor() % CLUSTERS as f64;
    let of = |place: usize| {
        (cluster * 1.7 * (place + 1) as f64).cos() + 0.45 * (i * (0.917 + place as f64) + place as f64).sin()
    };
    (0..LENGTH).map(of).collect()
}

fn sql(vector: &[f64]) -> String {
    let numbers: Vec<String> = vector.iter().map(|x| format!("{x:.6}")).collect();
    format!("[{}]", numbers.join(", "))
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt()
}

/// What the table holds: `far` is how far a row is from the pivot, so that a filter by it goes with queries or against.
struct Row {
    id: i64,
    far: f64,
    vector: Vec<f64>,
}

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

fn exact(rows: &[Row], query: &[f64], may: impl Fn(&Row) -> bool) -> Vec<i64> {
    let mut all: Vec<(f64, i64)> =
        rows.iter().filter(|row| may(row)).map(|row| (distance(query, &row.vector), row.id)).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.into_iter().take(K).map(|(_, id)| id).collect()
}

async fn ids(client: &mut Client, sql: &str) -> Vec<i64> {
    let (_, batches) = client.query(sql).await.unwrap_or_else(|e| panic!("{sql:.300}: {e}"));
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

type Filter = (String, Box<dyn Fn(&Row) -> bool>);

/// Filters that leave some share of the rows: whatever they are, those near the pivot, those far from it.
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
        let kept = (far.len() as f64 * share) as usize;
        let (near, from) = (far[kept], far[far.len() - kept]);
        all.push((format!("far < {near:?}"), Box::new(move |row| row.far < near)));
        all.push((format!("far >= {from:?}"), Box::new(move |row| row.far >= from)));
    }
    all
}

/// Searches near the pivot under each filter, and counts what of the nearest is found.
async fn check_recall(client: &mut Client, rows: &[Row]) {
    for (filter, may) in filters(rows) {
        let (mut found, mut all) = (0, 0);
        for query in 0..8 {
            let query = vector(17.0 + 0.05 * f64::from(query));
            let truth = exact(rows, &query, &may);
            let vector = sql(&query);
            for search in [
                format!(
                    "SELECT id FROM vector_search(t, v, {vector}, {K}, metric => 'l2', filter => '{filter}')"
                ),
                format!("SELECT id FROM t WHERE {filter} ORDER BY l2_distance(v, {vector}) LIMIT {K}"),
            ] {
                let ids = ids(client, &search).await;
                assert_eq!(ids.len(), truth.len(), "{search}");
                found += ids.iter().filter(|id| truth.contains(id)).count();
                all += truth.len();
            }
        }
        assert!(found * 100 >= all * 95, "{filter}: {found} of {all}");
    }
}

async fn wait_indexed(client: &mut Client) {
    let lacking = "SELECT CAST(sum(segments - segments_indexed) AS BIGINT) FROM plexus.indexes";
    for _ in 0..600 {
        if number(client, lacking).await.unwrap() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the table was not indexed");
}

async fn fill(client: &mut Client, with: &str) {
    let create =
        format!("CREATE TABLE t (id BIGINT PRIMARY KEY, far DOUBLE, v VECTOR({LENGTH})) WITH ({with})");
    client.execute(&create).await.unwrap();
    let components: Vec<String> = (0..LENGTH).map(component).collect();
    let list = format!("make_array({})", components.join(", "));
    let pivot = sql(&vector(17.0));
    // Some rows have no vector.
    let insert = format!(
        "INSERT INTO t SELECT i, l2_distance(CAST({list} AS FLOAT[{LENGTH}]), {pivot}), \
         CASE WHEN i % 1000 = 999 THEN NULL ELSE {list} END \
         FROM (SELECT value AS i FROM generate_series(0, {}))",
        ROWS - 1
    );
    client.execute(&insert).await.unwrap_or_else(|e| panic!("{insert}: {e}"));
    client.execute("OPTIMIZE t").await.unwrap();
}

/// How a search says that it looked, which the same search in plain SQL does as well.
async fn ways(client: &mut Client, filter: &str) -> String {
    let vector = sql(&vector(17.3));
    let mut ways = Vec::new();
    for search in [
        format!("SELECT id FROM vector_search(t, v, {vector}, 5, metric => 'l2', filter => '{filter}')"),
        format!("SELECT id FROM t WHERE {filter} ORDER BY v <-> {vector} LIMIT 5"),
    ] {
        let (_, batches) = client.query(&format!("EXPLAIN {search}")).await.unwrap();
        let lines = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
        let way = lines.lines().find_map(|line| line.split_once("vectors of v"));
        let (_, way) = way.unwrap_or_else(|| panic!("{search} is no search: {lines}"));
        ways.push(way.trim_end_matches([' ', '|']).to_owned());
    }
    assert_eq!(ways[0], ways[1]);
    ways.swap_remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_finds_the_nearest_whatever_the_filter() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    fill(&mut client, "shards = 2").await;
    let all = rows(&mut client).await;
    assert_eq!(all.len() as u64, ROWS - ROWS / 1_000);
    assert!(ways(&mut client, "true").await.contains("2 exactly"));
    client.execute("CREATE INDEX near ON t USING vector (v) WITH (metric = 'l2')").await.unwrap();
    check_recall(&mut client, &all).await;
    wait_indexed(&mut client).await;
    for (filter, way) in
        [("true", "2 by a walk"), ("id % 5 = 0", "2 by the nearest centres"), ("id < 100", "2 exactly")]
    {
        assert!(
            ways(&mut client, filter).await.contains(way),
            "{filter}: {}",
            ways(&mut client, filter).await
        );
    }
    for node in &cluster.nodes {
        check_recall(&mut node.client().await, &all).await;
    }
    // What is deleted is not found, nor does it keep others from being found.
    client.execute("DELETE FROM t WHERE id % 10 = 3").await.unwrap();
    let left = rows(&mut client).await;
    assert_eq!(left.iter().filter(|row| row.id % 10 == 3).count(), 0);
    check_recall(&mut client, &left).await;
    assert!(ways(&mut client, "true").await.contains("2 by a walk"), "they are not merged");
    // What is written is found at once, and by all searches that look at everything.
    let query = vector(17.3);
    client.execute(&format!("INSERT INTO t VALUES (1000000, 0, {})", sql(&query))).await.unwrap();
    let search = format!("SELECT id FROM vector_search(t, v, {}, 20, metric => 'l2'", sql(&query));
    for node in &cluster.nodes {
        let mut client = node.client().await;
        assert_eq!(ids(&mut client, &format!("{search})")).await[0], 1_000_000);
        let paged = ids(&mut client, &format!("{search}, after => '')")).await;
        client.execute("SET search.exact = true").await.unwrap();
        assert!(ways(&mut client, "true").await.contains("exactly"));
        let exact = ids(&mut client, &format!("{search})")).await;
        assert_eq!(exact.len(), 20);
        // Pages look at everything.
        assert_eq!(paged, exact);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_index_is_done_without_and_made_again() {
    let mut cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    fill(&mut client, "shards = 1").await;
    client.execute("CREATE INDEX near ON t USING vector (v) WITH (metric = 'l2')").await.unwrap();
    wait_indexed(&mut client).await;
    let all = rows(&mut client).await;
    let node = &mut cluster.nodes[0];
    let (segments, set_aside) = (node.dir.join("segments"), node.dir.join("quarantine"));
    node.terminate();
    node.wait_exit();
    let path = graph(&segments).expect("a graph");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    bytes[middle] ^= 1;
    node.start();
    node.wait_ready().await;
    let mut client = node.client().await;
    check_recall(&mut client, &all).await;
    for _ in 0..300 {
        if set_aside.read_dir().unwrap().count() == 1 && graph(&segments).as_ref() == Some(&path) {
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "it is made as it was");
            return check_recall(&mut client, &all).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the graph was not made again: {}", node.log());
}

/// The file of a graph.
fn graph(segments: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(segments).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files
        .filter(|path| path.is_file())
        .find(|path| std::fs::read(path).is_ok_and(|b| b.starts_with(b"PLXGRPH")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vectors_of_any_kind_are_found_as_they_are_without_an_index() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    fill(&mut client, "shards = 1").await;
    // Zeros, the same vector many times, and one so long that its square is no number.
    let query = vector(17.3);
    let same = sql(&query);
    let one = |value: &str| format!("[{}]", vec![value; LENGTH].join(", "));
    let (zeros, long) = (one("0.0"), one("3e38"));
    let insert = |from: i64, count: i64, value: &str| {
        format!("INSERT INTO t SELECT value, 0, {value} FROM generate_series({from}, {})", from + count - 1)
    };
    client.execute(&insert(100_000, 3_000, &zeros)).await.unwrap();
    client.execute(&insert(200_000, 300, &same)).await.unwrap();
    client.execute("OPTIMIZE t").await.unwrap();
    let metrics = [("cosine", "<=>"), ("l2", "<->"), ("dot", "<#>")];
    for round in 0..2 {
        let mut expected = Vec::new();
        for (metric, operator) in metrics {
            let near = format!("SELECT id FROM vector_search(t, v, {same}, 50, metric => '{metric}')");
            let opposite = sql(&query.iter().map(|x| -x).collect::<Vec<_>>());
            let zero = "filter => 'id % 7 = 0 AND id >= 23000 AND id < 103000'";
            let filtered =
                format!("SELECT id FROM vector_search(t, v, {opposite}, 20, metric => '{metric}', {zero})");
            let plain = format!("SELECT id FROM t ORDER BY v {operator} {same}, id DESC LIMIT 20");
            for search in [near, filtered, plain] {
                expected.push((search.clone(), ids(&mut client, &search).await));
            }
            let create =
                format!("CREATE INDEX near_{metric} ON t USING vector (v) WITH (metric = '{metric}')");
            client.execute(&create).await.unwrap();
        }
        wait_indexed(&mut client).await;
        for (search, ids_before) in expected {
            let found = ids(&mut client, &search).await;
            let same = found.iter().filter(|id| ids_before.contains(id)).count();
            assert_eq!(found.len(), ids_before.len(), "{search}");
            assert!(same * 100 >= found.len() * 95, "{search}: {found:?} and {ids_before:?}");
        }
        for (metric, _) in metrics {
            client.execute(&format!("DROP INDEX near_{metric}")).await.unwrap();
        }
        if round == 0 {
            client.execute(&format!("INSERT INTO t VALUES (300000, 0, {long})")).await.unwrap();
            client.execute("OPTIMIZE t").await.unwrap();
        }
    }
}
