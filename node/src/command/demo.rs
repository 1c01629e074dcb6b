//! `plexus demo`: a real cluster on this machine, with data, and a shell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow::array::RecordBatchReader;
use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use plexus_model::{Error, Result};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow,
    SupplierArrow,
};

use crate::client::{Client, IngestOptions};
use crate::command::load::{load_files, progress, read_ahead};
use crate::command::sql;
use crate::local::{LocalCluster, LocalNode};
use crate::render::RowFormat;

const SHARDS: u32 = 6;
const REPLICAS: u32 = 3;

/// Boot a cluster on this machine, load data into it, and open a SQL shell
#[derive(Args, Debug)]
pub struct Demo {
    /// Nodes to start
    #[arg(long, env = "PLEXUS_DEMO_NODES", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,

    /// Where the nodes keep their data [default: a temporary directory, removed at the end]
    #[arg(long, env = "PLEXUS_DEMO_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,

    /// TPC-H scale factor of the tables that are generated; 0 for none
    #[arg(long, env = "PLEXUS_DEMO_SCALE", default_value_t = 0.1)]
    scale: f64,

    /// Leave the nodes running until Ctrl-C instead of opening a shell
    #[arg(long, env = "PLEXUS_DEMO_NO_SHELL", value_parser = BoolishValueParser::new())]
    no_shell: bool,

    /// How the end of the start is announced
    #[arg(long, env = "PLEXUS_DEMO_FORMAT", value_enum, default_value_t)]
    format: DemoFormat,

