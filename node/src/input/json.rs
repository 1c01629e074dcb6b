//! NDJSON files: one JSON object per line, parsed with `simd-json`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::json::ReaderBuilder;
use arrow::json::reader::{Decoder, infer_json_schema_from_iterator};
use arrow_schema::{ArrowError, SchemaRef};
use plexus_model::{Error, Result};
use serde_json::Value;

use super::{BATCH_ROWS, Batches, open_text};

/// Longest accepted line. A longer one is most likely not NDJSON.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Rows passed to the decoder at once.
const CHUNK_ROWS: usize = 1_024;

/// The objects in a file. Ends after the first error. Empty lines are skipped.
struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    /// Number of the line read last, from 1.
    line: u64,
    buffer: Vec<u8>,
    failed: bool,
}

impl Lines {
    fn new(path: PathBuf, file: File) -> Self {
        Self {
            path,
            reader: BufReader::with_capacity(1024 * 1024, file),
            line: 0,
            buffer: vec![],
            failed: false,
        }
    }

    fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::invalid(format!("{}: line {}: {message}", self.path.display(), self.line))
    }

    fn read_object(&mut self) -> Result<Option<Value>> {
        loop {
            self.buffer.clear();
            let read = self
                .reader
                .read_until(b'\n', &mut self.buffer)
                .map_err(|e| Error::io(self.path.display(), e))?;
            self.line += 1;
            if read == 0 {
                return Ok(None);
            }
            if read > LINE_BYTES_MAX {
                return Err(self.error(format!("the line is longer than {LINE_BYTES_MAX} bytes")));
            }
            if self.buffer.trim_ascii().is_empty() {
                continue;
            }
            let value: Value = simd_json::serde::from_slice(&mut self.buffer).map_err(|e| self.error(e))?;
            return if value.is_object() { Ok(Some(value)) } else { Err(self.error("not a JSON object")) };
        }
    }
}

impl Iterator for Lines {
    type Item = Result<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.read_object().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

/// The schema of a file: columns from all its rows, types from the table for the columns that it has. Without
/// a table, types are inferred.
pub(crate) fn schema(path: &Path, table_schema: Option<&SchemaRef>) -> Result<SchemaRef> {
    let mut failure = None;
    let lines = Lines::new(path.to_owned(), open_text(path)?);
    let values = lines.map_while(|line| match line {
        Ok(value) => Some(Ok::<Value, ArrowError>(value)),
        Err(error) => {
            failure = Some(error);
            None
        }
    });
    let inferred = infer_json_schema_from_iterator(values);
    if let Some(error) = failure {
        return Err(error);
    }
    let inferred = inferred.map_err(|e| Error::invalid(format!("{}: {e}", path.display())))?;
    let Some(table_schema) = table_schema else {
        return Ok(Arc::new(inferred));
    };
    let fields: Vec<_> = inferred
        .fields()
        .iter()
        .map(|field| match table_schema.field_with_name(field.name()) {
            Ok(known) => Arc::new(known.clone().with_nullable(true)),
            Err(_) => field.clone(),
        })
        .collect();
    Ok(Arc::new(arrow_schema::Schema::new(fields)))
}

/// Reads the rows of a file.
pub(crate) fn batches(path: PathBuf, schema: SchemaRef) -> Result<Batches> {
    let decoder = decoder(&schema).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))?;
    let file = open_text(&path)?;
    Ok(Box::new(DecodedBatches { lines: Lines::new(path, file), schema, decoder, done: false }))
}

fn decoder(schema: &SchemaRef) -> Result<Decoder, ArrowError> {
    ReaderBuilder::new(schema.clone()).with_batch_size(BATCH_ROWS).build_decoder()
}

/// The rows of a file as batches.
struct DecodedBatches {
    lines: Lines,
    schema: SchemaRef,
    decoder: Decoder,
    done: bool,
}

impl DecodedBatches {
    fn read_batch(&mut self) -> Result<Option<RecordBatch>> {
        // Kept with their line numbers, to report the line of a value that does not fit the schema.
        let mut objects: Vec<(u64, Value)> = Vec::new();
        while objects.len() < BATCH_ROWS {
            let Some(value) = self.lines.next().transpose()? else {
                self.done = true;
                break;
            };
            objects.push((self.lines.line, value));
        }
        let mut decode = || {
            for chunk in objects.chunks(CHUNK_ROWS) {
                self.decoder.serialize(&chunk.iter().map(|(_, value)| value).collect::<Vec<_>>())?;
            }
            self.decoder.flush()
        };
        decode().map_err(|error| self.first_invalid_line(&objects).unwrap_or_else(|| self.lines.error(error)))
    }

    /// The error of the first line that does not fit the schema. The decoder itself does not report lines.
    fn first_invalid_line(&self, objects: &[(u64, Value)]) -> Option<Error> {
        objects.iter().find_map(|(line, value)| {
            let mut decoder = decoder(&self.schema).ok()?;
            let error = decoder.serialize(&[value]).and_then(|()| decoder.flush()).err()?;
            Some(Error::invalid(format!("{}: line {line}: {error}", self.lines.path.display())))
        })
    }
}

impl Iterator for DecodedBatches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.read_batch();
        self.done |= next.is_err();
        next.transpose()
    }
}
