//! JSON files: one object after the other, one per line or pretty-printed, alone or in an array.

use std::collections::HashMap;
use std::fmt;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, ListArray, MapArray, RecordBatch, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use plexus_model::{Error, Result, cut};

use super::infer::Inferred;
use super::json_value::{Json, parse};
use super::source::Source;
use super::values::{Misfit, text_column};
use super::{BATCH_BYTES_MAX, BATCH_ROWS, Batches, TextOptions};

/// Longest accepted object.
const OBJECT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The objects of a file, each with the number of its first line. Ends after the first error.
struct Objects {
    path: PathBuf,
    source: Source,
    line: u64,
    failed: bool,
    started: bool,
    in_array: bool,
}

impl Objects {
    fn open(path: &Path, options: &TextOptions) -> Result<Self> {
        let source = Source::open(path, options.encoding.as_deref())?;
        Ok(Self { path: path.to_owned(), source, line: 1, failed: false, started: false, in_array: false })
    }

    fn error(&self, line: u64, message: impl fmt::Display) -> Error {
        Error::invalid(format!("{}: line {line}: {message}", self.path.display()))
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        match self.source.fill_buf() {
            Ok(buffer) => Ok(buffer.first().copied()),
            Err(e) => Err(Error::invalid(format!("{}: {e}", self.path.display()))),
        }
    }

    fn advance(&mut self, byte: u8) {
        self.source.consume(1);
        self.line += u64::from(byte == b'\n');
    }

    /// Skips what stands between objects. Returns the first byte of the next value.
    fn skip(&mut self) -> Result<Option<u8>> {
        while let Some(byte) = self.peek()? {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => self.advance(byte),
                b',' if self.in_array && self.started => self.advance(byte),
                b'[' if !self.started => {
                    self.in_array = true;
                    self.started = true;
                    self.advance(byte);
                }
                b']' if self.in_array => {
                    self.in_array = false;
                    self.advance(byte);
                }
                _ => return Ok(Some(byte)),
            }
        }
        if self.in_array {
            return Err(self.error(self.line, "the array is not closed"));
        }
        Ok(None)
    }

    fn read_object(&mut self) -> Result<Option<(u64, Json)>> {
        let Some(first) = self.skip()? else {
            return Ok(None);
        };
        self.started = true;
        let line = self.line;
        if first != b'{' {
            return Err(self.error(line, "not a JSON object"));
        }
        let (mut object, mut depth, mut in_text, mut escaped) = (Vec::new(), 0usize, false, false);
        loop {
            let Some(byte) = self.peek()? else {
                return Err(self.error(line, "the object is not closed"));
            };
            self.advance(byte);
            object.push(byte);
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_text => escaped = true,
                b'"' => in_text = !in_text,
                b'{' if !in_text => depth += 1,
                b'}' if !in_text => depth -= 1,
                // A line feed inside of a text is no JSON: the quote before it is not closed.
                b'\n' if in_text => return Err(self.error(line, "a text is not closed")),
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if object.len() > OBJECT_BYTES_MAX {
                return Err(self.error(line, format!("the object is longer than {OBJECT_BYTES_MAX} bytes")));
            }
        }
        parse(&object).map(|json| Some((line, json))).map_err(|e| self.error(line, e))
    }
}

impl Iterator for Objects {
    type Item = Result<(u64, Json)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.read_object().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

/// What the values of a field have in common.
#[derive(Clone, Default)]
struct Kind {
    texts: bool,
    booleans: bool,
    /// Numbers, by their text.
    numbers: Option<Inferred>,
    items: Option<Box<Kind>>,
    fields: Option<FieldKinds>,
}

/// The fields of an object, in the order in which they appear first.
#[derive(Clone, Default)]
struct FieldKinds {
    kinds: Vec<(String, Kind)>,
    by_name: HashMap<String, usize>,
}

impl FieldKinds {
    fn add(&mut self, fields: &[(String, Json)]) {
        for (name, value) in fields {
            let index = match self.by_name.get(name) {
                Some(index) => *index,
                None => {
                    self.kinds.push((name.clone(), Kind::default()));
                    self.by_name.insert(name.clone(), self.kinds.len() - 1);
                    self.kinds.len() - 1
                }
            };
            self.kinds[index].1.add(value);
        }
    }