    /// CSV, Parquet, NDJSON or Arrow IPC files, each loaded as a table named like the file
    #[arg(value_name = "FILES")]
    files: Vec<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DemoFormat {
    /// Endpoints and examples, for people
    #[default]
    Text,
    /// One JSON object on the last line, for scripts
    Json,
}

#[derive(Serialize)]
struct Announcement {
    nodes: Vec<NodeAnnouncement>,
    tables: Vec<String>,
}

#[derive(Serialize)]
struct NodeAnnouncement {
    id: u64,
    pid: u32,
    flight: String,
    peer: String,
    http: String,
}

impl Demo {
    pub fn run(self) -> Result<()> {
        if !(0.0..=1000.0).contains(&self.scale) {
            return Err(Error::invalid(format!("scale = {}: must be from 0 to 1000", self.scale)));
        }
        if let Some(missing) = self.files.iter().find(|f| !f.is_file()) {
            return Err(Error::not_found(format!("{}: no such file", missing.display())));
        }
        self.check_names()?;
        super::block_on(async {
            let temporary;
            let dir = match &self.dir {
                Some(dir) => {
                    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir.display(), e))?;
                    dir.as_path()
                }
                None => {
                    temporary = tempfile::Builder::new()
                        .prefix("plexus-demo-")
                        .tempdir()
                        .map_err(|e| Error::io("a temporary directory", e))?;
                    temporary.path()
                }
            };
            let mut cluster = None;
            let result = self.demo(dir, &mut cluster).await;
            if let Some(mut cluster) = cluster {
                cluster.stop().await;
            }
            result
        })
    }

    /// Every file becomes a table, so their names must differ, also from those that are generated.
    fn check_names(&self) -> Result<()> {
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        if self.scale > 0.0 {
            names.extend(TPCH_TABLES.map(|name| (name.to_owned(), "TPC-H".to_owned())));
        }
        for file in &self.files {
            let name = table_name(file);
            if let Some(other) = names.insert(name.clone(), file.display().to_string()) {
                return Err(Error::invalid(format!(
                    "{}: its table would be {name:?}, which {other} has already",
                    file.display()
                )));
            }
        }
        Ok(())
    }

    async fn demo(&self, dir: &Path, cluster: &mut Option<LocalCluster>) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| Error::io("signal handler", e))?;
        let client = tokio::select! {
            booted = self.boot(dir, cluster) => booted?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        };
        let (Some(cluster), mut client) = (cluster, client) else {
            return Err(Error::internal("the demo has no nodes"));
        };
        if self.no_shell {
            return tokio::select! {
                () = watch(&mut cluster.nodes) => Ok(()),
                _ = tokio::signal::ctrl_c() => Ok(()),
                _ = terminate.recv() => Ok(()),
            };
        }
        let stop = async {
            terminate.recv().await;
        };
        sql::shell(&mut client, &cluster.url(), RowFormat::Table, stop).await
    }

    /// Starts the nodes, loads the data and says where everything is.
    async fn boot(&self, dir: &Path, cluster: &mut Option<LocalCluster>) -> Result<Client> {
        let started = Instant::now();
        let program = std::env::current_exe().map_err(|e| Error::io("this program", e))?;
        let cluster = cluster.insert(LocalCluster::start(&program, dir, self.nodes).await?);
        eprintln!("{} nodes are healthy after {:.1} s", self.nodes, started.elapsed().as_secs_f64());

        let replicas = REPLICAS.min(u32::from(self.nodes));
        if replicas < REPLICAS {
            eprintln!(
                "warning: {REPLICAS} replicas need as many nodes, there are {}; tables get {replicas}",
                self.nodes
            );
        }
        let mut client = Client::connect(&cluster.url()).await?;
        let tables = self.load(&mut client, replicas).await?;
        self.announce(&cluster.nodes, &tables)?;
        Ok(client)
    }

    /// Loads what is not there yet: a directory that is used again has its tables.
    async fn load(&self, client: &mut Client, replicas: u32) -> Result<Vec<String>> {
        let mut tables = Vec::new();
        if self.scale > 0.0 {
            for table in tpch(self.scale) {
                tables.push(table.name.to_owned());
                if !is_there(client, table.name).await? {
                    load_table(client, table, replicas).await?;
                }
            }
        }
        for file in &self.files {
            let name = table_name(file);
            tables.push(name.clone());
            if !is_there(client, &name).await? {
                let started = Instant::now();
                let options = ingest_options(&name, replicas, &[]);
                let rows = load_files(client, std::slice::from_ref(file), options).await?;
                report(&name, rows, started);
            }
        }
        Ok(tables)
    }

    fn announce(&self, processes: &[LocalNode], tables: &[String]) -> Result<()> {
        if self.format == DemoFormat::Json {
            let nodes = processes
                .iter()
                .map(|p| NodeAnnouncement {
                    id: p.id,
                    pid: p.child.id().unwrap_or(0),
                    flight: p.flight.to_string(),
                    peer: p.peer.to_string(),
                    http: p.http.to_string(),
                })
                .collect();
            let announcement = Announcement { nodes, tables: tables.to_vec() };
            let line = serde_json::to_string(&announcement).map_err(|e| Error::internal(e.to_string()))?;
            println!("{line}");
            return Ok(());
        }
        println!("\nnode              pid      flight            peer              http");
        for p in processes {
            let pid = p.child.id().unwrap_or(0);
            println!("{:<17} {pid:<8} {:<17} {:<17} {}", p.id, p.flight, p.peer, p.http);
        }
        let (flight, http) = (processes[0].flight, processes[0].http);
        println!("\nFrom Python (pip install adbc-driver-flightsql pyarrow):\n");
        println!("    import adbc_driver_flightsql.dbapi as plexus");
        println!("    db = plexus.connect(\"grpc://{flight}\")");
        println!("    cursor = db.cursor()");
        println!("    cursor.execute(\"SELECT table_name, rows FROM plexus.tables\")");
        println!("    print(cursor.fetch_arrow_table())\n");
        println!("The cluster's state:\n\n    curl http://{http}/status\n");
        Ok(())
    }
}

/// The name of the table that a file becomes.
fn table_name(file: &Path) -> String {
    file.file_stem().and_then(|s| s.to_str()).unwrap_or("data").to_lowercase().replace('-', "_")
}

