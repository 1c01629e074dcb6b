//! Input files of a load: CSV, TSV, Parquet, JSON and Arrow IPC. Detects the format and the schema.
//!
//! Values of text files are kept or refused: see `values`.

mod csv;
mod guard;
mod infer;
mod json;
mod json_value;
mod source;
mod unify;
mod values;

use std::fs::File;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::ipc::reader::{FileReader, StreamReader};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Type as PhysicalType;
use plexus_model::{Error, Result};
use plexus_storage::ipc_check;

use csv::CsvFile;
use guard::{guard, guard_batches};
use source::Source;
pub(crate) use unify::unify;

/// Rows per batch.
pub(crate) const BATCH_ROWS: usize = 65_536;
/// Bytes of text per batch, approximately.
pub(crate) const BATCH_BYTES_MAX: usize = 32 * 1024 * 1024;

/// How text files are written, where that should not be detected.
#[derive(Clone, Default, Debug)]
pub struct TextOptions {
    /// Separates the fields of CSV.
    pub delimiter: Option<u8>,
    /// Quotes the fields of CSV.
    pub quote: Option<u8>,
    /// Whether the first line of CSV names the columns.
    pub header: Option<bool>,
    /// Text of missing values in CSV, besides nothing at all.
    pub null: Option<String>,
    /// Name of the encoding.
    pub encoding: Option<String>,
}

#[derive(Clone, Debug)]
enum Format {
    Csv(CsvFile),
    Parquet,
    Json(TextOptions),
    /// The random access format of Arrow IPC.
    ArrowFile,
    /// The streaming format of Arrow IPC.
    ArrowStream,
}

/// A file with its detected format and schema.
pub(crate) struct Input {
    path: PathBuf,
    format: Format,
    schema: SchemaRef,
    /// Number of rows, for formats that store it.
    rows: Option<u64>,
    /// The columns of all files that are loaded together, and the place of each in this one.
    unified: Option<SchemaRef>,
    order: Vec<usize>,
}

/// The batches of a file, in its order.
pub(crate) type Batches = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

impl Input {
    /// Detects the format and the schema of a file.
    ///
    /// Text formats take the types of `table_schema`, the schema of the existing table, for the columns that
    /// it has. Other types are inferred from all rows.
    ///
    /// # Errors
    /// `InvalidArgument` names the file and what is wrong with it.
    pub(crate) fn open(path: &Path, options: &TextOptions, table_schema: Option<&SchemaRef>) -> Result<Self> {
        let format = detect(path, options)?;
        let (schema, rows) = guard(path, || Self::schema_and_rows(path, &format, table_schema))?;
        if schema.fields().is_empty() {
            return Err(Error::invalid(format!("{}: the file is empty, or has no columns", path.display())));
        }
        Ok(Self { path: path.to_owned(), format, schema, rows, unified: None, order: vec![] })
    }

    /// The schema of a file and, if it stores that, its number of rows.
    fn schema_and_rows(
        path: &Path,
        format: &Format,
        table_schema: Option<&SchemaRef>,
    ) -> Result<(SchemaRef, Option<u64>)> {
        let schema = match format {
            Format::Csv(file) => file.schema(table_schema)?,
            Format::Json(options) => json::schema(path, options, table_schema)?,
            Format::Parquet => {
                let metadata = parquet_metadata(path, &open(path)?)?;
                let rows = metadata.metadata().file_metadata().num_rows().max(0);
                let in_groups: i64 =
                    metadata.metadata().row_groups().iter().map(|group| group.num_rows()).sum();
                if rows != in_groups {
                    let reason = format!("its footer announces {rows} rows, its row groups have {in_groups}");
                    return Err(damaged(path, reason));
                }
                let rows = rows as u64;
                return Ok((metadata.schema().clone(), Some(rows)));
            }
            Format::ArrowFile => {
                let file = open(path)?;
                ipc_check::check_file(&file).map_err(|e| damaged(path, e.message()))?;
                FileReader::try_new(file, None).map_err(|e| damaged(path, e))?.schema()
            }
            Format::ArrowStream => {
                let file = open(path)?;
                ipc_check::check_stream(&file).map_err(|e| damaged(path, e.message()))?;
                StreamReader::try_new(file, None).map_err(|e| damaged(path, e))?.schema()
            }
        };
        Ok((schema, None))
    }

    /// Schema of the rows.
    pub(crate) fn schema(&self) -> &SchemaRef {
        self.unified.as_ref().unwrap_or(&self.schema)
    }

    /// Number of rows, if the file stores it.
    pub(crate) fn rows(&self) -> Option<u64> {
        self.rows
    }

    /// Whether the types of the columns were inferred, so that they may be others.
    fn is_text(&self) -> bool {
        matches!(self.format, Format::Csv(_) | Format::Json(_))
    }

    /// Reads the rows.
    ///
    /// # Errors
    /// `InvalidArgument`, here and in the iterator, names the file and, for text formats, the line.
    pub(crate) fn batches(&self) -> Result<Batches> {
        let batches = guard(&self.path, || self.unguarded_batches())?;
        Ok(unify::unified(self, guard_batches(self.path.clone(), batches)))
    }

