//! Input files of a load: CSV, TSV, Parquet, NDJSON and Arrow IPC. Detects the format and the schema.

mod csv;
mod json;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::ipc::reader::{FileReader, StreamReader};
use arrow_schema::SchemaRef;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use plexus_model::{Error, Result};

/// Rows per batch.
pub(crate) const BATCH_ROWS: usize = 65_536;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FileFormat {
    Csv,
    Parquet,
    Json,
    /// The random access format of Arrow IPC.
    ArrowFile,
    /// The streaming format of Arrow IPC.
    ArrowStream,
}

/// A file with its detected format and schema.
pub(crate) struct Input {
    path: PathBuf,
    format: FileFormat,
    schema: SchemaRef,
    /// Number of rows, for formats that store it.
    rows: Option<u64>,
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
    pub(crate) fn open(path: &Path, table_schema: Option<&SchemaRef>) -> Result<Self> {
        let at_path = |e: Error| e.context(path.display());
        let mut file = open(path)?;
        let format = detect(path, &mut file).map_err(at_path)?;
        let mut rows = None;
        let schema = match format {
            FileFormat::Csv => csv::schema(path, table_schema)?,
            FileFormat::Json => json::schema(path, table_schema)?,
            FileFormat::Parquet => {
                let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| damaged(path, e))?;
                rows = Some(builder.metadata().file_metadata().num_rows().max(0) as u64);
                builder.schema().clone()
            }
            FileFormat::ArrowFile => FileReader::try_new(file, None).map_err(|e| damaged(path, e))?.schema(),
            FileFormat::ArrowStream => {
                StreamReader::try_new(file, None).map_err(|e| damaged(path, e))?.schema()
            }
        };
        if schema.fields().is_empty() {
            return Err(Error::invalid(format!("{}: the file has no columns", path.display())));
        }
        Ok(Self { path: path.to_owned(), format, schema, rows })
    }

    /// Path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Schema of the rows.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Number of rows, if the file stores it.
    pub(crate) fn rows(&self) -> Option<u64> {
        self.rows
    }

    /// Reads the rows.
    ///
    /// # Errors
    /// `InvalidArgument`, here and in the iterator, names the file and, for text formats, the line.
    pub(crate) fn batches(&self) -> Result<Batches> {
        let path = self.path.clone();
        let file = open(&path)?;
        Ok(match self.format {
            FileFormat::Csv => csv::batches(path, self.schema.clone())?,
            FileFormat::Json => json::batches(path, self.schema.clone())?,
            FileFormat::Parquet => {
                let reader = ParquetRecordBatchReaderBuilder::try_new(file)
                    .and_then(|builder| builder.with_batch_size(BATCH_ROWS).build())
                    .map_err(|e| damaged(&path, e))?;
                Box::new(reader.map(move |batch| batch.map_err(|e| damaged(&path, e))))
            }
            FileFormat::ArrowFile => {
                let reader = FileReader::try_new(file, None).map_err(|e| damaged(&path, e))?;
                Box::new(reader.map(move |batch| batch.map_err(|e| damaged(&path, e))))
            }
            FileFormat::ArrowStream => {
                let reader = StreamReader::try_new(file, None).map_err(|e| damaged(&path, e))?;
                Box::new(reader.map(move |batch| batch.map_err(|e| damaged(&path, e))))
            }
        })
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::io(path.display(), e))
}

/// Opens a text file and skips the UTF-8 byte order mark, if there is one.
fn open_text(path: &Path) -> Result<File> {
    let mut file = open(path)?;
    let mut head = [0; 3];
    let has_mark = file.read_exact(&mut head).is_ok() && head == [0xef, 0xbb, 0xbf];
    let start = if has_mark { 3 } else { 0 };
    file.seek(SeekFrom::Start(start)).map_err(|e| Error::io(path.display(), e))?;
    Ok(file)
}

fn damaged(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{}: the file is damaged or cut short: {error}", path.display()))
}

/// Detects the format by the first bytes, then by the file name, then by whether the content looks like text.
fn detect(path: &Path, file: &mut File) -> Result<FileFormat> {
    let mut head = [0; 64];
    let mut length = 0;
    while length < head.len() {
        match file.read(&mut head[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) => return Err(Error::io("reading", e)),
        }
    }
    file.seek(SeekFrom::Start(0)).map_err(|e| Error::io("reading", e))?;
    let head = &head[..length];
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    if head.starts_with(b"PAR1") {
        return Ok(FileFormat::Parquet);
    }
    if head.starts_with(b"ARROW1") {
        return Ok(FileFormat::ArrowFile);
    }
    if head.starts_with(&[0xff, 0xff, 0xff, 0xff]) {
        return Ok(FileFormat::ArrowStream);
    }
    match extension.as_str() {
        "csv" | "tsv" => Ok(FileFormat::Csv),
        "ndjson" | "jsonl" | "json" => Ok(FileFormat::Json),
        "parquet" => Err(Error::invalid("not a Parquet file: its first bytes are not PAR1")),
        "arrow" | "feather" | "arrows" | "ipc" => Err(Error::invalid("not an Arrow IPC file")),
        _ if head.is_empty() => Err(Error::invalid("the file is empty")),
        _ if head.trim_ascii_start().starts_with(b"{") => Ok(FileFormat::Json),
        _ if head.iter().all(|b| *b != 0) => Ok(FileFormat::Csv),
        _ => Err(Error::invalid("unknown format; supported are CSV, TSV, Parquet, NDJSON and Arrow IPC")),
    }
}
