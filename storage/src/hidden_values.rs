//! Structs that are null have no values in their fields. Arrow arrays may have some below the null, which the
//! engine shows when a field is read, and the segment format does not store.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StructArray, make_array};
use arrow::compute::nullif;
use arrow_schema::DataType;

/// The array without values below nulls of structs, also in lists; the array itself if it has none.
pub fn without_hidden_values(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Struct(fields) => {
            let structs = array.as_struct();
            let missing = structs.nulls().map(|nulls| BooleanArray::new(!nulls.inner(), None));
            let columns = structs.columns().iter().zip(fields).map(|(column, field)| match &missing {
                Some(missing) if field.is_nullable() && structs.null_count() > 0 => {
                    let shown = nullif(column, missing).unwrap_or_else(|_| column.clone());
                    without_hidden_values(&shown)
                }
                _ => without_hidden_values(column),
            });
            let columns: Vec<ArrayRef> = columns.collect();
            if structs.columns().iter().zip(&columns).all(|(before, after)| Arc::ptr_eq(before, after)) {
                return array.clone();
            }
            let rebuilt = StructArray::try_new(fields.clone(), columns, structs.nulls().cloned());
            rebuilt.map_or_else(|_| array.clone(), |structs| Arc::new(structs))
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) | DataType::Map(..) => {
            let data = array.to_data();
            let children: Vec<ArrayRef> = data.child_data().iter().cloned().map(make_array).collect();
            let shown: Vec<ArrayRef> = children.iter().map(without_hidden_values).collect();
            if children.iter().zip(&shown).all(|(before, after)| Arc::ptr_eq(before, after)) {
                return array.clone();
            }
            let children = shown.iter().map(|child| child.to_data()).collect();
            data.into_builder().child_data(children).build().map_or_else(|_| array.clone(), make_array)
        }
        _ => array.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int32Array;
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::Int32Type;
    use arrow_schema::{Field, Fields};

    use super::*;

    #[test]
    fn fields_of_nulls_are_null() {
        let fields = Fields::from(vec![Field::new("a", DataType::Int32, true)]);
        let columns: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(vec![1, 2, 3]))];
        let with = |nulls| Arc::new(StructArray::new(fields.clone(), columns.clone(), nulls)) as ArrayRef;
        let shown = without_hidden_values(&with(Some(NullBuffer::from(vec![true, false, true]))));
        let field = shown.as_struct().column(0).as_primitive::<Int32Type>().clone();
        assert_eq!(field, Int32Array::from(vec![Some(1), None, Some(3)]));
        let plain = with(None);
        assert!(Arc::ptr_eq(&plain, &without_hidden_values(&plain)));
    }
}
