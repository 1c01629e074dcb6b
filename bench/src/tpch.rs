//! The 22 queries of TPC-H in one run: plain DataFusion over Parquet and over Vortex files, one node, three
//! nodes.

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
use plexus_node::command::load::{TextOptions, load_files};
use plexus_storage::{SegmentEncoder, rows_bytes, types};
use vortex::VortexSessionDefault;
use vortex::io::session::RuntimeSessionExt;
use vortex::session::VortexSession;
use vortex_datafusion::VortexFormat;

use crate::Figure;
use crate::cluster::{append_to, fastest_seconds, with_cluster};
use crate::workload::write_parquet;

macro_rules! queries {
    ($($n:literal),*) => { [$(($n, include_str!(concat!("../queries/q", $n, ".sql")))),*] };
}

const QUERIES: [(&str, &str); 22] = queries!(
    "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12", "13", "14", "15", "16", "17",
    "18", "19", "20", "21", "22"
);

/// The value of `plexus.task_bytes` in the run that shows what distributed scans cost: far below the default.
const DISTRIBUTED_TASK_BYTES: u64 = 64 * 1024 * 1024;

/// Seconds by query.
type Times = BTreeMap<&'static str, f64>;

/// What to run.
pub(crate) struct Options {
    /// Scale factor.
    pub(crate) scale: f64,
    /// Runs of each query, of which the fastest counts.
    pub(crate) runs: usize,
    /// Whether to print the times of each query.
    pub(crate) detail: bool,
    /// Whether tables have their primary keys. Without, rows keep the order in which they are generated.
    pub(crate) keys: bool,
}

/// Measures all variants and compares their sums.
pub(crate) async fn measure(program: &Path, dir: &Path, options: &Options) -> Result<Vec<Figure>> {
    let (scale, runs) = (options.scale, options.runs);
    let parquet = over_parquet(dir, scale, runs).await?;
    let vortex = over_vortex(dir, scale, runs).await?;
    let (one, _) = on_cluster(program, dir, options, 1).await?;
    let (three, distributed) = on_cluster(program, dir, options, 3).await?;
    if options.detail {
        print_detail([&parquet, &vortex, &one, &three, &distributed]);
    }
    let [p, v, o, t, d] = [parquet, vortex, one, three, distributed].map(|times| times.values().sum::<f64>());
    let figure = |what: &str, value: String, target: &str| {
        Figure::new(format!("TPC-H {scale}: {what}"), value, target)
    };
    let distributed = format!("three nodes, task_bytes {} MiB", DISTRIBUTED_TASK_BYTES >> 20);
    Ok(vec![
        figure("plain DataFusion over Parquet", format!("{p:.2} s"), ""),
        figure("plain DataFusion over Vortex files", format!("{v:.2} s, {:.2} x Parquet", v / p), ""),
        figure("one node", format!("{o:.2} s, {:.2} x plain DataFusion", o / p), "<= 0.6 x"),
        figure("three nodes", format!("{t:.2} s, {:.2} x one node", t / o), "<= 1.5 x"),
        figure(&distributed, format!("{d:.2} s, {:.2} x one node", d / o), ""),
    ])
}

/// Prints the times of each query, in the order of the header.
fn print_detail(times: [&Times; 5]) {
    eprintln!("query  DataFusion+Parquet  DataFusion+Vortex  one node  three nodes  distributed");
    for (name, _) in QUERIES {
        let [parquet, vortex, one, three, distributed] = times.map(|times| times[name]);
        eprintln!(
            "q{name}    {parquet:>8.3} s         {vortex:>8.3} s        {one:>7.3} s  {three:>9.3} s  \
             {distributed:>9.3} s"
        );
    }
}

/// DataFusion in this process, with the options that the cluster sets.
fn context() -> SessionContext {
    let config = SessionConfig::new().set_bool("datafusion.sql_parser.parse_float_as_decimal", true);
    SessionContext::new_with_config(config)
}

fn datafusion_error(e: datafusion::error::DataFusionError) -> Error {
    Error::internal(format!("plain DataFusion: {e}"))
}

async fn over_parquet(dir: &Path, scale: f64, runs: usize) -> Result<Times> {
    let context = context();
    for table in tpch(scale) {
        let path = write_parquet(dir, scale, table.name)?;
        let path = path.display().to_string();
        context
            .register_parquet(table.name, &path, ParquetReadOptions::default())
            .await
            .map_err(datafusion_error)?;
    }
    run_in_process(&context, runs).await
}

/// The share of the file format: segment files like those of a load, without a server around them.
async fn over_vortex(dir: &Path, scale: f64, runs: usize) -> Result<Times> {
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
        context.register_listing_table(&stored, path, options, None, None).await.map_err(datafusion_error)?;
        // Segment files name columns by their ids.
        let named: Vec<String> =
            schema.columns.iter().map(|c| format!("\"{}\" AS \"{}\"", c.id, c.name)).collect();
        let view = format!("CREATE VIEW {name} AS SELECT {} FROM {stored}", named.join(", "));
        context.sql(&view).await.map_err(datafusion_error)?.collect().await.map_err(datafusion_error)?;
    }
    run_in_process(&context, runs).await
}

/// Writes segment files of the size that a load would choose, unless they exist.
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

async fn run_in_process(context: &SessionContext, runs: usize) -> Result<Times> {
    let mut times = Times::new();
    for (name, sql) in QUERIES {
        let mut fastest = f64::MAX;
        for _ in 0..runs {
            let started = Instant::now();
            context.sql(sql).await.map_err(datafusion_error)?.collect().await.map_err(datafusion_error)?;
            fastest = fastest.min(started.elapsed().as_secs_f64());
        }
        times.insert(name, fastest);
    }
    Ok(times)
}

/// Times with the default setting, and with scans distributed earlier. One node has only the former.
async fn on_cluster(program: &Path, dir: &Path, options: &Options, nodes: u16) -> Result<(Times, Times)> {
    with_cluster(program, dir, &format!("tpch-{nodes}"), nodes, async |cluster| {
        let mut client = Client::connect(&cluster.url()).await?;
        load(&mut client, dir, options, nodes).await?;
        let by_default = run_queries(&mut client, options.runs).await?;
        if nodes == 1 {
            return Ok((by_default.clone(), by_default));
        }
        client.execute(&format!("SET plexus.task_bytes = {DISTRIBUTED_TASK_BYTES}")).await?;
        Ok((by_default, run_queries(&mut client, options.runs).await?))
    })
    .await
}

async fn load(client: &mut Client, dir: &Path, options: &Options, nodes: u16) -> Result<()> {
    for table in tpch(options.scale) {
        let path = write_parquet(dir, options.scale, table.name)?;
        let ingest = IngestOptions {
            replace: true,
            shards: Some(6),
            replicas: Some(u32::from(nodes.min(3))),
            primary_key: table.key.iter().filter(|_| options.keys).map(|k| (*k).into()).collect(),
            ..append_to(table.name)
        };
        load_files(client, &[path], &TextOptions::default(), ingest).await?;
    }
    Ok(())
}

async fn run_queries(client: &mut Client, runs: usize) -> Result<Times> {
    let mut times = Times::new();
    for (name, sql) in QUERIES {
        let fastest = fastest_seconds(client, sql, runs).await;
        times.insert(name, fastest.map_err(|e| e.context(format!("q{name}")))?);
    }
    Ok(times)
}
