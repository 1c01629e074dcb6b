//! Files that can be loaded: CSV, Parquet, NDJSON and Arrow IPC, with their format and schema found out.

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

/// Rows of a batch.
pub const BATCH_ROWS: usize = 65_536;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileFormat {
    Csv,
    Parquet,
    Json,
    ArrowFile,
    ArrowStream,
}

/// A file whose format and schema are known.
pub struct Input {
    path: PathBuf,
    format: FileFormat,
    schema: SchemaRef,
    /// Where the file itself says how many there are.
    rows: Option<u64>,
    bytes: u64,
}

/// Batches in the order of the file.
pub type Batches = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

impl Input {
    /// Looks into the file. `wanted`: the schema of the table, if it exists; text formats are read with its
    /// types, so that what they hold need not be guessed.
    pub fn open(path: &Path, wanted: Option<&SchemaRef>) -> Result<Self> {
        let named = |e: Error| e.context(path.display());
        let mut file = open(path)?;
        let bytes = file.metadata().map_err(|e| Error::io(path.display(), e))?.len();
        let format = detect(path, &mut file).map_err(named)?;
        let mut rows = None;
        let schema = match format {
            FileFormat::Csv => csv::schema(path, wanted)?,
            FileFormat::Json => json::schema(path, wanted)?,
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
        Ok(Self { path: path.to_owned(), format, schema, rows, bytes })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn rows(&self) -> Option<u64> {
        self.rows
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads the rows. Errors name the file, and the line where the format has lines.
    pub fn batches(&self) -> Result<Batches> {
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

/// Opens a text file, behind the byte order mark that some programs write.
fn open_text(path: &Path) -> Result<File> {
    let mut file = open(path)?;
    let mut head = [0; 3];
    let marked = file.read_exact(&mut head).is_ok() && head == [0xef, 0xbb, 0xbf];
    let start = if marked { 3 } else { 0 };
    file.seek(SeekFrom::Start(start)).map_err(|e| Error::io(path.display(), e))?;
    Ok(file)
}

fn damaged(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{}: the file is damaged or cut short: {error}", path.display()))
}

/// By the first bytes, and by the name where those say nothing.
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
        _ => Err(Error::invalid("the format is not known; CSV, Parquet, NDJSON and Arrow IPC are")),
    }
}
