//! Bulk load, single-row inserts, point lookups and aggregates on three nodes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use plexus_model::{Error, Result};
use plexus_node::client::{Client, IngestOptions};
use plexus_node::command::demo::tpch;
use plexus_node::command::load::{TextOptions, load_files, progress, read_ahead};
use plexus_node::local::LocalCluster;
use tokio::time::sleep;

use crate::Figure;
use crate::cluster::{append_to, join_clients, url_of_client, with_cluster};
use crate::latency::Latencies;

/// The parts of the command line that this module measures.
const PARTS: [&str; 5] = ["idle", "load", "insert", "lookup", "aggregate"];
const CLIENTS: usize = 64;
const INSERT_TIME: Duration = Duration::from_secs(10);
/// Time for a new cluster to settle before its memory is read.
const SETTLE_TIME: Duration = Duration::from_secs(5);

/// Measures the parts that the command line selects, on one cluster.
pub(crate) async fn measure(
    program: &Path,
    dir: &Path,
    selected: impl Fn(&str) -> bool,
) -> Result<Vec<Figure>> {
    if !PARTS.iter().any(|part| selected(part)) {
        return Ok(vec![]);
    }
    with_cluster(program, dir, "three", 3, async |cluster| {
        let mut figures = Vec::new();
        if selected("idle") {
            sleep(SETTLE_TIME).await;
            let value = format!("{} MiB", largest_memory_mib(cluster, "VmRSS:"));
            figures.push(Figure::new("idle node, resident", value, "< 150 MiB"));
        }
        let mut client = Client::connect(&cluster.url()).await?;
        if selected("load") {
            figures.push(load(&mut client, dir, cluster).await?);
        }
        if selected("insert") {
            figures.extend(insert(&mut client, cluster).await?);
        }
        if selected("lookup") || selected("aggregate") {
            load_orders(&mut client).await?;
        }
        if selected("lookup") {
            figures.push(lookup(&mut client).await?);
        }
        if selected("aggregate") {
            figures.push(aggregate(&mut client).await?);
        }
        Ok(figures)
    })
    .await
}

/// The largest value among the cluster's nodes of a line in `/proc/<pid>/status`, in MiB.
fn largest_memory_mib(cluster: &LocalCluster, name: &str) -> u64 {
    cluster.nodes.iter().filter_map(|node| memory_mib(node.child.id()?, name)).max().unwrap_or(0)
}

fn memory_mib(pid: u32, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.trim().split(' ').next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}

/// Options that replace a table, with six shards.
fn replace(table: &str, replicas: u32, key: &[&str]) -> IngestOptions {
    IngestOptions {
        replace: true,
        shards: Some(6),
        replicas: Some(replicas),
        primary_key: key.iter().map(|k| (*k).into()).collect(),
        ..append_to(table)
    }
}

/// Writes a TPC-H table as Parquet with Snappy compression, unless the file exists.
pub(crate) fn write_parquet(dir: &Path, scale: f64, name: &str) -> Result<PathBuf> {
    let path = dir.join(format!("{name}-{scale}.parquet"));
    if path.exists() {
        return Ok(path);
    }
    let table = tpch(scale)
        .into_iter()
        .find(|t| t.name == name)
        .ok_or_else(|| Error::invalid(format!("no table {name} in TPC-H")))?;
    let fail = |e: &dyn std::fmt::Display| Error::internal(format!("writing {name}: {e}"));
    let file = std::fs::File::create(&path).map_err(|e| Error::io(path.display(), e))?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer =
        ArrowWriter::try_new(file, table.reader.schema(), Some(properties)).map_err(|e| fail(&e))?;
    for batch in table.reader {
        writer.write(&batch.map_err(|e| fail(&e))?).map_err(|e| fail(&e))?;
    }
    writer.close().map_err(|e| fail(&e))?;
    Ok(path)
}

