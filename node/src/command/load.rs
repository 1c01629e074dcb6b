//! `plexus load`: files into a table, in one commit.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use futures::StreamExt;
use futures::stream::BoxStream;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use plexus_model::{Error, Result};
use tokio_stream::wrappers::ReceiverStream;

use crate::client::{Client, IngestOptions};
use crate::input::Input;

/// Load files into a table, in one commit: all of them become visible, or nothing
#[derive(Args, Debug)]
pub struct Load {
    /// CSV, Parquet, NDJSON or Arrow IPC files; the format is found out
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Table to load into, optionally with its schema: [SCHEMA.]TABLE
    #[arg(long, env = "PLEXUS_TABLE", value_name = "NAME")]
    table: String,

    /// What happens to rows that are there: `append` keeps them and fails when a primary key is there already,
    /// `upsert` replaces rows with the same primary key, `replace` puts the files in the place of the table
    #[arg(long, env = "PLEXUS_LOAD_MODE", value_enum, default_value_t = Mode::Append)]
    mode: Mode,

    /// Create the table, with the columns of the first file
    #[arg(long, env = "PLEXUS_CREATE", value_parser = BoolishValueParser::new())]
    create: bool,

    /// Shards of a table that is created
    #[arg(long, env = "PLEXUS_SHARDS", value_name = "N", requires = "create")]
    shards: Option<u32>,

    /// Replicas of a table that is created
    #[arg(long, env = "PLEXUS_REPLICAS", value_name = "N", requires = "create")]
    replicas: Option<u32>,

    /// Primary key of a table that is created: unique, never null; it decides the shard of a row
    #[arg(
        long,
        env = "PLEXUS_PRIMARY_KEY",
        value_name = "COLUMNS",
        requires = "create",
        value_delimiter = ','
    )]
    primary_key: Vec<String>,

    /// Flight SQL server
    #[arg(long, env = "PLEXUS_URL", default_value = "grpc://127.0.0.1:7070")]
    url: String,
}

/// What a load does about rows that are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Mode {
    Append,
    Upsert,
    Replace,
}

impl Load {
    pub fn run(self) -> Result<()> {
        super::block_on(async {
            let (schema, table) = match self.table.split_once('.') {
                Some((schema, table)) => (Some(schema.to_owned()), table.to_owned()),
                None => (None, self.table.clone()),
            };
            let mut client = Client::connect(&self.url).await?;
            let options = IngestOptions {
                schema,
                table,
                create: self.create,
                replace: self.mode == Mode::Replace,
                upsert: self.mode == Mode::Upsert,
                shards: self.shards,
                replicas: self.replicas,
                primary_key: self.primary_key,
            };
            let started = Instant::now();
            let rows = load_files(&mut client, &self.files, options).await?;
            let seconds = started.elapsed().as_secs_f64();
            eprintln!(
                "loaded {rows} rows into {} in {seconds:.1} s ({:.0} rows/s)",
                self.table,
                rows as f64 / seconds
            );
            Ok(())
        })
    }
}

/// Loads files as one ingest, with a progress bar.
pub async fn load_files(client: &mut Client, files: &[PathBuf], options: IngestOptions) -> Result<u64> {
    let wanted = match options.create || options.replace {
        true => None,
        false => {
            let found = client.table_schema(options.schema.as_deref(), &options.table).await?;
            Some(found.ok_or_else(|| {
                Error::not_found(format!("table {} does not exist; --create creates it", options.table))
            })?)
        }
    };
    let inputs: Vec<Input> = files.iter().map(|f| Input::open(f, wanted.as_ref())).collect::<Result<_>>()?;
    let Some(first) = inputs.first() else {
        return Err(Error::invalid("no files to load"));
    };
    let schema = first.schema().clone();
    if let Some(other) = inputs.iter().find(|i| i.schema().fields() != schema.fields()) {
        return Err(Error::invalid(format!(
            "{} has other columns than {}: load them apart",
            other.path().display(),
            first.path().display()
        )));
    }
    let total: Option<u64> = inputs.iter().map(Input::rows).sum();
    let bar = progress(&options.table, total);
    let batches = inputs.into_iter().flat_map(|input| match input.batches() {
        Ok(batches) => batches,
        Err(error) => Box::new(std::iter::once(Err(error))),
    });
    let result = client.ingest(options, schema, read_ahead(batches, bar.clone())).await;
    bar.finish_and_clear();
    result
}

/// A bar with rows per second; silent where nobody would see it.
pub fn progress(what: &str, rows: Option<u64>) -> ProgressBar {
    let template = match rows {
        Some(_) => "{prefix:>12} [{bar:30}] {human_pos}/{human_len} rows, {rate}",
        None => "{prefix:>12} {spinner} {human_pos} rows, {rate}",
    };
    let bar = match rows {
        Some(rows) => ProgressBar::new(rows),
        None => ProgressBar::new_spinner(),
    };
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template(template) {
        let rate = |state: &ProgressState, out: &mut dyn Write| {
            // Nothing can be done about a bar that cannot be drawn.
            let _ = write!(out, "{:.0} rows/s", state.per_sec());
        };
        bar.set_style(style.progress_chars("=> ").with_key("rate", rate));
    }
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Runs an iterator on a thread of its own, a few batches ahead, up to its first error.
pub fn read_ahead(
    batches: impl Iterator<Item = Result<RecordBatch>> + Send + 'static,
    bar: ProgressBar,
) -> BoxStream<'static, Result<RecordBatch>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        for batch in batches {
            bar.inc(batch.as_ref().map_or(0, |b| b.num_rows() as u64));
            let failed = batch.is_err();
            if sender.blocking_send(batch).is_err() || failed {
                return;
            }
        }
    });
    ReceiverStream::new(receiver).boxed()
}
