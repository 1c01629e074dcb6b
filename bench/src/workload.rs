//! Loading, inserting, looking up and aggregating, on three nodes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use plexus_model::{Error, Result};
use plexus_node::client::{Client, IngestOptions};
use plexus_node::command::demo::tpch;
use plexus_node::command::load::load_files;
use plexus_node::local::LocalCluster;
use tokio::time::sleep;

use crate::Figure;

const CLIENTS: usize = 64;
const INSERT_TIME: Duration = Duration::from_secs(10);

pub async fn measure(program: &Path, dir: &Path, wants: impl Fn(&str) -> bool) -> Result<Vec<Figure>> {
    if !["idle", "load", "insert", "lookup", "aggregate"].iter().any(|p| wants(p)) {
        return Ok(vec![]);
    }
    let mut figures = Vec::new();
    let data = dir.join("three");
    std::fs::create_dir_all(&data).map_err(|e| Error::io(data.display(), e))?;
    let mut cluster = LocalCluster::start(program, &data, 3).await?;
    let result = async {
        if wants("idle") {
            sleep(Duration::from_secs(5)).await;
            let most = cluster.nodes.iter().filter_map(|n| resident_mib(n.child.id()?)).max().unwrap_or(0);
            figures.push(Figure::new("idle node, resident", format!("{most} MiB"), "< 150 MiB"));
        }
        let mut client = Client::connect(&cluster.url()).await?;
        if wants("load") {
            figures.push(load(&mut client, dir, &cluster).await?);
        }
        if wants("insert") {
            figures.extend(insert(&mut client, &cluster).await?);
        }
        if wants("lookup") || wants("aggregate") {
            figures.extend(read(&mut client, &wants).await?);
        }
        Ok::<_, Error>(())
    }
    .await;
    cluster.stop().await;
    result.map(|()| figures)
}

fn resident_mib(pid: u32) -> Option<u64> {
    memory_mib(pid, "VmRSS:")
}

/// A line of the kernel's account of a process.
fn memory_mib(pid: u32, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.trim().split(' ').next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}

fn options(table: &str, replicas: u32, key: &[&str]) -> IngestOptions {
    IngestOptions {
        schema: None,
        table: table.into(),
        create: false,
        replace: true,
        upsert: false,
        shards: Some(6),
        replicas: Some(replicas),
        primary_key: key.iter().map(|k| (*k).into()).collect(),
    }
}

/// Writes a TPC-H table as Parquet with snappy.
pub fn write_parquet(dir: &Path, scale: f64, name: &str) -> Result<PathBuf> {
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
    let rows = load_files(client, &[file], options("loaded", 3, &[])).await?;
    let rate = rows as f64 / started.elapsed().as_secs_f64();
    let most =
        |name: &str| cluster.nodes.iter().filter_map(|n| memory_mib(n.child.id()?, name)).max().unwrap_or(0);
    let (peak, after) = (most("VmHWM:"), most("VmRSS:"));
    client.execute("DROP TABLE loaded").await?;
    let value = format!("{rate:.0} rows/s; {peak} MiB resident at most, {after} after it");
    Ok(Figure::new("bulk load, lineitem from Parquet, 3 replicas", value, ">= 500000 rows/s"))
}

pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are valid")
}

pub fn percentiles(h: &Histogram<u64>) -> String {
    let ms = |q: f64| h.value_at_quantile(q) as f64 / 1000.0;
    format!("p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms", ms(0.5), ms(0.95), ms(0.99))
}

async fn insert(client: &mut Client, cluster: &LocalCluster) -> Result<Vec<Figure>> {
    client.execute("CREATE TABLE inserted (id BIGINT, v VARCHAR) WITH (shards = 6, replicas = 3)").await?;
    let mut single = histogram();
    for id in 0..1_000 {
        let started = Instant::now();
        client.execute(&format!("INSERT INTO inserted VALUES ({id}, 'a row')")).await?;
        single.saturating_record(started.elapsed().as_micros() as u64);
    }
    let next = Arc::new(AtomicU64::new(1_000_000));
    let started = Instant::now();
    let mut tasks = Vec::new();
    for i in 0..CLIENTS {
        let url = format!("grpc://{}", cluster.nodes[i % cluster.nodes.len()].flight);
        let next = next.clone();
        tasks.push(tokio::spawn(async move {
            let mut client = Client::connect(&url).await?;
            let mut latencies = histogram();
            while started.elapsed() < INSERT_TIME {
                let id = next.fetch_add(1, Ordering::Relaxed);
                let began = Instant::now();
                client.execute(&format!("INSERT INTO inserted VALUES ({id}, 'a row')")).await?;
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
    client.execute("DROP TABLE inserted").await?;
    Ok(vec![
        Figure::new("single-row INSERT, 1 client", percentiles(&single), "p50 < 5 ms"),
        Figure::new(
            format!("single-row INSERT, {CLIENTS} clients"),
            format!("{rate:.0}/s; {}", percentiles(&all)),
            ">= 3000/s",
        ),
    ])
}

async fn read(client: &mut Client, wants: &impl Fn(&str) -> bool) -> Result<Vec<Figure>> {
    for name in ["orders", "lineitem"] {
        let Some(table) = tpch(0.1).into_iter().find(|t| t.name == name) else { continue };
        let schema = table.reader.schema();
        let batches = table.reader.map(|b| b.map_err(|e| Error::internal(e.to_string())));
        let stream =
            plexus_node::command::load::read_ahead(batches, plexus_node::command::load::progress(name, None));
        client.ingest(options(name, 3, table.key), schema, stream).await?;
    }
    let mut figures = Vec::new();
    if wants("lookup") {
        let mut latencies = histogram();
        for i in 0..1_000u64 {
            // TPC-H uses eight of every 32 order keys.
            let n = i * 7_919 % 150_000 + 1;
            let key = ((n >> 3) << 5) | (n & 7);
            let started = Instant::now();
            let (_, rows) = client
                .query(&format!("SELECT o_totalprice, o_comment FROM orders WHERE o_orderkey = {key}"))
                .await?;
            latencies.saturating_record(started.elapsed().as_micros() as u64);
            let found: usize = rows.iter().map(|b| b.num_rows()).sum();
            if found != 1 {
                return Err(Error::internal(format!("order {key} was found {found} times")));
            }
        }
        figures.push(Figure::new("point lookup by key, 150,000 rows", percentiles(&latencies), "p50 < 4 ms"));
    }
    if wants("aggregate") {
        let mut latencies = histogram();
        for _ in 0..50 {
            let started = Instant::now();
            client
                .query("SELECT l_returnflag, l_linestatus, count(*), sum(l_quantity) FROM lineitem GROUP BY 1, 2")
                .await?;
            latencies.saturating_record(started.elapsed().as_micros() as u64);
        }
        let name = "count, sum ... GROUP BY over 600,000 rows";
        figures.push(Figure::new(name, percentiles(&latencies), "< 60 ms"));
    }
    Ok(figures)
}
