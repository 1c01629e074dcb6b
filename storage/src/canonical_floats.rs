//! One bit pattern for each float value. SQL has one zero and one NaN, IEEE 754 has two zeros and many NaN.
//! The segment format, the statistics and the hashes of keys compare bits, so columns hold one pattern of
//! each.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, make_array};
use arrow::datatypes::{Float16Type, Float32Type, Float64Type};
use arrow_schema::DataType;

type Half = <Float16Type as ArrowPrimitiveType>::Native;

/// The array with positive zeros and one NaN, if it has floats, also in lists and structs; the array itself
/// otherwise.
pub fn canonical_floats(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float16 => replace::<Float16Type>(array, |value| {
            let canonical = match value.is_nan() {
                true => Half::NAN,
                false => Half::from_f32(value.to_f32() + 0.0),
            };
            (canonical.to_bits() != value.to_bits()).then_some(canonical)
        }),
        DataType::Float32 => replace::<Float32Type>(array, |value| {
            let canonical = if value.is_nan() { f32::NAN } else { value + 0.0 };
            (canonical.to_bits() != value.to_bits()).then_some(canonical)
        }),
        DataType::Float64 => replace::<Float64Type>(array, |value| {
            let canonical = if value.is_nan() { f64::NAN } else { value + 0.0 };
            (canonical.to_bits() != value.to_bits()).then_some(canonical)
        }),
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::FixedSizeList(..)
        | DataType::Struct(_)
        | DataType::Map(..) => {
            let data = array.to_data();
            let children: Vec<ArrayRef> = data.child_data().iter().cloned().map(make_array).collect();
            let canonical: Vec<ArrayRef> = children.iter().map(canonical_floats).collect();
            if children.iter().zip(&canonical).all(|(before, after)| Arc::ptr_eq(before, after)) {
                return array.clone();
            }
            let children = canonical.iter().map(|child| child.to_data()).collect();
            // The children have the types and lengths that they had.
            data.into_builder().child_data(children).build().map_or_else(|_| array.clone(), make_array)
        }
        _ => array.clone(),
    }
}

/// Replaces the values that `replacement` has one for. Copies nothing if there are none.
fn replace<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    replacement: impl Fn(T::Native) -> Option<T::Native>,
) -> ArrayRef {
    let floats = array.as_primitive::<T>();
    match floats.values().iter().any(|value| replacement(*value).is_some()) {
        true => Arc::new(floats.unary::<_, T>(|value| replacement(value).unwrap_or(value))),
        false => array.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float32Array, Float64Array, ListArray};

    use super::*;

    #[test]
    fn there_is_one_zero_and_one_nan() {
        let other_nan = f64::from_bits(f64::NAN.to_bits() | 1 << 63 | 1);
        let values = vec![Some(-0.0), Some(0.0), None, Some(other_nan), Some(-1.5), Some(f64::NEG_INFINITY)];
        let array: ArrayRef = Arc::new(Float64Array::from(values));
        let bits: Vec<Option<u64>> = canonical_floats(&array)
            .as_primitive::<Float64Type>()
            .iter()
            .map(|value| value.map(f64::to_bits))
            .collect();
        let expected = [Some(0.0), Some(0.0), None, Some(f64::NAN), Some(-1.5), Some(f64::NEG_INFINITY)];
        assert_eq!(bits, expected.map(|value: Option<f64>| value.map(f64::to_bits)));
    }

    #[test]
    fn floats_in_lists_and_structs_are_canonical() {
        let lists = ListArray::from_iter_primitive::<Float64Type, _, _>([
            Some(vec![Some(1.0), Some(-0.0)]),
            None,
            Some(vec![None, Some(0.0)]),
        ]);
        let lists: ArrayRef = Arc::new(lists.slice(0, 3));
        let canonical = canonical_floats(&lists);
        assert_eq!(canonical.as_list::<i32>().value(0).as_primitive::<Float64Type>().value(1).to_bits(), 0);
        assert_eq!(canonical.len(), 3);
        assert!(canonical.is_null(1));
        assert!(Arc::ptr_eq(&canonical, &canonical_floats(&canonical)));
    }

    #[test]
    fn canonical_arrays_are_not_copied() {
        let array: ArrayRef = Arc::new(Float32Array::from(vec![Some(1.0), None, Some(f32::NAN), Some(0.0)]));
        assert!(Arc::ptr_eq(&array, &canonical_floats(&array)));
    }
}
