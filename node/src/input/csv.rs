//! CSV files: quoting, delimiter and header.
//!
//! The reader is ours, since values must come out as they are written. A field is quoted if it starts with a
//! quote and a delimiter follows the closing one; any other quote is a character like others. Whether an
//! empty field was quoted tells an empty text from a missing value.

use std::collections::HashSet;
use std::io::BufRead;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_schema::{Field, Schema, SchemaRef};
use plexus_model::{Error, Result, cut};

use super::infer::Inferred;
use super::source::Source;
use super::values::text_column;
use super::{BATCH_BYTES_MAX, BATCH_ROWS, Batches, TextOptions};

/// Longest accepted record. A longer one most likely has a quote that is not closed.
const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes from which the delimiter is guessed.
const SNIFF_BYTES: usize = 64 * 1024;
/// Delimiters that are looked for, the most usual first.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// How a file is written.
#[derive(Clone, Debug)]
pub(crate) struct Dialect {
    delimiter: u8,
    quote: u8,
    /// Ends a line: a line feed, or a carriage return in files that have no line feed.
    terminator: u8,
    header: bool,
    /// Text of missing values.
    null: String,
}

/// A file with its dialect and the names of its columns.
#[derive(Clone, Debug)]
pub(crate) struct CsvFile {
    path: PathBuf,
    options: TextOptions,
    dialect: Dialect,
}

/// One record: its text, and where its fields are.
#[derive(Default)]
struct Record {
    text: String,
    fields: Vec<(Range<usize>, bool)>,
    /// Number of its first line, from 1.
    line: u64,
}

impl Record {
    /// The value of a field; `None` if it is missing.
    fn value<'a>(&'a self, field: usize, null: &str) -> Option<&'a str> {
        let (range, quoted) = self.fields.get(field)?;
        let text = &self.text[range.clone()];
        (*quoted || (text != null && !text.is_empty())).then_some(text)
    }
}

/// Reads records one by one.
struct Records {
    path: PathBuf,
    dialect: Dialect,
    source: Source,
    /// Number of the line read last, from 1.
    line: u64,
    /// Fields of the first record.
    width: Option<usize>,
    raw: Vec<u8>,
}

impl Records {
    fn open(file: &CsvFile) -> Result<Self> {
        let source = Source::open(&file.path, file.options.encoding.as_deref())?;
        let (path, dialect) = (file.path.clone(), file.dialect.clone());
        Ok(Self { path, dialect, source, line: 0, width: None, raw: vec![] })
    }

    fn error(&self, line: u64, message: impl std::fmt::Display) -> Error {
        Error::invalid(format!("{}: line {line}: {message}", self.path.display()))
    }

    /// Appends the next line to the record. Returns false at the end of the file.
    fn read_line(&mut self) -> Result<bool> {
        let before = self.raw.len();
        let read = self.source.read_until(self.dialect.terminator, &mut self.raw);
        read.map_err(|e| Error::invalid(format!("{}: {e}", self.path.display())))?;
        self.line += u64::from(self.raw.len() > before);
        if self.raw.len() > RECORD_BYTES_MAX {
            return Err(self.error(self.line, format!("the record is longer than {RECORD_BYTES_MAX} bytes")));
        }
        Ok(self.raw.len() > before)
    }

