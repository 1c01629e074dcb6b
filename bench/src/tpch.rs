//! The 22 queries of TPC-H: plain DataFusion over Parquet, one node, three nodes, in one run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use datafusion::datasource::listing::ListingOptions;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use plexus_coordinator::limits::SEGMENT_BYTES_TARGET;
use plexus_model::{Error, Result};
use plexus_node::client::{Client, IngestOptions};
use plexus_node::command::demo::{TpchTable, tpch};
use plexus_node::command::load::load_files;
use plexus_node::local::LocalCluster;
use plexus_storage::{SegmentEncoder, rows_bytes, types};
use vortex::VortexSessionDefault;
use vortex::io::session::RuntimeSessionExt;
use vortex::session::VortexSession;
use vortex_datafusion::VortexFormat;

use crate::Figure;
use crate::workload::write_parquet;

macro_rules! queries {
    ($($n:literal),*) => { [$(($n, include_str!(concat!("../queries/q", $n, ".sql")))),*] };
}

const QUERIES: [(&str, &str); 22] = queries!(
    "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12", "13", "14", "15", "16", "17",
    "18", "19", "20", "21", "22"
);

/// Segment bytes from which scans are spread in the run that shows what spreading costs.
const SPREAD_BYTES: u64 = 64 * 1024 * 1024;

type Times = BTreeMap<&'static str, f64>;

pub async fn measure(
    program: &Path,
    dir: &Path,
    scale: f64,
    runs: usize,
    detail: bool,
    keys: bool,
) -> Result<Vec<Figure>> {
    let plain = parquet(dir, scale, runs).await?;
    let bare = bare_vortex(dir, scale, runs).await?;
    let (one, _) = cluster(program, dir, scale, runs, 1, keys).await?;
    let (three, spread) = cluster(program, dir, scale, runs, 3, keys).await?;
    if detail {
        eprintln!("query  DataFusion+Parquet  DataFusion+Vortex  one node  three nodes  spread");
        for (name, _) in QUERIES {
            let times = [&plain, &bare, &one, &three, &spread].map(|times| times[name]);
            let [plain, bare, one, three, spread] = times;
            eprintln!(
                "q{name}    {plain:>8.3} s         {bare:>8.3} s        {one:>7.3} s  {three:>9.3} s  {spread:>6.3} s"
            );
        }
    }
    let total = |times: &Times| times.values().sum::<f64>();
    let (p, b, o, t, s) = (total(&plain), total(&bare), total(&one), total(&three), total(&spread));
    Ok(vec![
        Figure::new(format!("TPC-H {scale}: plain DataFusion over Parquet"), format!("{p:.2} s"), ""),
        Figure::new(
            format!("TPC-H {scale}: plain DataFusion over bare Vortex files"),
            format!("{b:.2} s, {:.2} x Parquet", b / p),
            "",
        ),
        Figure::new(
            format!("TPC-H {scale}: one node"),
            format!("{o:.2} s, {:.2} x plain DataFusion", o / p),
            "<= 0.6 x",
        ),
        Figure::new(
            format!("TPC-H {scale}: three nodes"),
            format!("{t:.2} s, {:.2} x one node", t / o),
            "<= 1.5 x",
        ),
        Figure::new(
            format!("TPC-H {scale}: three nodes, scans spread from {} MiB on", SPREAD_BYTES >> 20),
            format!("{s:.2} s, {:.2} x one node", s / o),
            "",
        ),
    ])
}

/// DataFusion in this process, as the cluster configures it.
fn context() -> SessionContext {
    let config = SessionConfig::new().set_bool("datafusion.sql_parser.parse_float_as_decimal", true);
    SessionContext::new_with_config(config)
}

fn fail(e: datafusion::error::DataFusionError) -> Error {
    Error::internal(format!("plain DataFusion: {e}"))
}

async fn parquet(dir: &Path, scale: f64, runs: usize) -> Result<Times> {
    let context = context();
    for table in tpch(scale) {
        let path = write_parquet(dir, scale, table.name)?;
        let path = path.display().to_string();
        context.register_parquet(table.name, &path, ParquetReadOptions::default()).await.map_err(fail)?;
    }
    time(&context, runs).await
}

