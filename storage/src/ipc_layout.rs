//! How the fields of a schema lie in the messages of Arrow IPC, and whether a message has what they need: the
//! decoder panics for validity that is shorter than its rows, and for views whose buffers are miscounted.

use std::collections::HashMap;
use std::slice;

use arrow_ipc::{Field, FieldNode, RecordBatch, Schema, Type};
use plexus_model::{Error, Result};

/// The layouts of the columns of a stream, and of the values of its dictionaries by their id.
#[derive(Default)]
pub(crate) struct Layouts {
    columns: Vec<Layout>,
    dictionaries: HashMap<i64, Layout>,
}

/// Where the parts of one field lie: in a node, in buffers, and in the fields within it.
struct Layout {
    name: String,
    has_validity: bool,
    buffers: Buffers,
    fields: Vec<Layout>,
}

/// The buffers of a field after its validity.
enum Buffers {
    /// Those of these widths: the bytes of a buffer are a multiple of its width.
    Fixed(&'static [u64]),
    /// Views, and as many others as the message says.
    Views,
}

/// Bytes of a view.
const VIEW_BYTES: u64 = 16;

impl Layouts {
    /// The layouts of a schema that was checked.
    pub(crate) fn of(schema: Schema<'_>) -> Self {
        let mut layouts = Self::default();
        layouts.columns = schema.fields().into_iter().flatten().map(|field| layouts.layout(field)).collect();
        layouts
    }

    fn layout(&mut self, field: Field<'_>) -> Layout {
        let plain = self.plain(field);
        let Some(dictionary) = field.dictionary() else {
            return plain;
        };
        let name = plain.name.clone();
        self.dictionaries.insert(dictionary.id(), plain);
        // In the columns are numbers of values.
        Layout { name, has_validity: true, buffers: Buffers::Fixed(&[1]), fields: vec![] }
    }

    /// The layout of a field whose values are not in a dictionary.
    fn plain(&mut self, field: Field<'_>) -> Layout {
        let (has_validity, buffers) = match field.type_type() {
            Type::Null | Type::RunEndEncoded => (false, Buffers::Fixed(&[])),
            Type::FixedSizeList | Type::Struct_ => (true, Buffers::Fixed(&[])),
            // Offsets, and then bytes or sizes.
            Type::Binary | Type::Utf8 => (true, Buffers::Fixed(&[4, 1])),
            Type::LargeBinary | Type::LargeUtf8 => (true, Buffers::Fixed(&[8, 1])),
            Type::List | Type::Map => (true, Buffers::Fixed(&[4])),
            Type::LargeList => (true, Buffers::Fixed(&[8])),
            Type::ListView => (true, Buffers::Fixed(&[4, 4])),
            Type::LargeListView => (true, Buffers::Fixed(&[8, 8])),
            Type::BinaryView | Type::Utf8View => (true, Buffers::Views),
            _ => (true, Buffers::Fixed(&[1])),
        };
        let fields = field.children().into_iter().flatten().map(|child| self.layout(child)).collect();
        Layout { name: field.name().unwrap_or_default().to_owned(), has_validity, buffers, fields }
    }

    /// Checks the columns of a batch whose buffers have `sizes` bytes.
    ///
    /// # Errors
    /// `InvalidArgument` names the first field that lacks something.
    pub(crate) fn check_columns(&self, batch: RecordBatch<'_>, sizes: &[u64]) -> Result<()> {
        check(&self.columns, batch, sizes)
    }

    /// The same for a batch of values of a dictionary.
    pub(crate) fn check_dictionary(&self, id: i64, batch: RecordBatch<'_>, sizes: &[u64]) -> Result<()> {
        let values = self.dictionaries.get(&id);
        let values = values.ok_or_else(|| Error::invalid(format!("no field has the dictionary {id}")))?;
        check(slice::from_ref(values), batch, sizes)
    }
}

fn check(layouts: &[Layout], batch: RecordBatch<'_>, sizes: &[u64]) -> Result<()> {
    let nodes: Vec<FieldNode> = batch.nodes().into_iter().flatten().copied().collect();
    let views: Vec<i64> = batch.variadicBufferCounts().into_iter().flatten().collect();
    let mut rest = Rest { nodes: &nodes, sizes, views: &views };
    layouts.iter().try_for_each(|layout| rest.take(layout))?;
    match rest.views {
        [] => Ok(()),
        left => Err(Error::invalid(format!("a message counts the buffers of {} views too many", left.len()))),
    }
}

/// What no field has taken yet.
struct Rest<'a> {
    nodes: &'a [FieldNode],
    sizes: &'a [u64],
    views: &'a [i64],
}

