//! DML, time travel and compaction on one node, with DuckDB beside it; concurrent upserts on three nodes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use fastrand::Rng;
use futures::{StreamExt, stream};
use plexus_model::{Error, Result};
use plexus_node::client::{Client, IngestOptions};
use plexus_node::local::LocalCluster;

use crate::cluster::{
    append_to, fastest_seconds, join_clients, number, query_seconds, statement_seconds, url_of_client,
    with_cluster,
};
use crate::latency::Latencies;
use crate::{Figure, manifest, peers};

/// Rows of the large table, unless the command line says otherwise.
pub(crate) const ROWS: i64 = 10_000_000;
const UPSERTS: i64 = 100_000;
/// Runs of each scan, of which the fastest counts.
const RUNS: usize = 7;
const CLIENTS: usize = 64;
const CLIENT_KEYS: u64 = 100_000;
const CLIENT_TIME: Duration = Duration::from_secs(10);
/// Single-row inserts before the compaction of the last figure.
const SINGLE_ROW_INSERTS: u64 = 10_000;

const COLUMNS: &str = "value AS id, (value * 7919) % 1000003 AS a, value * 0.5 AS b, \
                       concat('row ', (value * 31) % 5000) AS s";
const SCAN: &str = "SELECT sum(a), sum(b), max(s), count(*) FROM big";

/// Measures the manifest, one node with `rows` rows beside DuckDB, and concurrent clients.
pub(crate) async fn measure(program: &Path, dir: &Path, rows: i64) -> Result<Vec<Figure>> {
    let mut figures = vec![manifest::measure()?];
    let duckdb = duckdb_seconds(dir, rows)?;
    let one_node = with_cluster(program, dir, "dml", 1, async |cluster| {
        let mut client = Client::connect(&cluster.url()).await?;
        let mut figures = large_table(&mut client, rows, &duckdb).await?;
        figures.push(compaction(&mut client, rows * 6 / 10).await?);
        Ok(figures)
    });
    figures.extend(one_node.await?);
    let three_nodes = with_cluster(program, dir, "upserts", 3, async |cluster| {
        let mut client = Client::connect(&cluster.url()).await?;
        Ok([upsert_clients(&mut client, cluster).await?, small_commits(&mut client, cluster).await?])
    });
    figures.extend(three_nodes.await?);
    Ok(figures)
}

/// Insert, upsert, delete, a scan of an older version and a scan past deleted rows.
async fn large_table(client: &mut Client, rows: i64, duckdb: &BTreeMap<String, f64>) -> Result<Vec<Figure>> {
    let beside = |name: &str| match duckdb.get(name) {
        Some(seconds) => format!("; DuckDB {seconds:.2} s"),
        None => "; DuckDB was not measured".to_owned(),
    };
    let mut figures = Vec::new();
    client
        .execute(
            "CREATE TABLE big (id BIGINT PRIMARY KEY, a BIGINT, b DOUBLE, s VARCHAR) \
             WITH (shards = 6, replicas = 1)",
        )
        .await?;
    let load = format!("INSERT INTO big SELECT {COLUMNS} FROM generate_series(1, {rows})");
    let seconds = statement_seconds(client, &load).await?;
    let name = format!("INSERT ... SELECT of {rows} rows with a primary key");
    figures.push(Figure::new(name, format!("{seconds:.2} s{}", beside("insert")), ""));

    let undeleted = fastest_seconds(client, SCAN, RUNS).await?;
    let version = number(client, "SELECT max(version) FROM plexus.commits").await?;

    let seconds = upsert(client, rows).await?;
    let name = format!("upsert of {UPSERTS} random keys into {rows} rows");
    figures.push(Figure::new(name, format!("{seconds:.2} s{}", beside("upsert")), "<= 5 s"));

    let seconds = statement_seconds(client, "DELETE FROM big WHERE id % 100 = 7").await?;
    let name = format!("DELETE of 1 % of {rows} rows");
    figures.push(Figure::new(name, format!("{seconds:.2} s{}", beside("delete")), "<= 2 s"));

    figures.push(time_travel(client, version).await?);

    client.execute("DELETE FROM big WHERE id % 100 IN (13, 23, 33, 43, 53, 63, 73, 83)").await?;
    let deleted = fastest_seconds(client, SCAN, RUNS).await?;
    let ratio = deleted / undeleted;
    let value =
        format!("{ratio:.2} x without deletions: {deleted:.3} s and {undeleted:.3} s{}", beside("scan"));
    figures.push(Figure::new("scan with 10 % of the rows deleted", value, "<= 1.15 x"));

    let left = number(client, "SELECT count(*) FROM big").await?;
    let (one_percent, eight_percent) = (rows as u64 / 100, rows as u64 / 100 * 8);
    if left != rows as u64 - one_percent - eight_percent {
        return Err(Error::internal(format!("{left} rows are left of {rows} after the deletions")));
    }
    Ok(figures)
}