    fn fields(&self) -> Vec<Field> {
        self.kinds.iter().map(|(name, kind)| Field::new(name, kind.data_type(), true)).collect()
    }
}

impl Kind {
    fn add(&mut self, value: &Json) {
        match value {
            Json::Null => {}
            Json::Bool(_) => self.booleans = true,
            Json::Number(text) => self.numbers.get_or_insert_default().add(text),
            Json::Text(_) => self.texts = true,
            Json::List(items) => {
                let kind = self.items.get_or_insert_default();
                items.iter().for_each(|item| kind.add(item));
            }
            Json::Object(fields) => self.fields.get_or_insert_default().add(fields),
        }
    }

    /// The type of the column. Values of several kinds become text. What has no value has the type of nulls,
    /// and objects without fields are structs without any: those of other files may have some.
    fn data_type(&self) -> DataType {
        let kinds =
            [self.texts, self.booleans, self.numbers.is_some(), self.items.is_some(), self.fields.is_some()];
        match kinds.iter().filter(|kind| **kind).count() {
            0 => return DataType::Null,
            1 => {}
            _ => return DataType::Utf8,
        }
        if self.booleans {
            return DataType::Boolean;
        }
        if let Some(numbers) = &self.numbers {
            return numbers.computed_type();
        }
        if let Some(items) = &self.items {
            return DataType::List(Arc::new(Field::new("item", items.data_type(), true)));
        }
        DataType::Struct(self.fields.iter().flat_map(FieldKinds::fields).collect())
    }
}

/// The schema of a file: columns from all its rows, types from the table for the columns that it has. Without
/// a table, types are inferred.
///
/// # Errors
/// `InvalidArgument` names the line of a malformed object.
pub(crate) fn schema(
    path: &Path,
    options: &TextOptions,
    table_schema: Option<&SchemaRef>,
) -> Result<SchemaRef> {
    let mut kinds = FieldKinds::default();
    for object in Objects::open(path, options)? {
        if let (_, Json::Object(fields)) = object? {
            kinds.add(&fields);
        }
    }
    if let (true, Some(table)) = (kinds.kinds.is_empty(), table_schema) {
        return Ok(table.clone());
    }
    let known = |name: &String| table_schema.and_then(|table| table.field_with_name(name).ok());
    let field = |field: Field| match known(field.name()) {
        Some(known) => known.clone().with_nullable(true),
        None => field,
    };
    Ok(Arc::new(Schema::new(kinds.fields().into_iter().map(field).collect::<Vec<_>>())))
}

/// Reads the rows of a file.
///
/// # Errors
/// `InvalidArgument`, here and in the iterator, names the line.
pub(crate) fn batches(path: &Path, options: &TextOptions, schema: SchemaRef) -> Result<Batches> {
    Ok(Box::new(RowBatches { objects: Objects::open(path, options)?, schema, done: false }))
}

struct RowBatches {
    objects: Objects,
    schema: SchemaRef,
    done: bool,
}

impl RowBatches {
    fn read_batch(&mut self) -> Result<Option<RecordBatch>> {
        let (mut lines, mut rows, mut bytes) = (Vec::new(), Vec::new(), 0);
        while rows.len() < BATCH_ROWS && bytes < BATCH_BYTES_MAX {
            match self.objects.next().transpose()? {
                Some((line, Json::Object(fields))) => {
                    bytes += fields.iter().map(|(_, value)| size_of(value)).sum::<usize>();
                    lines.push(line);
                    rows.push(fields);
                }
                Some((line, _)) => return Err(self.objects.error(line, "not a JSON object")),
                None => {
                    self.done = true;
                    break;
                }
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields() {
            let values: Vec<Option<&Json>> = rows.iter().map(|row| field_of(row, field.name())).collect();
            columns.push(column(&values, field.data_type()).map_err(|misfit| {
                let found =
                    values.get(misfit.row).copied().flatten().map(Json::to_string).unwrap_or_default();
                self.objects.error(
                    lines.get(misfit.row).copied().unwrap_or_default(),
                    format!("column {:?}: {} {}", field.name(), cut(&found, 100), misfit.reason),
                )
            })?);
        }
        let batch = RecordBatch::try_new(self.schema.clone(), columns);
        batch.map(Some).map_err(|e| Error::internal(format!("rows of {}: {e}", self.objects.path.display())))
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

fn size_of(value: &Json) -> usize {
    match value {
        Json::Null | Json::Bool(_) => 8,
        Json::Number(text) | Json::Text(text) => 8 + text.len(),
        Json::List(items) => 8 + items.iter().map(size_of).sum::<usize>(),
        Json::Object(fields) => 8 + fields.iter().map(|(_, value)| size_of(value)).sum::<usize>(),
    }
}

/// The field of an object; the last one if it is there several times.
fn field_of<'a>(fields: &'a [(String, Json)], name: &str) -> Option<&'a Json> {
    fields.iter().rev().find(|(field, _)| field == name).map(|(_, value)| value)
}

/// A column of type `to` from JSON values.
///
/// # Errors
/// The first value that the column cannot hold.
pub(crate) fn column(values: &[Option<&Json>], to: &DataType) -> std::result::Result<ArrayRef, Misfit> {
    let values: Vec<Option<&Json>> = values.iter().map(|v| v.filter(|v| **v != Json::Null)).collect();
    match to {
        DataType::List(item) => {
            let (lists, offsets, nulls) = flatten(&values)?;
            let items = column(&lists.0, item.data_type()).map_err(|misfit| lists.row_of(misfit))?;
            Ok(Arc::new(ListArray::new(item.clone(), offsets, items, Some(nulls))))
        }
        DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item) => {
            let list = column(&values, &DataType::List(item.clone()))?;
            cast(&list, to).map_err(|e| Misfit { row: 0, reason: e.to_string() })
        }
        DataType::FixedSizeList(item, length) => fixed_list(&values, item, *length),
        DataType::Struct(fields) => object_column(&values, fields),
        DataType::Map(entries, sorted) => map_column(&values, entries, *sorted),
        _ => scalar_column(&values, to),
    }
}

/// The items of lists, each with the row of its list.
struct Items<'a>(Vec<Option<&'a Json>>, Vec<usize>);

impl Items<'_> {
    /// A misfit among the items as one of the row.
    fn row_of(&self, misfit: Misfit) -> Misfit {
        Misfit { row: self.1.get(misfit.row).copied().unwrap_or_default(), ..misfit }
    }
}

