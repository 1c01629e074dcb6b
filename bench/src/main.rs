//! Measures a local cluster of real processes and prints a table.
//!
//! The limits of the machine are measured first, so that a figure can be read against them. Latencies are
//! percentiles of a histogram; times of queries are the best of a few runs, as the comparison's are.

mod changes;
mod limits;
mod search;
mod tpch;
mod vectors;
mod words;
mod workload;

use std::path::{Path, PathBuf};

use clap::Parser;
use plexus_model::{Error, Result};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measure a local cluster of real processes
#[derive(Parser, Debug)]
#[command(name = "plexus-bench", version)]
struct Bench {
    /// Parts to run
    #[arg(long, env = "PLEXUS_BENCH_ONLY", value_delimiter = ',', default_values = ["limits", "idle", "load", "insert", "lookup", "aggregate", "changes", "vectors", "words", "search", "tpch"])]
    only: Vec<String>,

    /// Scale factor of the TPC-H comparison
    #[arg(long, env = "PLEXUS_BENCH_SCALE", default_value_t = 1.0)]
    scale: f64,

    /// Runs of each TPC-H query, of which the best counts
    #[arg(long, env = "PLEXUS_BENCH_RUNS", default_value_t = 3)]
    runs: usize,

    /// Rows of the table that is changed
    #[arg(long, env = "PLEXUS_BENCH_CHANGE_ROWS", default_value_t = changes::ROWS, value_parser = clap::value_parser!(i64).range(1_000..))]
    change_rows: i64,

    /// Vectors among which the nearest are searched
    #[arg(long, env = "PLEXUS_BENCH_VECTORS", default_value_t = vectors::VECTORS)]
    vectors: usize,

    /// Rows that are searched by their words and vectors
    #[arg(long, env = "PLEXUS_BENCH_SEARCH_ROWS", default_value_t = search::ROWS)]
    search_rows: usize,

    /// Load the TPC-H tables without primary keys: their rows keep the order in which they are made
    #[arg(long, env = "PLEXUS_BENCH_NO_KEYS")]
    no_keys: bool,

    /// Where data is kept while measuring [default: a temporary directory]
    #[arg(long, env = "PLEXUS_BENCH_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Print each TPC-H query's times
    #[arg(long, env = "PLEXUS_BENCH_DETAIL")]
    detail: bool,
}

/// One line of the result.
pub struct Figure {
    pub name: String,
    pub value: String,
    pub target: String,
}

impl Figure {
    pub fn new(name: impl Into<String>, value: impl Into<String>, target: impl Into<String>) -> Self {
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
    fn wants(&self, part: &str) -> bool {
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
        if self.wants("limits") {
            figures.extend(limits::measure(dir)?);
        }
        figures.extend(workload::measure(program, dir, |part| self.wants(part)).await?);
        if self.wants("changes") {
            figures.extend(changes::measure(program, dir, self.change_rows).await?);
        }
        if self.wants("vectors") {
            figures.extend(vectors::measure(dir, self.vectors)?);
        }
        if self.wants("words") {
            figures.extend(words::measure(self.search_rows)?);
        }
        if self.wants("search") {
            figures.extend(search::measure(program, dir, self.search_rows).await?);
        }
        if self.wants("tpch") {
            figures.extend(
                tpch::measure(program, dir, self.scale, self.runs, self.detail, !self.no_keys).await?,
            );
        }
        Ok(figures)
    }
}

/// The binary that is built beside this one.
fn plexus_binary() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|e| Error::io("this program", e))?;
    let beside = own.with_file_name("plexus");
    if !beside.exists() {
        return Err(Error::not_found(format!("{}: build it first", beside.display())));
    }
    Ok(beside)
}