    /// Reads the next record. Returns false at the end of the file. An empty line is a missing value in a
    /// file of one column, and is skipped in others.
    fn read(&mut self, record: &mut Record) -> Result<bool> {
        self.raw.clear();
        loop {
            if !self.read_line()? {
                return Ok(false);
            }
            if end_of_line(&self.raw) > 0 || self.width == Some(1) {
                break;
            }
            self.raw.clear();
        }
        let first_line = self.line;
        record.fields.clear();
        let (mut at, mut text) = (0, Vec::with_capacity(self.raw.len()));
        loop {
            let quoted = self.raw.get(at) == Some(&self.dialect.quote);
            let end = match quoted.then(|| self.quoted_end(at, first_line)).transpose()?.flatten() {
                Some(close) => {
                    let start = text.len();
                    unquote(&self.raw[at + 1..close], self.dialect.quote, &mut text);
                    record.fields.push((start..text.len(), true));
                    close + 1
                }
                None => {
                    let line_end = end_of_line(&self.raw);
                    let field = &self.raw[at.min(line_end)..line_end];
                    let length =
                        field.iter().position(|b| *b == self.dialect.delimiter).unwrap_or(field.len());
                    let start = text.len();
                    text.extend_from_slice(&field[..length]);
                    record.fields.push((start..text.len(), false));
                    at + length
                }
            };
            if self.raw.get(end) != Some(&self.dialect.delimiter) {
                break;
            }
            at = end + 1;
        }
        record.line = first_line;
        self.width.get_or_insert(record.fields.len());
        let valid = String::from_utf8(text);
        record.text = valid.map_err(|_| {
            self.error(
                first_line,
                "the text is not UTF-8: say what it is with --encoding, for example windows-1252",
            )
        })?;
        if let Some((range, _)) =
            record.fields.iter().find(|(range, _)| !record.text.is_char_boundary(range.start))
        {
            return Err(self.error(first_line, format!("the text is not UTF-8 at byte {}", range.start)));
        }
        Ok(true)
    }

    /// The position of the quote that closes the field that starts at `at`. `None` if no delimiter follows
    /// it, so that the quotes are part of the field.
    fn quoted_end(&mut self, at: usize, first_line: u64) -> Result<Option<usize>> {
        let mut from = at + 1;
        loop {
            let Some(found) = self.raw[from..].iter().position(|b| *b == self.dialect.quote) else {
                from = self.raw.len();
                if !self.read_line()? {
                    return Err(self.error(first_line, "a quote is not closed"));
                }
                continue;
            };
            let close = from + found;
            match self.raw.get(close + 1) {
                Some(b) if *b == self.dialect.quote => from = close + 2,
                Some(b) if *b == self.dialect.delimiter => return Ok(Some(close)),
                _ if close + 1 >= end_of_line(&self.raw) => return Ok(Some(close)),
                Some(_) => return Ok(None),
                None => return Ok(Some(close)),
            }
        }
    }
}

/// The length of a line without its end.
fn end_of_line(line: &[u8]) -> usize {
    let end = line.strip_suffix(b"\n").unwrap_or(line);
    end.strip_suffix(b"\r").unwrap_or(end).len()
}

fn unquote(field: &[u8], quote: u8, out: &mut Vec<u8>) {
    let mut bytes = field.iter();
    while let Some(&byte) = bytes.next() {
        out.push(byte);
        if byte == quote {
            bytes.next();
        }
    }
}

