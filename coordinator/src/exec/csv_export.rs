//! CSV files of query results. `plexus load` reads every value back as it was: an empty text is quoted and a
//! missing value is not, bytes are hexadecimal, and lists, structs and maps are JSON.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::json::writer::make_encoder;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, DataType, FieldRef, Schema};
use datafusion::sql::sqlparser::ast::Value;
use plexus_model::{Error, Result};

use crate::exec::json_encoding::{self, hexadecimal};

/// How a file is written.
pub struct CsvOptions {
    delimiter: u8,
    header: bool,
    /// Text of missing values.
    null: String,
}

impl Default for CsvOptions {
    /// Commas, a line with the names of the columns, and nothing for missing values.
    fn default() -> Self {
        Self { delimiter: b',', header: true, null: String::new() }
    }
}

impl CsvOptions {
    /// The options of a `COPY` statement: `delimiter`, `header` and `null`.
    ///
    /// # Errors
    /// `InvalidArgument` names an unknown option, or one with a value that it does not take.
    pub(crate) fn of(options: &[(String, Value)]) -> Result<Self> {
        let mut this = Self::default();
        for (name, value) in options {
            let text = match value {
                Value::SingleQuotedString(text) | Value::Number(text, _) => text.clone(),
                other => other.to_string(),
            };
            let wrong = |wanted: &str| Error::invalid(format!("COPY: {name} {text:?}: {wanted} is needed"));
            let lower = name.to_ascii_lowercase();
            match lower.trim_start_matches("format.") {
                "delimiter" => match text.as_bytes() {
                    [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n') => {
                        this.delimiter = *byte;
                    }
                    _ => return Err(wrong("one ASCII character, but no quote or line end")),
                },
                "header" | "has_header" => {
                    this.header = text.to_ascii_lowercase().parse().map_err(|_| wrong("true or false"))?;
                }
                "null" | "null_value" => this.null = text,
                _ => {
                    return Err(Error::invalid(format!(
                        "COPY: option {name:?} is unknown: a CSV file has delimiter, header and null"
                    )));
                }
            }
        }
        let is_special = |b: u8| b == this.delimiter || matches!(b, b'"' | b'\r' | b'\n');
        if this.null.bytes().any(is_special) {
            return Err(Error::invalid(format!(
                "COPY: null {:?}: a text without delimiter, quote and line end is needed",
                this.null
            )));
        }
        Ok(this)
    }

    /// The line with the names of the columns; nothing if there is to be none.
    pub fn header(&self, schema: &Schema) -> Vec<u8> {
        let mut line = Vec::new();
        if self.header {
            for (index, field) in schema.fields().iter().enumerate() {
                self.separate(index, &mut line);
                self.push(field.name(), &mut line);
            }
            line.push(b'\n');
        }
        line
    }

    /// The lines of a batch.
    ///
    /// # Errors
    /// `Internal` for a type that has no text.
    pub fn lines(&self, batch: &RecordBatch) -> Result<Vec<u8>> {
        let texts = batch.schema_ref().fields().iter().zip(batch.columns());
        let texts: Vec<Vec<Option<String>>> = texts
            .map(|(field, column)| texts_of(field, column))
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| Error::internal(format!("CSV: {e}")).with_source(e))?;
        let mut lines = Vec::new();
        for row in 0..batch.num_rows() {
            for (index, column) in texts.iter().enumerate() {
                self.separate(index, &mut lines);
                match &column[row] {
                    Some(text) => self.push(text, &mut lines),
                    None => lines.extend_from_slice(self.null.as_bytes()),
                }
            }
            lines.push(b'\n');
        }
        Ok(lines)
    }

    fn separate(&self, index: usize, line: &mut Vec<u8>) {
        if index > 0 {
            line.push(self.delimiter);
        }
    }

    /// Appends a text, in quotes if it could be mistaken without them.
    fn push(&self, text: &str, line: &mut Vec<u8>) {
        let is_special = |b: u8| b == self.delimiter || matches!(b, b'"' | b'\r' | b'\n');
        if !text.is_empty() && text != self.null && !text.bytes().any(is_special) {
            line.extend_from_slice(text.as_bytes());
            return;
        }
        line.push(b'"');
        line.extend_from_slice(text.replace('"', "\"\"").as_bytes());
        line.push(b'"');
    }
}