fn flatten<'a>(
    values: &[Option<&'a Json>],
) -> std::result::Result<(Items<'a>, OffsetBuffer<i32>, NullBuffer), Misfit> {
    let mut items = Items(Vec::new(), Vec::new());
    let mut lengths = Vec::with_capacity(values.len());
    for (row, value) in values.iter().enumerate() {
        match value {
            None => lengths.push(0),
            Some(Json::List(list)) => {
                lengths.push(list.len());
                items.0.extend(list.iter().map(Some));
                items.1.extend(std::iter::repeat_n(row, list.len()));
            }
            Some(_) => return Err(Misfit { row, reason: "is not a list".to_owned() }),
        }
    }
    let nulls = values.iter().map(Option::is_some).collect();
    Ok((items, OffsetBuffer::from_lengths(lengths), nulls))
}

fn fixed_list(
    values: &[Option<&Json>],
    item: &Arc<Field>,
    length: i32,
) -> std::result::Result<ArrayRef, Misfit> {
    let mut items = Items(Vec::new(), Vec::new());
    for (row, value) in values.iter().enumerate() {
        match value {
            None => items.0.extend(std::iter::repeat_n(None, length as usize)),
            Some(Json::List(list)) if list.len() == length as usize => items.0.extend(list.iter().map(Some)),
            Some(Json::List(list)) => {
                return Err(Misfit {
                    row,
                    reason: format!("has {} items, the column takes {length}", list.len()),
                });
            }
            Some(_) => return Err(Misfit { row, reason: "is not a list".to_owned() }),
        }
        items.1.extend(std::iter::repeat_n(row, length as usize));
    }
    let array = column(&items.0, item.data_type()).map_err(|misfit| items.row_of(misfit))?;
    let nulls = values.iter().map(Option::is_some).collect::<NullBuffer>();
    let list = FixedSizeListArray::try_new(item.clone(), length, array, Some(nulls));
    list.map(|list| Arc::new(list) as ArrayRef).map_err(|e| Misfit { row: 0, reason: e.to_string() })
}

