//! Changing rows, reading older versions, merging: one node, DuckDB in this machine's Python beside it, and what a
//! segment takes in the manifest.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use futures::{StreamExt, stream};
use plexus_model::{
    Error, Manifest, NodeId, Result, Segment, SegmentData, SegmentId, Shard, Table, TableId, TableName,
    Version,
};
use plexus_node::client::{Client, IngestOptions};
use plexus_node::command::demo::tpch;
use plexus_node::local::LocalCluster;
use plexus_storage::{SegmentEncoder, types};

use crate::Figure;
use crate::workload::{histogram, percentiles};

/// Rows of the table that is changed.
pub const ROWS: i64 = 10_000_000;
const UPSERTS: i64 = 100_000;
const RUNS: usize = 7;
const CLIENTS: usize = 64;
const CLIENT_KEYS: u64 = 100_000;
/// Inserts of a row that are merged.
const SINGLES: u64 = 10_000;
const CLIENT_TIME: Duration = Duration::from_secs(10);
const DUCKDB: &str = include_str!("../duckdb_changes.py");

const COLUMNS: &str = "value AS id, (value * 7919) % 1000003 AS a, value * 0.5 AS b, \
                       concat('row ', (value * 31) % 5000) AS s";
const SCAN: &str = "SELECT sum(a), sum(b), max(s), count(*) FROM big";

pub async fn measure(program: &Path, dir: &Path, rows: i64) -> Result<Vec<Figure>> {
    let mut figures = vec![manifest()?];
    let duckdb = duckdb(rows);
    figures.extend(one_node(program, dir, rows, &duckdb).await?);
    figures.extend(clients(program, dir).await?);
    Ok(figures)
}

async fn one_node(
    program: &Path,
    dir: &Path,
    rows: i64,
    duckdb: &BTreeMap<String, f64>,
) -> Result<Vec<Figure>> {
    let data = dir.join("changes");
    std::fs::create_dir_all(&data).map_err(|e| Error::io(data.display(), e))?;
    let mut cluster = LocalCluster::start(program, &data, 1).await?;
    let result = async {
        let mut client = Client::connect(&cluster.url()).await?;
        let beside = |name: &str| match duckdb.get(name) {
            Some(seconds) => format!("; DuckDB {seconds:.2} s"),
            None => "; DuckDB is not here".to_owned(),
        };
        let mut figures = Vec::new();
        client
            .execute(
                "CREATE TABLE big (id BIGINT PRIMARY KEY, a BIGINT, b DOUBLE, s VARCHAR) \
                 WITH (shards = 6, replicas = 1)",
            )
            .await?;
        let load = format!("INSERT INTO big SELECT {COLUMNS} FROM generate_series(1, {rows})");
        let seconds = timed(&mut client, &load).await?;
        let name = format!("INSERT ... SELECT of {rows} rows with a primary key");
        figures.push(Figure::new(name, format!("{seconds:.2} s{}", beside("insert")), ""));

        let whole = best(&mut client, SCAN).await?;
        let version = newest(&mut client).await?;

        let seconds = upsert(&mut client, rows).await?;
        let name = format!("upsert of {UPSERTS} random keys into {rows} rows");
        figures.push(Figure::new(name, format!("{seconds:.2} s{}", beside("upsert")), "<= 5 s"));

        let seconds = timed(&mut client, "DELETE FROM big WHERE id % 100 = 7").await?;
        figures.push(Figure::new(
            format!("DELETE of 1 % of {rows} rows"),
            format!("{seconds:.2} s{}", beside("delete")),
            "<= 2 s",
        ));

        // Old and new in turn, so that neither has the warmer caches.
        let old = SCAN.replace("FROM big", &format!("FROM big VERSION AS OF {version}"));
        let (mut then, mut now) = (f64::MAX, f64::MAX);
        for _ in 0..RUNS {
            now = now.min(query(&mut client, SCAN).await?);
            then = then.min(query(&mut client, &old).await?);
        }
        let ratio = then / now;
        let value = format!("{ratio:.2} x the current one: {then:.3} s and {now:.3} s");
        figures.push(Figure::new("scan of an older version", value, "<= 1.1 x"));

        client.execute("DELETE FROM big WHERE id % 100 IN (13, 23, 33, 43, 53, 63, 73, 83)").await?;
        let worn = best(&mut client, SCAN).await?;
        let ratio = worn / whole;
        let value = format!("{ratio:.2} x none deleted: {worn:.3} s and {whole:.3} s{}", beside("scan"));
        figures.push(Figure::new("scan with 10 % of the rows deleted", value, "<= 1.15 x"));

        let left = first_number(&mut client, "SELECT count(*) FROM big").await?;
        let (one, eight) = (rows as u64 / 100, rows as u64 / 100 * 8);
        if left != rows as u64 - one - eight {
            return Err(Error::internal(format!("{left} rows are left of {rows} after the deletions")));
        }
        figures.push(merge(&mut client, rows * 6 / 10).await?);
        Ok::<_, Error>(figures)
    }
    .await;
    cluster.stop().await;
    result
}