impl Rest<'_> {
    fn take(&mut self, layout: &Layout) -> Result<()> {
        let lacks = |what: &str| Error::invalid(format!("field {:?} lacks {what}", layout.name));
        let (node, nodes) = self.nodes.split_first().ok_or_else(|| lacks("its node"))?;
        self.nodes = nodes;
        if !(0..=node.length()).contains(&node.null_count()) {
            return Err(Error::invalid(format!(
                "field {:?} has {} rows and {} nulls",
                layout.name,
                node.length(),
                node.null_count()
            )));
        }
        if layout.has_validity {
            let (bytes, sizes) = self.sizes.split_first().ok_or_else(|| lacks("its validity"))?;
            self.sizes = sizes;
            let needed = u64::try_from(node.length()).unwrap_or_default().div_ceil(8);
            if node.null_count() > 0 && *bytes < needed {
                return Err(Error::invalid(format!(
                    "field {:?} has {} rows and {bytes} bytes of validity",
                    layout.name,
                    node.length()
                )));
            }
        }
        let (widths, others): (&[u64], usize) = match layout.buffers {
            Buffers::Fixed(widths) => (widths, 0),
            Buffers::Views => {
                let (count, views) = self.views.split_first().ok_or_else(|| lacks("a count of buffers"))?;
                self.views = views;
                (&[VIEW_BYTES], usize::try_from(*count).map_err(|_| lacks("a right count of buffers"))?)
            }
        };
        for width in widths {
            let (bytes, sizes) = self.sizes.split_first().ok_or_else(|| lacks("buffers"))?;
            self.sizes = sizes;
            if bytes % width > 0 {
                return Err(Error::invalid(format!(
                    "field {:?} has a buffer of {bytes} bytes, which is no multiple of {width}",
                    layout.name
                )));
            }
        }
        self.sizes = self.sizes.get(others..).ok_or_else(|| lacks("buffers"))?;
        layout.fields.iter().try_for_each(|field| self.take(field))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, DictionaryArray, Int32Array, RecordBatch, StringArray, StringViewArray};
    use arrow::array::{ListArray, StructArray};
    use arrow::datatypes::{Int8Type, Int32Type};
    use arrow_ipc::writer::StreamWriter;

    use crate::ipc_check::check_stream;

    fn stream(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    }

    #[test]
    fn nested_and_shared_values_pass() {
        let words: DictionaryArray<Int8Type> = vec![Some("a"), None, Some("b")].into_iter().collect();
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(3)]));
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some(vec![Some(1), None]),
            None,
            Some(vec![]),
        ]);
        let long = "a text that does not fit into a view";
        let views = StringViewArray::from(vec![Some(long), None, Some("short")]);
        let fields = StructArray::try_from(vec![("n", numbers.clone()), ("w", Arc::new(words.clone()) as _)]);
        let bytes = stream(vec![
            ("w", Arc::new(words)),
            ("l", Arc::new(lists)),
            ("v", Arc::new(views)),
            ("f", Arc::new(fields.unwrap())),
            ("s", Arc::new(StringArray::from(vec!["x", "y", "z"]))),
        ]);
        check_stream(bytes.as_slice()).unwrap();
    }

    /// Nodes and buffers are pairs of 64-bit words in the header.
    fn replace(bytes: &mut [u8], from: [i64; 2], to: [i64; 2]) {
        let word = |pair: [i64; 2]| pair.map(i64::to_le_bytes).concat();
        let at = bytes.windows(16).position(|window| window == word(from)).unwrap();
        bytes[at..at + 16].copy_from_slice(&word(to));
    }

    #[test]
    fn validity_that_is_shorter_than_its_rows_is_refused() {
        let numbers: ArrayRef = Arc::new(Int32Array::from_iter((0..1_000).map(|n| (n != 7).then_some(n))));
        let mut bytes = stream(vec![("n", numbers)]);
        check_stream(bytes.as_slice()).unwrap();
        replace(&mut bytes, [0, 125], [0, 124]);
        let error = check_stream(bytes.as_slice()).unwrap_err();
        assert_eq!(error.message(), "field \"n\" has 1000 rows and 124 bytes of validity");
    }
}