fn object_column(values: &[Option<&Json>], fields: &Fields) -> std::result::Result<ArrayRef, Misfit> {
    let not_an_object = |value: &Option<&Json>| value.is_some_and(|value| !matches!(value, Json::Object(_)));
    if let Some(row) = values.iter().position(not_an_object) {
        return Err(Misfit { row, reason: "is not an object".to_owned() });
    }
    for (row, value) in values.iter().enumerate() {
        if let Some(Json::Object(found)) = value
            && let Some((name, _)) = found.iter().find(|(name, _)| fields.find(name).is_none())
        {
            let known: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            let reason = format!("has a field {name:?}, the column has {}", known.join(", "));
            return Err(Misfit { row, reason });
        }
    }
    let columns = fields
        .iter()
        .map(|field| {
            let inner: Vec<Option<&Json>> = values
                .iter()
                .map(|value| match value {
                    Some(Json::Object(fields)) => field_of(fields, field.name()),
                    _ => None,
                })
                .collect();
            column(&inner, field.data_type())
                .map_err(|m| Misfit { reason: format!("field {:?} {}", field.name(), m.reason), ..m })
        })
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let nulls = values.iter().map(Option::is_some).collect::<NullBuffer>();
    let array = StructArray::try_new(fields.clone(), columns, Some(nulls));
    array.map(|array| Arc::new(array) as ArrayRef).map_err(|e| Misfit { row: 0, reason: e.to_string() })
}

fn map_column(
    values: &[Option<&Json>],
    entries: &Arc<Field>,
    sorted: bool,
) -> std::result::Result<ArrayRef, Misfit> {
    let DataType::Struct(pair) = entries.data_type() else {
        return Err(Misfit { row: 0, reason: "the map of the table has no entries".to_owned() });
    };
    let (mut names, mut items, mut lengths) = (Vec::new(), Items(Vec::new(), Vec::new()), Vec::new());
    for (row, value) in values.iter().enumerate() {
        match value {
            None => lengths.push(0),
            Some(Json::Object(fields)) => {
                lengths.push(fields.len());
                names.extend(fields.iter().map(|(name, _)| Some(name.as_str())));
                items.0.extend(fields.iter().map(|(_, value)| Some(value)));
                items.1.extend(std::iter::repeat_n(row, fields.len()));
            }
            Some(_) => return Err(Misfit { row, reason: "is not an object".to_owned() }),
        }
    }
    let keys = text_column(&names, pair[0].data_type()).map_err(|misfit| items.row_of(misfit))?;
    let values_array = column(&items.0, pair[1].data_type()).map_err(|misfit| items.row_of(misfit))?;
    let failed = |e: arrow_schema::ArrowError| Misfit { row: 0, reason: e.to_string() };
    let pairs = StructArray::try_new(pair.clone(), vec![keys, values_array], None).map_err(failed)?;
    let nulls = values.iter().map(Option::is_some).collect::<NullBuffer>();
    let map =
        MapArray::try_new(entries.clone(), OffsetBuffer::from_lengths(lengths), pairs, Some(nulls), sorted);
    map.map(|map| Arc::new(map) as ArrayRef).map_err(failed)
}