/// The values of a column as text; `None` where they are missing.
fn texts_of(field: &FieldRef, column: &ArrayRef) -> std::result::Result<Vec<Option<String>>, ArrowError> {
    let json = json_encoding::options();
    let text = FormatOptions::default().with_display_error(false);
    let bytes;
    let mut text_of: Box<dyn FnMut(usize) -> std::result::Result<String, ArrowError>> =
        match column.data_type() {
            data_type if data_type.is_binary() => {
                bytes = cast(column, &DataType::LargeBinary)?;
                let bytes = bytes.as_binary::<i64>();
                Box::new(|row| Ok(hexadecimal(bytes.value(row))))
            }
            data_type if data_type.is_nested() => {
                let mut encoder = make_encoder(field, column, &json)?;
                Box::new(move |row| {
                    let mut text = Vec::new();
                    encoder.encode(row, &mut text);
                    String::from_utf8(text).map_err(|e| ArrowError::JsonError(e.to_string()))
                })
            }
            _ => {
                let formatter = ArrayFormatter::try_new(column, &text)?;
                Box::new(move |row| formatter.value(row).try_to_string())
            }
        };
    let nulls = column.logical_nulls();
    let is_missing = |row: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
    (0..column.len()).map(|row| (!is_missing(row)).then(|| text_of(row)).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryArray, Float64Array, Int64Array, ListArray, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn texts_that_could_be_mistaken_are_quoted() {
        let items = vec![Some(vec![Some(1), None]), None, Some(vec![]), None];
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(vec![1, 2, 3, 4])) as ArrayRef),
            ("a,b", Arc::new(StringArray::from(vec![Some(""), None, Some("x \"y\""), Some("z,\nz")]))),
            ("d", Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(0.5), None, Some(f64::INFINITY)]))),
            ("bytes", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"kl"), None, Some(b""), Some(&[255])]))),
            ("items", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(items))),
        ])
        .unwrap();
        let text = |options: &[(&str, &str)]| {
            let options = options
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Value::SingleQuotedString((*value).to_owned())));
            let options = CsvOptions::of(&options.collect::<Vec<_>>()).unwrap();
            let bytes = [options.header(batch.schema_ref()), options.lines(&batch).unwrap()].concat();
            String::from_utf8(bytes).unwrap()
        };
        let expected = concat!(
            "id,\"a,b\",d,bytes,items\n",
            "1,\"\",NaN,\\x6b6c,\"[1,null]\"\n",
            "2,,0.5,,\n",
            "3,\"x \"\"y\"\"\",,\\x,[]\n",
            "4,\"z,\nz\",inf,\\xff,\n",
        );
        assert_eq!(text(&[]), expected);
        let expected = concat!(
            "1;\"\";NaN;\\x6b6c;[1,null]\n",
            "2;0.5;\"0.5\";0.5;0.5\n",
            "3;\"x \"\"y\"\"\";0.5;\\x;[]\n",
            "4;\"z,\nz\";inf;\\xff;0.5\n",
        );
        assert_eq!(text(&[("format.delimiter", ";"), ("header", "false"), ("null", "0.5")]), expected);
        for (name, value) in
            [("delimiter", ""), ("delimiter", "\""), ("header", "maybe"), ("quote", "'"), ("null", "a,b")]
        {
            let options = [(name.to_owned(), Value::SingleQuotedString(value.to_owned()))];
            assert!(CsvOptions::of(&options).is_err(), "{name}");
        }
    }
}
