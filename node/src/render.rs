//! Rows on standard output, for people and for programs.

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
use plexus_model::{Error, Result};

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RowFormat {
    /// A table drawn with lines
    #[default]
    Table,
    /// Comma-separated values with a header
    Csv,
    /// One JSON object a line
    Json,
    /// A Parquet file
    Parquet,
}

/// Standard output. When its reader is gone the process ends without a word, as filters do: `head` has
/// seen enough.
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        or_end(io::stdout().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        or_end(io::stdout().flush())
    }
}

fn or_end<T>(result: io::Result<T>) -> io::Result<T> {
    match result {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        result => result,
    }
}

fn fail(error: impl std::fmt::Display) -> Error {
    Error::unavailable(format!("writing the result: {error}"))
}

/// Writes rows as they come, except the table, which needs all of them for its widths. Returns how many.
pub async fn write_rows(
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
            if let Some(plans) = plan_texts(&batches) {
                // A drawn table would pad every line to the width of the longest.
                return write!(out, "{plans}").map(|()| count).map_err(fail);
            }
            let options = FormatOptions::default().with_null("NULL").with_types_info(false);
            let text = pretty_format_batches_with_options(&batches, &options).map_err(fail)?;
            writeln!(out, "{text}").map_err(fail)?;
        }
        RowFormat::Csv => {
            let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(&mut out);
            writer.write(&RecordBatch::new_empty(schema)).map_err(fail)?;
            while let Some(batch) = rows.try_next().await? {
                count += batch.num_rows() as u64;
                writer.write(&batch).map_err(fail)?;
            }
        }
        RowFormat::Json => {
            let mut writer = arrow::json::WriterBuilder::new()
                .with_explicit_nulls(true)
                .build::<_, arrow::json::writer::LineDelimited>(&mut out);
            while let Some(batch) = rows.try_next().await? {
                count += batch.num_rows() as u64;
                writer.write(&batch).map_err(fail)?;
            }
            writer.finish().map_err(fail)?;
        }
        RowFormat::Parquet => {
            let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
            let mut writer =
                ArrowWriter::try_new(&mut out, Arc::clone(&schema), Some(properties)).map_err(fail)?;
            while let Some(batch) = rows.try_next().await? {
                count += batch.num_rows() as u64;
                writer.write(&batch).map_err(fail)?;
            }
            writer.close().map_err(fail)?;
        }
    }
    out.flush().map_err(fail)?;
    Ok(count)
}

/// The texts of an EXPLAIN, if this is one.
fn plan_texts(batches: &[RecordBatch]) -> Option<String> {
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