/// A scan of an older version against one of the latest. They alternate, so that neither has warmer caches.
async fn time_travel(client: &mut Client, version: u64) -> Result<Figure> {
    let older_scan = SCAN.replace("FROM big", &format!("FROM big VERSION AS OF {version}"));
    let (mut older, mut latest) = (f64::MAX, f64::MAX);
    for _ in 0..RUNS {
        latest = latest.min(query_seconds(client, SCAN).await?);
        older = older.min(query_seconds(client, &older_scan).await?);
    }
    let ratio = older / latest;
    let value = format!("{ratio:.2} x the latest one: {older:.3} s and {latest:.3} s");
    Ok(Figure::new("scan of an older version", value, "<= 1.1 x"))
}

/// Upserts random keys, each once, in one ingest. Returns its seconds.
async fn upsert(client: &mut Client, rows: i64) -> Result<f64> {
    let keys: Vec<i64> = (0..UPSERTS).map(|i| (i * 7_368_787) % rows + 1).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(keys.clone()))),
        ("a", Arc::new(Int64Array::from_iter_values(keys.iter().map(|k| -k)))),
        ("b", Arc::new(Float64Array::from_iter_values(keys.iter().map(|k| *k as f64)))),
        ("s", Arc::new(StringArray::from_iter_values(keys.iter().map(|k| format!("new {}", k % 5000))))),
    ];
    let batch = RecordBatch::try_from_iter(columns).map_err(|e| Error::internal(e.to_string()))?;
    let options = IngestOptions { upsert: true, ..append_to("big") };
    let schema = batch.schema();
    let started = Instant::now();
    client.ingest(options, schema, stream::iter([Ok(batch)]).boxed()).await?;
    Ok(started.elapsed().as_secs_f64())
}

/// One `OPTIMIZE` of several segments, which are too few for the compaction in the background.
async fn compaction(client: &mut Client, rows: i64) -> Result<Figure> {
    client
        .execute(
            "CREATE TABLE compacted (id BIGINT, a BIGINT, b DOUBLE, s VARCHAR) \
             WITH (shards = 1, replicas = 1)",
        )
        .await?;
    let load = format!("INSERT INTO compacted SELECT {COLUMNS} FROM generate_series(1, {rows})");
    client.execute(&load).await?;
    client.execute("DELETE FROM compacted WHERE id % 10 = 3").await?;
    let started = Instant::now();
    let (schema, batches) = client.query("OPTIMIZE compacted").await?;
    let seconds = started.elapsed().as_secs_f64();
    let reported = |name: &str| -> Result<f64> {
        let index = schema.index_of(name).map_err(|e| Error::internal(e.to_string()))?;
        let column = batches.first().map(|b| b.column(index).clone());
        let text = column.and_then(|c| arrow::util::display::array_value_to_string(&c, 0).ok());
        text.and_then(|t| t.parse().ok()).ok_or_else(|| Error::internal("OPTIMIZE reported no numbers"))
    };
    let (rows, files, bytes) = (reported("rows")?, reported("files_before")?, reported("bytes_before")?);
    // Three numbers of eight bytes, and a text of about nine bytes with its view of sixteen.
    const ROW_BYTES: f64 = 3.0 * 8.0 + 25.0;
    let mb_per_second = |bytes: f64| bytes / 1e6 / seconds;
    // One row of ten is deleted: it is read and not written.
    let in_memory = mb_per_second(rows / 0.9 * ROW_BYTES);
    let in_files = mb_per_second(bytes);
    let value = format!(
        "{in_memory:.0} MB/s of rows in memory, {in_files:.0} MB/s of files: {rows:.0} rows of {files:.0} \
         files in {seconds:.2} s"
    );
    Ok(Figure::new("compaction, one at a time", value, ">= 100 MB/s per core"))
}