/// What the file format alone would give: the same segments, without a server around them.
async fn bare_vortex(dir: &Path, scale: f64, runs: usize) -> Result<Times> {
    let context = context();
    for table in tpch(scale) {
        let name = table.name;
        let schema = types::from_arrow(&table.reader.schema())?;
        let directory = dir.join(format!("vortex-{scale}")).join(name);
        write_segments(table, &directory)?;
        let format = Arc::new(VortexFormat::new(VortexSession::default().with_tokio()));
        let options = ListingOptions::new(format).with_file_extension("vortex");
        let path = format!("{}/", directory.display());
        let stored = format!("{name}_stored");
        context.register_listing_table(&stored, path, options, None, None).await.map_err(fail)?;
        // Columns are called by their ids in segments.
        let named: Vec<String> =
            schema.columns.iter().map(|c| format!("\"{}\" AS \"{}\"", c.id, c.name)).collect();
        let view = format!("CREATE VIEW {name} AS SELECT {} FROM {stored}", named.join(", "));
        context.sql(&view).await.map_err(fail)?.collect().await.map_err(fail)?;
    }
    time(&context, runs).await
}

/// Files as a load would make them.
fn write_segments(table: TpchTable, directory: &Path) -> Result<()> {
    if directory.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(directory).map_err(|e| Error::io(directory.display(), e))?;
    let schema = types::from_arrow(&table.reader.schema())?;
    let (mut batches, mut bytes, mut files) = (Vec::new(), 0, 0);
    let mut flush = |batches: &mut Vec<RecordBatch>| {
        let encoded = SegmentEncoder.encode(&schema, std::mem::take(batches))?;
        let path = directory.join(format!("{files}.vortex"));
        files += 1;
        std::fs::write(&path, &encoded.bytes).map_err(|e| Error::io(path.display(), e))
    };
    for batch in table.reader {
        let batch = batch.map_err(|e| Error::internal(format!("generated rows: {e}")))?;
        bytes += rows_bytes(&batch);
        batches.push(batch);
        if bytes >= SEGMENT_BYTES_TARGET {
            flush(&mut batches)?;
            bytes = 0;
        }
    }
    if batches.is_empty() { Ok(()) } else { flush(&mut batches) }
}

async fn time(context: &SessionContext, runs: usize) -> Result<Times> {
    let mut times = Times::new();
    for (name, sql) in QUERIES {
        let mut best = f64::MAX;
        for _ in 0..runs {
            let started = Instant::now();
            context.sql(sql).await.map_err(fail)?.collect().await.map_err(fail)?;
            best = best.min(started.elapsed().as_secs_f64());
        }
        times.insert(name, best);
    }
    Ok(times)
}

async fn cluster(
    program: &Path,
    dir: &Path,
    scale: f64,
    runs: usize,
    nodes: u16,
    keys: bool,
) -> Result<(Times, Times)> {
    let data = dir.join(format!("tpch-{nodes}"));
    std::fs::create_dir_all(&data).map_err(|e| Error::io(data.display(), e))?;
    let mut cluster = LocalCluster::start(program, &data, nodes).await?;
    let result = run(&cluster.url(), dir, scale, runs, nodes, keys).await;
    cluster.stop().await;
    result
}

/// Times with the default setting, and with scans spread over the nodes earlier.
async fn run(
    url: &str,
    dir: &Path,
    scale: f64,
    runs: usize,
    nodes: u16,
    keys: bool,
) -> Result<(Times, Times)> {
    let mut client = Client::connect(url).await?;
    for table in tpch(scale) {
        let path = write_parquet(dir, scale, table.name)?;
        let options = IngestOptions {
            schema: None,
            table: table.name.into(),
            create: false,
            replace: true,
            upsert: false,
            shards: Some(6),
            replicas: Some(u32::from(nodes.min(3))),
            primary_key: table.key.iter().filter(|_| keys).map(|k| (*k).into()).collect(),
        };
        load_files(&mut client, &[path], options).await?;
    }
    let as_it_is = ask(&mut client, runs).await?;
    if nodes == 1 {
        return Ok((as_it_is.clone(), as_it_is));
    }
    client.execute(&format!("SET plexus.task_bytes = {SPREAD_BYTES}")).await?;
    Ok((as_it_is, ask(&mut client, runs).await?))
}

async fn ask(client: &mut Client, runs: usize) -> Result<Times> {
    let mut times = Times::new();
    for (name, sql) in QUERIES {
        let mut best = f64::MAX;
        for _ in 0..runs {
            let started = Instant::now();
            client.query(sql).await.map_err(|e| e.context(format!("q{name}")))?;
            best = best.min(started.elapsed().as_secs_f64());
        }
        times.insert(name, best);
    }
    Ok(times)
}