async fn timed(client: &mut Client, sql: &str) -> Result<f64> {
    let started = Instant::now();
    client.execute(sql).await?;
    Ok(started.elapsed().as_secs_f64())
}

async fn query(client: &mut Client, sql: &str) -> Result<f64> {
    let started = Instant::now();
    client.query(sql).await?;
    Ok(started.elapsed().as_secs_f64())
}

async fn best(client: &mut Client, sql: &str) -> Result<f64> {
    let mut best = f64::MAX;
    for _ in 0..RUNS {
        best = best.min(query(client, sql).await?);
    }
    Ok(best)
}

async fn newest(client: &mut Client) -> Result<u64> {
    first_number(client, "SELECT max(version) FROM plexus.commits").await
}

async fn first_number(client: &mut Client, sql: &str) -> Result<u64> {
    let (_, batches) = client.query(sql).await?;
    let column = batches.iter().find(|b| b.num_rows() > 0).map(|b| b.column(0).clone());
    let column = column.ok_or_else(|| Error::internal(format!("{sql}: no row")))?;
    let text = arrow::util::display::array_value_to_string(&column, 0);
    text.ok().and_then(|t| t.parse().ok()).ok_or_else(|| Error::internal(format!("{sql}: no number")))
}

/// Random keys, each once, as a client would send them.
async fn upsert(client: &mut Client, rows: i64) -> Result<f64> {
    let keys: Vec<i64> = (0..UPSERTS).map(|i| (i * 7_368_787) % rows + 1).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(keys.clone()))),
        ("a", Arc::new(Int64Array::from_iter_values(keys.iter().map(|k| -k)))),
        ("b", Arc::new(Float64Array::from_iter_values(keys.iter().map(|k| *k as f64)))),
        ("s", Arc::new(StringArray::from_iter_values(keys.iter().map(|k| format!("new {}", k % 5000))))),
    ];
    let batch = RecordBatch::try_from_iter(columns).map_err(|e| Error::internal(e.to_string()))?;
    let options = IngestOptions {
        schema: None,
        table: "big".into(),
        create: false,
        replace: false,
        upsert: true,
        shards: None,
        replicas: None,
        primary_key: vec![],
    };
    let schema = batch.schema();
    let started = Instant::now();
    client.ingest(options, schema, stream::iter([Ok(batch)]).boxed()).await?;
    Ok(started.elapsed().as_secs_f64())
}

