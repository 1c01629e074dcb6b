//! The 22 queries of TPC-H: plain DataFusion over Parquet, one node, three nodes, in one run.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use plexus_model::{Error, Result};
use plexus_node::client::{Client, IngestOptions};
use plexus_node::command::demo::tpch;
use plexus_node::command::load::load_files;
use plexus_node::local::LocalCluster;

use crate::Figure;
use crate::workload::write_parquet;

macro_rules! queries {
    ($($n:literal),*) => { [$(($n, include_str!(concat!("../queries/q", $n, ".sql")))),*] };
}

const QUERIES: [(&str, &str); 22] = queries!(
    "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12", "13", "14", "15", "16", "17",
    "18", "19", "20", "21", "22"
);

type Times = BTreeMap<&'static str, f64>;

pub async fn measure(
    program: &Path,
    dir: &Path,
    scale: f64,
    runs: usize,
    detail: bool,
    keys: bool,
) -> Result<Vec<Figure>> {
    let plain = plain(dir, scale, runs).await?;
    let one = cluster(program, dir, scale, runs, 1, keys).await?;
    let three = cluster(program, dir, scale, runs, 3, keys).await?;
    if detail {
        eprintln!("query  DataFusion+Parquet  one node  three nodes");
        for (name, _) in QUERIES {
            eprintln!(
                "q{name}    {:>8.3} s         {:>7.3} s  {:>7.3} s",
                plain[name], one[name], three[name]
            );
        }
    }
    let total = |times: &Times| times.values().sum::<f64>();
    let (p, o, t) = (total(&plain), total(&one), total(&three));
    Ok(vec![
        Figure::new(format!("TPC-H {scale}: plain DataFusion over Parquet"), format!("{p:.2} s"), ""),
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
    ])
}

async fn plain(dir: &Path, scale: f64, runs: usize) -> Result<Times> {
    let config = SessionConfig::new().set_bool("datafusion.sql_parser.parse_float_as_decimal", true);
    let context = SessionContext::new_with_config(config);
    let fail = |e: datafusion::error::DataFusionError| Error::internal(format!("plain DataFusion: {e}"));
    for table in tpch(scale) {
        let path = write_parquet(dir, scale, table.name)?;
        let path = path.display().to_string();
        context.register_parquet(table.name, &path, ParquetReadOptions::default()).await.map_err(fail)?;
    }
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
) -> Result<Times> {
    let data = dir.join(format!("tpch-{nodes}"));
    std::fs::create_dir_all(&data).map_err(|e| Error::io(data.display(), e))?;
    let mut cluster = LocalCluster::start(program, &data, nodes).await?;
    let result = run(&cluster.url(), dir, scale, runs, nodes, keys).await;
    cluster.stop().await;
    result
}

async fn run(url: &str, dir: &Path, scale: f64, runs: usize, nodes: u16, keys: bool) -> Result<Times> {
    let mut client = Client::connect(url).await?;
    for table in tpch(scale) {
        let path = write_parquet(dir, scale, table.name)?;
        let options = IngestOptions {
            schema: None,
            table: table.name.into(),
            create: false,
            replace: true,
            shards: Some(6),
            replicas: Some(u32::from(nodes.min(3))),
            primary_key: table.key.iter().filter(|_| keys).map(|k| (*k).into()).collect(),
        };
        load_files(&mut client, &[path], options).await?;
    }
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