/// A column of scalars. Text columns take every value, as it is written in JSON.
fn scalar_column(values: &[Option<&Json>], to: &DataType) -> std::result::Result<ArrayRef, Misfit> {
    let is_text = matches!(to, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let mut texts = Vec::with_capacity(values.len());
    for (row, value) in values.iter().enumerate() {
        texts.push(match value {
            None => None,
            Some(Json::Text(text)) => Some(text.clone()),
            Some(Json::List(_) | Json::Object(_)) if !is_text => {
                return Err(Misfit { row, reason: format!("does not fit {to}") });
            }
            Some(value) => Some(value.to_string()),
        });
    }
    text_column(&texts.iter().map(Option::as_deref).collect::<Vec<_>>(), to)
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Decimal128Type, Int64Type};

    use super::super::infer::with_texts;
    use super::*;

    fn read(content: &str, table: Option<SchemaRef>) -> Result<Vec<RecordBatch>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.json");
        std::fs::write(&path, content).unwrap();
        let options = TextOptions::default();
        let schema = schema(&path, &options, table.as_ref())?;
        let fields = schema.fields().iter();
        let fields = fields.map(|field| field.as_ref().clone().with_data_type(with_texts(field.data_type())));
        batches(&path, &options, Arc::new(Schema::new(fields.collect::<Vec<_>>())))?.collect()
    }

    #[test]
    fn objects_are_found_in_lines_arrays_and_documents() {
        for content in [
            "{\"a\":1}\n{\"a\":2}\n",
            "[{\"a\":1}, {\"a\":2}]",
            "{\n \"a\": 1\n}\n{\n \"a\": 2\n}",
            "{\"a\":1}{\"a\":2}",
        ] {
            let batches = read(content, None).unwrap();
            assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().values(), &[1, 2], "{content}");
        }
        assert!(read("{\"id\": 1}\n{\"id\": 2\n", None).unwrap_err().message().contains("line 2"));
        assert!(
            read("{\"a\":1,\"a\":2}", None).unwrap_err().message().contains("twice")
                && read("[1]", None).is_err()
                && read("[{\"a\":1}", None).is_err()
                && read("{\"id\": NaN}", None).is_err()
        );
    }

    #[test]
    fn columns_are_in_the_order_of_the_file_and_mixed_values_are_text() {
        let batches =
            read("{\"zeta\":1,\"alpha\":[],\"o\":{}}\n{\"zeta\":\"x\",\"b\":null}\n", None).unwrap();
        let schema = batches[0].schema();
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        assert_eq!(names, ["zeta", "alpha", "o", "b"]);
        assert_eq!(batches[0].column(0).as_string::<i32>().value(0), "1");
    }

    #[test]
    fn numbers_keep_their_digits() {
        let cents = Field::new("v", DataType::Decimal128(20, 2), true);
        let table = Some(Arc::new(Schema::new(vec![cents])));
        let batches = read("{\"v\":12345678901234567.89}", table.clone()).unwrap();
        assert_eq!(batches[0].column(0).as_primitive::<Decimal128Type>().value(0), 1_234_567_890_123_456_789);
        let error = read("{\"v\":1}\n{\"v\":1.005}", table).unwrap_err();
        assert!(error.message().contains("line 2") && error.message().contains("1.005"), "{error}");
        let table = Some(Arc::new(Schema::new(vec![Field::new("v", DataType::Int32, true)])));
        assert!(read("{\"v\":1.5}", table).is_err());
        let batches = read("{\"id\":12345678901234567890}", None).unwrap();
        assert_eq!(batches[0].schema().field(0).data_type(), &DataType::Decimal128(38, 0));
        // In a column that becomes text, numbers stay as they are written.
        let numbers = ["1.10", "-0.0000000001", "1e2", "2.50", "100", "0.5", "1.0000000000"];
        let lines = numbers.map(|number| format!("{{\"v\":{number}}}\n")).concat();
        let batches = read(&format!("{lines}{{\"v\":\"x\"}}"), None).unwrap();
        let texts = batches[0].column(0).as_string::<i32>();
        assert_eq!(texts.iter().flatten().collect::<Vec<_>>(), [&numbers[..], &["x"]].concat());
    }

    #[test]
    fn deep_values_are_refused() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100), "]".repeat(100));
        assert!(read(&deep, None).unwrap_err().message().contains("nested deeper"));
    }
}