impl CsvFile {
    /// Detects how a file is written, as far as the options do not say.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn detect(path: &Path, options: &TextOptions) -> Result<Self> {
        let mut source = Source::open(path, options.encoding.as_deref())?;
        let mut head = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(&mut source, SNIFF_BYTES as u64), &mut head)
            .map_err(|e| Error::invalid(format!("{}: {e}", path.display())))?;
        let terminator = if head.contains(&b'\n') || !head.contains(&b'\r') { b'\n' } else { b'\r' };
        let quote = options.quote.unwrap_or(b'"');
        let is_tsv = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tsv"));
        let delimiter = match options.delimiter {
            Some(delimiter) => delimiter,
            None if is_tsv => b'\t',
            None => sniff_delimiter(&head, quote, terminator),
        };
        let null = options.null.clone().unwrap_or_default();
        let dialect = Dialect { delimiter, quote, terminator, header: true, null };
        let mut file = Self { path: path.to_owned(), options: options.clone(), dialect };
        file.dialect.header = match options.header {
            Some(header) => header,
            None => file.has_header()?,
        };
        Ok(file)
    }

    /// Whether the first record names the columns. It does not if it looks like the values below it: there
    /// are columns of another type than text, and its values have the types of all of these.
    fn has_header(&self) -> Result<bool> {
        let mut records = Records::open(self)?;
        let mut record = Record::default();
        if !records.read(&mut record)? {
            return Ok(true);
        }
        let mut with: Vec<Inferred> = vec![Inferred::default(); record.fields.len()];
        let (mut first, mut below) = (with.clone(), with.clone());
        let mut rows = 0;
        loop {
            for (field, inferred) in with.iter_mut().enumerate() {
                // A header may lack names, a record of numbers may lack values: names decide.
                let absent = if rows == 0 { Some("") } else { None };
                if let Some(value) = record.value(field, &self.dialect.null).or(absent) {
                    inferred.add(value);
                    let of_line = if rows == 0 { &mut first } else { &mut below };
                    of_line[field].add(value);
                }
            }
            rows += 1;
            if rows > 1_000 || !records.read(&mut record)? {
                break;
            }
        }
        let type_of = |inferred: &Inferred| match inferred.data_type() {
            arrow_schema::DataType::Null => arrow_schema::DataType::Utf8,
            other => other,
        };
        let is_text = |inferred: &Inferred| type_of(inferred) == arrow_schema::DataType::Utf8;
        let mut typed = with.iter().zip(&below).filter(|(_, below)| !is_text(below)).peekable();
        // A line that nothing can be compared with has names if it has no numbers.
        let has_header = match rows < 2 || typed.peek().is_none() {
            true => first.iter().all(is_text),
            false => typed.any(|(with, below)| type_of(with) != type_of(below)),
        };
        if !has_header {
            eprintln!(
                "{}: the first line has values and no names; if it has names, say --header true",
                self.path.display()
            );
        }
        Ok(has_header)
    }

    /// The schema of the file: names from the header, types from the table for the columns that it has. Other
    /// types are inferred from all rows.
    ///
    /// # Errors
    /// `InvalidArgument` names the line of a malformed record.
    pub(crate) fn schema(&self, table_schema: Option<&SchemaRef>) -> Result<SchemaRef> {
        let mut records = Records::open(self)?;
        let mut record = Record::default();
        if !records.read(&mut record)? {
            return Err(Error::invalid(format!("{}: the file is empty", self.path.display())));
        }
        let width = record.fields.len();
        let names = match (self.dialect.header, table_schema) {
            (true, _) => self.names(&record),
            (false, Some(table)) if table.fields().len() == width => {
                table.fields().iter().map(|field| field.name().clone()).collect()
            }
            (false, _) => (1..=width).map(|number| format!("column_{number}")).collect(),
        };
        let known = |name: &String| table_schema.and_then(|table| table.field_with_name(name).ok());
        let mut inferred: Vec<Inferred> = vec![Inferred::default(); width];
        if names.iter().any(|name| known(name).is_none()) {
            let mut more = if self.dialect.header { records.read(&mut record)? } else { true };
            while more {
                check_width(&records, &record, width)?;
                for (field, inferred) in inferred.iter_mut().enumerate() {
                    if let Some(value) = record.value(field, &self.dialect.null) {
                        inferred.add(value);
                    }
                }
                more = records.read(&mut record)?;
            }
        }
        let field = |(name, inferred): (&String, &Inferred)| match known(name) {
            Some(field) => field.clone().with_nullable(true),
            None => Field::new(name, inferred.data_type(), true),
        };
        Ok(Arc::new(Schema::new(names.iter().zip(&inferred).map(field).collect::<Vec<_>>())))
    }

    /// The names in a header. Missing and repeated ones are replaced, and reported.
    fn names(&self, header: &Record) -> Vec<String> {
        let mut taken = HashSet::new();
        let mut names = Vec::with_capacity(header.fields.len());
        for (index, (range, _)) in header.fields.iter().enumerate() {
            let written = header.text[range.clone()].trim();
            let base = if written.is_empty() { format!("column_{}", index + 1) } else { written.to_owned() };
            let name = (1..)
                .map(|n| if n == 1 { base.clone() } else { format!("{base}_{n}") })
                .find(|name| !taken.contains(name))
                .unwrap_or_default();
            if name != written {
                eprintln!("{}: column {}: {written:?} is named {name:?}", self.path.display(), index + 1);
            }
            taken.insert(name.clone());
            names.push(name);
        }
        names
    }

    /// Reads the rows of the file.
    ///
    /// # Errors
    /// `InvalidArgument`, here and in the iterator, names the line.
    pub(crate) fn batches(&self, schema: SchemaRef) -> Result<Batches> {
        let mut records = Records::open(self)?;
        if self.dialect.header {
            records.read(&mut Record::default())?;
        }
        Ok(Box::new(RowBatches { records, schema, done: false }))
    }
}