/// A load of several segments, too few for the merges in the background, and then one `OPTIMIZE`.
async fn merge(client: &mut Client, rows: i64) -> Result<Figure> {
    client
        .execute(
            "CREATE TABLE parts (id BIGINT, a BIGINT, b DOUBLE, s VARCHAR) WITH (shards = 1, replicas = 1)",
        )
        .await?;
    client.execute(&format!("INSERT INTO parts SELECT {COLUMNS} FROM generate_series(1, {rows})")).await?;
    client.execute("DELETE FROM parts WHERE id % 10 = 3").await?;
    let started = Instant::now();
    let (schema, batches) = client.query("OPTIMIZE parts").await?;
    let seconds = started.elapsed().as_secs_f64();
    let of = |name: &str| -> Result<f64> {
        let index = schema.index_of(name).map_err(|e| Error::internal(e.to_string()))?;
        let column = batches.first().map(|b| b.column(index).clone());
        let text = column.and_then(|c| arrow::util::display::array_value_to_string(&c, 0).ok());
        text.and_then(|t| t.parse().ok()).ok_or_else(|| Error::internal("OPTIMIZE gave no numbers"))
    };
    let (rows, files, bytes) = (of("rows")?, of("files_before")?, of("bytes_before")?);
    // Three numbers of eight bytes, and a text of about nine with its view of sixteen.
    const ROW_BYTES: f64 = 3.0 * 8.0 + 25.0;
    let mb = |bytes: f64| bytes / 1e6 / seconds;
    let value = format!(
        "{:.0} MB/s of rows in memory, {:.0} MB/s of files: {rows:.0} rows of {files:.0} files in {seconds:.2} s",
        mb(rows / 0.9 * ROW_BYTES),
        mb(bytes)
    );
    Ok(Figure::new("merging, one at a time", value, ">= 100 MB/s a core"))
}

async fn clients(program: &Path, dir: &Path) -> Result<Vec<Figure>> {
    let data = dir.join("upserting");
    std::fs::create_dir_all(&data).map_err(|e| Error::io(data.display(), e))?;
    let mut cluster = LocalCluster::start(program, &data, 3).await?;
    let result = async {
        let mut client = Client::connect(&cluster.url()).await?;
        let create = "CREATE TABLE counters (id BIGINT PRIMARY KEY, v BIGINT) WITH (shards = 6, replicas = 3)";
        client.execute(create).await?;
        let fill = format!("INSERT INTO counters SELECT value, value * 0 FROM generate_series(1, {CLIENT_KEYS})");
        client.execute(&fill).await?;
        let started = Instant::now();
        let mut tasks = Vec::new();
        for index in 0..CLIENTS as u64 {
            let url = format!("grpc://{}", cluster.nodes[index as usize % cluster.nodes.len()].flight);
            tasks.push(tokio::spawn(async move {
                let mut client = Client::connect(&url).await?;
                let mut latencies = histogram();
                let mut number = index;
                while started.elapsed() < CLIENT_TIME {
                    number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(index * 2 + 1);
                    let key = (number >> 33) % CLIENT_KEYS + 1;
                    let began = Instant::now();
                    let sql = format!(
                        "INSERT INTO counters VALUES ({key}, {index}) ON CONFLICT (id) DO UPDATE SET v = excluded.v"
                    );
                    client.execute(&sql).await?;
                    latencies.saturating_record(began.elapsed().as_micros() as u64);
                }
                Ok::<_, Error>(latencies)
            }));
        }
        let mut all = histogram();
        for task in tasks {
            let latencies = task.await.map_err(|e| Error::internal(e.to_string()))??;
            all.add(latencies).map_err(|e| Error::internal(e.to_string()))?;
        }
        let rate = all.len() as f64 / started.elapsed().as_secs_f64();
        let rows = first_number(&mut client, "SELECT count(*) FROM counters").await?;
        if rows != CLIENT_KEYS {
            return Err(Error::internal(format!("{rows} rows after upserts of {CLIENT_KEYS} keys")));
        }
        let value = format!("{rate:.0}/s; {}", percentiles(&all));
        let name = format!("single-row upsert, {CLIENTS} clients, three nodes");
        let mut figures = vec![Figure::new(name, value, ">= 1000/s")];

        // Then many commits of a row, to see what merging them gains.
        let create = "CREATE TABLE singles (id BIGINT, v BIGINT) WITH (shards = 6, replicas = 3)";
        client.execute(create).await?;
        let mut tasks = Vec::new();
        for index in 0..CLIENTS as u64 {
            let url = cluster.url();
            tasks.push(tokio::spawn(async move {
                let mut client = Client::connect(&url).await?;
                for id in (index..SINGLES).step_by(CLIENTS) {
                    client.execute(&format!("INSERT INTO singles VALUES ({id}, 1)")).await?;
                }
                Ok::<_, Error>(())
            }));
        }
        for task in tasks {
            task.await.map_err(|e| Error::internal(e.to_string()))??;
        }
        let segments = "SELECT count(*) FROM plexus.segments WHERE table_name = 'singles'";
        let scan = "SELECT count(*), sum(v), max(id) FROM singles";
        let before = (first_number(&mut client, segments).await?, best(&mut client, scan).await?);
        client.execute("OPTIMIZE singles").await?;
        let after = (first_number(&mut client, segments).await?, best(&mut client, scan).await?);
        let ms = |seconds: f64| seconds * 1000.0;
        let value = format!(
            "{} segments, {:.1} ms; merged {} segments, {:.1} ms",
            before.0,
            ms(before.1),
            after.0,
            ms(after.1)
        );
        figures.push(Figure::new(format!("scan after {SINGLES} inserts of a row"), value, ""));
        Ok(figures)
    }
    .await;
    cluster.stop().await;
    result
}

