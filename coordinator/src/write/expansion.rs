//! The size of columns whose values are stored once and referred to many times: a dictionary with one text of
//! a megabyte, and a hundred thousand rows that are this text, arrives as a megabyte and becomes a hundred
//! gigabytes.

use arrow::array::{Array, ArrayRef, AsArray, RunArray};
use arrow::datatypes::{Int16Type, Int32Type, Int64Type, RunEndIndexType};
use arrow_schema::DataType;
use plexus_model::{Error, Result};

/// Most bytes of one column of one batch, with each value as often as it occurs.
const COLUMN_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Checks that a column is not too large when each row gets its value.
///
/// # Errors
/// `ResourceExhausted`, with the size.
pub(crate) fn check_expanded(array: &ArrayRef) -> Result<()> {
    let bytes = match array.data_type() {
        DataType::Dictionary(..) => dictionary_bytes(array),
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => run_bytes::<Int16Type>(array),
            DataType::Int32 => run_bytes::<Int32Type>(array),
            _ => run_bytes::<Int64Type>(array),
        },
        _ => 0,
    };
    match bytes <= COLUMN_BYTES_MAX {
        true => Ok(()),
        false => Err(Error::exhausted(format!(
            "a batch of {} rows takes {bytes} bytes when each row has its value, the most is \
             {COLUMN_BYTES_MAX}: use smaller batches",
            array.len()
        ))),
    }
}

fn dictionary_bytes(array: &ArrayRef) -> u64 {
    let Some(dictionary) = array.as_any_dictionary_opt() else {
        return 0;
    };
    let sizes = value_bytes(dictionary.values());
    let keys = dictionary.normalized_keys().into_iter().enumerate();
    let valid = keys.filter(|(row, _)| array.is_valid(*row));
    valid.map(|(_, key)| sizes.get(key).copied().unwrap_or(0)).fold(0, u64::saturating_add)
}

fn run_bytes<R: RunEndIndexType>(array: &ArrayRef) -> u64 {
    let Some(runs) = array.as_any().downcast_ref::<RunArray<R>>() else {
        return 0;
    };
    let sizes = value_bytes(runs.values());
    let ends = runs.run_ends();
    let (first, last) = (ends.offset(), ends.offset() + ends.len());
    let mut start = first;
    let mut bytes = 0u64;
    for (end, size) in ends.values().iter().zip(&sizes) {
        let end = arrow::datatypes::ArrowNativeType::as_usize(*end).min(last);
        let rows = end.saturating_sub(start);
        bytes = bytes.saturating_add(size.saturating_mul(rows as u64));
        start = start.max(end);
    }
    bytes
}

/// The bytes of each value.
fn value_bytes(values: &ArrayRef) -> Vec<u64> {
    let size = |row: usize| values.slice(row, 1).to_data().get_slice_memory_size().unwrap_or(0) as u64;
    match values.data_type().primitive_width() {
        Some(width) => vec![width as u64; values.len()],
        None => (0..values.len()).map(size).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{DictionaryArray, Int32Array, StringArray};

    use super::*;

    #[test]
    fn values_count_as_often_as_they_occur() {
        let text = StringArray::from(vec!["x".repeat(1024 * 1024), "y".to_owned()]);
        let column = |keys: Vec<i32>| -> ArrayRef {
            Arc::new(DictionaryArray::<Int32Type>::new(Int32Array::from(keys), Arc::new(text.clone())))
        };
        check_expanded(&column(vec![0; 200])).unwrap();
        check_expanded(&column(vec![1; 100_000])).unwrap();
        let error = check_expanded(&column(vec![0; 300])).unwrap_err();
        assert!(error.message().contains("300 rows"), "{error}");

        let runs = |end: i32| -> ArrayRef {
            let ends = Int32Array::from(vec![end, end + 1]);
            Arc::new(RunArray::<Int32Type>::try_new(&ends, &text).unwrap())
        };
        check_expanded(&runs(200)).unwrap();
        assert!(check_expanded(&runs(300)).is_err());
        check_expanded(&runs(300).slice(250, 50)).unwrap();
    }
}