/// The delimiter that splits the first lines into the most columns, equally often in each.
fn sniff_delimiter(head: &[u8], quote: u8, terminator: u8) -> u8 {
    let counts = |delimiter: u8| {
        let (mut in_quotes, mut count, mut lines) = (false, 0usize, Vec::new());
        for &byte in head {
            if byte == quote {
                in_quotes = !in_quotes;
            } else if !in_quotes && byte == delimiter {
                count += 1;
            } else if !in_quotes && byte == terminator {
                lines.push(count);
                count = 0;
            }
        }
        // The last line may be cut off.
        if lines.is_empty() {
            lines.push(count);
        }
        lines
    };
    let score = |delimiter: &u8| {
        let lines = counts(*delimiter);
        let first = lines[0];
        let same = lines.iter().filter(|count| **count == first).count();
        // In most lines as often as in the first.
        (first > 0 && same * 10 >= lines.len() * 9).then_some(first)
    };
    let best = DELIMITERS.iter().rev().filter_map(|d| Some((score(d)?, *d))).max_by_key(|(count, _)| *count);
    best.map_or(b',', |(_, delimiter)| delimiter)
}

fn check_width(records: &Records, record: &Record, width: usize) -> Result<()> {
    if record.fields.len() != width {
        return Err(
            records.error(record.line, format!("{} fields, the first line has {width}", record.fields.len()))
        );
    }
    Ok(())
}

/// The rows of a file as batches.
struct RowBatches {
    records: Records,
    schema: SchemaRef,
    done: bool,
}

impl RowBatches {
    fn read_batch(&mut self) -> Result<Option<RecordBatch>> {
        let width = self.schema.fields().len();
        let mut text = String::new();
        let mut lines = Vec::new();
        let mut cells: Vec<Vec<Option<Range<usize>>>> = vec![Vec::new(); width];
        let mut record = Record::default();
        while lines.len() < BATCH_ROWS && text.len() < BATCH_BYTES_MAX {
            if !self.records.read(&mut record)? {
                self.done = true;
                break;
            }
            check_width(&self.records, &record, width)?;
            for (field, cells) in cells.iter_mut().enumerate() {
                let start = text.len();
                cells.push(record.value(field, &self.records.dialect.null).map(|value| {
                    text.push_str(value);
                    start..text.len()
                }));
            }
            lines.push(record.line);
        }
        if lines.is_empty() {
            return Ok(None);
        }
        let mut columns = Vec::with_capacity(width);
        for (field, cells) in self.schema.fields().iter().zip(&cells) {
            let is_text = matches!(
                field.data_type(),
                arrow_schema::DataType::Utf8
                    | arrow_schema::DataType::LargeUtf8
                    | arrow_schema::DataType::Utf8View
            );
            // A quoted empty field is an empty text, and a missing value of any other type.
            let value = |cell: &Option<Range<usize>>| {
                cell.clone().map(|range| &text[range]).filter(|value| is_text || !value.is_empty())
            };
            let values: Vec<Option<&str>> = cells.iter().map(value).collect();
            columns.push(text_column(&values, field.data_type()).map_err(|misfit| {
                let found = values.get(misfit.row).copied().flatten().unwrap_or_default();
                self.records.error(
                    lines.get(misfit.row).copied().unwrap_or_default(),
                    format!("column {:?}: {:?} {}", field.name(), cut(found, 100), misfit.reason),
                )
            })?);
        }
        let batch = RecordBatch::try_new(self.schema.clone(), columns);
        batch.map(Some).map_err(|e| Error::internal(format!("rows of {}: {e}", self.records.path.display())))
    }
}