async fn load(client: &mut Client, dir: &Path, cluster: &LocalCluster) -> Result<Figure> {
    let file = write_parquet(dir, 1.0, "lineitem")?;
    let started = Instant::now();
    let rows = load_files(client, &[file], &TextOptions::default(), replace("loaded", 3, &[])).await?;
    let rate = rows as f64 / started.elapsed().as_secs_f64();
    let (peak, after) = (largest_memory_mib(cluster, "VmHWM:"), largest_memory_mib(cluster, "VmRSS:"));
    client.execute("DROP TABLE loaded").await?;
    let value = format!("{rate:.0} rows/s; resident {peak} MiB at the peak, {after} MiB afterwards");
    Ok(Figure::new("bulk load, lineitem from Parquet, 3 replicas", value, ">= 500000 rows/s"))
}

async fn insert(client: &mut Client, cluster: &LocalCluster) -> Result<Vec<Figure>> {
    client.execute("CREATE TABLE inserted (id BIGINT, v VARCHAR) WITH (shards = 6, replicas = 3)").await?;
    let mut single = Latencies::new();
    for id in 0..1_000 {
        let started = Instant::now();
        client.execute(&format!("INSERT INTO inserted VALUES ({id}, 'a row')")).await?;
        single.record_since(started);
    }
    let next = Arc::new(AtomicU64::new(1_000_000));
    let started = Instant::now();
    let tasks = (0..CLIENTS).map(|index| {
        let url = url_of_client(cluster, index);
        let next = next.clone();
        tokio::spawn(async move {
            let mut client = Client::connect(&url).await?;
            let mut latencies = Latencies::new();
            while started.elapsed() < INSERT_TIME {
                let id = next.fetch_add(1, Ordering::Relaxed);
                let sent = Instant::now();
                client.execute(&format!("INSERT INTO inserted VALUES ({id}, 'a row')")).await?;
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
    client.execute("DROP TABLE inserted").await?;
    Ok(vec![
        Figure::new("single-row INSERT, 1 client", single.percentiles(), "p50 < 5 ms"),
        Figure::new(
            format!("single-row INSERT, {CLIENTS} clients"),
            format!("{rate:.0}/s; {}", all.percentiles()),
            ">= 3000/s",
        ),
    ])
}

/// Loads `orders` and `lineitem` at a tenth of the scale.
async fn load_orders(client: &mut Client) -> Result<()> {
    for name in ["orders", "lineitem"] {
        let Some(table) = tpch(0.1).into_iter().find(|t| t.name == name) else { continue };
        let schema = table.reader.schema();
        let batches = table.reader.map(|b| b.map_err(|e| Error::internal(e.to_string())));
        let stream = read_ahead(batches, progress(name, None));
        client.ingest(replace(name, 3, table.key), schema, stream).await?;
    }
    Ok(())
}

async fn lookup(client: &mut Client) -> Result<Figure> {
    let mut latencies = Latencies::new();
    for i in 0..1_000u64 {
        // TPC-H uses the first eight of every 32 order keys (specification, section 4.2.3).
        let n = i * 7_919 % 150_000 + 1;
        let key = ((n >> 3) << 5) | (n & 7);
        let sql = format!("SELECT o_totalprice, o_comment FROM orders WHERE o_orderkey = {key}");
        let started = Instant::now();
        let (_, rows) = client.query(&sql).await?;
        latencies.record_since(started);
        let found: usize = rows.iter().map(|b| b.num_rows()).sum();
        if found != 1 {
            return Err(Error::internal(format!("order {key} was found {found} times")));
        }
    }
    let value = latencies.percentiles();
    Ok(Figure::new("point lookup by primary key, 150,000 rows", value, "p50 < 4 ms"))
}

async fn aggregate(client: &mut Client) -> Result<Figure> {
    let sql = "SELECT l_returnflag, l_linestatus, count(*), sum(l_quantity) FROM lineitem GROUP BY 1, 2";
    let mut latencies = Latencies::new();
    for _ in 0..50 {
        let started = Instant::now();
        client.query(sql).await?;
        latencies.record_since(started);
    }
    let name = "count, sum ... GROUP BY over 600,000 rows";
    Ok(Figure::new(name, latencies.percentiles(), "< 60 ms"))
}
