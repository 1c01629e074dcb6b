//! Sizes of rows in memory.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow_schema::DataType;

/// Bytes that the rows of a batch take in memory. Only the referenced ranges of buffers count, because
/// batches that arrived in one message share its buffer.
pub fn rows_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(array_bytes).sum()
}

/// Bytes that the values of an array take in memory, see [`rows_bytes`].
pub(crate) fn array_bytes(array: &ArrayRef) -> usize {
    let own_bytes = array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size());
    own_bytes + viewed_bytes(array)
}

/// Bytes of the buffers that view arrays point to. Arrow's size of a slice does not include them.
fn viewed_bytes(array: &ArrayRef) -> usize {
    let range_bytes =
        |values: &ArrayRef, start: usize, end: usize| viewed_bytes(&values.slice(start, end - start));
    match array.data_type() {
        DataType::Utf8View => array.as_string_view().total_bytes_len(),
        DataType::BinaryView => array.as_binary_view().total_bytes_len(),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let offsets = list.value_offsets();
            range_bytes(list.values(), offsets[0] as usize, offsets[list.len()] as usize)
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let offsets = list.value_offsets();
            range_bytes(list.values(), offsets[0] as usize, offsets[list.len()] as usize)
        }
        DataType::FixedSizeList(..) => viewed_bytes(array.as_fixed_size_list().values()),
        DataType::Struct(_) => array.as_struct().columns().iter().map(viewed_bytes).sum(),
        DataType::Map(..) => {
            let map = array.as_map();
            let offsets = map.value_offsets();
            let (start, end) = (offsets[0] as usize, offsets[map.len()] as usize);
            range_bytes(map.keys(), start, end) + range_bytes(map.values(), start, end)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ListBuilder, StringViewBuilder};

    use super::*;

    #[test]
    fn nested_view_strings_count_with_the_bytes_they_point_to() {
        let mut lists = ListBuilder::new(StringViewBuilder::new());
        for _ in 0..10 {
            lists.values().append_value("x".repeat(1_000));
            lists.append(true);
        }
        let array: ArrayRef = Arc::new(lists.finish());
        let batch = RecordBatch::try_from_iter([("a", array)]).unwrap();
        assert!((10_000..12_000).contains(&rows_bytes(&batch)), "{}", rows_bytes(&batch));
        assert!(
            (2_000..3_000).contains(&rows_bytes(&batch.slice(3, 2))),
            "{}",
            rows_bytes(&batch.slice(3, 2))
        );
    }
}