impl Iterator for RowBatches {
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

#[cfg(test)]
mod tests {
    use arrow::util::display::array_value_to_string;

    use super::*;

    /// The rows of a file, with `-` for missing values.
    fn rows(content: &[u8], options: &TextOptions) -> Result<Vec<Vec<String>>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        std::fs::write(&path, content).unwrap();
        let file = CsvFile::detect(&path, options)?;
        let schema = file.schema(None)?;
        let mut rows = vec![schema.fields().iter().map(|f| f.name().clone()).collect()];
        for batch in file.batches(schema)? {
            let batch = batch?;
            for row in 0..batch.num_rows() {
                let cell = |column: &arrow::array::ArrayRef| match column.is_null(row) {
                    true => "-".to_owned(),
                    false => array_value_to_string(column, row).unwrap(),
                };
                rows.push(batch.columns().iter().map(cell).collect());
            }
        }
        Ok(rows)
    }

    fn read(content: &str) -> Result<Vec<Vec<String>>> {
        rows(content.as_bytes(), &TextOptions::default())
    }

    #[test]
    fn fields_come_out_as_they_are_written() {
        let found = read(
            "id,s,t\n1,\"a,b\",\"say \"\"hi\"\"\"\n2,\"l1\nl2\",'x'\n3,\"start\" end,a \"b\" c\n4,\"\",\n",
        )
        .unwrap();
        assert_eq!(found[1], ["1", "a,b", "say \"hi\""]);
        assert_eq!(found[2], ["2", "l1\nl2", "'x'"]);
        assert_eq!(found[3], ["3", "\"start\" end", "a \"b\" c"]);
        assert_eq!(found[4], ["4", "", "-"]);
    }

    #[test]
    fn ends_of_lines_and_marks_do_not_matter() {
        for content in
            ["id,s\n1,a\n2,b\n", "id,s\r\n1,a\r\n2,b", "id,s\r1,a\r2,b\r", "\u{feff}id,s\n1,a\n\n2,b\n"]
        {
            let found = read(content).unwrap();
            assert_eq!(found, [["id", "s"], ["1", "a"], ["2", "b"]], "{content:?}");
        }
        let utf16: Vec<u8> =
            [0xff, 0xfe].into_iter().chain("id,s\n1,é\n".encode_utf16().flat_map(u16::to_le_bytes)).collect();
        assert_eq!(rows(&utf16, &TextOptions::default()).unwrap()[1], ["1", "é"]);
        let latin = b"id,s\n1,caf\xe9\n";
        assert!(rows(latin, &TextOptions::default()).unwrap_err().message().contains("line 2"));
        let options = TextOptions { encoding: Some("windows-1252".into()), ..TextOptions::default() };
        assert_eq!(rows(latin, &options).unwrap()[1], ["1", "café"]);
    }

    #[test]
    fn delimiter_and_header_are_found() {
        assert_eq!(read("a;b\n1;2\n").unwrap(), [["a", "b"], ["1", "2"]]);
        assert_eq!(read("a|b,c|d\n1|2|3\n").unwrap()[0].len(), 3);
        assert_eq!(read("1,2024-01-01\n2,2024-01-02\n").unwrap()[0], ["column_1", "column_2"]);
        assert_eq!(read(",a,a\n0,x,y\n").unwrap()[0], ["column_1", "a", "a_2"]);
        assert_eq!(read("x\n1\n").unwrap(), [["x"], ["1"]]);
        assert_eq!(read("42\n").unwrap(), [["column_1"], ["42"]]);
        assert_eq!(read("a,b\n").unwrap(), [["a", "b"]]);
        assert_eq!(read("123,x\n\"345\",y\n 567,z\n").unwrap()[0], ["column_1", "column_2"]);
    }

    #[test]
    fn malformed_records_are_refused_by_their_line() {
        assert!(read("a,b\n1,2\n3\n").unwrap_err().message().contains("line 3: 1 fields"));
        assert!(read("a,b\n1,\"x\n2,y\n").unwrap_err().message().contains("line 2: a quote is not closed"));
        assert!(read("").is_err());
    }
}
