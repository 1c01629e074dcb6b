//! One bit pattern for each float value. SQL has one zero and one NaN, IEEE 754 has two zeros and many NaN.
//! The segment format, the statistics and the hashes of keys compare bits, so columns hold one pattern of
//! each.

use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, AsArray};
use arrow::datatypes::{Float32Type, Float64Type};
use arrow_schema::DataType;

/// The array with positive zeros and one NaN, if it has floats; the array itself otherwise. Floats inside
/// nested values stay.
pub fn canonical_floats(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float32 => replace::<Float32Type>(array, |value| {
            let canonical = if value.is_nan() { f32::NAN } else { value + 0.0 };
            (canonical.to_bits() != value.to_bits()).then_some(canonical)
        }),
        DataType::Float64 => replace::<Float64Type>(array, |value| {
            let canonical = if value.is_nan() { f64::NAN } else { value + 0.0 };
            (canonical.to_bits() != value.to_bits()).then_some(canonical)
        }),
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
    use arrow::array::{Float32Array, Float64Array};

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
    fn canonical_arrays_are_not_copied() {
        let array: ArrayRef = Arc::new(Float32Array::from(vec![Some(1.0), None, Some(f32::NAN), Some(0.0)]));
        assert!(Arc::ptr_eq(&array, &canonical_floats(&array)));
    }
}