async fn is_there(client: &mut Client, table: &str) -> Result<bool> {
    let found = client.table_schema(None, table).await?.is_some();
    if found {
        eprintln!("{table:>12}: is there already");
    }
    Ok(found)
}

/// Says when a node ends by itself.
async fn watch(nodes: &mut [LocalNode]) {
    eprintln!("running; Ctrl-C stops the nodes");
    let mut ended = vec![false; nodes.len()];
    loop {
        for (node, ended) in nodes.iter_mut().zip(&mut ended) {
            if let (false, Ok(Some(exit))) = (*ended, node.child.try_wait()) {
                eprintln!("node {} ended ({exit}); the others go on", node.id);
                *ended = true;
            }
        }
        sleep(Duration::from_millis(500)).await;
    }
}

fn ingest_options(table: &str, replicas: u32, key: &[&str]) -> IngestOptions {
    IngestOptions {
        schema: None,
        table: table.to_owned(),
        create: true,
        replace: false,
        upsert: false,
        shards: Some(SHARDS),
        replicas: Some(replicas),
        primary_key: key.iter().map(|k| (*k).to_owned()).collect(),
    }
}

const TPCH_TABLES: [&str; 8] =
    ["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"];

/// A generated table: its rows are made while it is loaded.
pub struct TpchTable {
    pub name: &'static str,
    pub key: &'static [&'static str],
    pub rows: u64,
    pub reader: Box<dyn RecordBatchReader + Send>,
}

/// The eight tables of TPC-H at a scale factor.
pub fn tpch(scale: f64) -> Vec<TpchTable> {
    const ROWS: usize = 65_536;
    let rows = |base: f64| (base * scale) as u64;
    macro_rules! table {
        ($name:literal, $key:expr, $rows:expr, $arrow:ident, $generator:ident) => {
            TpchTable {
                name: $name,
                key: $key,
                rows: $rows,
                reader: Box::new($arrow::new($generator::new(scale, 1, 1)).with_batch_size(ROWS)),
            }
        };
    }
    // So small that the generator repeats itself: a part then has a supplier twice.
    let partsupp_key: &[&str] = if scale < 0.01 { &[] } else { &["ps_partkey", "ps_suppkey"] };
    vec![
        table!("region", &["r_regionkey"], 5, RegionArrow, RegionGenerator),
        table!("nation", &["n_nationkey"], 25, NationArrow, NationGenerator),
        table!("supplier", &["s_suppkey"], rows(10_000.0), SupplierArrow, SupplierGenerator),
        table!("customer", &["c_custkey"], rows(150_000.0), CustomerArrow, CustomerGenerator),
        table!("part", &["p_partkey"], rows(200_000.0), PartArrow, PartGenerator),
        table!("partsupp", partsupp_key, rows(800_000.0), PartSuppArrow, PartSuppGenerator),
        table!("orders", &["o_orderkey"], rows(1_500_000.0), OrderArrow, OrderGenerator),
        // No key: its rows go to the shards batch by batch and keep the order of their dates.
        table!("lineitem", &[], rows(6_000_000.0), LineItemArrow, LineItemGenerator),
    ]
}

async fn load_table(client: &mut Client, table: TpchTable, replicas: u32) -> Result<()> {
    let started = Instant::now();
    let schema = table.reader.schema();
    let bar = progress(table.name, Some(table.rows));
    let batches =
        table.reader.map(|batch| batch.map_err(|e| Error::internal(format!("generated rows: {e}"))));
    let options = ingest_options(table.name, replicas, table.key);
    let rows = client.ingest(options, schema, read_ahead(batches, bar.clone())).await?;
    bar.finish_and_clear();
    report(table.name, rows, started);
    Ok(())
}

fn report(table: &str, rows: u64, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("{table:>12}: {rows} rows in {seconds:.1} s ({:.0} rows/s)", rows as f64 / seconds);
}
