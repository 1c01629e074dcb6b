//! `plexus load`: loads files into a table in one commit.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use futures::StreamExt;
use futures::stream::BoxStream;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use plexus_model::{Error, ErrorKind, Result};
use tokio_stream::wrappers::ReceiverStream;

use crate::client::{Client, IngestOptions};
use crate::input::{self, Input};

pub use crate::input::TextOptions;

/// Batches that [`read_ahead`] holds.
const BATCHES_AHEAD_MAX: usize = 4;

/// Load files into a table in one commit: either all rows become visible or none
#[derive(Args, Debug)]
pub(crate) struct Load {
    /// CSV, TSV, Parquet, JSON or Arrow IPC files, text also compressed by gzip or zstd. The format is
    /// detected from content and file name
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Table to load into, as TABLE or SCHEMA.TABLE
    #[arg(long, env = "PLEXUS_TABLE", value_name = "NAME")]
    table: String,

    /// How to treat existing rows
    #[arg(long, env = "PLEXUS_LOAD_MODE", value_enum, default_value_t = Mode::Append)]
    mode: Mode,

    /// Create the table with the columns of the first file; fails if it exists
    #[arg(long, env = "PLEXUS_CREATE", value_parser = BoolishValueParser::new())]
    create: bool,

    /// Number of shards of the new table
    #[arg(long, env = "PLEXUS_SHARDS", value_name = "N", requires = "create")]
    shards: Option<u32>,

    /// Number of replicas of each shard of the new table
    #[arg(long, env = "PLEXUS_REPLICAS", value_name = "N", requires = "create")]
    replicas: Option<u32>,

    /// Primary key of the new table, separated by commas. Rows are assigned to shards by its hash
    #[arg(
        long,
        env = "PLEXUS_PRIMARY_KEY",
        value_name = "COLUMNS",
        requires = "create",
        value_delimiter = ','
    )]
    primary_key: Vec<String>,

    /// Character between the fields of CSV; found out if not given. `\t` is a tab
    #[arg(long, env = "PLEXUS_DELIMITER", value_name = "CHARACTER", value_parser = character)]
    delimiter: Option<u8>,

    /// Character around quoted fields of CSV
    #[arg(long, env = "PLEXUS_QUOTE", value_name = "CHARACTER", value_parser = character)]
    quote: Option<u8>,

    /// Whether the first line of CSV names the columns; found out if not given
    #[arg(long, env = "PLEXUS_HEADER", value_name = "BOOL", value_parser = BoolishValueParser::new())]
    header: Option<bool>,

    /// Text that stands for a missing value in CSV, besides nothing at all
    #[arg(long, env = "PLEXUS_NULL", value_name = "TEXT")]
    null: Option<String>,

    /// Encoding of text files, such as windows-1252 or utf-16le. The default is UTF-8, or what a byte order
    /// mark says
    #[arg(long, env = "PLEXUS_ENCODING", value_name = "NAME")]
    encoding: Option<String>,

    /// URL of the Flight SQL server
    #[arg(long, env = "PLEXUS_URL", default_value = "grpc://127.0.0.1:7070")]
    url: String,
}

/// A single ASCII character.
fn character(text: &str) -> std::result::Result<u8, String> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() => Ok(*byte),
        b"\\t" => Ok(b'\t'),
        _ => Err("one ASCII character is needed".to_owned()),
    }
}

/// How a load treats existing rows. The variant comments are help texts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Mode {
    /// Keep all existing rows; fail if a primary key exists already
    Append,
    /// Replace existing rows that have the same primary key
    Upsert,
    /// Replace the whole table, with its key, checks and indexes, by one of the columns of the files; create
    /// it if it does not exist
    Replace,
}

impl Load {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<()> {
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
            let text = TextOptions {
                delimiter: self.delimiter,
                quote: self.quote,
                header: self.header,
                null: self.null,
                encoding: self.encoding,
            };
            let rows = load_files(&mut client, &self.files, &text, options).await?;
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

/// Loads files with one ingest and a progress bar. Returns the number of rows.
///
/// # Errors
/// `InvalidArgument` names the file and, for text formats, the line. Otherwise errors of the ingest.
pub async fn load_files(
    client: &mut Client,
    files: &[PathBuf],
    text: &TextOptions,
    options: IngestOptions,
) -> Result<u64> {
    let table_schema = match options.create || options.replace {
        true => None,
        false => {
            let found = client.table_schema(options.schema.as_deref(), &options.table).await?;
            Some(found.ok_or_else(|| {
                Error::not_found(format!("table {} does not exist; use --create to create it", options.table))
            })?)
        }
    };
    let mut inputs: Vec<Input> =
        files.iter().map(|f| Input::open(f, text, table_schema.as_ref())).collect::<Result<_>>()?;
    input::unify(&mut inputs)?;
    let schema = inputs[0].schema().clone();
    let total: Option<u64> = inputs.iter().map(Input::rows).sum();
    let bar = progress(&options.table, total);
    let batches = inputs.into_iter().flat_map(|input| match input.batches() {
        Ok(batches) => batches,
        Err(error) => Box::new(std::iter::once(Err(error))),
    });
    let is_sent = Arc::new(AtomicBool::new(false));
    let at_end = is_sent.clone();
    let end = futures::stream::once(async move { at_end.store(true, Ordering::Relaxed) });
    let rows = read_ahead(batches, bar.clone()).chain(end.filter_map(async |()| None)).boxed();
    let result = client.ingest(options, schema, rows).await;
    bar.finish_and_clear();
    result.map_err(|error| match files {
        _ if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Unknown) => {
            let outcome = match is_sent.load(Ordering::Relaxed) {
                true => "it is not known whether the rows were loaded: look before they are loaded again",
                false => "nothing was loaded",
            };
            error.context(format!("the connection to the cluster was lost, and {outcome}"))
        }
        // What the cluster says of the rows; the reader's own errors name the file.
        [file] if error.kind() == ErrorKind::InvalidArgument => {
            let path = file.display().to_string();
            if error.message().contains(&path) { error } else { error.context(path) }
        }
        _ => error,
    })
}

/// A progress bar with rows per second. Hidden unless standard error is a terminal. `rows` is the total, if
/// known.
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
            // A progress bar that cannot be drawn must not fail the load.
            let _ = write!(out, "{:.0} rows/s", state.per_sec());
        };
        bar.set_style(style.progress_chars("=> ").with_key("rate", rate));
    }
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Runs an iterator on a blocking thread, a few batches ahead of the consumer. Ends at the first error. A
/// panic of the iterator is an error too: the rows before it must not pass for all.
pub fn read_ahead(
    batches: impl Iterator<Item = Result<RecordBatch>> + Send + 'static,
    bar: ProgressBar,
) -> BoxStream<'static, Result<RecordBatch>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(BATCHES_AHEAD_MAX);
    let reader = tokio::task::spawn_blocking(move || {
        for batch in batches {
            bar.inc(batch.as_ref().map_or(0, |b| b.num_rows() as u64));
            let failed = batch.is_err();
            if sender.blocking_send(batch).is_err() || failed {
                return;
            }
        }
    });
    let end = futures::stream::once(reader).filter_map(|ended| async move {
        let panicked = ended.err()?;
        Some(Err(Error::invalid(format!("the file is damaged: reading it failed ({panicked})"))))
    });
    ReceiverStream::new(receiver).chain(end).boxed()
}