/// Clients that upsert one random row per statement.
async fn upsert_clients(client: &mut Client, cluster: &LocalCluster) -> Result<Figure> {
    let create = "CREATE TABLE counters (id BIGINT PRIMARY KEY, v BIGINT) WITH (shards = 6, replicas = 3)";
    client.execute(create).await?;
    let fill = format!("INSERT INTO counters SELECT value, value * 0 FROM generate_series(1, {CLIENT_KEYS})");
    client.execute(&fill).await?;
    let started = Instant::now();
    let tasks = (0..CLIENTS).map(|index| {
        let url = url_of_client(cluster, index);
        tokio::spawn(async move {
            let mut client = Client::connect(&url).await?;
            let mut latencies = Latencies::new();
            let mut random = Rng::with_seed(index as u64 + 1);
            while started.elapsed() < CLIENT_TIME {
                let key = random.u64(..CLIENT_KEYS) + 1;
                let sql = format!(
                    "INSERT INTO counters VALUES ({key}, {index}) \
                     ON CONFLICT (id) DO UPDATE SET v = excluded.v"
                );
                let sent = Instant::now();
                client.execute(&sql).await?;
                latencies.record_since(sent);
            }
            Ok::<_, Error>(latencies)
        })
    });
    let mut all = Latencies::new();
    for latencies in join_clients(tasks.collect()).await? {
        all.merge(&latencies)?;
    }
    let rate = all.count() as f64 / started.elapsed().as_secs_f64();
    let rows = number(client, "SELECT count(*) FROM counters").await?;
    if rows != CLIENT_KEYS {
        return Err(Error::internal(format!("{rows} rows after upserts of {CLIENT_KEYS} keys")));
    }
    let value = format!("{rate:.0}/s; {}", all.percentiles());
    Ok(Figure::new(format!("single-row upsert, {CLIENTS} clients, three nodes"), value, ">= 1000/s"))
}

/// A scan after many single-row commits, before and after their compaction.
async fn small_commits(client: &mut Client, cluster: &LocalCluster) -> Result<Figure> {
    let create = "CREATE TABLE singles (id BIGINT, v BIGINT) WITH (shards = 6, replicas = 3)";
    client.execute(create).await?;
    let tasks = (0..CLIENTS as u64).map(|index| {
        let url = cluster.url();
        tokio::spawn(async move {
            let mut client = Client::connect(&url).await?;
            for id in (index..SINGLE_ROW_INSERTS).step_by(CLIENTS) {
                client.execute(&format!("INSERT INTO singles VALUES ({id}, 1)")).await?;
            }
            Ok::<_, Error>(())
        })
    });
    join_clients(tasks.collect()).await?;
    let count_segments = "SELECT count(*) FROM plexus.segments WHERE table_name = 'singles'";
    let scan = "SELECT count(*), sum(v), max(id) FROM singles";
    let segments = number(client, count_segments).await?;
    let ms = fastest_seconds(client, scan, RUNS).await? * 1000.0;
    client.execute("OPTIMIZE singles").await?;
    let compacted = number(client, count_segments).await?;
    let compacted_ms = fastest_seconds(client, scan, RUNS).await? * 1000.0;
    let value =
        format!("{segments} segments, {ms:.1} ms; compacted to {compacted} segments, {compacted_ms:.1} ms");
    Ok(Figure::new(format!("scan after {SINGLE_ROW_INSERTS} single-row inserts"), value, ""))
}

/// Seconds by statement in DuckDB, or nothing where it is not installed.
fn duckdb_seconds(dir: &Path, rows: i64) -> Result<BTreeMap<String, f64>> {
    let mut script = peers::python(dir, &peers::DUCKDB_DML)?;
    script.args([rows.to_string(), UPSERTS.to_string()]);
    let output = peers::run(&mut script).unwrap_or_default();
    Ok(serde_json::from_str(&output).unwrap_or_else(|e| {
        eprintln!("DuckDB was not measured: {e}: {output}");
        BTreeMap::new()
    }))
}
