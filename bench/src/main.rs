//! Measures a local cluster of real processes, and parts of the engine in process, and prints a table.
//!
//! The limits of the machine are measured first, so that other figures can be read against them. Latencies
//! are percentiles of a histogram. A query's time is the fastest of a few runs, for Plexus and for what it is
//! compared with. Other libraries and databases are measured in the same run where they are installed.

mod cluster;
mod corpus;
mod dml;
mod embeddings;
mod failover;
mod latency;
mod limits;
mod manifest;
mod peers;
mod search;
mod text;
mod tpch;
mod vectors;
mod workload;

use std::path::{Path, PathBuf};

use clap::Parser;
use clap::builder::PossibleValuesParser;
use plexus_memory::CountingAllocator;
use plexus_model::{Error, Result};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Everything that can be measured, in the order in which it runs.
const PARTS: [&str; 12] = [
    "limits",
    "idle",
    "load",
    "insert",
    "lookup",
    "aggregate",
    "dml",
    "vectors",
    "text",
    "search",
    "tpch",
    "failover",
];

/// Measure a local cluster of real processes
#[derive(Parser, Debug)]
#[command(name = "plexus-bench", version)]
struct Bench {
    /// Parts to run
    #[arg(
        long,
        env = "PLEXUS_BENCH_ONLY",
        value_delimiter = ',',
        default_values = PARTS,
        value_parser = PossibleValuesParser::new(PARTS)
    )]
    only: Vec<String>,

    /// Scale factor of the TPC-H comparison
    #[arg(long, env = "PLEXUS_BENCH_SCALE", default_value_t = 1.0)]
    scale: f64,

    /// Runs of each TPC-H query, of which the fastest counts
    #[arg(long, env = "PLEXUS_BENCH_RUNS", default_value_t = 3)]
    runs: usize,

    /// Rows of the table of the DML part
    #[arg(
        long,
        env = "PLEXUS_BENCH_DML_ROWS",
        default_value_t = dml::ROWS,
        value_parser = clap::value_parser!(i64).range(1_000..)
    )]
    dml_rows: i64,

    /// Base vectors of the in-process vector search
    #[arg(long, env = "PLEXUS_BENCH_VECTORS", default_value_t = vectors::VECTORS)]
    vectors: usize,

    /// Rows of the table of the search part, and texts of the in-process full-text search
    #[arg(long, env = "PLEXUS_BENCH_SEARCH_ROWS", default_value_t = search::ROWS)]
    search_rows: usize,

    /// How often the leader is killed, and how often it is restarted
    #[arg(long, env = "PLEXUS_BENCH_FAILOVERS", default_value_t = failover::TRIALS)]
    failovers: usize,

    /// Load the TPC-H tables without primary keys: their rows keep the order in which they are generated
    #[arg(long, env = "PLEXUS_BENCH_NO_KEYS")]
    no_keys: bool,

    /// Directory for data while measuring [default: a temporary directory]
    #[arg(long, env = "PLEXUS_BENCH_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Print the times of each TPC-H query
    #[arg(long, env = "PLEXUS_BENCH_DETAIL")]
    detail: bool,
}

/// One line of the result.
struct Figure {
    name: String,
    /// The measurement, with its unit.
    value: String,
    /// The value that the project aims at, or nothing.
    target: String,
}

impl Figure {
    /// Makes a line, and prints it at once to show the progress.
    fn new(name: impl Into<String>, value: impl Into<String>, target: impl Into<String>) -> Self {
        let figure = Self { name: name.into(), value: value.into(), target: target.into() };
        eprintln!("{:<52} {:<42} {}", figure.name, figure.value, figure.target);
        figure
    }
}

fn main() -> std::process::ExitCode {
    let bench = Bench::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(bench.run()),
        Err(e) => Err(Error::io("starting the runtime", e)),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plexus-bench: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

impl Bench {
    fn selects(&self, part: &str) -> bool {
        self.only.iter().any(|p| p == part)
    }

    async fn run(&self) -> Result<()> {
        let program = plexus_binary()?;
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => std::env::temp_dir().join(format!("plexus-bench-{}", std::process::id())),
        };
        std::fs::create_dir_all(&dir).map_err(|e| Error::io(dir.display(), e))?;
        let result = self.measure(&program, &dir).await;
        if self.dir.is_none() {
            let _ = std::fs::remove_dir_all(&dir);
        }
        let figures = result?;
        println!("\n| what | measured | target |\n|---|---|---|");
        for figure in figures {
            println!("| {} | {} | {} |", figure.name, figure.value, figure.target);
        }
        Ok(())
    }

    async fn measure(&self, program: &Path, dir: &Path) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        if self.selects("limits") {
            figures.extend(limits::measure(dir)?);
        }
        figures.extend(workload::measure(program, dir, |part| self.selects(part)).await?);
        if self.selects("dml") {
            figures.extend(dml::measure(program, dir, self.dml_rows).await?);
        }
        if self.selects("vectors") {
            figures.extend(vectors::measure(dir, self.vectors)?);
        }
        if self.selects("text") {
            figures.extend(text::measure(self.search_rows)?);
        }
        if self.selects("search") {
            figures.extend(search::measure(program, dir, self.search_rows).await?);
        }
        if self.selects("tpch") {
            let Self { scale, runs, detail, no_keys, .. } = *self;
            let options = tpch::Options { scale, runs, detail, keys: !no_keys };
            figures.extend(tpch::measure(program, dir, &options).await?);
        }
        if self.selects("failover") {
            figures.extend(failover::measure(program, dir, self.failovers).await?);
        }
        Ok(figures)
    }
}

/// The `plexus` binary that was built together with this one.
fn plexus_binary() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|e| Error::io("this program", e))?;
    let beside = own.with_file_name("plexus");
    if !beside.exists() {
        return Err(Error::not_found(format!("{}: build it first", beside.display())));
    }
    Ok(beside)
}
