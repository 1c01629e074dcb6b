//! Writes rows to standard output in the formats that the client commands offer.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use arrow_schema::SchemaRef;
use clap::ValueEnum;
use futures::{Stream, TryStreamExt};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use plexus_coordinator::{CsvOptions, ExactValues};
use plexus_model::{Error, Result};

/// Output format of rows. The variant comments are help texts.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum RowFormat {
    /// Aligned table, for people
    #[default]
    Table,
    /// Comma-separated values with a header line
    Csv,
    /// One JSON object per row and line
    Json,
    /// Parquet file
    Parquet,
}

/// Standard output that ends the process silently when its reader has closed the pipe, as in `plexus sql ...
/// | head`.
pub(crate) struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        exit_on_broken_pipe(io::stdout().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        exit_on_broken_pipe(io::stdout().flush())
    }
}

fn exit_on_broken_pipe<T>(result: io::Result<T>) -> io::Result<T> {
    match result {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        result => result,
    }
}

fn write_error(error: impl std::fmt::Display) -> Error {
    Error::unavailable(format!("writing the result: {error}"))
}

/// Writes rows and returns their number. All formats stream, except the table, which needs all rows to find
/// the widths of its columns.
///
/// # Errors
/// Errors of `rows`, and `Unavailable` when writing fails.
pub(crate) async fn write_rows(
    format: RowFormat,
    schema: SchemaRef,
    mut rows: impl Stream<Item = Result<RecordBatch>> + Unpin,
    mut out: impl Write + Send,
) -> Result<u64> {
    let mut count = 0;
    match format {
        RowFormat::Table => {
            let mut batches = vec![RecordBatch::new_empty(schema)];
            while let Some(batch) = rows.try_next().await? {
                count += batch.num_rows() as u64;
                batches.push(batch);
            }
            if let Some(plans) = explain_text(&batches) {
                // A table would pad every line of the plan to the width of the longest.
                return write!(out, "{plans}").map(|()| count).map_err(write_error);
            }
            let options = FormatOptions::default().with_null("NULL").with_types_info(false);
            let text = pretty_format_batches_with_options(&batches, &options).map_err(write_error)?;
            writeln!(out, "{text}").map_err(write_error)?;
        }
        RowFormat::Csv => {
            let csv = CsvOptions::default();
            out.write_all(&csv.header(&schema)).map_err(write_error)?;
            while let Some(batch) = rows.try_next().await? {
                count += batch.num_rows() as u64;
                out.write_all(&csv.lines(&batch)?).map_err(write_error)?;
            }
        }
        RowFormat::Json => {
            let mut writer = arrow::json::WriterBuilder::new()
                .with_explicit_nulls(true)
                .with_encoder_factory(Arc::new(ExactValues))
                .build::<_, arrow::json::writer::LineDelimited>(&mut out);
            while let Some(batch) = rows.try_next().await? {
                count += batch.num_rows() as u64;
                writer.write(&batch).map_err(write_error)?;
            }
            writer.finish().map_err(write_error)?;
        }
        RowFormat::Parquet => {
            let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
            let mut writer =
                ArrowWriter::try_new(&mut out, Arc::clone(&schema), Some(properties)).map_err(write_error)?;
            while let Some(batch) = rows.try_next().await? {
                count += batch.num_rows() as u64;
                writer.write(&batch).map_err(write_error)?;
            }
            writer.close().map_err(write_error)?;
        }
    }
    out.flush().map_err(write_error)?;
    Ok(count)
}

/// The plans of an `EXPLAIN` as text. `None` for other results.
fn explain_text(batches: &[RecordBatch]) -> Option<String> {
    let names: Vec<String> = batches.first()?.schema().fields().iter().map(|f| f.name().clone()).collect();
    if names != ["plan_type", "plan"] {
        return None;
    }
    let mut text = String::new();
    for batch in batches {
        let kinds = batch.column(0).as_string_opt::<i32>()?;
        let plans = batch.column(1).as_string_opt::<i32>()?;
        for row in 0..batch.num_rows() {
            text.push_str(&format!("-- {}\n{}\n\n", kinds.value(row), plans.value(row).trim_end()));
        }
    }
    Some(text)
}
