//! `plexus demo`: starts a cluster of node processes on this machine, loads data and opens a SQL shell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use plexus_model::{Error, Result};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::client::{Client, IngestOptions};
use crate::command::load::{TextOptions, load_files, progress, read_ahead};
use crate::command::sql;
use crate::command::tpch::TPCH_TABLES;
pub use crate::command::tpch::{TpchTable, tpch};
use crate::local::{LocalCluster, LocalNode};
use crate::render::RowFormat;

/// Shards of each table.
const SHARDS: u32 = 6;
/// Replicas of each shard, if there are as many nodes.
const REPLICAS: u32 = 3;

/// Start a cluster on this machine, load data and open a SQL shell
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Number of nodes to start
    #[arg(
        long,
        env = "PLEXUS_DEMO_NODES",
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(1..=9)
    )]
    nodes: u16,

    /// Directory for the data of the nodes [default: a temporary directory, deleted at exit]
    #[arg(long, env = "PLEXUS_DEMO_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Scale factor of the TPC-H tables to generate; 0 generates none
    #[arg(long, env = "PLEXUS_DEMO_SCALE", default_value_t = 0.1)]
    scale: f64,

    /// Keep the nodes running until Ctrl-C instead of opening a shell
    #[arg(long, env = "PLEXUS_DEMO_NO_SHELL", value_parser = BoolishValueParser::new())]
    no_shell: bool,

    /// Format of the summary after the start
    #[arg(long, env = "PLEXUS_DEMO_FORMAT", value_enum, default_value_t)]
    format: DemoFormat,

    /// CSV, TSV, Parquet, NDJSON or Arrow IPC files to load, each into a table named after the file
    #[arg(value_name = "FILES")]
    files: Vec<PathBuf>,
}

/// Format of the summary. The variant comments are help texts.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum DemoFormat {
    /// Endpoints and examples, for people
    #[default]
    Text,
    /// JSON object on the last line, for scripts
    Json,
}

/// The JSON summary.
#[derive(Serialize)]
struct Summary {
    nodes: Vec<NodeSummary>,
    tables: Vec<String>,
}

#[derive(Serialize)]
struct NodeSummary {
    id: u64,
    pid: u32,
    flight: String,
    peer: String,
    http: String,
}

impl Demo {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<()> {
        if !(0.0..=1000.0).contains(&self.scale) {
            return Err(Error::invalid(format!("scale = {}: must be from 0 to 1000", self.scale)));
        }
        if let Some(missing) = self.files.iter().find(|f| !f.is_file()) {
            return Err(Error::not_found(format!("{}: no such file", missing.display())));
        }
        self.check_table_names()?;
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

    /// Checks that no two tables, generated or loaded from files, have the same name.
    fn check_table_names(&self) -> Result<()> {
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        if self.scale > 0.0 {
            names.extend(TPCH_TABLES.map(|name| (name.to_owned(), "TPC-H".to_owned())));
        }
        for file in &self.files {
            let name = table_name(file);
            if let Some(other) = names.insert(name.clone(), file.display().to_string()) {
                return Err(Error::invalid(format!(
                    "{}: the table name {name:?} is already used by {other}",
                    file.display()
                )));
            }
        }
        Ok(())
    }

    /// Runs the demo. Leaves the started cluster in `cluster`, so that the caller can stop it on any outcome.
    async fn demo(&self, dir: &Path, cluster: &mut Option<LocalCluster>) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| Error::io("signal handler", e))?;
        let client = tokio::select! {
            started = self.start(dir, cluster) => started?,
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

    /// Starts the nodes, loads the data and prints the summary.
    async fn start(&self, dir: &Path, cluster: &mut Option<LocalCluster>) -> Result<Client> {
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
        self.print_summary(&cluster.nodes, &tables)?;
        Ok(client)
    }

    /// Loads the tables that do not exist yet; a directory of an earlier demo has some. Returns the names of
    /// all.
    async fn load(&self, client: &mut Client, replicas: u32) -> Result<Vec<String>> {
        let mut tables = Vec::new();
        if self.scale > 0.0 {
            for table in tpch(self.scale) {
                tables.push(table.name.to_owned());
                if !table_exists(client, table.name).await? {
                    load_table(client, table, replicas).await?;
                }
            }
        }
        for file in &self.files {
            let name = table_name(file);
            tables.push(name.clone());
            if !table_exists(client, &name).await? {
                let started = Instant::now();
                let options = ingest_options(&name, replicas, &[]);
                let rows =
                    load_files(client, std::slice::from_ref(file), &TextOptions::default(), options).await?;
                print_loaded(&name, rows, started);
            }
        }
        Ok(tables)
    }

    /// Prints the addresses of the nodes and how to connect, or the same as JSON.
    fn print_summary(&self, processes: &[LocalNode], tables: &[String]) -> Result<()> {
        if self.format == DemoFormat::Json {
            let nodes = processes
                .iter()
                .map(|p| NodeSummary {
                    id: p.id,
                    pid: p.child.id().unwrap_or(0),
                    flight: p.flight.to_string(),
                    peer: p.peer.to_string(),
                    http: p.http.to_string(),
                })
                .collect();
            let summary = Summary { nodes, tables: tables.to_vec() };
            let line = serde_json::to_string(&summary).map_err(|e| Error::internal(e.to_string()))?;
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

/// The name of the table for a file: its stem in lower case, with underscores for hyphens.
fn table_name(file: &Path) -> String {
    file.file_stem().and_then(|s| s.to_str()).unwrap_or("data").to_lowercase().replace('-', "_")
}

async fn table_exists(client: &mut Client, table: &str) -> Result<bool> {
    let found = client.table_schema(None, table).await?.is_some();
    if found {
        eprintln!("{table:>12}: exists already");
    }
    Ok(found)
}

/// Reports nodes that end unexpectedly. Never returns.
async fn watch(nodes: &mut [LocalNode]) {
    eprintln!("running; Ctrl-C stops the nodes");
    let mut ended = vec![false; nodes.len()];
    loop {
        for (node, ended) in nodes.iter_mut().zip(&mut ended) {
            if let (false, Ok(Some(exit))) = (*ended, node.child.try_wait()) {
                eprintln!("node {} ended ({exit}); the other nodes keep running", node.id);
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

async fn load_table(client: &mut Client, table: TpchTable, replicas: u32) -> Result<()> {
    let started = Instant::now();
    let schema = table.reader.schema();
    let bar = progress(table.name, Some(table.rows));
    let batches =
        table.reader.map(|batch| batch.map_err(|e| Error::internal(format!("generated rows: {e}"))));
    let options = ingest_options(table.name, replicas, table.key);
    let rows = client.ingest(options, schema, read_ahead(batches, bar.clone())).await?;
    bar.finish_and_clear();
    print_loaded(table.name, rows, started);
    Ok(())
}

fn print_loaded(table: &str, rows: u64, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("{table:>12}: {rows} rows in {seconds:.1} s ({:.0} rows/s)", rows as f64 / seconds);
}