    fn unguarded_batches(&self) -> Result<Batches> {
        let path = self.path.clone();
        Ok(match &self.format {
            Format::Csv(file) => file.batches(self.schema.clone())?,
            Format::Json(options) => json::batches(&path, options, self.schema.clone())?,
            Format::Parquet => {
                let file = open(&path)?;
                let metadata = parquet_metadata(&path, &file)?;
                let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
                let reader = builder.with_batch_size(BATCH_ROWS).build().map_err(|e| damaged(&path, e))?;
                let at_path = path.clone();
                let batches = reader.map(move |batch| batch.map_err(|e| damaged(&at_path, e)));
                Box::new(with_all_rows(path, Box::new(batches), self.rows))
            }
            Format::ArrowFile => {
                let reader = FileReader::try_new(open(&path)?, None).map_err(|e| damaged(&path, e))?;
                Box::new(reader.map(move |batch| batch.map_err(|e| damaged(&path, e))))
            }
            Format::ArrowStream => {
                let reader = StreamReader::try_new(open(&path)?, None).map_err(|e| damaged(&path, e))?;
                Box::new(reader.map(move |batch| batch.map_err(|e| damaged(&path, e))))
            }
        })
    }
}

/// Batches that end with an error if they have not as many rows as the file says.
fn with_all_rows(
    path: PathBuf,
    batches: Batches,
    rows: Option<u64>,
) -> impl Iterator<Item = Result<RecordBatch>> {
    let mut missing = rows;
    let counted = batches.map(Some).chain(std::iter::once(None));
    counted.filter_map(move |batch| match (batch, missing) {
        (Some(Ok(batch)), _) => {
            missing = missing.and_then(|missing| missing.checked_sub(batch.num_rows() as u64));
            Some(Ok(batch))
        }
        (Some(Err(error)), _) => {
            missing = Some(0);
            Some(Err(error))
        }
        (None, None | Some(0)) => None,
        (None, Some(missing)) => Some(Err(damaged(&path, format!("{missing} of its rows cannot be read")))),
    })
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::io(path.display(), e))
}

/// The metadata of a Parquet file. Its times of 96 bits are read as microseconds: in nanoseconds, the year
/// 9999 would wrap around to 1816.
fn parquet_metadata(path: &Path, file: &File) -> Result<ArrowReaderMetadata> {
    let failed = |e| damaged(path, e);
    let load = |options| ArrowReaderMetadata::load(file, options).map_err(failed);
    let found = load(ArrowReaderOptions::new())?;
    let columns = found.parquet_schema().columns();
    if columns.iter().all(|column| column.physical_type() != PhysicalType::INT96) {
        return Ok(found);
    }
    let microseconds = |field: &Arc<Field>| match field.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            let is_int96 = columns.iter().any(|column| {
                column.physical_type() == PhysicalType::INT96
                    && column.path().parts() == [field.name().clone()]
            });
            let unit = if is_int96 { TimeUnit::Microsecond } else { TimeUnit::Nanosecond };
            field.as_ref().clone().with_data_type(DataType::Timestamp(unit, zone.clone()))
        }
        _ => field.as_ref().clone(),
    };
    let fields: Vec<Field> = found.schema().fields().iter().map(microseconds).collect();
    let schema = Schema::new_with_metadata(fields, found.schema().metadata().clone());
    load(ArrowReaderOptions::new().with_schema(Arc::new(schema)))
}

fn damaged(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{}: the file is damaged or cut short: {error}", path.display()))
}

/// Detects the format by the first bytes, then by the file name, then by whether the content looks like text.
fn detect(path: &Path, options: &TextOptions) -> Result<Format> {
    let at_path = |e: Error| e.context(path.display());
    let mut head = Vec::new();
    open(path)?.take(64).read_to_end(&mut head).map_err(|e| Error::io(path.display(), e))?;
    if head.starts_with(b"PAR1") {
        return Ok(Format::Parquet);
    }
    if head.starts_with(b"ARROW1") {
        return Ok(Format::ArrowFile);
    }
    if head.starts_with(&[0xff, 0xff, 0xff, 0xff]) {
        return Ok(Format::ArrowStream);
    }
    // A JSON file without objects has no rows.
    if head.is_empty() && !["ndjson", "jsonl", "json"].contains(&extension(path).as_str()) {
        return Err(at_path(Error::invalid("the file is empty")));
    }
    let csv = || CsvFile::detect(path, options).map(Format::Csv);
    let json = || Ok(Format::Json(options.clone()));
    match extension(path).as_str() {
        "csv" | "tsv" | "tab" => csv(),
        "ndjson" | "jsonl" | "json" => json(),
        "parquet" => Err(at_path(Error::invalid("not a Parquet file: its first bytes are not PAR1"))),
        "arrow" | "feather" | "arrows" | "ipc" => Err(at_path(Error::invalid("not an Arrow IPC file"))),
        _ => {
            let mut source = Source::open(path, options.encoding.as_deref())?;
            let text = source.fill_buf().map_err(|e| Error::io(path.display(), e))?.trim_ascii_start();
            match text.first() {
                Some(b'{' | b'[') => json(),
                Some(_) if !text.iter().take(1_024).any(|b| *b == 0) => csv(),
                _ => Err(at_path(Error::invalid(
                    "unknown format; supported are CSV, TSV, Parquet, JSON and Arrow IPC",
                ))),
            }
        }
    }
}

/// The extension of a file in lower case, without that of its compression.
fn extension(path: &Path) -> String {
    let of = |path: &Path| path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    match of(path).as_str() {
        "gz" | "zst" | "zstd" => of(&path.with_extension("")),
        _ => of(path),
    }
}
