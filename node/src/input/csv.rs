//! CSV with a header line.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Format;
use arrow_schema::{Field, Schema, SchemaRef};
use plexus_model::{Error, Result};

use super::{BATCH_ROWS, Batches, open_text};

fn format(path: &Path) -> Format {
    let tabs = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tsv"));
    let format = Format::default().with_header(true);
    if tabs { format.with_delimiter(b'\t') } else { format }
}

/// Column names from the header; types from the table where it has them, otherwise from all the rows.
pub fn schema(path: &Path, wanted: Option<&SchemaRef>) -> Result<SchemaRef> {
    let infer = |rows: Option<usize>| {
        let (schema, _) = format(path)
            .infer_schema(BufReader::new(open_text(path)?), rows)
            .map_err(|e| named(path, &e.to_string()))?;
        Ok::<_, Error>(schema)
    };
    let Some(wanted) = wanted else {
        return infer(None).map(Arc::new);
    };
    let header = infer(Some(0))?;
    let fields: Vec<Field> = header
        .fields()
        .iter()
        .map(|field| match wanted.field_with_name(field.name()) {
            // Vectors and other nested types cannot be written in a cell: text that the server refuses.
            Ok(known) => known.clone().with_nullable(true),
            Err(_) => field.as_ref().clone(),
        })
        .collect();
    Ok(Arc::new(Schema::new(fields)))
}

pub fn batches(path: PathBuf, schema: SchemaRef) -> Result<Batches> {
    let file = open_text(&path)?;
    let reader = ReaderBuilder::new(schema)
        .with_format(format(&path))
        .with_batch_size(BATCH_ROWS)
        .build(BufReader::new(file))
        .map_err(|e| named(&path, &e.to_string()))?;
    Ok(Box::new(reader.map(move |batch| batch.map_err(|e| named(&path, &e.to_string())))))
}

fn named(path: &Path, message: &str) -> Error {
    let message = message.trim_start_matches("Csv error: ").trim_start_matches("Parser error: ");
    Error::invalid(format!("{}: {}", path.display(), count_lines_from_one(message)))
}

/// The reader counts the lines of values that do not parse from zero, all others from one.
fn count_lines_from_one(message: &str) -> String {
    const AT: &str = " at line ";
    let renumbered = message.split_once(AT).filter(|_| message.starts_with("Error while parsing value"));
    let Some((before, after)) = renumbered else {
        return message.to_owned();
    };
    let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    match after[..digits].parse::<u64>() {
        Ok(line) => format!("{before}{AT}{}{}", line + 1, &after[digits..]),
        Err(_) => message.to_owned(),
    }
}
