//! CSV and TSV files with a header line.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Format;
use arrow_schema::{Field, Schema, SchemaRef};
use plexus_model::{Error, Result};

use super::{BATCH_ROWS, Batches, open_text};

/// Values are separated by tabs in files named `.tsv`, otherwise by commas.
fn format(path: &Path) -> Format {
    let is_tsv = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tsv"));
    let format = Format::default().with_header(true);
    if is_tsv { format.with_delimiter(b'\t') } else { format }
}

/// The schema of a file: names from the header, types from the table for the columns that it has. Without a
/// table, types are inferred from all rows.
pub(crate) fn schema(path: &Path, table_schema: Option<&SchemaRef>) -> Result<SchemaRef> {
    let infer = |rows: Option<usize>| {
        let (schema, _) = format(path)
            .infer_schema(BufReader::new(open_text(path)?), rows)
            .map_err(|e| csv_error(path, &e.to_string()))?;
        Ok::<_, Error>(schema)
    };
    let Some(table_schema) = table_schema else {
        return infer(None).map(Arc::new);
    };
    let header = infer(Some(0))?;
    let fields: Vec<Field> = header
        .fields()
        .iter()
        .map(|field| match table_schema.field_with_name(field.name()) {
            Ok(known) => known.clone().with_nullable(true),
            Err(_) => field.as_ref().clone(),
        })
        .collect();
    Ok(Arc::new(Schema::new(fields)))
}

/// Reads the rows of a file.
pub(crate) fn batches(path: PathBuf, schema: SchemaRef) -> Result<Batches> {
    let file = open_text(&path)?;
    let reader = ReaderBuilder::new(schema)
        .with_format(format(&path))
        .with_batch_size(BATCH_ROWS)
        .build(BufReader::new(file))
        .map_err(|e| csv_error(&path, &e.to_string()))?;
    Ok(Box::new(reader.map(move |batch| batch.map_err(|e| csv_error(&path, &e.to_string())))))
}

/// An error that names the file and its line, without the prefixes that the library adds.
fn csv_error(path: &Path, message: &str) -> Error {
    let message = message.trim_start_matches("Csv error: ").trim_start_matches("Parser error: ");
    Error::invalid(format!("{}: {}", path.display(), count_lines_from_one(message)))
}

/// Corrects line numbers: the library counts from zero in errors about values, and from one in all others.
fn count_lines_from_one(message: &str) -> String {
    const AT_LINE: &str = " at line ";
    let zero_based = message.split_once(AT_LINE).filter(|_| message.starts_with("Error while parsing value"));
    let Some((before, after)) = zero_based else {
        return message.to_owned();
    };
    let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    match after[..digits].parse::<u64>() {
        Ok(line) => format!("{before}{AT_LINE}{}{}", line + 1, &after[digits..]),
        Err(_) => message.to_owned(),
    }
}