/// What a segment of TPC-H's widest table adds to a snapshot of the manifest.
fn manifest() -> Result<Figure> {
    const SEGMENTS: u128 = 1_000;
    let lineitem = tpch(0.02).into_iter().find(|t| t.name == "lineitem");
    let lineitem = lineitem.ok_or_else(|| Error::internal("TPC-H without lineitem"))?;
    let schema = types::from_arrow(lineitem.reader.schema().as_ref())?;
    let batches: Vec<RecordBatch> =
        lineitem.reader.collect::<Result<_, _>>().map_err(|e| Error::internal(e.to_string()))?;
    let columns = schema.columns.len();
    let encoded = SegmentEncoder.encode(&schema, batches)?;
    let segment = |id| Segment {
        id: SegmentId(id),
        shard: 0,
        rows: encoded.rows,
        level: 0,
        schema_version: 1,
        added: Version(2),
        newest: Version(2),
        removed: None,
        removed_time_us: 0,
        data: SegmentData::File(encoded.data),
        statistics: encoded.statistics.clone(),
        keys: vec![],
        deletions: vec![],
        indexes: vec![],
        // As committed.
        acknowledged: vec![],
    };
    let with = |count: u128| {
        let id = TableId(1);
        let table = Table {
            id,
            name: TableName::new("public", "lineitem"),
            schema: Arc::new(schema.clone()),
            schema_version: 1,
            replicas: 3,
            shards: Arc::new(vec![Shard { replicas: vec![NodeId(1), NodeId(2), NodeId(3)] }]),
            created: Version(1),
            created_time_us: 1,
            dropped: None,
            dropped_time_us: 0,
            segments: (0..count).map(|id| (SegmentId(id), Arc::new(segment(id)))).collect(),
            inline_bytes: 0,
            history: vec![],
            oldest: Version(1),
            changed: Version(2),
            relocations: Default::default(),
        };
        let mut manifest = Manifest::default();
        manifest.tables.insert(id, Arc::new(table));
        manifest.to_bytes().len()
    };
    let bytes = (with(SEGMENTS) - with(0)) as u128 / SEGMENTS;
    let value =
        format!("{bytes} bytes, {} of them statistics of {columns} columns", encoded.statistics.weight());
    Ok(Figure::new("manifest, a segment of lineitem", value, "<= 300 bytes"))
}

/// Seconds by operation, or nothing where DuckDB is not installed.
fn duckdb(rows: i64) -> BTreeMap<String, f64> {
    let python = std::env::var("PLEXUS_BENCH_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let args = [rows.to_string(), UPSERTS.to_string()];
    let output = std::process::Command::new(python).arg("-c").arg(DUCKDB).args(args).output();
    match output {
        Ok(output) if output.status.success() => serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
            eprintln!("DuckDB was not measured: {e}: {}", String::from_utf8_lossy(&output.stdout));
            BTreeMap::new()
        }),
        Ok(output) => {
            eprintln!("DuckDB was not measured: {}", String::from_utf8_lossy(&output.stderr).trim());
            BTreeMap::new()
        }
        Err(e) => {
            eprintln!("DuckDB was not measured: {e}");
            BTreeMap::new()
        }
    }
}
